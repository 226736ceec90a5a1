package messages

import (
	"testing"

	"github.com/stretchr/testify/require"

	pb "footfall/messages/footfallv1"
)

func TestKindName(t *testing.T) {
	seen := map[string]bool{}
	for _, ev := range goodEvents() {
		m := ev.ProtoReflect()
		kind := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
		require.Equal(t, string(kind.Name()), KindName(ev))
		seen[KindName(ev)] = true
	}
	// Every kind of the protobuf is there, and the validator's text names it.
	fields := (&pb.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	require.Len(t, seen, fields.Len())
	for i := range fields.Len() {
		require.Contains(t, kindNames, string(fields.Get(i).Name()))
	}
	require.Empty(t, KindName(&pb.Event{}))
}
