package messages

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The content of a record type names it and no other, also after a way through a store.
func TestContentNamesTheRecordType(t *testing.T) {
	for _, want := range []RecordType{UnknownRecord, EventRecord, BatchRecord, ControlRecord, JSONRecord} {
		contentType, name := want.Content()
		require.Equal(t, want, RecordTypeOf(contentType, name))
	}
	require.Equal(t, UnknownRecord, RecordTypeOf("text/plain", ""))
	require.Equal(t, UnknownRecord, RecordTypeOf(ContentProtobuf, "footfall.v1.Customer"))
}

func TestDeadLetterOfAShard(t *testing.T) {
	l := DeadLetter{
		Position: Position{Offset: 1 << 40, Index: 7}, Field: "time", Reason: "is required", EventID: "e", CustomerID: "c",
		Type: JSONRecord, Body: []byte("{}"),
	}
	p := l.Proto(3)
	require.Equal(t, "3-1099511627776-7", p.GetId())
	require.Equal(t, "footfall.events.3", p.GetSource())
	require.Equal(t, JSONRecord, RecordTypeOf(p.GetContentType(), p.GetType()))
	require.Equal(t, l.Body, p.GetBody())
}
