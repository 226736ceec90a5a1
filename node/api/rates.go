package api

import (
	"sync"
	"time"

	"footfall/actors"
)

// window is how far back a rate looks.
const window = 10 * time.Second

// Rates keeps what each shard did in the last ten seconds. Sample is to be called about once a
// second.
type Rates struct {
	mu      sync.Mutex
	samples []sample // oldest first, none older than window but one
}

type sample struct {
	at     time.Time
	shards map[int]done
}

// done is what a shard has done so far, in one life: epoch tells lives apart.
type done struct {
	epoch, events, bytes, queries uint64
	busy                          time.Duration
}

// Heat is what a shard does in a second: events and bytes folded, and queries answered. Busy is
// the share of one core that folding took.
type Heat struct{ Events, Bytes, Queries, Busy float64 }

// Sample notes where the shards are.
func (r *Rates) Sample(now time.Time, statuses []actors.Status) {
	s := sample{at: now, shards: make(map[int]done, len(statuses))}
	for _, st := range statuses {
		s.shards[st.Shard] = done{epoch: st.Epoch, events: st.Events, bytes: st.Bytes, queries: st.Queries, busy: st.Busy}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, s)
	for len(r.samples) > 2 && now.Sub(r.samples[1].at) >= window {
		r.samples = r.samples[1:]
	}
}

// Of returns what a shard does; nothing of one that was not here all the time.
func (r *Rates) Of(shard int) Heat {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) < 2 {
		return Heat{}
	}
	first, last := r.samples[0], r.samples[len(r.samples)-1]
	from, ok := first.shards[shard]
	to, there := last.shards[shard]
	span := last.at.Sub(first.at).Seconds()
	if !ok || !there || from.epoch != to.epoch || to.events < from.events || to.busy < from.busy || span <= 0 {
		return Heat{}
	}
	return Heat{
		Events:  float64(to.events-from.events) / span,
		Bytes:   float64(to.bytes-from.bytes) / span,
		Queries: float64(to.queries-from.queries) / span,
		Busy:    (to.busy - from.busy).Seconds() / span,
	}
}
