package api

import (
	"sync"
	"time"

	"footfall/actors"
)

// window is how far back a rate looks.
const window = 10 * time.Second

// Rates keeps how many events each shard folded in the last ten seconds. Sample is to be
// called about once a second.
type Rates struct {
	mu      sync.Mutex
	samples []sample // oldest first, none older than window but one
}

type sample struct {
	at     time.Time
	events map[int]uint64
}

// Sample notes where the shards are.
func (r *Rates) Sample(now time.Time, statuses []actors.Status) {
	s := sample{at: now, events: make(map[int]uint64, len(statuses))}
	for _, st := range statuses {
		s.events[st.Shard] = st.Events
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, s)
	for len(r.samples) > 2 && now.Sub(r.samples[1].at) >= window {
		r.samples = r.samples[1:]
	}
}

// Of returns a shard's rate in events a second.
func (r *Rates) Of(shard int) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) < 2 {
		return 0
	}
	first, last := r.samples[0], r.samples[len(r.samples)-1]
	from, ok := first.events[shard]
	to := last.events[shard]
	span := last.at.Sub(first.at).Seconds()
	if !ok || to < from || span <= 0 {
		return 0
	}
	return float64(to-from) / span
}
