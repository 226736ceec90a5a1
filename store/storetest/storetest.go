package storetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Store is actors.Store, and what the node asks of a store beside.
type Store interface {
	Acquire(ctx context.Context, shard int, owner string) (epoch uint64, err error)
	Load(ctx context.Context, shard int, epoch uint64) (*footfallv1.CheckpointMeta, error)
	Get(ctx context.Context, shard int, epoch uint64, ids []string) ([][]byte, error)
	Scan(ctx context.Context, shard int, epoch uint64, after string, limit int) ([]messages.CustomerRecord, error)
	Checkpoint(ctx context.Context, c *messages.Checkpoint) error
	Release(ctx context.Context, shard int, epoch uint64) error

	Owner(ctx context.Context, shard int) (owner string, epoch uint64, err error)

	AppendOutbox(ctx context.Context, shard int, epoch uint64, rows []messages.OutboxRow) error
	Outbox(ctx context.Context, shard int, epoch, after uint64, limit int) ([]messages.OutboxRow, error)
	DeleteOutbox(ctx context.Context, shard int, epoch, through uint64) error

	DeadLetters(ctx context.Context, shard int, from messages.Position, limit int) ([]messages.DeadLetter, error)
	DeadLetterCounts(ctx context.Context, shard int) (kept, dropped uint64, err error)

	SnapshotBase(ctx context.Context, shard int, epoch uint64) error
	Base(ctx context.Context, shard int) (generation uint64, meta *footfallv1.CheckpointMeta, err error)
	ScanBase(ctx context.Context, shard int, generation uint64, after string, limit int) ([]messages.CustomerRecord, error)
	NeededFrom(ctx context.Context, shard int) (uint64, error)

	CheckIdentity(want messages.Identity) error
	CheckLog(uuid string) error
}

// Harness is a store under test and what can be done to it. A nil function says that it
// cannot: the tests that need it are skipped.
type Harness struct {
	Store Store
	// Reopen closes the store and opens it again over the same data.
	Reopen func(t *testing.T) Store
	// Another opens the same data once more, as another process does. It is closed by t.Cleanup.
	Another func(t *testing.T) Store
	// Corrupt changes the stored value of a customer.
	Corrupt func(t *testing.T, shard int, id string)
	// DeadLetters is how many dead letters of a shard are kept: at most 200.
	DeadLetters int
}

// Run runs the suite. open gives a new, empty store, closed by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, h Harness)
	}{
		{"a new store knows nothing", testEmpty},
		{"epochs only grow", testEpochs},
		{"concurrent owners get epochs of their own", testConcurrentAcquire},
		{"an older epoch is refused everywhere and writes nothing", testFence},
		{"of racing owners only the last one writes", testFenceRace},
		{"a checkpoint comes back as it was", testCheckpoint},
		{"a later checkpoint changes what it names", testOverwrite},
		{"an empty value removes the customer", testRemove},
		{"get misses, repeats and keeps its order", testGet},
		{"scans go through the customers in order", testScan},
		{"shards are apart", testShards},
		{"everything survives a restart", testReopen},
		{"a broken checkpoint writes nothing", testAtomic},
		{"the outbox is a queue", testOutbox},
		{"the outbox of a checkpoint is part of it", testOutboxOfCheckpoint},
		{"a dead letter is kept once", testDead},
		{"dead letters are bounded", testDeadBound},
		{"dead letters that come again stay dropped", testDeadAgain},
		{"dead letters are removed one by one", testDeadRemove},
		{"a dead letter that was removed does not come back", testDeadGone},
		{"removed dead letters make room", testDeadRemoveBound},
		{"dead letters are removed while others come", testDeadRemoveRace},
		{"a base snapshot stays as it was", testBase},
		{"a base snapshot is replaced as a whole", testBaseReplaced},
		{"a base snapshot under checkpoints is one of them", testBaseConcurrent},
		{"the log is needed from the base snapshot on", testNeededFrom},
		{"another identity is refused", testIdentity},
		{"another log is refused", testLog},
		{"a changed value is an error", testCorrupt},
		{"a call gives up with its context", testCancel},
		{"shards out of range are errors", testRange},
		{"a shard is held while its owner's lease lasts", testHeld},
		{"a lease that lapsed goes on with what nobody took", testLapse},
		{"an incarnation takes over once the lease has lapsed", testIncarnations},
		{"a lease needs names and time", testLeaseArguments},
		{"roll-outs are replaced generation by generation", testRollouts},
		{"of racing changes of a roll-out one takes place", testRolloutRace},
		{"what is read is what was written", testOracle},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func acquire(t *testing.T, s Store, shard int) uint64 {
	t.Helper()
	epoch, err := s.Acquire(t.Context(), shard, "node-a")
	require.NoError(t, err)
	return epoch
}

// Meta returns a meta with something in every field.
func Meta(next uint64) *footfallv1.CheckpointMeta {
	return &footfallv1.CheckpointMeta{
		NextOffset: next,
		Sum:        uint32(next * 7),
		LastTick:   "2017-01-31",
		Clock:      footfallv1.ClockMode_CLOCK_MODE_DRIVEN,
		Producers:  []*footfallv1.ProducerMark{{Producer: "till", Sequence: next}},
		Unscored:   []string{"a", "ü"},
		Customers:  next * 2,
		Events:     next * 3,
		Models:     []*footfallv1.ModelRef{{Model: "m", Version: "1"}},
		Sweeping:   next%2 == 1,
		EpochRead:  next,
	}
}

func requireMeta(t *testing.T, want, have *footfallv1.CheckpointMeta) {
	t.Helper()
	require.True(t, proto.Equal(want, have), "meta is %v instead of %v", have, want)
}

func customer(n int) messages.CustomerRecord {
	return messages.CustomerRecord{
		ID:    fmt.Sprintf("c%05d", n),
		Value: fmt.Appendf(nil, "state of %d %s", n, strings.Repeat("z", n%50)),
	}
}

func customers(from, to int) []messages.CustomerRecord {
	var out []messages.CustomerRecord
	for n := from; n < to; n++ {
		out = append(out, customer(n))
	}
	return out
}

func checkpoint(t *testing.T, s Store, c messages.Checkpoint) {
	t.Helper()
	require.NoError(t, s.Checkpoint(t.Context(), &c))
}

// scanAll scans with a small limit, so that there are many calls.
func scanAll(t *testing.T, s Store, shard int, epoch uint64, limit int) []messages.CustomerRecord {
	t.Helper()
	return collect(t, limit, func(after string) ([]messages.CustomerRecord, error) {
		return s.Scan(t.Context(), shard, epoch, after, limit)
	})
}

func scanBase(t *testing.T, s Store, shard int, generation uint64, limit int) []messages.CustomerRecord {
	t.Helper()
	return collect(t, limit, func(after string) ([]messages.CustomerRecord, error) {
		return s.ScanBase(t.Context(), shard, generation, after, limit)
	})
}

func collect(t *testing.T, limit int, scan func(after string) ([]messages.CustomerRecord, error)) []messages.CustomerRecord {
	t.Helper()
	var out []messages.CustomerRecord
	after := ""
	for {
		got, err := scan(after)
		require.NoError(t, err)
		if len(got) == 0 {
			return out
		}
		size := 0
		for i, r := range got {
			require.Greater(t, r.ID, after, "customers are out of order")
			after = r.ID
			if size += len(r.Value); size > limit {
				require.Equal(t, len(got)-1, i, "the scan went on past its limit")
			}
		}
		out = append(out, got...)
	}
}

func requireStale(t *testing.T, err error, shard int, epoch, stored uint64) {
	t.Helper()
	var stale *messages.StaleEpochError
	require.ErrorAs(t, err, &stale)
	require.Equal(t, messages.StaleEpochError{Shard: shard, Epoch: epoch, Stored: stored}, *stale)
}

func testEmpty(t *testing.T, h Harness) {
	owner, epoch, err := h.Store.Owner(t.Context(), 1)
	require.NoError(t, err)
	require.Empty(t, owner)
	require.Zero(t, epoch)
	e := acquire(t, h.Store, 1)
	m, err := h.Store.Load(t.Context(), 1, e)
	require.NoError(t, err)
	require.Nil(t, m)
	got, err := h.Store.Get(t.Context(), 1, e, []string{"a", "b"})
	require.NoError(t, err)
	require.Equal(t, [][]byte{nil, nil}, got)
	require.Empty(t, scanAll(t, h.Store, 1, e, 100))
	rows, err := h.Store.Outbox(t.Context(), 1, e, 0, 10)
	require.NoError(t, err)
	require.Empty(t, rows)
	dead, err := h.Store.DeadLetters(t.Context(), 1, messages.Position{}, 10)
	require.NoError(t, err)
	require.Empty(t, dead)
	_, base, err := h.Store.Base(t.Context(), 1)
	require.NoError(t, err)
	require.Nil(t, base)
	require.Error(t, h.Store.SnapshotBase(t.Context(), 1, e), "there is nothing to make one of")
}

func testEpochs(t *testing.T, h Harness) {
	last := uint64(0)
	for n := range 5 {
		owner := fmt.Sprintf("node-%d", n)
		e, err := h.Store.Acquire(t.Context(), 3, owner)
		require.NoError(t, err)
		require.Greater(t, e, last)
		last = e
		who, stored, err := h.Store.Owner(t.Context(), 3)
		require.NoError(t, err)
		require.Equal(t, owner, who)
		require.Equal(t, e, stored)
		if n%2 == 0 {
			if n == 0 {
				require.NoError(t, h.Store.Release(t.Context(), 3, e))
			} else {
				require.NoError(t, h.Store.Checkpoint(t.Context(), &messages.Checkpoint{Shard: 3, Epoch: e, Meta: Meta(uint64(n)), Release: true}))
			}
			who, stored, err = h.Store.Owner(t.Context(), 3)
			require.NoError(t, err)
			require.Empty(t, who)
			require.Equal(t, e, stored, "a release must not take the epoch back")
		}
	}
	if h.Reopen != nil {
		s := h.Reopen(t)
		who, stored, err := s.Owner(t.Context(), 3)
		require.NoError(t, err)
		require.Empty(t, who)
		require.Equal(t, last, stored)
		require.Greater(t, acquire(t, s, 3), last)
	}
}

func testConcurrentAcquire(t *testing.T, h Harness) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		seen = map[uint64]bool{}
	)
	for range 8 {
		wg.Go(func() {
			for range 5 {
				e, err := h.Store.Acquire(t.Context(), 1, "node")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[e] {
					t.Errorf("epoch %d was given twice", e)
				}
				seen[e] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	_, epoch, err := h.Store.Owner(t.Context(), 1)
	require.NoError(t, err)
	for e := range seen {
		require.LessOrEqual(t, e, epoch)
	}
}

// fenced are all calls under an epoch.
func fenced(t *testing.T, s Store, shard int, epoch uint64) map[string]error {
	ctx := t.Context()
	out := map[string]error{}
	_, out["load"] = s.Load(ctx, shard, epoch)
	_, out["get"] = s.Get(ctx, shard, epoch, []string{"c00001"})
	_, out["scan"] = s.Scan(ctx, shard, epoch, "", 100)
	out["checkpoint"] = s.Checkpoint(ctx, &messages.Checkpoint{
		Shard: shard, Epoch: epoch, Meta: Meta(99), Customers: customers(90, 95),
		Dead:   []messages.DeadLetter{{Position: messages.Position{Offset: 98}, Reason: "stale"}},
		Outbox: []messages.OutboxRow{{Seq: 99, Body: []byte("stale")}},
	})
	out["append outbox"] = s.AppendOutbox(ctx, shard, epoch, []messages.OutboxRow{{Seq: 98, Body: []byte("stale")}})
	_, out["outbox"] = s.Outbox(ctx, shard, epoch, 0, 10)
	out["delete outbox"] = s.DeleteOutbox(ctx, shard, epoch, 1000)
	out["snapshot base"] = s.SnapshotBase(ctx, shard, epoch)
	out["release"] = s.Release(ctx, shard, epoch)
	return out
}

func testFence(t *testing.T, h Harness) {
	s := h.Store
	for name, err := range fenced(t, s, 1, 0) {
		t.Log(name)
		requireStale(t, err, 1, 0, 0)
	}
	old := acquire(t, s, 1)
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: old, Meta: Meta(5), Customers: customers(0, 10), Outbox: []messages.OutboxRow{{Seq: 1, Body: []byte("one")}}})
	e := acquire(t, s, 1)
	for _, wrong := range []uint64{0, old, e + 1, math.MaxUint64 >> 1} {
		for name, err := range fenced(t, s, 1, wrong) {
			t.Log(name)
			requireStale(t, err, 1, wrong, e)
		}
	}
	m, err := s.Load(t.Context(), 1, e)
	require.NoError(t, err)
	requireMeta(t, Meta(5), m)
	require.Equal(t, customers(0, 10), scanAll(t, s, 1, e, 1000))
	rows, err := s.Outbox(t.Context(), 1, e, 0, 10)
	require.NoError(t, err)
	require.Equal(t, []messages.OutboxRow{{Seq: 1, Body: []byte("one")}}, rows)
	dead, err := s.DeadLetters(t.Context(), 1, messages.Position{}, 10)
	require.NoError(t, err)
	require.Empty(t, dead)
	_, base, err := s.Base(t.Context(), 1)
	require.NoError(t, err)
	require.Nil(t, base)
	owner, stored, err := s.Owner(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "node-a", owner)
	require.Equal(t, e, stored)
}

// testFenceRace lets owners take the shard from each other while they write. What an owner
// loads must not change until it is refused.
func testFenceRace(t *testing.T, h Harness) {
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for range 15 {
				e, err := h.Store.Acquire(t.Context(), 1, fmt.Sprint(w))
				if err != nil {
					t.Error(err)
					return
				}
				seen, err := h.Store.Load(t.Context(), 1, e)
				for n := range 4 {
					if err != nil {
						break
					}
					if n > 0 && (seen.GetEpochRead() != e || seen.GetNextOffset() != uint64(n)) {
						t.Errorf("epoch %d wrote over a checkpoint of epoch %d", seen.GetEpochRead(), e)
						return
					}
					err = h.Store.Checkpoint(t.Context(), &messages.Checkpoint{
						Shard: 1, Epoch: e,
						Meta:      &footfallv1.CheckpointMeta{NextOffset: uint64(n + 1), EpochRead: e},
						Customers: []messages.CustomerRecord{{ID: "c", Value: fmt.Append(nil, e)}},
					})
					if err == nil {
						seen, err = h.Store.Load(t.Context(), 1, e)
					}
				}
				var stale *messages.StaleEpochError
				if err != nil && !asStale(err, &stale) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func testCheckpoint(t *testing.T, h Harness) {
	e := acquire(t, h.Store, 1)
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(7), Customers: customers(0, 100)})
	m, err := h.Store.Load(t.Context(), 1, e)
	require.NoError(t, err)
	requireMeta(t, Meta(7), m)
	require.Equal(t, customers(0, 100), scanAll(t, h.Store, 1, e, 1<<20))
	// Nothing but the meta is a checkpoint, too, and a meta may be all zero.
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: &footfallv1.CheckpointMeta{}})
	m, err = h.Store.Load(t.Context(), 1, e)
	require.NoError(t, err)
	require.NotNil(t, m)
	require.Zero(t, m.GetNextOffset())
	require.Len(t, scanAll(t, h.Store, 1, e, 1<<20), 100)
}

func testOverwrite(t *testing.T, h Harness) {
	e := acquire(t, h.Store, 1)
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Customers: customers(0, 10)})
	changed := messages.CustomerRecord{ID: customer(4).ID, Value: []byte("new")}
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(2), Customers: []messages.CustomerRecord{changed, customer(10)}})
	want := customers(0, 11)
	want[4] = changed
	require.Equal(t, want, scanAll(t, h.Store, 1, e, 1<<20))
	m, err := h.Store.Load(t.Context(), 1, e)
	require.NoError(t, err)
	requireMeta(t, Meta(2), m)
}

func testRemove(t *testing.T, h Harness) {
	e := acquire(t, h.Store, 1)
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Customers: customers(0, 3)})
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(2), Customers: []messages.CustomerRecord{
		{ID: customer(1).ID}, {ID: "never there", Value: []byte{}},
	}})
	require.Equal(t, []messages.CustomerRecord{customer(0), customer(2)}, scanAll(t, h.Store, 1, e, 1<<20))
	got, err := h.Store.Get(t.Context(), 1, e, []string{customer(1).ID})
	require.NoError(t, err)
	require.Equal(t, [][]byte{nil}, got)
}

func testGet(t *testing.T, h Harness) {
	e := acquire(t, h.Store, 1)
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Customers: customers(0, 100)})
	ids := []string{customer(50).ID, "zz", customer(3).ID, "", customer(99).ID, customer(3).ID, "c0000", "c000000"}
	got, err := h.Store.Get(t.Context(), 1, e, ids)
	require.NoError(t, err)
	require.Equal(t, [][]byte{customer(50).Value, nil, customer(3).Value, nil, customer(99).Value, customer(3).Value, nil, nil}, got)
	got, err = h.Store.Get(t.Context(), 1, e, nil)
	require.NoError(t, err)
	require.Empty(t, got)
	// The values are the caller's: they stay when the store goes on.
	keep, err := h.Store.Get(t.Context(), 1, e, []string{customer(1).ID, customer(2).ID})
	require.NoError(t, err)
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(2), Customers: []messages.CustomerRecord{{ID: customer(1).ID, Value: []byte("other")}}})
	_ = append(keep[0], "scribbled"...)
	require.Equal(t, [][]byte{customer(1).Value, customer(2).Value}, keep)
}

func testScan(t *testing.T, h Harness) {
	e := acquire(t, h.Store, 1)
	ids := []string{"a", "a b", "aa", "b", "ü", "日本", "\x7f", "~", strings.Repeat("l", 128), "0", "10", "9", "A"}
	var want []messages.CustomerRecord
	for i, id := range ids {
		want = append(want, messages.CustomerRecord{ID: id, Value: fmt.Appendf(nil, "value %d", i)})
	}
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Customers: want})
	slices.SortFunc(want, func(a, b messages.CustomerRecord) int { return strings.Compare(a.ID, b.ID) })
	for _, limit := range []int{0, 1, 8, 20, 1 << 20} {
		require.Equal(t, want, scanAll(t, h.Store, 1, e, limit), "limit %d", limit)
	}
	// It begins after a customer, whether there is one of that name or not.
	got, err := h.Store.Scan(t.Context(), 1, e, "aaa", 1<<20)
	require.NoError(t, err)
	i, _ := slices.BinarySearchFunc(want, "aaa", func(r messages.CustomerRecord, id string) int { return strings.Compare(r.ID, id) })
	require.Equal(t, want[i:], got)
}

func testShards(t *testing.T, h Harness) {
	shards := []int{0, 1, 2, 255, 256, messages.MaxShards - 1}
	epochs := map[int]uint64{}
	for i, s := range shards {
		epochs[s] = acquire(t, h.Store, s)
		checkpoint(t, h.Store, messages.Checkpoint{
			Shard: s, Epoch: epochs[s], Meta: Meta(uint64(i)), Customers: customers(i, i+5),
			Dead:   []messages.DeadLetter{{Position: messages.Position{Offset: uint64(i)}, Reason: fmt.Sprint(i)}},
			Outbox: []messages.OutboxRow{{Seq: uint64(i + 1), Body: []byte("row")}},
		})
		require.NoError(t, h.Store.SnapshotBase(t.Context(), s, epochs[s]))
	}
	for i, s := range shards {
		m, err := h.Store.Load(t.Context(), s, epochs[s])
		require.NoError(t, err)
		requireMeta(t, Meta(uint64(i)), m)
		require.Equal(t, customers(i, i+5), scanAll(t, h.Store, s, epochs[s], 10))
		rows, err := h.Store.Outbox(t.Context(), s, epochs[s], 0, 10)
		require.NoError(t, err)
		require.Len(t, rows, 1)
		require.Equal(t, uint64(i+1), rows[0].Seq)
		dead, err := h.Store.DeadLetters(t.Context(), s, messages.Position{}, 10)
		require.NoError(t, err)
		require.Len(t, dead, 1)
		g, base, err := h.Store.Base(t.Context(), s)
		require.NoError(t, err)
		requireMeta(t, Meta(uint64(i)), base)
		require.Equal(t, customers(i, i+5), scanBase(t, h.Store, s, g, 10))
	}
}

func testReopen(t *testing.T, h Harness) {
	if h.Reopen == nil {
		t.Skip("this store is not reopened")
	}
	e := acquire(t, h.Store, 1)
	letter := messages.DeadLetter{Position: messages.Position{Offset: 3, Index: 4}, Field: "time", Reason: "late", EventID: "e", CustomerID: "c", Type: messages.JSONRecord, Body: []byte{1, 0, 2}}
	checkpoint(t, h.Store, messages.Checkpoint{
		Shard: 1, Epoch: e, Meta: Meta(7), Customers: customers(0, 100), Dead: []messages.DeadLetter{letter},
		Outbox: []messages.OutboxRow{{Seq: 1, Body: []byte("a")}},
	})
	require.NoError(t, h.Store.SnapshotBase(t.Context(), 1, e))
	s := h.Reopen(t)
	// The same owner may go on under its epoch.
	m, err := s.Load(t.Context(), 1, e)
	require.NoError(t, err)
	requireMeta(t, Meta(7), m)
	require.Equal(t, customers(0, 100), scanAll(t, s, 1, e, 500))
	dead, err := s.DeadLetters(t.Context(), 1, messages.Position{}, 10)
	require.NoError(t, err)
	require.Equal(t, []messages.DeadLetter{letter}, dead)
	kept, dropped, err := s.DeadLetterCounts(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, [2]uint64{1, 0}, [2]uint64{kept, dropped})
	rows, err := s.Outbox(t.Context(), 1, e, 0, 10)
	require.NoError(t, err)
	require.Equal(t, []messages.OutboxRow{{Seq: 1, Body: []byte("a")}}, rows)
	g, base, err := s.Base(t.Context(), 1)
	require.NoError(t, err)
	requireMeta(t, Meta(7), base)
	require.Equal(t, customers(0, 100), scanBase(t, s, 1, g, 500))
}

func testAtomic(t *testing.T, h Harness) {
	e := acquire(t, h.Store, 1)
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Customers: customers(0, 5)})
	for name, c := range map[string]messages.Checkpoint{
		"no meta":         {Customers: customers(5, 9)},
		"no customer ID":  {Meta: Meta(2), Customers: append(customers(5, 9), messages.CustomerRecord{Value: []byte("x")})},
		"no row sequence": {Meta: Meta(2), Customers: customers(5, 9), Outbox: []messages.OutboxRow{{Body: []byte("x")}}},
	} {
		c.Shard, c.Epoch = 1, e
		require.Error(t, h.Store.Checkpoint(t.Context(), &c), name)
		m, err := h.Store.Load(t.Context(), 1, e)
		require.NoError(t, err)
		requireMeta(t, Meta(1), m)
		require.Equal(t, customers(0, 5), scanAll(t, h.Store, 1, e, 1<<20), name)
	}
}

func testIdentity(t *testing.T, h Harness) {
	id := messages.Identity{FoldVersion: 1, Shards: 64, Timezone: "UTC", TimezoneSum: "abc", Currency: "USD"}
	require.NoError(t, h.Store.CheckIdentity(id))
	s := h.Store
	if h.Reopen != nil {
		s = h.Reopen(t)
	}
	require.NoError(t, s.CheckIdentity(id))
	id.Currency = "EUR"
	var wrong *messages.IdentityError
	require.ErrorAs(t, s.CheckIdentity(id), &wrong)
	require.Equal(t, messages.IdentityError{Field: "currency", Have: "USD", Want: "EUR"}, *wrong)
}

func testLog(t *testing.T, h Harness) {
	require.NoError(t, h.Store.CheckLog("one"))
	require.NoError(t, h.Store.CheckLog("one"))
	var wrong *messages.IdentityError
	require.ErrorAs(t, h.Store.CheckLog("two"), &wrong)
	require.Equal(t, "log", wrong.Field)
}

func testCorrupt(t *testing.T, h Harness) {
	if h.Corrupt == nil {
		t.Skip("this store cannot be corrupted")
	}
	e := acquire(t, h.Store, 1)
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Customers: customers(0, 10)})
	h.Corrupt(t, 1, customer(4).ID)
	var corrupt *messages.CorruptError
	_, err := h.Store.Get(t.Context(), 1, e, []string{customer(3).ID, customer(4).ID})
	require.ErrorAs(t, err, &corrupt)
	require.Contains(t, corrupt.What, customer(4).ID)
	_, err = h.Store.Scan(t.Context(), 1, e, "", 1<<20)
	require.ErrorAs(t, err, &corrupt)
	got, err := h.Store.Get(t.Context(), 1, e, []string{customer(3).ID})
	require.NoError(t, err, "the others can be read")
	require.Equal(t, [][]byte{customer(3).Value}, got)
}

func testCancel(t *testing.T, h Harness) {
	e := acquire(t, h.Store, 1)
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Customers: customers(0, 5)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.Store.Acquire(ctx, 1, "late")
	require.ErrorIs(t, err, context.Canceled)
	err = h.Store.Checkpoint(ctx, &messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(2)})
	require.ErrorIs(t, err, context.Canceled)
	_, err = h.Store.Scan(ctx, 1, e, "", 10)
	require.ErrorIs(t, err, context.Canceled)
	m, err := h.Store.Load(t.Context(), 1, e)
	require.NoError(t, err)
	requireMeta(t, Meta(1), m)
}

func testRange(t *testing.T, h Harness) {
	for _, s := range []int{-1, messages.MaxShards} {
		_, err := h.Store.Acquire(t.Context(), s, "node")
		require.Error(t, err)
		for name, err := range fenced(t, h.Store, s, 1) {
			require.Error(t, err, name)
		}
	}
}
