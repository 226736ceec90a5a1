package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// errNoEvents says of a body that nobody can tell what it is.
var errNoEvents = errors.New("the body is neither JSON nor protobuf of events")

// eventsOf reads the body of a letter as events, each with its fault where it has one. The error
// says why it cannot be taken apart.
func eventsOf(l *footfallv1.DeadLetter) ([]item, error) {
	items, err := decodeLetter(l)
	if err == nil && len(items) == 0 {
		err = errors.New("the body holds no event")
	}
	return items, err
}

func decodeLetter(l *footfallv1.DeadLetter) ([]item, error) {
	switch kindOfLetter(l) {
	case messages.ControlRecord:
		return nil, errors.New("the body is a control record, which nodes alone write")
	case messages.EventRecord:
		return []item{decodeEvent(l.GetBody())}, nil
	case messages.BatchRecord:
		var batch footfallv1.EventBatch
		if err := batch.UnmarshalVT(l.GetBody()); err != nil {
			return nil, errors.New("the body is no protobuf of a batch of events: " + err.Error())
		}
		items := make([]item, len(batch.GetEvents()))
		for i, ev := range batch.GetEvents() {
			items[i].event = ev
		}
		return items, nil
	case messages.JSONRecord:
		items, err := decodeJSON(l.GetBody())
		if err != nil {
			return nil, errors.New("the body is no JSON of events: " + err.Error())
		}
		return items, nil
	default:
		return nil, errNoEvents
	}
}

// kindOfLetter says how a body is to be read: as its content type says, and where that is not
// known, or cannot be, by what it looks like. Whether its events are good is not asked.
func kindOfLetter(l *footfallv1.DeadLetter) messages.RecordType {
	content, _, err := mime.ParseMediaType(l.GetContentType())
	if err != nil {
		content = ""
	}
	switch t := messages.RecordTypeOf(content, l.GetType()); t {
	case messages.UnknownRecord:
	case messages.BatchRecord: // or one event that its publisher called so
		if _, f := messages.CheckBatch(l.GetBody()); f == nil || !isEvent(l.GetBody()) {
			return t
		}
		return messages.EventRecord
	case messages.EventRecord: // or the other way round
		if isEvent(l.GetBody()) || !isBatch(l.GetBody()) {
			return t
		}
		return messages.BatchRecord
	default:
		return t
	}
	if content == messages.ContentJSON {
		return messages.JSONRecord
	}
	switch body := l.GetBody(); {
	case isEvent(body):
		return messages.EventRecord
	case isBatch(body):
		return messages.BatchRecord
	case looksLikeJSON(body):
		return messages.JSONRecord
	}
	return messages.UnknownRecord
}

func isEvent(body []byte) bool {
	var ev footfallv1.Event
	return ev.UnmarshalVT(body) == nil && plausible(&ev)
}

func isBatch(body []byte) bool {
	var batch footfallv1.EventBatch
	return batch.UnmarshalVT(body) == nil && len(batch.GetEvents()) > 0 && plausible(batch.GetEvents()[0])
}

// plausible reports whether what was decoded as an event looks like one: nearly any bytes can be
// decoded as some protobuf.
func plausible(ev *footfallv1.Event) bool {
	return len(ev.ProtoReflect().GetUnknown()) == 0 && ev.GetEventId() != "" &&
		(ev.GetCustomerId() != "" || ev.GetTime() != nil || ev.GetKind() != nil)
}

// eventLines is the body of a letter as JSON, one event a line: of JSON as it was written, with
// all that is wrong in it.
func eventLines(l *footfallv1.DeadLetter) (string, error) {
	items, err := eventsOf(l)
	if err != nil {
		return "", err
	}
	var lines bytes.Buffer
	if kindOfLetter(l) == messages.JSONRecord {
		parts, err := messages.SplitJSONEvents(l.GetBody())
		if err != nil {
			return "", err
		}
		for _, raw := range parts {
			if err := json.Compact(&lines, raw); err != nil {
				return "", errors.New("the body is no JSON of events: " + err.Error())
			}
			lines.WriteByte('\n')
		}
		return lines.String(), nil
	}
	for i := range items {
		if items[i].fault != nil {
			return "", errors.New("the body " + items[i].fault.Reason)
		}
		lines.Write(appendMessage(lines.AvailableBuffer(), items[i].event.ProtoReflect(), true))
		lines.WriteByte('\n')
	}
	return lines.String(), nil
}
