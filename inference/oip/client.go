package oip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/inference"
	pb "footfall/messages/inferencev2"
)

// Client scores rows on a server of the protocol: another node, or any other that serves
// models of the same inputs under the same names. It may be used from several goroutines.
//
// What a model is fed is asked of the server once, and held against the layout of the rows;
// it is asked again after the server no longer takes what it took.
type Client struct {
	conn   grpc.ClientConnInterface
	stub   pb.GRPCInferenceServiceClient
	layout inference.Layout
	// maxRows is the most that is sent at once.
	maxRows int

	mu     sync.Mutex
	models map[[2]string]*remote // by name and version asked for
}

// remote is what a server says of a model.
type remote struct {
	inputs   []string
	output   string
	versions []string
}

// maxRowsSent is small enough for every server's limits, and large enough to be a batch.
const maxRowsSent = 1024

// NewClient returns a client over a connection, whose user closes it. Rows are laid out as
// the layout says.
func NewClient(conn grpc.ClientConnInterface, layout inference.Layout) *Client {
	return &Client{conn: conn, stub: pb.NewGRPCInferenceServiceClient(conn), layout: layout, maxRows: maxRowsSent, models: map[[2]string]*remote{}}
}

// Ready reports whether the server's models can be asked.
func (c *Client) Ready(ctx context.Context) (bool, error) {
	r, err := c.stub.ServerReady(ctx, &pb.ServerReadyRequest{})
	return r.GetReady(), fromStatus(err, "", "")
}

// ScoreModels has each of the models score the rows, and answers as a device does: models that
// failed are not in the reply, and where all of them did its error says why. The request's
// own model is not used.
func (c *Client) ScoreModels(ctx context.Context, models []string, r inference.Request) inference.Reply {
	scores, errs := make([]inference.Scores, len(models)), make([]error, len(models))
	var wg sync.WaitGroup
	for i, model := range models {
		wg.Go(func() {
			own := r
			own.Model, own.Version = model, ""
			scores[i], errs[i] = c.Score(ctx, own)
		})
	}
	wg.Wait()
	var reply inference.Reply
	for i, err := range errs {
		if err == nil {
			reply.Models = append(reply.Models, scores[i])
		}
	}
	switch {
	case len(models) == 0:
		reply.Err = inference.ErrNoModel
	case len(reply.Models) == 0:
		reply.Err = errors.Join(errs...)
	}
	return reply
}

// Score has the model that the request names score its rows; its Reply is not used. All values
// come from the version that the answer names.
//
// Errors: [*inference.RequestError], [*inference.NotServingError], [inference.ErrBusy] where
// the server takes no more, [*ServerError] where it answers what can't be used, and all
// others as the status that came.
func (c *Client) Score(ctx context.Context, r inference.Request) (inference.Scores, error) {
	if r.Model == "" || r.Rows < 1 {
		return inference.Scores{}, &inference.RequestError{Field: "model, rows", Reason: "a model and at least one row are needed"}
	}
	scores, err := c.score(ctx, r)
	if isNotServing(err) && r.Version == "" {
		// The version that answered the first rows has been replaced since, or the model has only
		// just come: whatever serves now is asked.
		return c.score(ctx, r)
	}
	return scores, err
}

// score is Score, once.
func (c *Client) score(ctx context.Context, r inference.Request) (inference.Scores, error) {
	m, err := c.model(ctx, r.Model, r.Version)
	if err != nil {
		return inference.Scores{}, err
	}
	for _, in := range m.inputs {
		if have, want := len(matrix(r, in)), r.Rows*c.width(in); have != want {
			return inference.Scores{}, &inference.RequestError{Field: in, Reason: fmt.Sprintf("has %d values, where %d rows have %d", have, r.Rows, want)}
		}
	}
	scores := inference.Scores{Model: r.Model, Version: r.Version, Values: make([]float32, 0, r.Rows)}
	for from := 0; from < r.Rows; from += c.maxRows {
		to := min(from+c.maxRows, r.Rows)
		response, err := c.stub.ModelInfer(ctx, c.request(m, r, scores.Version, from, to))
		if err != nil {
			c.forget(r.Model, r.Version, err)
			return inference.Scores{}, fromStatus(err, r.Model, scores.Version)
		}
		if err := m.read(response, to-from, &scores); err != nil {
			return inference.Scores{}, &ServerError{r.Model, err.Error()}
		}
	}
	return scores, nil
}

// ServerError says that a server answered what can't be used.
type ServerError struct{ Model, Reason string }

func (e *ServerError) Error() string {
	return fmt.Sprintf("oip: the server's answer for %s can't be used: %s", e.Model, e.Reason)
}

func (c *Client) width(input string) int {
	if input == inference.Sequence {
		return c.layout.Steps * len(c.layout.Columns)
	}
	return len(c.layout.Features)
}

func matrix(r inference.Request, input string) []float32 {
	if input == inference.Sequence {
		return r.Sequences
	}
	return r.Features
}

// shape is an input's, of so many rows.
func (c *Client) shape(input string, rows int) []int64 {
	if input == inference.Sequence {
		return []int64{int64(rows), int64(c.layout.Steps), int64(len(c.layout.Columns))}
	}
	return []int64{int64(rows), int64(len(c.layout.Features))}
}

// model returns what the server says of a model.
func (c *Client) model(ctx context.Context, name, version string) (*remote, error) {
	key := [2]string{name, version}
	c.mu.Lock()
	m := c.models[key]
	c.mu.Unlock()
	if m != nil {
		return m, nil
	}
	meta, err := c.stub.ModelMetadata(ctx, &pb.ModelMetadataRequest{Name: name, Version: version})
	if err != nil {
		return nil, fromStatus(err, name, version)
	}
	m = &remote{versions: meta.GetVersions()}
	for _, in := range meta.GetInputs() {
		input := in.GetName()
		if input != inference.Features && input != inference.Sequence {
			return nil, &ServerError{name, fmt.Sprintf("it is fed %.80q, and rows have %s and %s", input, inference.Features, inference.Sequence)}
		}
		if want := c.shape(input, -1); in.GetDatatype() != fp32 || !slices.Equal(in.GetShape(), want) {
			return nil, &ServerError{name, fmt.Sprintf("its %s is %.20s %s, and rows are %s %v", input, in.GetDatatype(), brief(in.GetShape()), fp32, want)}
		}
		m.inputs = append(m.inputs, input)
	}
	if len(m.inputs) == 0 || len(meta.GetOutputs()) != 1 {
		return nil, &ServerError{name, fmt.Sprintf("it has %d inputs and %d outputs, where one output is needed", len(m.inputs), len(meta.GetOutputs()))}
	}
	m.output = meta.GetOutputs()[0].GetName()
	c.mu.Lock()
	defer c.mu.Unlock()
	// Names come from whoever calls: what is kept is bounded all the same.
	if len(c.models) >= 1024 {
		clear(c.models)
	}
	c.models[key] = m
	return m, nil
}

// forget drops what the server said of a model, where it no longer seems to hold.
func (c *Client) forget(name, version string, err error) {
	switch status.Code(err) {
	case codes.NotFound, codes.InvalidArgument:
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.models, [2]string{name, version})
	default:
	}
}

// request asks for some of the rows. Once a version has answered, it is asked for the rest.
func (c *Client) request(m *remote, r inference.Request, version string, from, to int) *pb.ModelInferRequest {
	q := &pb.ModelInferRequest{ModelName: r.Model, ModelVersion: version}
	for _, in := range m.inputs {
		w := c.width(in)
		q.Inputs = append(q.Inputs, &pb.ModelInferRequest_InferInputTensor{Name: in, Datatype: fp32, Shape: c.shape(in, to-from)})
		q.RawInputContents = append(q.RawInputContents, appendRaw(make([]byte, 0, 4*(to-from)*w), matrix(r, in)[from*w:to*w]))
	}
	q.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: m.output}}
	return q
}

// read adds the values of a response. Servers without versions answer none: theirs is the
// only one.
func (m *remote) read(r *pb.ModelInferResponse, rows int, into *inference.Scores) error {
	version := r.GetModelVersion()
	if version == "" && into.Version == "" && len(m.versions) == 1 {
		version = m.versions[0]
	}
	switch {
	case into.Version == "":
		into.Version = version
	case version != "" && version != into.Version:
		return fmt.Errorf("it names version %.80q, and %q was asked", version, into.Version)
	}
	i := slices.IndexFunc(r.GetOutputs(), func(t *pb.ModelInferResponse_InferOutputTensor) bool { return t.GetName() == m.output })
	if i < 0 {
		return fmt.Errorf("it has no output %q", m.output)
	}
	out := r.GetOutputs()[i]
	if s := out.GetShape(); len(s) == 0 || s[0] != int64(rows) || len(s) > 2 || len(s) == 2 && s[1] != 1 {
		return fmt.Errorf("its output is %s, and one value for each of %d rows is needed", brief(s), rows)
	}
	values, err := elements(out, r.GetRawOutputContents(), i, rows)
	if err != nil {
		return err
	}
	for row, v := range values {
		if d := float64(v); math.IsNaN(d) || math.IsInf(d, 0) {
			return fmt.Errorf("the value of row %d is %v, which is not finite", row, v)
		}
	}
	into.Values = append(into.Values, values...)
	return nil
}

// elements reads the i-th output, of so many elements.
func elements(out *pb.ModelInferResponse_InferOutputTensor, raw [][]byte, i, count int) ([]float32, error) {
	values := make([]float32, count)
	size := map[string]int{fp32: 4, fp64: 8, i32: 4, i64: 8}[out.GetDatatype()]
	if size == 0 {
		return nil, fmt.Errorf("its output is of %.20q", out.GetDatatype())
	}
	if len(raw) > 0 {
		if i >= len(raw) || len(raw[i]) != size*count {
			return nil, fmt.Errorf("its raw output does not hold %d elements of %d bytes", count, size)
		}
		for j := range values {
			b := raw[i][size*j:]
			switch out.GetDatatype() {
			case fp32:
				values[j] = math.Float32frombits(binary.LittleEndian.Uint32(b))
			case fp64:
				values[j] = float32(math.Float64frombits(binary.LittleEndian.Uint64(b)))
			case i32:
				values[j] = float32(int32(binary.LittleEndian.Uint32(b)))
			default:
				values[j] = float32(int64(binary.LittleEndian.Uint64(b)))
			}
		}
		return values, nil
	}
	var ok bool
	switch c := out.GetContents(); out.GetDatatype() {
	case fp32:
		ok = widen(values, c.GetFp32Contents())
	case fp64:
		ok = widen(values, c.GetFp64Contents())
	case i32:
		ok = widen(values, c.GetIntContents())
	default:
		ok = widen(values, c.GetInt64Contents())
	}
	if !ok {
		return nil, fmt.Errorf("its output does not hold %d elements", count)
	}
	return values, nil
}

func widen[N float32 | float64 | int32 | int64](into []float32, from []N) bool {
	if len(from) != len(into) {
		return false
	}
	for i, v := range from {
		into[i] = float32(v)
	}
	return true
}

// fromStatus is the error that a status stands for.
func fromStatus(err error, model, version string) error {
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.NotFound:
		return &inference.NotServingError{Model: model, Version: version}
	case codes.ResourceExhausted:
		return fmt.Errorf("%w (%w)", inference.ErrBusy, err)
	default:
		return fmt.Errorf("oip: %w", err)
	}
}
