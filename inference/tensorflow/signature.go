package tensorflow

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	shapepb "github.com/galeone/tensorflow/tensorflow/go/core/framework/tensor_shape_go_proto"
	"github.com/galeone/tensorflow/tensorflow/go/core/framework/types_go_proto"
	pb "github.com/galeone/tensorflow/tensorflow/go/core/protobuf/for_core_protos_go_proto"

	"footfall/inference"
)

// place is where a tensor comes out of the graph.
type place struct {
	operation string
	index     int
}

// bind finds what the contract names in the graph's signature.
func bind(g *pb.MetaGraphDef, c *inference.Contract) (*session, error) {
	sig, ok := g.GetSignatureDef()[c.Signature]
	if !ok {
		return nil, fmt.Errorf("signature: the model has no %q, but %s", c.Signature, names(g.GetSignatureDef()))
	}
	s := &session{name: c.Name}
	fed := map[string]bool{}
	for i, in := range c.Inputs {
		key := fmt.Sprintf("inputs[%d]", i)
		info, ok := sig.GetInputs()[in.Tensor]
		if !ok {
			return nil, fmt.Errorf("%s.tensor: signature %q has no input %q, but %s", key, c.Signature, in.Tensor, names(sig.GetInputs()))
		}
		if info.GetDtype() != types_go_proto.DataType_DT_FLOAT {
			return nil, fmt.Errorf("%s: the model takes %s, not float32", key, typeName(info.GetDtype()))
		}
		p, err := find(key, info, in.Shape)
		if err != nil {
			return nil, err
		}
		width := 1
		for _, n := range in.Shape[1:] {
			width *= n
		}
		s.inputs = append(s.inputs, input{name: in.Name, place: p, shape: in.Shape[1:], width: width})
		fed[in.Tensor] = true
	}
	for _, name := range slices.Sorted(maps.Keys(sig.GetInputs())) {
		if !fed[name] {
			return nil, fmt.Errorf("inputs: the model also takes %q, which the contract does not feed", name)
		}
	}

	out := c.Outputs[0]
	info, ok := sig.GetOutputs()[out.Tensor]
	if !ok {
		return nil, fmt.Errorf("outputs[0].tensor: signature %q has no output %q, but %s", c.Signature, out.Tensor, names(sig.GetOutputs()))
	}
	switch t := info.GetDtype(); {
	case t == types_go_proto.DataType_DT_FLOAT:
	case out.Kind == inference.SegmentID && (t == types_go_proto.DataType_DT_INT32 || t == types_go_proto.DataType_DT_INT64):
	default:
		return nil, fmt.Errorf("outputs[0]: the model answers %s, which is no %s", typeName(t), out.Kind)
	}
	p, err := find("outputs[0]", info, out.Shape)
	s.output = p
	return s, err
}

// find returns where a tensor of the signature is, once its shape is what it should be.
func find(key string, info *pb.TensorInfo, want []int) (place, error) {
	if have := info.GetTensorShape(); !matches(have, want) {
		return place{}, fmt.Errorf("%s.shape: the contract says %v, the model %v", key, want, sizes(have))
	}
	operation, index, found := strings.Cut(info.GetName(), ":")
	i, err := strconv.ParseUint(index, 10, 16)
	if !found || err != nil {
		return place{}, fmt.Errorf("%s: the model has a tensor by the name %q, which is none", key, info.GetName())
	}
	return place{operation: operation, index: int(i)}, nil
}

// matches reports whether a tensor can have the shape; -1 in the model's stands for any size.
func matches(have *shapepb.TensorShapeProto, want []int) bool {
	if have.GetUnknownRank() {
		return true
	}
	dims := sizes(have)
	if len(dims) != len(want) {
		return false
	}
	for i, n := range dims {
		if n != -1 && n != int64(want[i]) {
			return false
		}
	}
	return true
}

func sizes(s *shapepb.TensorShapeProto) []int64 {
	dims := make([]int64, len(s.GetDim()))
	for i, d := range s.GetDim() {
		dims[i] = d.GetSize()
	}
	return dims
}

// names lists keys for an error.
func names[T any](m map[string]T) string {
	if len(m) == 0 {
		return "none at all"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

func typeName(t types_go_proto.DataType) string {
	return strings.ToLower(strings.TrimPrefix(t.String(), "DT_"))
}
