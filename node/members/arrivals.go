package members

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// arrivals are the shards that are on their way to this member: their owners have told that they are about to release them,
// and wait for this member to be ready. It is for a few at a time only. What a move costs it costs while nobody answers for the shard,
// and of many at once each would take as long as all of them; while one waits for its turn its owner goes on serving it.
//
//	      turn                ready: its owner releases it, it is opened here
//	told ──────► preparing ──────────────────────────────────────────────────► here, or given up on after a while
//
// Invariant: a turn that was taken is given back once, by whoever removes its shard from expected.
type arrivals struct {
	host  Host
	turns chan struct{} // has room for each that is on its way

	mu       sync.Mutex // guards expected
	expected map[int]*time.Timer
}

// arriveWithin is how long a shard is expected that its owner wanted to release.
const arriveWithin = time.Second

// LeastArriving is how many shards may be on their way to a member at once, on a machine of few cores.
const LeastArriving = 1

// atOnce is how many shards may be on their way: half as many as there are cores, for each move keeps the store and the log's
// servers busy, too.
func atOnce() int { return max(LeastArriving, min(runtime.GOMAXPROCS(0)/2, 8)) }

func newArrivals(host Host) *arrivals {
	return &arrivals{host: host, turns: make(chan struct{}, atOnce()), expected: map[int]*time.Timer{}}
}

// prepare returns once this member is ready for a shard. prepare is called in its turn.
func (a *arrivals) prepare(ctx context.Context, shard int, prepare func() error) error {
	select {
	case a.turns <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := prepare(); err != nil {
		<-a.turns
		return err
	}
	a.over(shard) // it was expected before, and its owner has given that up
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expected[shard] = time.AfterFunc(arriveWithin, func() { a.over(shard) })
	return nil
}

// over ends a shard's turn, where it has one: it has arrived, or does not come.
func (a *arrivals) over(shard int) {
	a.mu.Lock()
	timer, ok := a.expected[shard]
	delete(a.expected, shard)
	a.mu.Unlock()
	if ok {
		timer.Stop()
		a.host.Forget(shard)
		<-a.turns
	}
}
