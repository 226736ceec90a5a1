package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// sharedStore is the simulation's store for goroutines and real time.
type sharedStore struct {
	mu   sync.Mutex
	down bool
	*simStore
}

func newSharedStore(shards int) *sharedStore {
	return &sharedStore{simStore: newSimStore(shards, realNow)}
}

func (s *sharedStore) with(do func(*simStore) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return errSimAway
	}
	return do(s.simStore)
}

func (s *sharedStore) Renew(_ context.Context, member, incarnation string, ttl time.Duration) ([]time.Duration, error) {
	err := s.with(func(st *simStore) error { return st.renew(member, incarnation) })
	if err != nil {
		return []time.Duration{0}, err
	}
	return []time.Duration{ttl}, nil
}

func (s *sharedStore) Owned(_ context.Context, member, incarnation string) (held map[int]uint64, err error) {
	err = s.with(func(st *simStore) error { held = st.held(member, incarnation); return nil })
	return held, err
}

func (s *sharedStore) Places(context.Context) (kept, lapsed []string, err error) {
	err = s.with(func(st *simStore) error { kept, lapsed = st.places(); return nil })
	return kept, lapsed, err
}

func (s *sharedStore) setDown(down bool) {
	s.mu.Lock()
	s.down = down
	s.mu.Unlock()
}

func (s *sharedStore) owner(shard int) (string, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shards[shard].owner, s.shards[shard].epoch
}

// fakeHost owns shards in the store and does nothing with them.
type fakeHost struct {
	store             *sharedStore
	name, incarnation string
	done              sync.WaitGroup
}

func (h *fakeHost) Acquire(shard int, report func(Event)) {
	h.done.Go(func() {
		var epoch uint64
		err := h.store.with(func(st *simStore) (err error) { epoch, err = st.acquire(shard, h.name, h.incarnation); return err })
		var held *messages.HeldError
		switch {
		case err == nil:
			report(Acquired{shard, epoch})
			report(Activated{shard})
		case errors.As(err, &held):
			report(Refused{shard, held.Owner, held.For})
		default:
			report(ShardFailed{Shard: shard})
		}
	})
}

func (h *fakeHost) Drain(shard int, epoch uint64, report func(Event)) {
	h.done.Go(func() {
		err := h.store.with(func(st *simStore) error {
			if epoch == 0 {
				epoch = st.shards[shard].epoch
			}
			return st.release(shard, h.name, h.incarnation, epoch)
		})
		var stale *messages.StaleEpochError
		switch {
		case err == nil:
			report(Released{shard})
		case errors.As(err, &stale):
			report(SteppedDown{shard})
		default:
			report(ShardFailed{Shard: shard})
		}
	})
}

func (h *fakeHost) Drop(int) {}

// liveNode is membership, reconciler and host of one node.
type liveNode struct {
	*Reconciler
	members *Membership
	host    *fakeHost
	kill    context.CancelFunc
	ended   chan error
}

const liveShards = 24

func startNode(t *testing.T, store *sharedStore, name, incarnation string, seeds ...string) *liveNode {
	t.Helper()
	cfg := memberConfig(name, seeds...)
	cfg.Self.State, cfg.Self.Shards, cfg.Self.Incarnation = MemberJoining, liveShards, incarnation
	n := &liveNode{members: startMember(t, cfg), host: &fakeHost{store: store, name: name, incarnation: incarnation}, ended: make(chan error, 1)}
	var err error
	n.Reconciler, err = NewReconciler(ReconcilerConfig{
		Ownership:   OwnershipConfig{Name: name, Shards: liveShards},
		Incarnation: incarnation, PlacesEvery: 200 * time.Millisecond, Now: realNow,
	}, n.host, store, n.members)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.ended <- n.Run(ctx)
	}()
	var once sync.Once
	n.kill = func() {
		once.Do(func() {
			cancel()
			<-done
			n.host.done.Wait()
			_ = n.members.Close()
		})
	}
	t.Cleanup(n.kill)
	n.Ready()
	return n
}

// waitServed waits until every shard is answered for by one of the nodes, by the one that all of
// them believe in.
func waitServed(t *testing.T, nodes ...*liveNode) {
	t.Helper()
	require.Eventually(t, func() bool {
		owners := nodes[0].Owners()
		for _, n := range nodes[1:] {
			if !slices.Equal(owners, n.Owners()) {
				return false
			}
		}
		for shard, owner := range owners {
			i := slices.IndexFunc(nodes, func(n *liveNode) bool { return n.host.name == owner })
			if i < 0 || !nodes[i].Locate(shard).Here {
				return false
			}
		}
		return len(loads(owners)) == len(nodes)
	}, patience, 5*time.Millisecond)
}

// Real gossip, real goroutines, a store in memory: the loop does what the simulation proves.
func TestReconciler(t *testing.T) {
	t.Parallel()
	store := newSharedStore(liveShards)
	a := startNode(t, store, "a", "a1")
	waitServed(t, a)
	b := startNode(t, store, "b", "b1", a.members.Address())
	c := startNode(t, store, "c", "c1", a.members.Address())
	waitServed(t, a, b, c)
	before := a.Owners()

	// Everybody knows where a shard is; who does not own it says who does.
	for shard, owner := range before {
		for _, n := range []*liveNode{a, b, c} {
			l, err := n.Wait(t.Context(), shard)
			require.NoError(t, err)
			require.Equal(t, owner, l.Owner)
			require.Equal(t, owner == n.host.name, l.Here)
			if !l.Here {
				require.EqualError(t, l.Err(), fmt.Sprintf("not_owner: shard %d is with %s at %s:8081", shard, owner, owner))
			}
		}
	}

	// A restart by the book: drain, leave, come back. The same shards come back to it.
	require.NoError(t, b.Drain(t.Context()))
	require.NoError(t, b.members.Leave(patience))
	b.kill()
	waitServed(t, a, c)
	b = startNode(t, store, "b", "b2", a.members.Address())
	waitServed(t, a, b, c)
	require.Equal(t, before, a.Owners())

	reg := prometheus.NewRegistry()
	reg.MustRegister(a)
	text := fmt.Sprintf("# HELP footfall_cluster_shards Shards on this node, by state.\n# TYPE footfall_cluster_shards gauge\n"+
		"footfall_cluster_shards{state=\"acquiring\"} 0\nfootfall_cluster_shards{state=\"active\"} %d\nfootfall_cluster_shards{state=\"draining\"} 0\n"+
		"footfall_cluster_shards{state=\"failed\"} 0\nfootfall_cluster_shards{state=\"idle\"} %d\nfootfall_cluster_shards{state=\"recovering\"} 0\n", liveShards/3, liveShards*2/3)
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(text), "footfall_cluster_shards"))

	// Killed.
	c.kill()
	waitServed(t, a, b)

	// The store goes away: nobody answers as owner. It comes back: all go on, under the same epochs.
	var epochs [liveShards]uint64
	for s := range liveShards {
		_, epochs[s] = store.owner(s)
	}
	store.setDown(true)
	require.Eventually(t, func() bool {
		for s := range liveShards {
			if a.Locate(s).Here || b.Locate(s).Here {
				return false
			}
		}
		return true
	}, patience, 5*time.Millisecond)
	store.setDown(false)
	waitServed(t, a, b)
	for s := range liveShards {
		_, now := store.owner(s)
		require.Equal(t, epochs[s], now, "shard %d", s)
	}
}

// Two processes of one name that gossip does not bring together: the store does.
func TestReconcilerNameTaken(t *testing.T) {
	t.Parallel()
	store := newSharedStore(liveShards)
	a := startNode(t, store, "a", "a1")
	waitServed(t, a)
	twin := startNode(t, store, "a", "a2")
	select {
	case err := <-twin.ended:
		var taken *NameTakenError
		require.ErrorAs(t, err, &taken)
		require.Equal(t, "incarnation a1", taken.By)
	case <-time.After(patience):
		require.Fail(t, "the second node of a name goes on")
	}
	waitServed(t, a)
}

func TestReconcilerConfig(t *testing.T) {
	t.Parallel()
	_, err := NewReconciler(ReconcilerConfig{}, nil, nil, nil)
	require.EqualError(t, err, "cluster: Ownership.Name is empty\nOwnership.Shards must be above 0\nIncarnation is empty\nNow is nil")
}

// A wait for a shard that is coming ends with the caller's deadline.
func TestReconcilerWait(t *testing.T) {
	t.Parallel()
	store := newSharedStore(liveShards)
	store.down = true
	a := startNode(t, store, "a", "a1")
	l, err := a.Wait(t.Context(), 0)
	require.NoError(t, err)
	require.False(t, l.Here)
	require.EqualError(t, l.Err(), "not_owner: shard 0 has no known owner")
}
