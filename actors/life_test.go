package actors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// gatedStore is a store whose Acquire a test can hold up and answer.
type gatedStore struct {
	*memStore
	gate     chan error // an answer lets one Acquire go on, before the store is asked
	released []string
	away     error
}

func (s *gatedStore) Acquire(ctx context.Context, shard int, owner string) (uint64, error) {
	if s.gate != nil {
		if err := <-s.gate; err != nil {
			return 0, err
		}
	}
	return s.memStore.Acquire(ctx, shard, owner)
}

func (s *gatedStore) Release(ctx context.Context, shard int, epoch uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return s.away
	}
	s.released = append(s.released, fmt.Sprintf("%d/%d", shard, epoch))
	return nil
}

func (s *gatedStore) Checkpoint(ctx context.Context, c *messages.Checkpoint) error {
	err := s.memStore.Checkpoint(ctx, c)
	if err == nil && c.Release {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.released = append(s.released, fmt.Sprintf("%d/%d with its checkpoint", c.Shard, c.Epoch))
	}
	return err
}

// told collects what an opener hears.
type told struct {
	mu   sync.Mutex
	said []string
}

func (h *told) hear(c Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	line := fmt.Sprintf("%s %d", c.State, c.Epoch)
	if c.Err != nil {
		line += " " + c.Err.Error()
	}
	h.said = append(h.said, line)
}

// heard returns what was said since, once everything has come to rest.
func (h *told) heard() []string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	said := h.said
	h.said = nil
	return said
}

// TestShardsComeAndGo opens shards one by one, as whoever shares them with other nodes does.
func TestShardsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		store := &gatedStore{memStore: b.store}
		h, err := NewHost(b.cfg, b.log, store, nil)
		require.NoError(t, err)
		h.Begin()
		defer func() { require.NoError(t, h.Stop(context.WithoutCancel(t.Context()))) }()
		shard := messages.ShardOf("900", 4)
		var opener, closer told

		h.Open(shard, opener.hear)
		require.Equal(t, []string{"recovering 1", "active 1"}, opener.heard())
		b.host = h
		b.publish(purchase("900", "b-1", day1, "1.00"))
		require.NoError(t, h.WaitFor(t.Context(), "900", "b-1"))
		_, err = h.Ask(t.Context(), "901")
		var idle *NotActiveError
		require.ErrorAs(t, err, &idle)

		// Given up in order: released with its last checkpoint.
		h.Close(shard, 1, closer.hear)
		require.Equal(t, []string{"idle 1"}, closer.heard())
		require.Empty(t, opener.heard())
		require.Equal(t, []string{fmt.Sprintf("%d/1 with its checkpoint", shard)}, store.released)
		require.EqualValues(t, 1, store.metas[shard].GetCustomers())

		// Again, with what was folded.
		h.Open(shard, opener.hear)
		require.Equal(t, []string{"recovering 2", "active 2"}, opener.heard())
		a, err := h.Ask(t.Context(), "900")
		require.NoError(t, err)
		require.EqualValues(t, 1, a.Record.Lifetime().Purchases)

		// Taken over: the store refuses the next checkpoint, and the shard does not come back by itself.
		store.mu.Lock()
		store.epochs[shard]++
		store.mu.Unlock()
		b.publish(purchase("900", "b-2", day1, "1.00"))
		<-time.After(2 * b.cfg.CheckpointEvery)
		said := opener.heard()
		require.Len(t, said, 1)
		require.Contains(t, said[0], "failed 2 stale_epoch")
		<-time.After(time.Minute)
		require.Empty(t, opener.heard())
	})
}

func TestShardThatIsAnothers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		store := &gatedStore{memStore: b.store, gate: make(chan error, 1)}
		h, err := NewHost(b.cfg, b.log, store, nil)
		require.NoError(t, err)
		h.Begin()
		defer func() { require.NoError(t, h.Stop(context.WithoutCancel(t.Context()))) }()
		var opener, closer told

		store.gate <- &messages.HeldError{Shard: 1, Owner: "n2", Epoch: 7}
		h.Open(1, opener.hear)
		said := opener.heard()
		require.Len(t, said, 1)
		require.Contains(t, said[0], "failed 0 held: shard 1 belongs to n2")

		// Given up while the store has not answered yet: what it then gives is released.
		h.Open(1, opener.hear)
		h.Close(1, 0, closer.hear)
		require.Empty(t, closer.heard())
		store.gate <- nil
		require.Equal(t, []string{"idle 1"}, closer.heard())
		require.Equal(t, []string{"1/1"}, store.released)

		// The same, but it fails: nobody knows whether it was carried out.
		h.Open(1, opener.hear)
		h.Close(1, 0, closer.hear)
		store.gate <- errors.New("lost")
		said = closer.heard()
		require.Len(t, said, 1)
		require.Contains(t, said[0], "failed 1 lost") // the last epoch that is known
		// The caller found out that it has epoch 9, and gives it up until the store says so.
		store.away = errors.New("away")
		h.Close(1, 9, closer.hear)
		require.Equal(t, []string{"failed 9 away"}, closer.heard())
		store.away = nil
		h.Close(1, 9, closer.hear)
		require.Equal(t, []string{"idle 9"}, closer.heard())
		require.Equal(t, []string{"1/1", "1/9"}, store.released)

		// Dropped: nobody hears of it any more.
		store.gate <- nil
		h.Open(1, opener.hear)
		require.Equal(t, []string{"recovering 2", "active 2"}, opener.heard())
		h.Drop(1)
		require.Empty(t, opener.heard())
		require.Equal(t, Idle, h.Status()[1].State)
	})
}
