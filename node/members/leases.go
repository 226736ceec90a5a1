package members

import (
	"context"
	"sync"
	"time"

	"footfall/cluster"
	"footfall/store/postgresstore"
)

// Store is what the members of a cluster share: *postgresstore.Store is one.
type Store interface {
	Release(ctx context.Context, shard int, epoch uint64) error
	Renew(ctx context.Context, member, incarnation string, ttl time.Duration) (lasts []time.Duration, err error)
	GiveUp(ctx context.Context, member, incarnation string) error
	Owned(ctx context.Context, member, incarnation string) (map[int]uint64, error)
	Leases(ctx context.Context) ([]postgresstore.Lease, error)
}

// placeKept is how long the place of a member is kept that has gone without giving it up: longer
// than any restart should take.
const placeKept = 10 * time.Minute

// lateAfter is how long a lease has been over before its member counts as one that does not get
// through to the store.
const lateAfter = time.Second

// leases keeps this member's lease, and remembers since when it has not been sure of it.
type leases struct {
	Store
	now func() time.Time

	mu sync.Mutex // guards what follows
	// until is the end of the lease in each database, lapsed that of the one before it lapsed last.
	until, lapsed []time.Time
}

var _ cluster.Leases = (*leases)(nil)

func newLeases(store Store, databases int, now func() time.Time) *leases {
	return &leases{Store: store, now: now, until: make([]time.Time, databases), lapsed: make([]time.Time, databases)}
}

// Renew implements cluster.Leases.
func (l *leases) Renew(ctx context.Context, member, incarnation string, ttl time.Duration) ([]time.Duration, error) {
	sent := l.now()
	lasts, err := l.Store.Renew(ctx, member, incarnation, ttl)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for i := range min(len(lasts), len(l.until)) {
		if lasts[i] <= 0 {
			continue
		}
		if now.After(l.until[i]) {
			l.lapsed[i] = l.until[i]
		}
		l.until[i] = sent.Add(lasts[i])
	}
	return lasts, err
}

// Places implements cluster.Leases.
func (l *leases) Places(ctx context.Context) (kept, lapsed []string, err error) {
	all, err := l.Leases(ctx)
	for _, lease := range all {
		if lease.Left <= -placeKept {
			continue
		}
		kept = append(kept, lease.Member)
		if lease.Left < -lateAfter {
			lapsed = append(lapsed, lease.Member)
		}
	}
	return kept, lapsed, err
}

// held reports whether the lease holds in every database.
func (l *leases) held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, until := range l.until {
		if !now.Before(until) {
			return false
		}
	}
	return true
}

// stale is how long ago this member was last sure of a shard that it is not sure of now: since
// its lease lapsed, or lapsed last, where the store has not said since who has the shard.
func (l *leases) stale(shard int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, i := l.now(), shard%len(l.until)
	sure := l.until[i]
	if now.Before(sure) {
		sure = l.lapsed[i]
	}
	if sure.IsZero() {
		return 0
	}
	return max(now.Sub(sure), time.Millisecond)
}
