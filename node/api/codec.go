package api

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	protobuf "google.golang.org/protobuf/proto"
)

// codec is the wire format of gRPC with generated, reflection-free code where messages have
// it. Those of health and reflection have not.
type codec struct{}

// Codec is for the clients of nodes: what theirs is to the services.
var Codec encoding.CodecV2 = codec{}

type fastMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// Name implements encoding.CodecV2: on the wire it is plain protobuf.
func (codec) Name() string { return proto.Name }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(fastMessage); ok {
		pool := mem.DefaultBufferPool()
		buf := pool.Get(m.SizeVT())
		if _, err := m.MarshalToSizedBufferVT(*buf); err != nil {
			pool.Put(buf)
			return nil, err
		}
		return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
	}
	m, ok := v.(protobuf.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", v)
	}
	b, err := protobuf.Marshal(m)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal implements encoding.CodecV2. The message keeps nothing of data.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	if m, ok := v.(fastMessage); ok {
		return m.UnmarshalVT(buf.ReadOnlyData())
	}
	m, ok := v.(protobuf.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", v)
	}
	return protobuf.Unmarshal(buf.ReadOnlyData(), m)
}

// copyInto sets one message to what another of the same type is.
func copyInto(into, from any) error {
	to, ok1 := into.(protobuf.Message)
	m, ok2 := from.(protobuf.Message)
	if !ok1 || !ok2 {
		return fmt.Errorf("cannot copy %T to %T", from, into)
	}
	protobuf.Reset(to)
	protobuf.Merge(to, m)
	return nil
}
