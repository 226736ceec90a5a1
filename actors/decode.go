package actors

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// ahead is how many events of a message are looked at before they are folded.
const ahead = 16

// eachEvent calls do with each encoded event of a record, in order, and before that peek with
// the next few of them, at most ahead: place is where one stood among those. A batch that cannot
// be read to its end is an error, found before the first call: a message counts whole or not.
// next is memory for its use.
func eachEvent(rec *messages.Record, next *[ahead][]byte, peek func(raws [][]byte), do func(index uint32, place int, raw []byte)) error {
	switch rec.Type {
	case messages.EventRecord:
		next[0] = rec.Body
		peek(next[:1])
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
	if _, f := messages.CheckBatch(rec.Body); f != nil {
		return f
	}
	var index uint32
	for b := rec.Body; len(b) > 0; {
		n := 0
		for n < ahead && len(b) > 0 {
			raw, size := messages.NextInBatch(b)
			b = b[size:]
			if raw != nil {
				next[n] = raw
				n++
			}
		}
		peek(next[:n])
		for place, raw := range next[:n] {
			do(index, place, raw)
			index++
		}
	}
	return nil
}

// eachJSON is eachEvent for JSON.
func eachJSON(body []byte, peek func([][]byte), do func(uint32, int, []byte)) error {
	parts, err := messages.SplitJSONEvents(body)
	if err != nil {
		return err
	}
	for at := 0; at < len(parts); at += ahead {
		next := parts[at:min(at+ahead, len(parts))]
		peek(next)
		for place, raw := range next {
			do(uint32(at+place), place, raw)
		}
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

// envelope is what an event says of itself, whatever its kind. Its strings are the message's.
type envelope struct {
	event, customer, producer string
	sequence                  uint64
}

func envelopeOf(ev *footfallv1.Event) envelope {
	return envelope{ev.GetEventId(), ev.GetCustomerId(), ev.GetProducer(), ev.GetSequence()}
}

// decoder decodes, validates and flattens events.
type decoder struct {
	scanned messages.Scanned
}

// decode fills into, unless there is a fault; the envelope is as far as it could be read. kind
// is that of the record that the event stood in. What it cannot scan is decoded in
// full, and that counts.
func (d *decoder) decode(kind messages.RecordType, raw []byte, shard int, v *messages.Validator, into *behavior.Event) (envelope, *messages.Fault) {
	var ev *footfallv1.Event
	if kind == messages.JSONRecord {
		var fault *messages.Fault
		if ev, fault = messages.DecodeJSONEvent(raw); fault != nil {
			event, customer := messages.PeekJSONEvent(raw)
			return envelope{event: event, customer: customer}, fault
		}
	} else {
		if s := &d.scanned; v.ScanPurchase(shard, raw, s) {
			behavior.FlattenScanned(s, into)
			return envelope{s.EventID, s.CustomerID, s.Producer, s.Sequence}, nil
		}
		ev = &footfallv1.Event{}
		if err := ev.UnmarshalVTUnsafe(raw); err != nil {
			return envelopeOf(ev), &messages.Fault{Reason: "unreadable event: " + err.Error()}
		}
	}
	fault := v.ValidateIn(shard, ev)
	if fault == nil {
		if err := behavior.Flatten(ev, into); err != nil {
			fault = &messages.Fault{Reason: err.Error()}
		}
	}
	return envelopeOf(ev), fault
}

func cloneString(s string) string { return strings.Clone(s) }

// bytesString lets bytes be looked up as a string without a copy: it must not outlive them.
func bytesString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
