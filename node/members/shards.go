package members

import (
	"context"
	"errors"
	"sync"
	"time"

	"footfall/actors"
	"footfall/cluster"
	"footfall/messages"
)

// Host runs the shards of this process: *actors.Host is one.
type Host interface {
	Open(shard int, told func(actors.Change))
	Close(shard int, epoch uint64, told func(actors.Change))
	Drop(shard int)
	CheckpointShard(ctx context.Context, shard int) error
	Saved(shard int) messages.Mark
	Prepare(ctx context.Context, shard int, at messages.Mark) error
	Forget(shard int)
}

// shards opens and closes the shards of a host as the cluster's loop wants it, and translates
// what becomes of them.
//
// A shard that is to be handed over is checkpointed while it goes on, offered to its next owner,
// and closed once that one is ready (see arrivals): what is left to do while nobody answers for it
// is little, so that nobody notices the pause. They are closed one after the other, with a little
// time in between: whoever takes them over has work to do for each, and all of them at once would
// wait for the last.
//
// Of a Drain without an epoch nobody knows whether the store has the shard for this member: an
// Acquire may have ended in a lost connection. Where the host released what that Acquire had
// given, all is well; else the store is asked, and what it has is released under its epoch, unless
// a later command may have acquired that.
type shards struct {
	host              Host
	store             Store
	name, incarnation string
	// ctx ends with the member, and with it calls to the store.
	ctx   context.Context //nolint:containedctx // it is the member's life, not a call's
	calls sync.WaitGroup
	// offer tells the next owner of a shard that it is about to be released, and returns once that one is ready; nil where
	// nobody is told.
	offer    func(ctx context.Context, shard int, at messages.Mark) error
	arrivals *arrivals

	mu sync.Mutex // guards what follows
	// last is the highest epoch that the host told of each shard, before what it was when the
	// host was asked to open the shard.
	last, before []uint64
	// commands counts those of each shard.
	commands []uint64
	// next is when the next shard may be closed that was handed over.
	next time.Time
}

var _ cluster.Host = (*shards)(nil)

func newShards(ctx context.Context, host Host, store Store, name, incarnation string, n int) *shards {
	return &shards{arrivals: newArrivals(host), host: host, store: store, name: name, incarnation: incarnation, ctx: ctx, last: make([]uint64, n), before: make([]uint64, n), commands: make([]uint64, n)}
}

// Acquire implements cluster.Host.
func (s *shards) Acquire(shard int, report func(cluster.Event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands[shard]++
	s.before[shard] = s.last[shard]
	s.host.Open(shard, func(c actors.Change) {
		s.note(shard, c.Epoch)
		switch c.State {
		case actors.Recovering:
			report(cluster.Acquired{Shard: shard, Epoch: c.Epoch})
		case actors.Active:
			s.arrivals.over(shard)
			report(cluster.Activated{Shard: shard})
		case actors.Idle:
			report(cluster.Released{Shard: shard})
		case actors.Failed:
			report(failure(shard, c.Err))
		default:
		}
	})
}

// saveWithin bounds the first checkpoint of a shard that is handed over.
const saveWithin = 5 * time.Second

// Drain implements cluster.Host.
func (s *shards) Drain(shard int, epoch uint64, report func(cluster.Event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands[shard]++
	command := s.commands[shard]
	if epoch == 0 {
		s.close(shard, epoch, command, report)
		return
	}
	s.calls.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, saveWithin)
		defer cancel()
		_ = s.host.CheckpointShard(ctx, shard) // the second one tells
		s.offered(ctx, shard)
		s.await(s.turn())
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.commands[shard] == command { // else it was dropped, and may be open again
			s.close(shard, epoch, command, report)
		}
	})
}

const (
	// offerWithin bounds how long the next owner of a shard may take to be ready: it is released all the same.
	offerWithin = 2 * time.Second
	// offerFresh is after how long the checkpoint before that one was ready counts as old.
	offerFresh = 100 * time.Millisecond
)

// offered returns once the next owner of a shard is ready for it, or does not know how to be, or takes too long.
func (s *shards) offered(ctx context.Context, shard int) {
	if s.offer == nil {
		return
	}
	began := time.Now()
	within, cancel := context.WithTimeout(ctx, offerWithin)
	defer cancel()
	_ = s.offer(within, shard, s.host.Saved(shard))
	if time.Since(began) > offerFresh {
		_ = s.host.CheckpointShard(ctx, shard)
	}
}

// CloseEvery is the least time between two shards that a member hands over.
const CloseEvery = 25 * time.Millisecond

// turn returns when a shard may be closed.
func (s *shards) turn() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.After(s.next) {
		s.next = now
	}
	wait := s.next.Sub(now)
	s.next = s.next.Add(CloseEvery)
	return wait
}

// await waits, unless the member ends.
func (s *shards) await(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.ctx.Done():
	}
}

func (s *shards) close(shard int, epoch, command uint64, report func(cluster.Event)) {
	s.host.Close(shard, epoch, func(c actors.Change) {
		fresh := s.note(shard, c.Epoch)
		switch c.State {
		case actors.Idle:
			if epoch == 0 && !fresh {
				s.calls.Go(func() { s.letGo(shard, command, report) })
				return
			}
			report(cluster.Released{Shard: shard})
		case actors.Failed:
			report(released(failure(shard, c.Err)))
		default:
		}
	})
}

// Drop implements cluster.Host.
func (s *shards) Drop(shard int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands[shard]++
	s.host.Drop(shard)
}

// released takes a refusal for what it means to a shard that is given up: another has it.
func released(e cluster.Event) cluster.Event {
	if r, another := e.(cluster.Refused); another {
		return cluster.Released{Shard: r.Shard}
	}
	return e
}

// note takes an epoch that the host told, and reports whether the last Acquire gave it.
func (s *shards) note(shard int, epoch uint64) (fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[shard] = max(s.last[shard], epoch)
	return epoch > s.before[shard]
}

// letGo makes sure that the store does not have a shard for this member. What the store had when
// it was asked was acquired before, so that no command after the Drain can have done it where
// there has been none.
func (s *shards) letGo(shard int, command uint64, report func(cluster.Event)) {
	owned, err := s.store.Owned(s.ctx, s.name, s.incarnation)
	s.mu.Lock()
	late := s.commands[shard] != command
	s.mu.Unlock()
	if late {
		return
	}
	if epoch, has := owned[shard]; err == nil && has {
		err = s.store.Release(s.ctx, shard, epoch)
	}
	if err != nil {
		report(failure(shard, err))
		return
	}
	report(cluster.Released{Shard: shard})
}

// failure says what an error of a shard means to the cluster.
func failure(shard int, err error) cluster.Event {
	var (
		held  *messages.HeldError
		stale *messages.StaleEpochError
	)
	switch {
	case errors.As(err, &held):
		return cluster.Refused{Shard: shard, Holder: held.Owner, For: held.For}
	case errors.As(err, &stale):
		return cluster.SteppedDown{Shard: shard}
	default:
		return cluster.ShardFailed{Shard: shard, ForGood: actors.Permanent(err)}
	}
}
