package oip

import (
	"encoding/binary"
	"fmt"
	"math"

	"footfall/inference"
	pb "footfall/messages/inferencev2"
)

// The datatypes of the protocol that are spoken here. Servers take fp32 and answer fp32 and
// int32; a client also understands the others of an answer.
const (
	fp32 = "FP32"
	fp64 = "FP64"
	i32  = "INT32"
	i64  = "INT64"
)

// datatypeOf is what an output of that kind is answered as.
func datatypeOf(k inference.Kind) string {
	if k == inference.SegmentID {
		return i32
	}
	return fp32
}

func shapeOf(shape []int) []int64 {
	s := make([]int64, len(shape))
	for i, n := range shape {
		s[i] = int64(n)
	}
	return s
}

// tensor is an input as it came, whichever way.
type tensor struct {
	name, datatype string
	shape          []int64
	// values returns the elements, which must be so many; its error says what is wrong with
	// them, not where.
	values func(count int) ([]float32, error)
}

// question is a request to score, as it came.
type question struct {
	model, version string
	inputs         []tensor
	// outputs are those asked for; none means all.
	outputs []string
}

// bind holds a question against the contract and returns the request that it makes.
func (q *question) bind(c *inference.Contract, maxRows int) (*inference.Request, error) {
	r := &inference.Request{Model: c.Name, Version: c.VersionString()}
	taken := map[string]bool{}
	for i, in := range q.inputs {
		field := fmt.Sprintf("inputs[%d]", i)
		want := input(c, in.name)
		if want == nil {
			return nil, fault(field+".name", "%s has no input %.80q, but %s", c.Name, in.name, list(names(c)))
		}
		if taken[in.name] {
			return nil, fault(field+".name", "%q stands twice", in.name)
		}
		taken[in.name] = true
		if in.datatype != fp32 {
			return nil, fault(field+".datatype", "is %.80q, and %s of %s is %s", in.datatype, in.name, c.Name, fp32)
		}
		if !fits(in.shape, want.Shape) {
			return nil, fault(field+".shape", "is %v, and %s of %s is %v", brief(in.shape), in.name, c.Name, want.Shape)
		}
		switch rows := in.shape[0]; {
		case rows < 1 || rows > int64(maxRows):
			return nil, fault(field+".shape", "has %d rows: 1 to %d can be asked for at once", rows, maxRows)
		case r.Rows != 0 && rows != int64(r.Rows):
			return nil, fault(field+".shape", "has %d rows, and %s has %d", rows, q.inputs[0].name, r.Rows)
		default:
			r.Rows = int(rows)
		}
		width := 1
		for _, n := range want.Shape[1:] {
			width *= n
		}
		values, err := in.values(r.Rows * width)
		if err != nil {
			return nil, fault(field+".data", "%s", err)
		}
		for j, v := range values {
			if d := float64(v); math.IsNaN(d) || math.IsInf(d, 0) {
				return nil, fault(field+".data", "row %d: %s is %v, which is not finite", j/width, want.Features[j%len(want.Features)], v)
			}
		}
		if in.name == inference.Sequence {
			r.Sequences = values
		} else {
			r.Features = values
		}
	}
	for _, in := range c.Inputs {
		if !taken[in.Name] {
			return nil, fault("inputs", "%s is missing, which %s is fed", in.Name, c.Name)
		}
	}
	for i, name := range q.outputs {
		if name != c.Outputs[0].Name {
			return nil, fault(fmt.Sprintf("outputs[%d].name", i), "%s has no output %.80q, but %s", c.Name, name, c.Outputs[0].Name)
		}
		if i > 0 {
			return nil, fault(fmt.Sprintf("outputs[%d].name", i), "%q stands twice", name)
		}
	}
	return r, nil
}

func input(c *inference.Contract, name string) *inference.Input {
	for i := range c.Inputs {
		if c.Inputs[i].Name == name {
			return &c.Inputs[i]
		}
	}
	return nil
}

func names(c *inference.Contract) []string {
	all := make([]string, len(c.Inputs))
	for i, in := range c.Inputs {
		all[i] = in.Name
	}
	return all
}

// fits reports whether a shape is the contract's but for the rows.
func fits(shape []int64, want []int) bool {
	if len(shape) != len(want) {
		return false
	}
	for i, n := range want[1:] {
		if shape[i+1] != int64(n) {
			return false
		}
	}
	return true
}

// brief keeps a shape that is no shape out of messages.
func brief(shape []int64) string {
	if len(shape) > 8 {
		return fmt.Sprintf("of %d dimensions", len(shape))
	}
	return fmt.Sprint(shape)
}

// answer is the values that a model gave.
type answer struct {
	contract *inference.Contract
	values   []float32
}

// output describes the tensor of an answer.
func (a *answer) output() (name, datatype string, shape []int64) {
	out := a.contract.Outputs[0]
	shape = shapeOf(out.Shape)
	shape[0] = int64(len(a.values))
	return out.Name, datatypeOf(out.Kind), shape
}

// raw returns the values as bytes.
func (a *answer) raw() []byte {
	if a.contract.Outputs[0].Kind == inference.SegmentID {
		b := make([]byte, 0, 4*len(a.values))
		for _, v := range a.values {
			b = binary.LittleEndian.AppendUint32(b, uint32(int32(v)))
		}
		return b
	}
	return appendRaw(make([]byte, 0, 4*len(a.values)), a.values)
}

func appendRaw(b []byte, values []float32) []byte {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// fromRaw reads a tensor of so many FP32 elements.
func fromRaw(raw []byte, count int) ([]float32, error) {
	if len(raw) != 4*count {
		return nil, fmt.Errorf("has %d bytes, where the shape asks for %d elements of 4", len(raw), count)
	}
	values := make([]float32, count)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return values, nil
}

// fromGRPC reads a request. Its tensors' bytes are looked at by bind.
func fromGRPC(r *pb.ModelInferRequest) (*question, error) {
	q := &question{model: r.GetModelName(), version: r.GetModelVersion()}
	raw := r.GetRawInputContents()
	if len(raw) > 0 && len(raw) != len(r.GetInputs()) {
		return nil, fault("raw_input_contents", "has %d elements, and inputs has %d: either all inputs are raw, or none", len(raw), len(r.GetInputs()))
	}
	if err := refuse("parameters", keys(r.GetParameters())); err != nil {
		return nil, err
	}
	for i, in := range r.GetInputs() {
		if err := refuse(fmt.Sprintf("inputs[%d].parameters", i), keys(in.GetParameters())); err != nil {
			return nil, err
		}
		t := tensor{name: in.GetName(), datatype: in.GetDatatype(), shape: in.GetShape()}
		contents := in.GetContents().GetFp32Contents()
		if len(raw) > 0 {
			if in.GetContents() != nil {
				return nil, fault(fmt.Sprintf("inputs[%d].contents", i), "is set beside raw_input_contents")
			}
			t.values = func(count int) ([]float32, error) { return fromRaw(raw[i], count) }
		} else {
			t.values = func(count int) ([]float32, error) {
				if len(contents) != count {
					return nil, fmt.Errorf("has %d elements in fp32_contents, where the shape asks for %d", len(contents), count)
				}
				return contents, nil
			}
		}
		q.inputs = append(q.inputs, t)
	}
	for i, out := range r.GetOutputs() {
		if err := refuse(fmt.Sprintf("outputs[%d].parameters", i), keys(out.GetParameters())); err != nil {
			return nil, err
		}
		q.outputs = append(q.outputs, out.GetName())
	}
	return q, nil
}

func keys[V any](parameters map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for key := range parameters {
			if !yield(key) {
				return
			}
		}
	}
}

// refuse names a parameter that would change what an answer means, and is not understood.
// All others are hints, which a server may pass over.
func refuse(field string, parameters func(yield func(string) bool)) error {
	for key := range parameters {
		switch key {
		case "classification", "shared_memory_region", "sequence_id":
			return fault(field+"."+key, "is not supported")
		}
	}
	return nil
}

// grpc makes the response.
func (a *answer) grpc(id string, raw bool) *pb.ModelInferResponse {
	name, datatype, shape := a.output()
	out := &pb.ModelInferResponse_InferOutputTensor{Name: name, Datatype: datatype, Shape: shape}
	r := &pb.ModelInferResponse{
		ModelName: a.contract.Name, ModelVersion: a.contract.VersionString(), Id: id,
		Outputs: []*pb.ModelInferResponse_InferOutputTensor{out},
	}
	switch {
	case raw:
		r.RawOutputContents = [][]byte{a.raw()}
	case datatype == i32:
		out.Contents = &pb.InferTensorContents{IntContents: make([]int32, len(a.values))}
		for i, v := range a.values {
			out.Contents.IntContents[i] = int32(v)
		}
	default:
		out.Contents = &pb.InferTensorContents{Fp32Contents: a.values}
	}
	return r
}
