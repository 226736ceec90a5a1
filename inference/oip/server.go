package oip

import (
	"context"
	"slices"
	"time"

	"footfall/inference"
	pb "footfall/messages/inferencev2"
)

const (
	// platform is what the protocol calls a SavedModel.
	platform = "tensorflow_savedmodel"
	// binaryTensors is the extension for bytes behind the JSON of HTTP.
	binaryTensors = "binary_tensor_data"
)

// Backend is the models that a server answers from.
type Backend interface {
	// Ready reports whether the models are loaded.
	Ready() bool
	// Serving returns the contracts of the versions that serve, in order of name and, of one
	// model, the version first that answers who names none. It is empty before Ready.
	Serving() []*inference.Contract
	// Score has the model that the request names score its rows: [inference.Queries.Score].
	Score(ctx context.Context, r inference.Request) (inference.Scores, error)
	// MaxRows bounds the rows of one request.
	MaxRows() int
}

// Server is the service of the protocol. Its fields are not changed once it serves.
type Server struct {
	pb.UnimplementedGRPCInferenceServiceServer

	Backend Backend
	// Version is the program's.
	Version string
	// Ready tells whether requests should be sent here; the models are loaded besides. It may
	// be nil.
	Ready func() bool
	// Timeout ends a request that has no deadline of its own.
	Timeout time.Duration
	Metrics *Metrics
}

// ServerLive implements the gRPC service.
func (s *Server) ServerLive(context.Context, *pb.ServerLiveRequest) (*pb.ServerLiveResponse, error) {
	return observed(s, callLive, transportGRPC, func() (*pb.ServerLiveResponse, error) {
		return &pb.ServerLiveResponse{Live: true}, nil
	})
}

// ServerReady implements the gRPC service.
func (s *Server) ServerReady(context.Context, *pb.ServerReadyRequest) (*pb.ServerReadyResponse, error) {
	return observed(s, callReady, transportGRPC, func() (*pb.ServerReadyResponse, error) {
		return &pb.ServerReadyResponse{Ready: s.ready()}, nil
	})
}

// ModelReady implements the gRPC service. A model that is not there is not ready.
func (s *Server) ModelReady(_ context.Context, r *pb.ModelReadyRequest) (*pb.ModelReadyResponse, error) {
	return observed(s, callModelReady, transportGRPC, func() (*pb.ModelReadyResponse, error) {
		_, err := s.contract(r.GetName(), r.GetVersion())
		return &pb.ModelReadyResponse{Ready: err == nil && s.ready()}, nil
	})
}

// ServerMetadata implements the gRPC service.
func (s *Server) ServerMetadata(context.Context, *pb.ServerMetadataRequest) (*pb.ServerMetadataResponse, error) {
	return observed(s, callMetadata, transportGRPC, func() (*pb.ServerMetadataResponse, error) { return s.metadata(), nil })
}

// ModelMetadata implements the gRPC service.
func (s *Server) ModelMetadata(_ context.Context, r *pb.ModelMetadataRequest) (*pb.ModelMetadataResponse, error) {
	return observed(s, callModelMetadata, transportGRPC, func() (*pb.ModelMetadataResponse, error) {
		return s.modelMetadata(r.GetName(), r.GetVersion())
	})
}

// ModelInfer implements the gRPC service.
func (s *Server) ModelInfer(ctx context.Context, r *pb.ModelInferRequest) (*pb.ModelInferResponse, error) {
	return observed(s, callInfer, transportGRPC, func() (*pb.ModelInferResponse, error) {
		q, err := fromGRPC(r)
		if err != nil {
			return nil, err
		}
		a, err := s.infer(ctx, q)
		if err != nil {
			return nil, err
		}
		return a.grpc(r.GetId(), len(r.GetRawInputContents()) > 0), nil
	})
}

func (s *Server) ready() bool { return s.Backend.Ready() && (s.Ready == nil || s.Ready()) }

func (s *Server) metadata() *pb.ServerMetadataResponse {
	return &pb.ServerMetadataResponse{Name: "footfall", Version: s.Version, Extensions: []string{binaryTensors}}
}

func (s *Server) modelMetadata(model, version string) (*pb.ModelMetadataResponse, error) {
	c, err := s.contract(model, version)
	if err != nil {
		return nil, err
	}
	m := &pb.ModelMetadataResponse{Name: c.Name, Platform: platform}
	for _, other := range s.Backend.Serving() {
		if other.Name == c.Name {
			m.Versions = append(m.Versions, other.VersionString())
		}
	}
	for _, in := range c.Inputs {
		m.Inputs = append(m.Inputs, &pb.ModelMetadataResponse_TensorMetadata{Name: in.Name, Datatype: fp32, Shape: shapeOf(in.Shape)})
	}
	for _, out := range c.Outputs {
		m.Outputs = append(m.Outputs, &pb.ModelMetadataResponse_TensorMetadata{Name: out.Name, Datatype: datatypeOf(out.Kind), Shape: shapeOf(out.Shape)})
	}
	return m, nil
}

// contract returns the one of a version that serves, or says which do.
func (s *Server) contract(model, version string) (*inference.Contract, error) {
	if !s.Backend.Ready() {
		return nil, unavailable("the models are being loaded: try again")
	}
	var names, versions []string
	for _, c := range s.Backend.Serving() {
		if c.Name == model {
			if version == "" || version == c.VersionString() {
				return c, nil
			}
			versions = append(versions, c.VersionString())
		}
		names = append(names, c.Name)
	}
	switch {
	case len(names) == 0:
		return nil, notFound("no model serves here")
	case len(versions) > 0:
		return nil, notFound("version %.80q of %s does not serve: %s does", version, model, list(versions))
	default:
		return nil, notFound("no model %.80q serves: %s do", model, list(slices.Compact(names)))
	}
}

// infer answers a question.
func (s *Server) infer(ctx context.Context, q *question) (*answer, error) {
	if _, ok := ctx.Deadline(); !ok && s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	for again := q.version == ""; ; again = false {
		c, err := s.contract(q.model, q.version)
		if err != nil {
			return nil, err
		}
		r, err := q.bind(c, s.Backend.MaxRows())
		if err != nil {
			return nil, err
		}
		scores, err := s.Backend.Score(ctx, *r)
		switch {
		case err == nil:
			return &answer{contract: c, values: scores.Values}, nil
		case again && isNotServing(err):
			// The version that served has just been replaced, and any would have done.
		default:
			return nil, statusOf(err)
		}
	}
}
