package actors

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// ahead is how many events of a message are looked at before they are folded.
const ahead = 16

// eachEvent calls do with each encoded event of a record, in order, and before that peek for
// the next few of them. A batch that cannot be read to its end is an error, found before the
// first call: a message counts whole or not.
func eachEvent(rec *messages.Record, peek func(place int, raw []byte), do func(index uint32, place int, raw []byte)) error {
	switch rec.Type {
	case messages.EventRecord:
		peek(0, rec.Body)
		do(0, 0, rec.Body)
		return nil
	case messages.BatchRecord:
	case messages.JSONRecord:
		return eachJSON(rec.Body, peek, do)
	case messages.UnknownRecord:
		return errors.New("the message is neither application/x-protobuf of type footfall.v1.Event or footfall.v1.EventBatch nor application/json, or it is packed")
	default:
		return fmt.Errorf("record type %d is not known to this version", rec.Type)
	}
	for b := rec.Body; len(b) > 0; {
		_, n := messages.NextInBatch(b)
		if n < 0 {
			return errors.New("unreadable batch of events")
		}
		b = b[n:]
	}
	var (
		index uint32
		next  [ahead][]byte
	)
	for b := rec.Body; len(b) > 0; {
		n := 0
		for n < ahead && len(b) > 0 {
			raw, size := messages.NextInBatch(b)
			b = b[size:]
			if raw != nil {
				next[n] = raw
				peek(n, raw)
				n++
			}
		}
		for place, raw := range next[:n] {
			do(index, place, raw)
			index++
		}
	}
	return nil
}

// eachJSON is eachEvent for JSON.
func eachJSON(body []byte, peek func(int, []byte), do func(uint32, int, []byte)) error {
	parts, err := messages.SplitJSONEvents(body)
	if err != nil {
		return err
	}
	for i, raw := range parts {
		peek(0, raw)
		do(uint32(i), 0, raw)
	}
	return nil
}

// customerOf finds the customer_id of an encoded event; the string is the message's own. As
// in a decoder, the last one of several counts; the first is a good guess, and found without
// a look at the whole event.
func customerOf(kind messages.RecordType, raw []byte, guess bool) (id string, ok bool) {
	if kind == messages.JSONRecord {
		_, id = messages.PeekJSONEvent(raw)
		return id, id != ""
	}
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return "", false
		}
		raw = raw[n:]
		if num == 2 && typ == protowire.BytesType {
			v, m := protowire.ConsumeBytes(raw)
			if m < 0 {
				return "", false
			}
			id, ok = bytesString(v), len(v) > 0
			if guess {
				return id, ok
			}
			raw = raw[m:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, raw); n < 0 {
			return "", false
		}
		raw = raw[n:]
	}
	return id, ok
}

// decoder decodes and validates events into memory that it uses again. The event it returns
// points into the message and is good until the next call.
type decoder struct {
	event *footfallv1.Event
}

// absent marks a time that the message did not set.
const absent = math.MinInt64

// decode never returns nil for the event, so that a fault can name it. kind is that of the
// record that it stood in.
//
// The quick way decodes over what the last event left: its purchase with the lines' memory,
// its timestamp. What it gives is believed only where the validator accepts it; in every
// other case the event is decoded afresh, and that counts.
func (d *decoder) decode(kind messages.RecordType, raw []byte, shard int, v *messages.Validator) (*footfallv1.Event, *messages.Fault) {
	if kind == messages.JSONRecord {
		return d.decodeJSON(raw, shard, v)
	}
	if d.reuse() {
		if err := d.event.UnmarshalVTUnsafe(raw); err == nil && v.ValidateIn(shard, d.event) == nil {
			return d.event, nil
		}
	}
	d.event = &footfallv1.Event{}
	if err := d.event.UnmarshalVTUnsafe(raw); err != nil {
		return d.event, &messages.Fault{Reason: "unreadable event: " + err.Error()}
	}
	return d.event, v.ValidateIn(shard, d.event)
}

func (d *decoder) decodeJSON(raw []byte, shard int, v *messages.Validator) (*footfallv1.Event, *messages.Fault) {
	ev, fault := messages.DecodeJSONEvent(raw)
	if fault != nil {
		ev = &footfallv1.Event{}
		ev.EventId, ev.CustomerId = messages.PeekJSONEvent(raw)
		return ev, fault
	}
	d.event = ev
	return ev, v.ValidateIn(shard, ev)
}

// reuse empties the last event where it was a purchase, keeping its memory.
func (d *decoder) reuse() bool {
	if d.event == nil || d.event.Time == nil {
		return false
	}
	kind, ok := d.event.Kind.(*footfallv1.Event_Purchase)
	if !ok {
		return false
	}
	time, purchase := d.event.Time, kind.Purchase
	lines := purchase.Lines
	for _, l := range lines {
		l.Reset()
	}
	purchase.Reset()
	purchase.Lines = lines[:0]
	d.event.Reset()
	time.Seconds, time.Nanos = absent, 0
	d.event.Time, d.event.Kind = time, kind
	return true
}

func cloneString(s string) string { return strings.Clone(s) }

// bytesString lets bytes be looked up as a string without a copy: it must not outlive them.
func bytesString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
