package messages

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// BatchEvents is the field of an EventBatch that holds events.
const BatchEvents protowire.Number = 1

// NextInBatch reads one field of an encoded EventBatch: its event, or nil for a field that is
// not known, and its length; negative where it cannot be read. The event is a part of b.
func NextInBatch(b []byte) (event []byte, n int) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return nil, n
	}
	if num == BatchEvents && typ == protowire.BytesType {
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return nil, m
		}
		return slices.Clip(v), n + m
	}
	m := protowire.ConsumeFieldValue(num, typ, b[n:])
	if m < 0 {
		return nil, m
	}
	return nil, n + m
}

// CheckBatch reads an encoded EventBatch from end to end and counts its events. The fault, where
// there is one, is that of the message as a whole: then none of its events is to be looked at.
//
// One is an Event that was called a batch. Its event_id stands where a batch has an event, and
// all else of it would be passed over as what a newer version knows.
func CheckBatch(b []byte) (events int, f *Fault) {
	var (
		one   []byte
		other bool
	)
	for len(b) > 0 {
		raw, n := NextInBatch(b)
		if n < 0 {
			return 0, &Fault{Reason: "unreadable batch of events"}
		}
		if raw != nil {
			events++
			one = raw
		}
		other = other || raw == nil
		b = b[n:]
	}
	if other && events == 1 && !hasCustomer(one) {
		return 0, &Fault{Reason: "the message is not the batch of events that its type says: one event goes with the type " + TypeEvent}
	}
	return events, nil
}

// hasCustomer reports whether an encoded event has a customer_id, as each does that is one. An
// event_id never looks so: it would hold a control character.
func hasCustomer(event []byte) bool { return bytes.IndexByte(event, customerTag) >= 0 }

// customerTag begins the field customer_id of an event.
const customerTag = 2<<3 | byte(protowire.BytesType)
