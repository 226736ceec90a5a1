package actors

import (
	"fmt"
	"slices"

	"footfall/messages"
)

// rememberedOrigins is how many origins a shard remembers. A node that republishes messages
// never has more of a shard unsettled, so one that it republishes again is always among them.
const rememberedOrigins = 64

// origins are the last messages that nodes have republished to a shard, oldest first. They
// are part of what the fold keeps. The zero value is empty.
type origins struct{ last []messages.Origin }

// seen reports whether an origin is known, and remembers it. No origin is never known.
func (o *origins) seen(origin messages.Origin) bool {
	if origin == (messages.Origin{}) {
		return false
	}
	if slices.Contains(o.last, origin) {
		return true
	}
	if len(o.last) == rememberedOrigins {
		o.last = o.last[:copy(o.last, o.last[1:])]
	}
	o.last = append(o.last, origin)
	return false
}

func (o *origins) bytes() []byte {
	var b []byte
	for _, origin := range o.last {
		b = append(b, origin[:]...)
	}
	return b
}

func (o *origins) restore(b []byte) error {
	o.last = nil
	if size := len(messages.Origin{}); len(b)%size != 0 || len(b) > rememberedOrigins*size {
		return fmt.Errorf("%d bytes are no origins", len(b))
	}
	for part := range slices.Chunk(b, len(messages.Origin{})) {
		o.last = append(o.last, messages.Origin(part))
	}
	return nil
}
