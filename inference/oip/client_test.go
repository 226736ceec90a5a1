package oip

import (
	"context"
	"encoding/binary"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/inference"
	pb "footfall/messages/inferencev2"
)

// A client's rows go to another node's server and come back as a device would answer them.
func TestClient(t *testing.T) {
	s := serve(t, someModels())
	c := NewClient(s.conn, layout)
	ready, err := c.Ready(t.Context())
	require.NoError(t, err)
	require.True(t, ready)

	for model, want := range map[string]inference.Scores{
		"dense":  {Model: "dense", Version: "3", Values: []float32{.5, .25}},
		"lstm":   {Model: "lstm", Version: "1", Values: []float32{.5, .25}},
		"both":   {Model: "both", Version: "1", Values: []float32{1, .5}},
		"groups": {Model: "groups", Version: "1", Values: []float32{50, 25}},
	} {
		have, err := c.Score(t.Context(), rows(model, 50, 25))
		require.NoError(t, err)
		require.Equal(t, want, have)
	}
	old := rows("dense", 1)
	old.Version = "2"
	have, err := c.Score(t.Context(), old)
	require.NoError(t, err)
	require.Equal(t, "2", have.Version)

	reply := c.ScoreModels(t.Context(), []string{"dense", "gpt", "lstm"}, rows("", 7))
	require.NoError(t, reply.Err)
	require.Len(t, reply.Models, 2, "one model's fault spoils no other")
	require.Equal(t, "dense", reply.Models[0].Model)
	require.Equal(t, "lstm", reply.Models[1].Model)
	reply = c.ScoreModels(t.Context(), []string{"gpt"}, rows("", 7))
	var none *inference.NotServingError
	require.ErrorAs(t, reply.Err, &none)
	require.ErrorIs(t, c.ScoreModels(t.Context(), nil, rows("", 7)).Err, inference.ErrNoModel)
}

// Rows of any number go in parts, of one version.
func TestClientParts(t *testing.T) {
	s := serve(t, someModels())
	c := NewClient(s.conn, layout)
	values := make([]float32, 3*maxRowsSent+7)
	want := make([]float32, len(values))
	for i := range values {
		values[i] = float32(i % 100)
		want[i] = values[i] / 100
	}
	have, err := c.Score(t.Context(), rows("dense", values...))
	require.NoError(t, err)
	require.Equal(t, want, have.Values)
	require.Len(t, s.asked, 4)

	// The version goes after two parts: all of the rows are scored by the next one.
	s.set(func() {
		parts := 0
		s.before = func(inference.Request) error {
			if parts++; parts == 3 {
				s.set(func() {
					s.serving = []*inference.Contract{contract("dense", 9, inference.Probability, inference.Features)}
				})
			}
			return nil
		}
	})
	have, err = c.Score(t.Context(), rows("dense", values...))
	require.NoError(t, err)
	require.Equal(t, "9", have.Version)
	require.Equal(t, want, have.Values)
}

func TestClientErrors(t *testing.T) {
	s := serve(t, someModels())
	c := NewClient(s.conn, layout)
	var bad *inference.RequestError
	for _, r := range []inference.Request{{Model: "dense"}, {Rows: 1}, {Model: "dense", Rows: 1, Features: make([]float32, 9)}, {Model: "lstm", Rows: 1, Features: make([]float32, 10)}} {
		_, err := c.Score(t.Context(), r)
		require.ErrorAs(t, err, &bad)
	}
	s.set(func() { s.before = func(inference.Request) error { return inference.ErrBusy } })
	_, err := c.Score(t.Context(), rows("dense", 1))
	require.ErrorIs(t, err, inference.ErrBusy)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	s.set(func() { s.before = nil })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Score(gone, rows("dense", 1))
	require.Equal(t, codes.Canceled, status.Code(err))

	// A model that is fed something else now is asked for anew.
	s.set(func() {
		s.serving = []*inference.Contract{contract("dense", 4, inference.Probability, inference.Features, inference.Sequence)}
	})
	_, err = c.Score(t.Context(), rows("dense", 1))
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	have, err := c.Score(t.Context(), rows("dense", 1))
	require.NoError(t, err)
	require.Equal(t, []float32{.02}, have.Values)
}

func TestClientFromManyGoroutines(t *testing.T) {
	s := serve(t, someModels())
	c := NewClient(s.conn, layout)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 20 {
				reply := c.ScoreModels(t.Context(), []string{"dense", "lstm"}, rows("", float32(i)))
				if reply.Err != nil || len(reply.Models) != 2 || reply.Models[1].Values[0] != float32(i)/100 {
					t.Errorf("%d: %v", i, reply)
					return
				}
			}
		})
	}
	wg.Wait()
}

// foreign is another server of the protocol, or one that lies.
type foreign struct {
	pb.UnimplementedGRPCInferenceServiceServer
	meta   *pb.ModelMetadataResponse
	answer *pb.ModelInferResponse
}

func (f *foreign) ModelMetadata(context.Context, *pb.ModelMetadataRequest) (*pb.ModelMetadataResponse, error) {
	return f.meta, nil
}

func (f *foreign) ModelInfer(context.Context, *pb.ModelInferRequest) (*pb.ModelInferResponse, error) {
	return f.answer, nil
}

func tensorOf(name, datatype string, shape ...int64) *pb.ModelMetadataResponse_TensorMetadata {
	return &pb.ModelMetadataResponse_TensorMetadata{Name: name, Datatype: datatype, Shape: shape}
}

func TestClientOfOtherServers(t *testing.T) {
	f := &foreign{}
	conn := dial(t, f)
	c := NewClient(conn, layout)
	meta := func() *pb.ModelMetadataResponse {
		return &pb.ModelMetadataResponse{
			Name: "m", Versions: []string{"7"}, Inputs: []*pb.ModelMetadataResponse_TensorMetadata{tensorOf("features", "FP32", -1, 10)},
			Outputs: []*pb.ModelMetadataResponse_TensorMetadata{tensorOf("y", "FP64", -1)},
		}
	}
	out := func(datatype string, contents *pb.InferTensorContents, shape ...int64) *pb.ModelInferResponse {
		return &pb.ModelInferResponse{Outputs: []*pb.ModelInferResponse_InferOutputTensor{{Name: "x"}, {Name: "y", Datatype: datatype, Shape: shape, Contents: contents}}}
	}
	raw := func(datatype string, b []byte) *pb.ModelInferResponse {
		r := out(datatype, nil, 2, 1)
		r.RawOutputContents = [][]byte{nil, b}
		return r
	}
	le := binary.LittleEndian
	good := map[string]*pb.ModelInferResponse{
		"FP32":      out("FP32", &pb.InferTensorContents{Fp32Contents: []float32{1, -2}}, 2, 1),
		"FP64":      out("FP64", &pb.InferTensorContents{Fp64Contents: []float64{1, -2}}, 2),
		"INT32":     out("INT32", &pb.InferTensorContents{IntContents: []int32{1, -2}}, 2, 1),
		"INT64":     out("INT64", &pb.InferTensorContents{Int64Contents: []int64{1, -2}}, 2, 1),
		"raw FP32":  raw("FP32", bytesOf(1, -2)),
		"raw FP64":  raw("FP64", le.AppendUint64(le.AppendUint64(nil, math.Float64bits(1)), math.Float64bits(-2))),
		"raw INT32": raw("INT32", le.AppendUint32(le.AppendUint32(nil, 1), math.MaxUint32-1)),
		"raw INT64": raw("INT64", le.AppendUint64(le.AppendUint64(nil, 1), math.MaxUint64-1)),
	}
	f.meta = meta()
	for name, answer := range good {
		f.answer = answer
		have, err := c.Score(t.Context(), rows("m", 1, 2))
		require.NoError(t, err, name)
		require.Equal(t, inference.Scores{Model: "m", Version: "7", Values: []float32{1, -2}}, have, name)
	}

	var unusable *ServerError
	for want, answer := range map[string]*pb.ModelInferResponse{
		`its output is [3 1], and one value for each of 2 rows`: out("FP32", &pb.InferTensorContents{Fp32Contents: make([]float32, 3)}, 3, 1),
		`its output is [2 2], and`:                              out("FP32", &pb.InferTensorContents{Fp32Contents: make([]float32, 4)}, 2, 2),
		`its output is [2 1 1], and`:                            out("FP32", &pb.InferTensorContents{Fp32Contents: make([]float32, 2)}, 2, 1, 1),
		`its output is [], and`:                                 out("FP32", &pb.InferTensorContents{Fp32Contents: make([]float32, 2)}),
		`its output does not hold 2 elements`:                   out("FP32", &pb.InferTensorContents{Fp32Contents: make([]float32, 1)}, 2, 1),
		`its output is of "BYTES"`:                              out("BYTES", &pb.InferTensorContents{}, 2, 1),
		`its raw output does not hold 2 elements of 4 bytes`:    raw("FP32", make([]byte, 9)),
		`its raw output does not hold 2 elements of 8 bytes`:    raw("FP64", make([]byte, 8)),
		`the value of row 1 is NaN, which is not finite`:        out("FP32", &pb.InferTensorContents{Fp32Contents: []float32{0, float32(math.NaN())}}, 2, 1),
		`the value of row 0 is +Inf, which is not finite`:       out("FP64", &pb.InferTensorContents{Fp64Contents: []float64{1e300, 0}}, 2, 1),
		`it names version "6", and "7" was asked`:               {ModelVersion: "6"},
		`it has no output "y"`:                                  {ModelVersion: "7"},
	} {
		f.answer = answer
		r := rows("m", 1, 2)
		r.Version = "7"
		_, err := c.Score(t.Context(), r)
		require.ErrorAs(t, err, &unusable, want)
		require.ErrorContains(t, err, want)
	}

	for want, change := range map[string]func(*pb.ModelMetadataResponse){
		`it is fed "images", and rows have features and sequence`: func(m *pb.ModelMetadataResponse) { m.Inputs[0].Name = "images" },
		`its features is FP16 [-1 10], and rows are FP32 [-1 10]`: func(m *pb.ModelMetadataResponse) { m.Inputs[0].Datatype = "FP16" },
		`its features is FP32 [-1 9], and rows are FP32 [-1 10]`:  func(m *pb.ModelMetadataResponse) { m.Inputs[0].Shape[1] = 9 },
		`it has 0 inputs and 1 outputs`:                           func(m *pb.ModelMetadataResponse) { m.Inputs = nil },
		`it has 1 inputs and 2 outputs`: func(m *pb.ModelMetadataResponse) {
			m.Outputs = append(m.Outputs, m.Outputs[0])
		},
	} {
		f.meta = meta()
		change(f.meta)
		_, err := NewClient(conn, layout).Score(t.Context(), rows("m", 1))
		require.ErrorAs(t, err, &unusable)
		require.ErrorContains(t, err, want)
	}
}
