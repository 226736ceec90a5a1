package members

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"footfall/actors"
	"footfall/cluster"
	"footfall/messages"
)

// Shards come one after the other: the next one's turn begins when the one before is here, does not come, or could not be prepared.
func TestArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		a := newShards(t.Context(), s, s, "n1", "i", 8)
		a.arrivals.turns = make(chan struct{}, 1)
		ready := make(chan int, 8)
		tell := func(shard int, err error) {
			go func() {
				if a.arrivals.prepare(t.Context(), shard, func() error { return err }) == nil {
					ready <- shard
				}
			}()
			synctest.Wait()
		}
		tell(1, nil)
		tell(2, nil)
		tell(3, errors.New("its log is away"))
		tell(4, nil)
		tell(4, nil) // told twice
		require.Equal(t, 1, <-ready)
		require.Empty(t, ready)

		report := func(cluster.Event) {}
		a.Acquire(1, report)
		s.told(actors.Change{State: actors.Recovering, Epoch: 4})
		synctest.Wait()
		require.Empty(t, ready)
		s.told(actors.Change{State: actors.Active, Epoch: 4})
		synctest.Wait()
		require.Equal(t, 2, <-ready)
		require.Empty(t, ready)

		require.Equal(t, 4, <-ready, "the one before was given up on") // the clock goes on
		require.Equal(t, 4, <-ready, "told again")
		synctest.Wait()
		require.Equal(t, []string{"open 1", "forget 1", "forget 2", "forget 4"}, s.calls)

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, a.arrivals.prepare(ended, 5, func() error { t.Error("asked"); return nil }), context.Canceled)
	})
}

// A shard is checkpointed, offered to its next owner, and closed once that one is ready; and all the same where it is not, with what
// has changed meanwhile in another checkpoint.
func TestOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		a := newShards(t.Context(), s, s, "n1", "i", 8)
		report := func(cluster.Event) { t.Error("reported") }
		ready := make(chan struct{})
		a.offer = func(ctx context.Context, shard int, at messages.Mark) error {
			s.note("offer %d at %d", shard, at.Next)
			select {
			case <-ready:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		a.Drain(1, 4, report)
		synctest.Wait()
		require.Equal(t, []string{"checkpoint 1", "offer 1 at 10"}, s.calls)
		ready <- struct{}{}
		a.calls.Wait()
		require.Equal(t, []string{"checkpoint 1", "offer 1 at 10", "close 1/4"}, s.calls)

		s.calls = nil
		a.Drain(2, 5, report)
		a.calls.Wait() // for as long as the next owner is given
		require.Equal(t, []string{"checkpoint 2", "offer 2 at 20", "checkpoint 2", "close 2/5"}, s.calls)
	})
}
