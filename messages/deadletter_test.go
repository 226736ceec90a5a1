package messages

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
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

// What stands where an ID should be may be anything: a letter of it can be written all the same.
func TestDeadLetterOfWhatIsNoText(t *testing.T) {
	l := DeadLetter{Field: "a\xff", Reason: strings.Repeat("é", 600), EventID: "\xff\xfee" + strings.Repeat("x", 200), CustomerID: "\xc3", Body: []byte("\xff")}
	p := l.Proto(3)
	require.Equal(t, "a", p.GetField())
	require.Equal(t, strings.Repeat("é", 512), p.GetReason())
	require.Equal(t, "e"+strings.Repeat("x", MaxID-3), p.GetEventId())
	require.Empty(t, p.GetCustomerId())
	require.Equal(t, l.Body, p.GetBody())
	_, err := proto.Marshal(p)
	require.NoError(t, err)
}

func TestClipText(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{{"", 0, ""}, {"abc", 3, "abc"}, {"abc", 2, "ab"}, {"éé", 3, "é"}, {"é", 1, ""}, {"a\xffb", 9, "ab"}, {"\x80\x80\x80", 1, ""}} {
		require.Equal(t, c.want, ClipText(c.in, c.limit), "%q", c.in)
	}
}
