package messages

import (
	"fmt"
	"strings"
	"unicode/utf8"

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

// Content types of messages, and what protobuf messages are called beside.
const (
	ContentProtobuf = "application/x-protobuf"
	ContentJSON     = "application/json"

	TypeEvent   = "footfall.v1.Event"
	TypeBatch   = "footfall.v1.EventBatch"
	TypeControl = "footfall.v1.Control"
)

// Content is how other places than a log name the type of a record: a content type, and of
// protobuf the name of the message. Both are empty where it is not known.
func (t RecordType) Content() (contentType, name string) {
	switch t {
	case EventRecord:
		return ContentProtobuf, TypeEvent
	case BatchRecord:
		return ContentProtobuf, TypeBatch
	case ControlRecord:
		return ContentProtobuf, TypeControl
	case JSONRecord:
		return ContentJSON, ""
	default:
		return "", ""
	}
}

// RecordTypeOf is the other way round: the type of a record by its content.
func RecordTypeOf(contentType, name string) RecordType {
	for _, t := range []RecordType{EventRecord, BatchRecord, ControlRecord, JSONRecord} {
		if c, n := t.Content(); c == contentType && n == name {
			return t
		}
	}
	return UnknownRecord
}

// maxLetterText bounds the field and the reason of a letter, in bytes.
const maxLetterText = 1024

// Proto is the letter of a shard as stores, the API and other places of dead letters know it. A
// publisher may have written anything in place of an ID, also what is no text and has megabytes:
// of that as much is told as can be. The body has it as it was.
func (l *DeadLetter) Proto(shard int) *footfallv1.DeadLetter {
	contentType, name := l.Type.Content()
	return &footfallv1.DeadLetter{
		Id:          DeadLetterID(shard, l.Position),
		Source:      ShardSource(shard),
		Shard:       uint32(shard),
		Offset:      int64(l.Position.Offset),
		Index:       l.Position.Index,
		Field:       ClipText(l.Field, maxLetterText),
		Reason:      ClipText(l.Reason, maxLetterText),
		EventId:     ClipText(l.EventID, MaxID),
		CustomerId:  ClipText(l.CustomerID, MaxID),
		ContentType: contentType,
		Type:        name,
		Body:        l.Body,
	}
}

// ClipText is what of s is valid UTF-8 within its first limit bytes.
func ClipText(s string, limit int) string {
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit]
	}
	return strings.ToValidUTF8(s, "")
}
