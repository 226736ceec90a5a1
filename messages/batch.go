package messages

import (
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
