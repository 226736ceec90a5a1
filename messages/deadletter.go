package messages

import (
	"bytes"
	"fmt"

	"footfall/messages/footfallv1"
)

// Decision is what a visitor of dead letters says of each.
type Decision int

// The decisions.
const (
	// KeepLetter leaves the letter where it is, and goes on.
	KeepLetter Decision = iota
	// RemoveLetter removes the letter, and goes on. It is said only once whatever makes up for
	// the letter is durable: should the removal be lost, the letter comes again.
	RemoveLetter
	// StopVisit leaves the letter where it is, and ends the visit.
	StopVisit
)

// DeadLetterID names the dead letter of a position of a shard's log.
func DeadLetterID(shard int, at Position) string {
	return fmt.Sprintf("%d-%d-%d", shard, at.Offset, at.Index)
}

// ShardSource names the log of a shard as the source of a dead letter: it is the name of the
// shard's stream, and the same where the log is another.
func ShardSource(shard int) string { return fmt.Sprintf("footfall.events.%d", shard) }

// Content types of messages.
const (
	ContentProtobuf = "application/x-protobuf"
	ContentJSON     = "application/json"
)

// ContentTypeOf tells from a body alone what it is: JSON, the protobuf of an event or of a
// batch, or neither: empty.
func ContentTypeOf(body []byte) string {
	var ev footfallv1.Event
	switch err := ev.UnmarshalVT(body); {
	// No text is the protobuf of an event by accident, without a field that events do not have.
	case err == nil && len(body) > 0 && len(ev.ProtoReflect().GetUnknown()) == 0:
		return ContentProtobuf
	case LooksLikeJSON(body):
		return ContentJSON
	case err == nil && len(body) > 0:
		return ContentProtobuf
	default:
		return ""
	}
}

// LooksLikeJSON reports whether a body begins as the JSON of one or more events does.
func LooksLikeJSON(body []byte) bool {
	body = bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), " \t\r\n")
	return len(body) > 0 && (body[0] == '{' || body[0] == '[')
}

// Proto is the letter of a shard as the API and other places of dead letters know it.
func (l *DeadLetter) Proto(shard int) *footfallv1.DeadLetter {
	return &footfallv1.DeadLetter{
		Id:          DeadLetterID(shard, l.Position),
		Source:      ShardSource(shard),
		Shard:       uint32(shard),
		Offset:      int64(l.Position.Offset),
		Index:       l.Position.Index,
		Field:       l.Field,
		Reason:      l.Reason,
		EventId:     l.EventID,
		CustomerId:  l.CustomerID,
		ContentType: ContentTypeOf(l.Body),
		Body:        l.Body,
	}
}
