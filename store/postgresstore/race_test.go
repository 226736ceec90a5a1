package postgresstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// contender is a member that wants every shard.
type contender struct {
	*Store
	name, incarnation string
	rnd               *rand.Rand
	world             *world

	// until is when its lease ends as far as it knows; lapsed, that it ended before it was renewed.
	mu     sync.Mutex
	until  time.Time
	lapsed bool
}

// world is what all contenders do, seen from outside.
type world struct {
	mu      sync.Mutex
	holders map[int]*contender
	epochs  map[[2]uint64]string
	writes  map[int]int
}

// renew returns whether the lease went on without a lapse.
func (c *contender) renew(t *testing.T, ttl time.Duration) bool {
	called := time.Now()
	lasts, err := c.Renew(t.Context(), c.name, c.incarnation, ttl)
	if err != nil {
		t.Log(err) // too late, on a busy machine
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := time.Now().After(c.until)
	c.until, c.lapsed = called.Add(lasts[0]), c.lapsed || gone
	return !gone
}

// inside tells whether the lease has lasted since the shard was acquired.
func (c *contender) inside(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.lapsed && now.Before(c.until)
}

func (c *contender) begin(t *testing.T, ttl time.Duration) {
	c.renew(t, ttl)
	c.mu.Lock()
	c.lapsed = false
	c.mu.Unlock()
}

// take acquires a shard, counts in it while it can, and releases it or walks away.
func (c *contender) take(t *testing.T, shard int) {
	epoch, err := c.Acquire(t.Context(), shard, c.name)
	if _, held := errors.AsType[*messages.HeldError](err); held {
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	now := time.Now()
	c.world.mu.Lock()
	if former := c.world.holders[shard]; former != nil && former != c && former.inside(now) {
		t.Errorf("%s was given shard %d inside the lease of %s", c.name, shard, former.name)
	}
	key := [2]uint64{uint64(shard), epoch}
	if by := c.world.epochs[key]; by != "" {
		t.Errorf("epoch %d of shard %d was given to %s and %s", epoch, shard, by, c.name)
	}
	c.world.epochs[key] = c.name
	c.world.holders[shard] = c
	c.world.mu.Unlock()

	for range c.rnd.IntN(6) {
		values, err := c.Get(t.Context(), shard, epoch, []string{"count"})
		if err == nil {
			count, _ := strconv.Atoi(string(values[0]))
			err = c.Checkpoint(t.Context(), &messages.Checkpoint{
				Shard: shard, Epoch: epoch, Meta: &footfallv1.CheckpointMeta{EpochRead: epoch},
				Customers: []messages.CustomerRecord{{ID: "count", Value: strconv.AppendInt(nil, int64(count+1), 10)}},
			})
		}
		if _, stale := errors.AsType[*messages.StaleEpochError](err); stale {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		c.world.mu.Lock()
		c.world.writes[shard]++
		c.world.mu.Unlock()
	}
	if c.rnd.IntN(2) == 0 {
		return
	}
	// Before the release: another may have it at once after.
	c.world.mu.Lock()
	if c.world.holders[shard] == c {
		c.world.holders[shard] = nil
	}
	c.world.mu.Unlock()
	var stale *messages.StaleEpochError
	if err := c.Release(t.Context(), shard, epoch); err != nil && !errors.As(err, &stale) {
		t.Error(err)
	}
}

// TestContenders lets members take shards from each other, with leases that they renew too late at times. At most one
// epoch's writes are accepted at a time, no epoch is given twice, and nobody gets a shard inside the lease of its owner.
func TestContenders(t *testing.T) {
	const members, shards, turns = 5, 2, 40
	const ttl = 60 * time.Millisecond
	addr := newDatabase(t)
	w := &world{holders: map[int]*contender{}, epochs: map[[2]uint64]string{}, writes: map[int]int{}}
	var wg sync.WaitGroup
	for m := range members {
		c := &contender{
			Store: open(t, Options{MaxConns: 2}, addr), world: w,
			name: fmt.Sprint("node-", m), incarnation: "1", rnd: rand.New(rand.NewPCG(uint64(m), uint64(time.Now().UnixNano()))),
		}
		wg.Go(func() {
			c.begin(t, ttl)
			for range turns {
				if c.rnd.IntN(4) > 0 && !c.renew(t, ttl) {
					// It has lost what it had, as far as it knows.
					w.mu.Lock()
					for shard, holder := range w.holders {
						if holder == c {
							w.holders[shard] = nil
						}
					}
					w.mu.Unlock()
					c.begin(t, ttl)
				}
				c.take(t, c.rnd.IntN(shards))
			}
		})
	}
	wg.Wait()
	s := open(t, Options{}, addr)
	for shard := range shards {
		_, epoch, err := s.Owner(t.Context(), shard)
		require.NoError(t, err)
		values, err := s.Get(t.Context(), shard, epoch, []string{"count"})
		require.NoError(t, err)
		count, _ := strconv.Atoi(string(values[0]))
		require.Equal(t, w.writes[shard], count, "a write was lost: two owners wrote")
		require.Positive(t, count)
	}
}
