package members

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/actors"
	"footfall/cluster"
	"footfall/messages"
	"footfall/store/postgresstore"
)

// stub is a host and a store that do what a test says, and note what they are told.
type stub struct {
	calls []string
	told  func(actors.Change)
	// owned and err are the store's answer, late is done before it is given.
	owned map[int]uint64
	err   error
	late  func()
}

func (s *stub) note(format string, args ...any) {
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
}

func (s *stub) Open(shard int, told func(actors.Change)) {
	s.note("open %d", shard)
	s.told = told
}

func (s *stub) Close(shard int, epoch uint64, told func(actors.Change)) {
	s.note("close %d/%d", shard, epoch)
	s.told = told
}

func (s *stub) Drop(shard int) { s.note("drop %d", shard) }

func (s *stub) CheckpointShard(_ context.Context, shard int) error {
	s.note("checkpoint %d", shard)
	return nil
}

func (*stub) Saved(shard int) messages.Mark { return messages.Mark{Next: uint64(10 * shard)} }

func (*stub) Prepare(context.Context, int, messages.Mark) error { return nil }

func (s *stub) Forget(shard int) { s.note("forget %d", shard) }

func (s *stub) Release(_ context.Context, shard int, epoch uint64) error {
	s.note("release %d/%d", shard, epoch)
	return nil
}

func (s *stub) Renew(_ context.Context, _, _ string, ttl time.Duration) ([]time.Duration, error) {
	if s.err != nil {
		return []time.Duration{0}, s.err
	}
	return []time.Duration{ttl}, nil
}

func (s *stub) GiveUp(context.Context, string, string) error { return nil }

func (s *stub) Owned(_ context.Context, member, incarnation string) (map[int]uint64, error) {
	s.note("owned by %s/%s", member, incarnation)
	if s.late != nil {
		s.late()
	}
	return s.owned, s.err
}

func (s *stub) Leases(context.Context) ([]postgresstore.Lease, error) {
	return []postgresstore.Lease{{Member: "a", Left: time.Second}, {Member: "b", Left: -placeKept / 2}, {Member: "c", Left: -2 * placeKept}}, nil
}

func TestShards(t *testing.T) {
	held := &messages.HeldError{Shard: 3, Owner: "n2", Epoch: 9, For: time.Second}
	away := errors.New("away")
	type change = actors.Change
	for _, tt := range []struct {
		what string
		// opened is what the host tells after Acquire, closed after Drain of an epoch; nil: not called.
		opened, closed []change
		epoch          uint64
		owned          map[int]uint64
		err            error
		calls          []string
		events         []cluster.Event
	}{
		{
			what:   "a life",
			opened: []change{{State: actors.Recovering, Epoch: 4}, {State: actors.Active, Epoch: 4}}, closed: []change{{State: actors.Idle, Epoch: 4}}, epoch: 4,
			calls:  []string{"open 3", "checkpoint 3", "close 3/4"},
			events: []cluster.Event{cluster.Acquired{Shard: 3, Epoch: 4}, cluster.Activated{Shard: 3}, cluster.Released{Shard: 3}},
		},
		{
			what:   "another has it",
			opened: []change{{State: actors.Failed, Err: fmt.Errorf("acquire: %w", held)}},
			calls:  []string{"open 3"},
			events: []cluster.Event{cluster.Refused{Shard: 3, Holder: "n2", For: time.Second}},
		},
		{
			what:   "it fails, and for good",
			opened: []change{{State: actors.Failed, Err: away}, {State: actors.Failed, Err: &messages.LogGapError{}}, {State: actors.Failed, Err: &messages.StaleEpochError{}}},
			calls:  []string{"open 3"},
			events: []cluster.Event{cluster.ShardFailed{Shard: 3}, cluster.ShardFailed{Shard: 3, ForGood: true}, cluster.SteppedDown{Shard: 3}},
		},
		{
			what:   "drained while it is acquired: the host released what it got",
			opened: []change{}, closed: []change{{State: actors.Idle, Epoch: 5}},
			calls:  []string{"open 3", "close 3/0"},
			events: []cluster.Event{cluster.Released{Shard: 3}},
		},
		{
			what:   "an acquire that was lost is undone",
			opened: []change{{State: actors.Failed, Err: away}}, closed: []change{{State: actors.Idle}}, owned: map[int]uint64{2: 6, 3: 7},
			calls:  []string{"open 3", "close 3/0", "owned by n1/i", "release 3/7"},
			events: []cluster.Event{cluster.ShardFailed{Shard: 3}, cluster.Released{Shard: 3}},
		},
		{
			what:   "there was none to undo",
			opened: []change{{State: actors.Failed, Err: away}}, closed: []change{{State: actors.Idle}}, owned: map[int]uint64{2: 6},
			calls:  []string{"open 3", "close 3/0", "owned by n1/i"},
			events: []cluster.Event{cluster.ShardFailed{Shard: 3}, cluster.Released{Shard: 3}},
		},
		{
			what:   "nobody knows",
			opened: []change{{State: actors.Failed, Err: away}}, closed: []change{{State: actors.Idle}}, err: away,
			calls:  []string{"open 3", "close 3/0", "owned by n1/i"},
			events: []cluster.Event{cluster.ShardFailed{Shard: 3}, cluster.ShardFailed{Shard: 3}},
		},
		{
			what:   "drained while the store refuses it",
			opened: []change{}, closed: []change{{State: actors.Failed, Err: held}},
			calls:  []string{"open 3", "close 3/0"},
			events: []cluster.Event{cluster.Released{Shard: 3}},
		},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s := &stub{owned: tt.owned, err: tt.err}
			a := newShards(t.Context(), s, s, "n1", "i", 4)
			var events []cluster.Event
			report := func(e cluster.Event) { events = append(events, e) }
			a.Acquire(3, report)
			for _, c := range tt.opened {
				s.told(c)
			}
			if tt.closed != nil {
				a.Drain(3, tt.epoch, report)
				a.calls.Wait()
				for _, c := range tt.closed {
					s.told(c)
				}
				a.calls.Wait()
			}
			require.Equal(t, tt.calls, s.calls)
			require.Equal(t, tt.events, events)
		})
	}
}

// A shard that is dropped before its turn to be closed has come may be open again by then.
func TestDropBeforeClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		a := newShards(t.Context(), s, s, "n1", "i", 4)
		report := func(cluster.Event) { t.Error("reported") }
		a.Drain(1, 4, report)
		synctest.Wait()
		a.Drain(2, 4, report) // in 25 ms
		synctest.Wait()
		a.Drop(2)
		a.Acquire(2, report)
		a.calls.Wait()
		require.Equal(t, []string{"checkpoint 1", "close 1/4", "checkpoint 2", "drop 2", "open 2"}, s.calls)
	})
}

// A shard that was dropped and opened again, while the store was asked what it has of it, is not
// released: what the store has may be of the later life.
func TestDropBeforeRelease(t *testing.T) {
	s := &stub{owned: map[int]uint64{1: 5}}
	a := newShards(t.Context(), s, s, "n1", "i", 4)
	report := func(cluster.Event) { t.Error("reported") }
	s.late = func() {
		a.Drop(1)
		a.Acquire(1, report)
	}
	a.Drain(1, 0, report)
	s.told(actors.Change{State: actors.Idle})
	a.calls.Wait()
	require.Equal(t, []string{"close 1/0", "owned by n1/i", "drop 1", "open 1"}, s.calls)
}

func TestLeases(t *testing.T) {
	now := time.Unix(100, 0)
	s := &stub{}
	l := newLeases(s, 1, func() time.Time { return now })
	require.False(t, l.held())
	renew := func() { _, _ = l.Renew(t.Context(), "n1", "i", time.Second) }
	renew()
	require.True(t, l.held())
	now = now.Add(500 * time.Millisecond)
	renew()
	now = now.Add(time.Second + 250*time.Millisecond)
	require.False(t, l.held())
	require.Equal(t, 250*time.Millisecond, l.stale(0))
	s.err = errors.New("away")
	renew()
	require.Equal(t, 250*time.Millisecond, l.stale(0))
	// Renewed, but nobody has said yet whether shards were taken meanwhile.
	s.err = nil
	renew()
	require.True(t, l.held())
	now = now.Add(100 * time.Millisecond)
	require.Equal(t, 350*time.Millisecond, l.stale(0))

	kept, lapsed, err := l.Places(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, kept)
	require.Equal(t, []string{"b"}, lapsed)
}
