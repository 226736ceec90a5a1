package oip

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"footfall/inference"
	pb "footfall/messages/inferencev2"
)

type tensorIn = pb.ModelInferRequest_InferInputTensor

func in(name string, contents []float32, shape ...int64) *tensorIn {
	return &tensorIn{Name: name, Datatype: fp32, Shape: shape, Contents: &pb.InferTensorContents{Fp32Contents: contents}}
}

func TestHealthAndMetadata(t *testing.T) {
	s := serve(t, someModels())
	live, err := s.stub.ServerLive(t.Context(), &pb.ServerLiveRequest{})
	require.NoError(t, err)
	require.True(t, live.GetLive())
	ready := func(model, version string) []bool {
		server, err := s.stub.ServerReady(t.Context(), &pb.ServerReadyRequest{})
		require.NoError(t, err)
		m, err := s.stub.ModelReady(t.Context(), &pb.ModelReadyRequest{Name: model, Version: version})
		require.NoError(t, err)
		return []bool{server.GetReady(), m.GetReady()}
	}
	require.Equal(t, []bool{true, true}, ready("dense", ""))
	require.Equal(t, []bool{true, true}, ready("dense", "2"))
	require.Equal(t, []bool{true, false}, ready("dense", "4"))
	require.Equal(t, []bool{true, false}, ready("gpt", ""))
	s.set(func() { s.loading = true })
	require.Equal(t, []bool{false, false}, ready("dense", ""))
	_, err = s.stub.ModelMetadata(t.Context(), &pb.ModelMetadataRequest{Name: "dense"})
	require.Equal(t, codes.Unavailable, status.Code(err))
	s.set(func() { s.loading = false })

	server, err := s.stub.ServerMetadata(t.Context(), &pb.ServerMetadataRequest{})
	require.NoError(t, err)
	require.True(t, proto.Equal(&pb.ServerMetadataResponse{Name: "footfall", Version: "v-test", Extensions: []string{"binary_tensor_data"}}, server))
	model, err := s.stub.ModelMetadata(t.Context(), &pb.ModelMetadataRequest{Name: "dense", Version: "2"})
	require.NoError(t, err)
	require.True(t, proto.Equal(&pb.ModelMetadataResponse{
		Name: "dense", Versions: []string{"3", "2"}, Platform: "tensorflow_savedmodel",
		Inputs:  []*pb.ModelMetadataResponse_TensorMetadata{{Name: "features", Datatype: "FP32", Shape: []int64{-1, 10}}},
		Outputs: []*pb.ModelMetadataResponse_TensorMetadata{{Name: "p", Datatype: "FP32", Shape: []int64{-1, 1}}},
	}, model), "%v", model)
	groups, err := s.stub.ModelMetadata(t.Context(), &pb.ModelMetadataRequest{Name: "groups"})
	require.NoError(t, err)
	require.Equal(t, "INT32", groups.GetOutputs()[0].GetDatatype())
	_, err = s.stub.ModelMetadata(t.Context(), &pb.ModelMetadataRequest{Name: "dense", Version: "7"})
	require.Equal(t, codes.NotFound, status.Code(err))
	require.ErrorContains(t, err, `version "7" of dense does not serve: 3, 2 does`)
	_, err = s.stub.ModelMetadata(t.Context(), &pb.ModelMetadataRequest{Name: "gpt"})
	require.ErrorContains(t, err, `no model "gpt" serves: both, dense, groups, lstm do`)
	s.set(func() { s.serving = nil })
	_, err = s.stub.ModelMetadata(t.Context(), &pb.ModelMetadataRequest{Name: "gpt"})
	require.Equal(t, codes.NotFound, status.Code(err))
}

// An answer has the form of its question.
func TestInferGRPC(t *testing.T) {
	s := serve(t, someModels())
	r := rows("", 50, 25)
	answer, err := s.stub.ModelInfer(t.Context(), &pb.ModelInferRequest{ModelName: "dense", Id: "42", Inputs: []*tensorIn{in("features", r.Features, 2, 10)}})
	require.NoError(t, err)
	require.True(t, proto.Equal(&pb.ModelInferResponse{
		ModelName: "dense", ModelVersion: "3", Id: "42",
		Outputs: []*pb.ModelInferResponse_InferOutputTensor{{Name: "p", Datatype: "FP32", Shape: []int64{2, 1}, Contents: &pb.InferTensorContents{Fp32Contents: []float32{.5, .25}}}},
	}, answer), "%v", answer)

	raw, err := s.stub.ModelInfer(t.Context(), &pb.ModelInferRequest{
		ModelName: "dense", ModelVersion: "2", Inputs: []*tensorIn{{Name: "features", Datatype: fp32, Shape: []int64{2, 10}}},
		Outputs:          []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "p"}},
		RawInputContents: [][]byte{appendRaw(nil, r.Features)},
		Parameters:       map[string]*pb.InferParameter{"timeout": {}},
	})
	require.NoError(t, err)
	require.Equal(t, "2", raw.GetModelVersion())
	require.Nil(t, raw.GetOutputs()[0].GetContents())
	require.Equal(t, [][]byte{appendRaw(nil, []float32{.5, .25})}, raw.GetRawOutputContents())

	groups, err := s.stub.ModelInfer(t.Context(), &pb.ModelInferRequest{ModelName: "groups", Inputs: []*tensorIn{in("features", rows("", 3, 1).Features, 2, 10)}})
	require.NoError(t, err)
	require.Equal(t, []int32{3, 1}, groups.GetOutputs()[0].GetContents().GetIntContents())

	both, err := s.stub.ModelInfer(t.Context(), &pb.ModelInferRequest{ModelName: "both", Inputs: []*tensorIn{
		in("sequence", r.Sequences, 2, 10, 5), in("features", r.Features, 2, 10),
	}})
	require.NoError(t, err)
	require.Equal(t, []float32{1, .5}, both.GetOutputs()[0].GetContents().GetFp32Contents())
	for _, asked := range s.asked {
		require.False(t, asked.Synthetic, "what a model is fed is counted")
	}
	require.InDelta(t, 4, testutil.ToFloat64(s.server.Metrics.requests.WithLabelValues(callInfer, transportGRPC, "OK")), 0)
}

func TestInferRefuses(t *testing.T) {
	s := serve(t, someModels())
	row := make([]float32, 10)
	nan := append(make([]float32, 17), float32(math.NaN()), 0, 0)
	for name, test := range map[string]struct {
		model  string
		inputs []*tensorIn
		change func(*pb.ModelInferRequest)
		field  string
		want   string
	}{
		"no input":       {"dense", nil, nil, "inputs", "features is missing, which dense is fed"},
		"half of inputs": {"both", []*tensorIn{in("features", row, 1, 10)}, nil, "inputs", "sequence is missing, which both is fed"},
		"unknown input":  {"dense", []*tensorIn{in("x", row, 1, 10)}, nil, "inputs[0].name", `dense has no input "x", but features`},
		"input twice":    {"dense", []*tensorIn{in("features", row, 1, 10), in("features", row, 1, 10)}, nil, "inputs[1].name", `"features" stands twice`},
		"datatype":       {"dense", []*tensorIn{{Name: "features", Datatype: "FP64", Shape: []int64{1, 10}}}, nil, "inputs[0].datatype", `is "FP64", and features of dense is FP32`},
		"rank":           {"dense", []*tensorIn{in("features", row, 10)}, nil, "inputs[0].shape", "is [10], and features of dense is [-1 10]"},
		"width":          {"dense", []*tensorIn{in("features", row, 1, 9)}, nil, "inputs[0].shape", "is [1 9], and features of dense is [-1 10]"},
		"swapped":        {"lstm", []*tensorIn{in("sequence", row, 1, 5, 10)}, nil, "inputs[0].shape", "is [1 5 10], and sequence of lstm is [-1 10 5]"},
		"ten dimensions": {"dense", []*tensorIn{in("features", row, make([]int64, 10)...)}, nil, "inputs[0].shape", "is of 10 dimensions, and"},
		"no rows":        {"dense", []*tensorIn{in("features", nil, 0, 10)}, nil, "inputs[0].shape", "has 0 rows: 1 to 2000 can be asked for at once"},
		"negative rows":  {"dense", []*tensorIn{in("features", nil, -1, 10)}, nil, "inputs[0].shape", "has -1 rows"},
		"too many rows":  {"dense", []*tensorIn{in("features", nil, 2001, 10)}, nil, "inputs[0].shape", "has 2001 rows: 1 to 2000 can be asked for at once"},
		"most rows ever": {"dense", []*tensorIn{in("features", nil, math.MaxInt64, 10)}, nil, "inputs[0].shape", "has 9223372036854775807 rows"},
		"rows differ":    {"both", []*tensorIn{in("features", row, 1, 10), in("sequence", make([]float32, 100), 2, 10, 5)}, nil, "inputs[1].shape", "has 2 rows, and features has 1"},
		"elements":       {"dense", []*tensorIn{in("features", row[:9], 1, 10)}, nil, "inputs[0].data", "has 9 elements in fp32_contents, where the shape asks for 10"},
		"other contents": {"dense", []*tensorIn{{Name: "features", Datatype: fp32, Shape: []int64{1, 10}, Contents: &pb.InferTensorContents{Fp64Contents: make([]float64, 10)}}}, nil, "inputs[0].data", "has 0 elements in fp32_contents"},
		"not finite":     {"dense", []*tensorIn{in("features", nan, 2, 10)}, nil, "inputs[0].data", "row 1: overdue is NaN, which is not finite"},
		"raw and not":    {"dense", []*tensorIn{in("features", row, 1, 10)}, func(r *pb.ModelInferRequest) { r.RawInputContents = [][]byte{make([]byte, 40)} }, "inputs[0].contents", "is set beside raw_input_contents"},
		"raw of some":    {"dense", []*tensorIn{in("features", row, 1, 10)}, func(r *pb.ModelInferRequest) { r.RawInputContents = make([][]byte, 2) }, "raw_input_contents", "has 2 elements, and inputs has 1"},
		"raw length":     {"dense", []*tensorIn{{Name: "features", Datatype: fp32, Shape: []int64{1, 10}}}, func(r *pb.ModelInferRequest) { r.RawInputContents = [][]byte{make([]byte, 39)} }, "inputs[0].data", "has 39 bytes, where the shape asks for 10 elements of 4"},
		"unknown output": {"dense", []*tensorIn{in("features", row, 1, 10)}, func(r *pb.ModelInferRequest) {
			r.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "q"}}
		}, "outputs[0].name", `dense has no output "q", but p`},
		"output twice": {"dense", []*tensorIn{in("features", row, 1, 10)}, func(r *pb.ModelInferRequest) {
			r.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "p"}, {Name: "p"}}
		}, "outputs[1].name", `"p" stands twice`},
		"classification": {"dense", []*tensorIn{in("features", row, 1, 10)}, func(r *pb.ModelInferRequest) {
			r.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "p", Parameters: map[string]*pb.InferParameter{"classification": {}}}}
		}, "outputs[0].parameters.classification", "is not supported"},
		"shared memory":   {"dense", []*tensorIn{{Name: "features", Parameters: map[string]*pb.InferParameter{"shared_memory_region": {}}}}, nil, "inputs[0].parameters.shared_memory_region", "is not supported"},
		"sequence of ids": {"dense", nil, func(r *pb.ModelInferRequest) { r.Parameters = map[string]*pb.InferParameter{"sequence_id": {}} }, "parameters.sequence_id", "is not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &pb.ModelInferRequest{ModelName: test.model, Inputs: test.inputs}
			if test.change != nil {
				test.change(r)
			}
			_, err := s.stub.ModelInfer(t.Context(), r)
			require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
			require.ErrorContains(t, err, test.field+": "+test.want)
			violation := status.Convert(err).Details()[0].(*errdetails.BadRequest).GetFieldViolations()[0]
			require.Equal(t, test.field, violation.GetField())
			require.True(t, strings.HasPrefix(violation.GetDescription(), test.want))
		})
	}
	require.Empty(t, s.asked, "no row of them was scored")
}

func TestInferErrors(t *testing.T) {
	s := serve(t, someModels())
	for name, test := range map[string]struct {
		err  error
		want codes.Code
	}{
		"busy":     {inference.ErrBusy, codes.ResourceExhausted},
		"closing":  {inference.ErrClosed, codes.Unavailable},
		"devices":  {inference.ErrNoDevice, codes.Unavailable},
		"none":     {inference.ErrNoModel, codes.NotFound},
		"request":  {&inference.RequestError{Field: "rows", Reason: "is 0"}, codes.InvalidArgument},
		"value":    {&inference.ScoreError{Model: "dense", Err: errors.New("NaN")}, codes.Internal},
		"late":     {context.DeadlineExceeded, codes.DeadlineExceeded},
		"canceled": {context.Canceled, codes.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(func() { s.before = func(inference.Request) error { return test.err } })
			_, err := s.stub.ModelInfer(t.Context(), &pb.ModelInferRequest{ModelName: "dense", Inputs: []*tensorIn{in("features", make([]float32, 10), 1, 10)}})
			require.Equal(t, test.want, status.Code(err), "%v", err)
		})
	}
}

// A request has a deadline, its own or the server's.
func TestInferDeadline(t *testing.T) {
	m := someModels()
	s := serve(t, m)
	waiting := backend{m, func(ctx context.Context, _ inference.Request) (inference.Scores, error) {
		<-ctx.Done()
		return inference.Scores{}, ctx.Err()
	}}
	server := &Server{Backend: waiting, Timeout: time.Millisecond, Metrics: s.server.Metrics}
	_, err := server.ModelInfer(t.Context(), &pb.ModelInferRequest{ModelName: "dense", Inputs: []*tensorIn{in("features", make([]float32, 10), 1, 10)}})
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
}

// backend is one with a Score of its own.
type backend struct {
	Backend
	score func(context.Context, inference.Request) (inference.Scores, error)
}

func (b backend) Score(ctx context.Context, r inference.Request) (inference.Scores, error) {
	return b.score(ctx, r)
}

// Whoever names no version gets the one that serves, also if it was replaced a moment ago; who
// names one gets that or nothing.
func TestInferWhileVersionsChange(t *testing.T) {
	s := serve(t, someModels())
	swap := func(inference.Request) error {
		s.set(func() {
			s.before = nil
			s.serving = []*inference.Contract{contract("dense", 4, inference.Probability, inference.Features)}
		})
		return nil
	}
	ask := func(version string) (*pb.ModelInferResponse, error) {
		s.set(func() { s.serving, s.before = someModels().serving, swap })
		return s.stub.ModelInfer(t.Context(), &pb.ModelInferRequest{ModelName: "dense", ModelVersion: version, Inputs: []*tensorIn{in("features", make([]float32, 10), 1, 10)}})
	}
	answer, err := ask("")
	require.NoError(t, err)
	require.Equal(t, "4", answer.GetModelVersion())
	_, err = ask("3")
	require.Equal(t, codes.NotFound, status.Code(err))
}
