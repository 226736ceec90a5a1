package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// Leaser is what a store can do that several members share: an optional capability. Members without a lease take shards
// from each other as they like; that is what the other tests do.
type Leaser interface {
	// Renew makes the lease of a member last for ttl from the call on, at least by what it returns for each database.
	// *messages.LeaseHeldError says that another incarnation of the member has the lease.
	Renew(ctx context.Context, member, incarnation string, ttl time.Duration) (lasts []time.Duration, err error)
	// GiveUp ends the lease of a member.
	GiveUp(ctx context.Context, member, incarnation string) error
	// Owned returns the epochs of the shards that an incarnation has and that nobody took.
	Owned(ctx context.Context, member, incarnation string) (map[int]uint64, error)
}

const (
	// longLease does not end within a test.
	longLease = time.Hour
	// shortLease ends soon.
	shortLease = 50 * time.Millisecond
)

// member is a process with a store of its own.
type member struct {
	Store
	Leaser
	name, incarnation string
}

// newMember opens a store over the same data as the others, or skips the test.
func newMember(t *testing.T, h Harness, name, incarnation string) *member {
	t.Helper()
	if h.Another == nil {
		t.Skip("this store is not shared")
	}
	s := h.Another(t)
	l, ok := s.(Leaser)
	if !ok {
		t.Skip("this store has no leases")
	}
	return &member{s, l, name, incarnation}
}

func (m *member) renew(t *testing.T, ttl time.Duration) {
	t.Helper()
	lasts, err := m.Renew(t.Context(), m.name, m.incarnation, ttl)
	require.NoError(t, err)
	require.NotEmpty(t, lasts)
	for _, l := range lasts {
		require.GreaterOrEqual(t, l, ttl)
	}
}

func (m *member) acquire(t *testing.T, shard int) uint64 {
	t.Helper()
	e, err := m.Acquire(t.Context(), shard, m.name)
	require.NoError(t, err)
	return e
}

// requireHeld tries to acquire a shard in vain.
func (m *member) requireHeld(t *testing.T, shard int, owner string, epoch uint64) {
	t.Helper()
	_, err := m.Acquire(t.Context(), shard, m.name)
	var held *messages.HeldError
	require.ErrorAs(t, err, &held)
	require.Positive(t, held.For)
	require.LessOrEqual(t, held.For, longLease)
	require.Equal(t, messages.HeldError{Shard: shard, Owner: owner, Epoch: epoch, For: held.For}, *held)
}

// acquireOnceLapsed waits for the end of another's lease.
func (m *member) acquireOnceLapsed(t *testing.T, shard int) (epoch uint64) {
	t.Helper()
	for {
		e, err := m.Acquire(t.Context(), shard, m.name)
		var held *messages.HeldError
		if err == nil {
			return e
		}
		require.ErrorAs(t, err, &held)
		require.LessOrEqual(t, held.For, shortLease)
		<-time.After(held.For)
	}
}

func (m *member) requireOwned(t *testing.T, want map[int]uint64) {
	t.Helper()
	owned, err := m.Owned(t.Context(), m.name, m.incarnation)
	require.NoError(t, err)
	require.Equal(t, want, owned)
}

func testHeld(t *testing.T, h Harness) {
	a, b := newMember(t, h, "a", "1"), newMember(t, h, "b", "1")
	a.renew(t, longLease)
	b.renew(t, longLease)
	one, two := a.acquire(t, 1), a.acquire(t, 2)
	b.requireHeld(t, 1, "a", one)
	a.requireOwned(t, map[int]uint64{1: one, 2: two})
	// Its owner may take it anew, under another epoch.
	again := a.acquire(t, 1)
	require.Greater(t, again, one)
	b.requireHeld(t, 1, "a", again)
	require.NoError(t, a.Release(t.Context(), 1, again))
	require.Greater(t, b.acquire(t, 1), again)
	a.requireOwned(t, map[int]uint64{2: two})
	b.requireHeld(t, 2, "a", two)
	// Who gives up its lease has nothing to wait for.
	require.NoError(t, a.GiveUp(t.Context(), "a", "1"))
	require.Greater(t, b.acquire(t, 2), two)
	require.NoError(t, a.GiveUp(t.Context(), "a", "1"), "once more")
	a.requireOwned(t, map[int]uint64{})
}

func testLapse(t *testing.T, h Harness) {
	a, b := newMember(t, h, "a", "1"), newMember(t, h, "b", "1")
	a.renew(t, shortLease)
	b.renew(t, longLease)
	one, two := a.acquire(t, 1), a.acquire(t, 2)
	taken := b.acquireOnceLapsed(t, 1)
	require.Greater(t, taken, one)
	requireStale(t, a.Checkpoint(t.Context(), &messages.Checkpoint{Shard: 1, Epoch: one, Meta: Meta(1)}), 1, one, taken)
	// A lapsed lease goes on, with what nobody took.
	a.renew(t, longLease)
	a.requireOwned(t, map[int]uint64{2: two})
	b.requireHeld(t, 2, "a", two)
	checkpoint(t, a.Store, messages.Checkpoint{Shard: 2, Epoch: two, Meta: Meta(1)})
	a.requireHeld(t, 1, "b", taken)
}

func testIncarnations(t *testing.T, h Harness) {
	first, second, other := newMember(t, h, "a", "1"), newMember(t, h, "a", "2"), newMember(t, h, "b", "1")
	first.renew(t, longLease)
	one, two := first.acquire(t, 1), first.acquire(t, 2)
	_, err := second.Renew(t.Context(), "a", "2", longLease)
	var held *messages.LeaseHeldError
	require.ErrorAs(t, err, &held)
	require.Positive(t, held.For)
	require.Equal(t, messages.LeaseHeldError{Member: "a", Incarnation: "1", For: held.For}, *held)
	second.requireHeld(t, 1, "a", one)

	require.NoError(t, second.GiveUp(t.Context(), "a", "2"), "of a lease that another has: nothing")
	first.renew(t, shortLease)
	<-time.After(shortLease)
	second.renew(t, longLease)
	// The first one is over, and its shards are anybody's.
	_, err = first.Renew(t.Context(), "a", "1", longLease)
	require.ErrorAs(t, err, &held)
	require.Equal(t, "2", held.Incarnation)
	second.requireOwned(t, map[int]uint64{})
	e := second.acquire(t, 1)
	require.Greater(t, e, one)
	first.requireHeld(t, 1, "a", e)
	require.Greater(t, other.acquire(t, 2), two)
}

func testLeaseArguments(t *testing.T, h Harness) {
	a := newMember(t, h, "a", "1")
	for name, try := range map[string]struct {
		member, incarnation string
		ttl                 time.Duration
	}{
		"no member":      {"", "1", longLease},
		"no incarnation": {"a", "", longLease},
		"no time":        {"a", "1", 0},
	} {
		_, err := a.Renew(t.Context(), try.member, try.incarnation, try.ttl)
		require.Error(t, err, name)
	}
	_, err := a.Acquire(t.Context(), 1, "")
	require.Error(t, err)
}
