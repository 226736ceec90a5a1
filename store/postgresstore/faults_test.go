package postgresstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// numbered is a checkpoint whose every part says which one it is.
func numbered(shard int, epoch, n uint64) *messages.Checkpoint {
	c := &messages.Checkpoint{
		Shard: shard, Epoch: epoch, Meta: &footfallv1.CheckpointMeta{NextOffset: n},
		Dead:   []messages.DeadLetter{{Position: messages.Position{Offset: n}, Reason: "bad"}},
		Outbox: []messages.OutboxRow{{Seq: n, Body: strconv.AppendUint(nil, n, 10)}},
	}
	for i := range 20 {
		c.Customers = append(c.Customers, messages.CustomerRecord{ID: fmt.Sprint(i), Value: fmt.Appendf(make([]byte, 800), " %d", n)})
	}
	return c
}

// requireNumbered requires that a shard has one checkpoint, whole, and returns which.
func requireNumbered(t *testing.T, s *Store, shard int, epoch uint64) uint64 {
	t.Helper()
	m, err := s.Load(t.Context(), shard, epoch)
	require.NoError(t, err)
	n := m.GetNextOffset()
	rs, err := s.Scan(t.Context(), shard, epoch, "", 1<<20)
	require.NoError(t, err)
	if n > 0 {
		require.Len(t, rs, 20)
	}
	for _, r := range rs {
		require.Equal(t, fmt.Sprintf(" %d", n), string(r.Value[800:]), "of two checkpoints")
	}
	kept, _, err := s.DeadLetterCounts(t.Context(), shard)
	require.NoError(t, err)
	require.Equal(t, n, kept)
	return n
}

// isCommit tells whether a client commits.
func isCommit(piece []byte) bool { return bytes.Contains(piece, []byte("commit\x00")) }

// TestCutConnections cuts connections anywhere while checkpoints are written and their insights published.
func TestCutConnections(t *testing.T) {
	addr := newDatabase(t)
	direct := open(t, Options{}, addr)
	rnd := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	var mu sync.Mutex
	var cuts, commits atomic.Int64
	calm := atomic.Bool{}
	_, through := newProxy(t, addr, func(fromClient bool, piece []byte) verdict {
		mu.Lock()
		defer mu.Unlock()
		commit := fromClient && isCommit(piece)
		chance := 50
		if commit {
			chance = 6
		}
		if calm.Load() || rnd.IntN(chance) > 0 {
			return pass
		}
		cuts.Add(1)
		if rnd.IntN(2) == 0 {
			return cutBefore
		}
		if commit {
			commits.Add(1)
		}
		return cutAfter
	})
	calm.Store(true)
	s := open(t, Options{}, through)
	calm.Store(false)
	epoch, err := s.Acquire(t.Context(), 1, "node-a")
	require.NoError(t, err)

	const n = 80
	published := map[uint64]int{}
	written := make(chan uint64, n)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range written {
			rows, err := direct.Outbox(t.Context(), 1, epoch, 0, 1000)
			if err != nil {
				t.Error(err)
				return
			}
			for _, r := range rows {
				published[r.Seq]++
			}
			if len(rows) > 0 {
				if err := direct.DeleteOutbox(t.Context(), 1, epoch, rows[len(rows)-1].Seq); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for i := range uint64(n) {
		require.NoError(t, s.Checkpoint(t.Context(), numbered(1, epoch, i+1)))
		written <- i
		if i%10 == 0 {
			m, err := s.Load(t.Context(), 1, epoch)
			require.NoError(t, err)
			require.Equal(t, i+1, m.GetNextOffset())
		}
	}
	written <- n
	close(written)
	wg.Wait()
	m, err := direct.Load(t.Context(), 1, epoch)
	require.NoError(t, err)
	require.EqualValues(t, n, m.GetNextOffset())
	for i := range uint64(n) {
		require.Equal(t, 1, published[i+1], "row %d", i+1)
	}
	require.Positive(t, cuts.Load())
	t.Logf("%d cuts, %d of them after a commit was sent, %d commits found done", cuts.Load(), commits.Load(), s.Stats().Replayed)
	require.NoError(t, s.Err())
}

// TestCommitUnderWay lets the client of a connection go while its commit has not reached the database: the next try must wait
// until it is decided.
func TestCommitUnderWay(t *testing.T) {
	for name, arrives := range map[string]bool{"and arrives later": true, "and never arrives": false} {
		t.Run(name, func(t *testing.T) {
			addr := newDatabase(t)
			var armed atomic.Bool
			p, through := newProxy(t, addr, func(fromClient bool, piece []byte) verdict {
				if fromClient && isCommit(piece) && armed.CompareAndSwap(true, false) {
					return hold
				}
				return pass
			})
			if !arrives {
				through += "&idle_in_transaction_session_timeout=300"
			}
			s, direct := open(t, Options{}, through), open(t, Options{}, addr)
			watch, err := pgx.Connect(t.Context(), addr)
			require.NoError(t, err)
			defer func() { _ = watch.Close(t.Context()) }()

			epoch, err := s.Acquire(t.Context(), 1, "node-a")
			require.NoError(t, err)
			interrupted := func(call func() error) error {
				t.Helper()
				armed.Store(true)
				got := make(chan error, 1)
				go func() { got <- call() }()
				if arrives {
					if err := awaitAnyLock(t, watch, "footfall_shards"); err != nil {
						return errors.Join(err, <-got)
					}
					p.letGo()
				}
				return <-got
			}
			require.NoError(t, interrupted(func() error { return s.Checkpoint(t.Context(), numbered(1, epoch, 1)) }))
			require.EqualValues(t, 1, requireNumbered(t, direct, 1, epoch))
			require.Equal(t, arrives, s.Stats().Replayed == 1)

			require.NoError(t, interrupted(func() error {
				return s.AppendOutbox(t.Context(), 1, epoch, []messages.OutboxRow{{Seq: 2, Body: []byte("2")}})
			}))
			rows, err := direct.Outbox(t.Context(), 1, epoch, 0, 10)
			require.NoError(t, err)
			require.Len(t, rows, 2)

			require.NoError(t, interrupted(func() error { return s.SnapshotBase(t.Context(), 1, epoch) }))
			g, meta, err := direct.Base(t.Context(), 1)
			require.NoError(t, err)
			require.EqualValues(t, 1, meta.GetNextOffset())
			got, err := direct.ScanBase(t.Context(), 1, g, "", 1<<20)
			require.NoError(t, err)
			require.Len(t, got, 20)

			var next uint64
			require.NoError(t, interrupted(func() error {
				next, err = s.Acquire(t.Context(), 1, "node-a")
				return err
			}))
			require.Greater(t, next, epoch)
			_, stored, err := direct.Owner(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, next, stored)
			require.NoError(t, s.Checkpoint(t.Context(), numbered(1, next, 2)))

			require.NoError(t, interrupted(func() error { return s.Release(t.Context(), 1, next) }))
			owner, _, err := direct.Owner(t.Context(), 1)
			require.NoError(t, err)
			require.Empty(t, owner)
		})
	}
}

// awaitAnyLock waits until somebody waits for a lock of a table.
func awaitAnyLock(t *testing.T, conn *pgx.Conn, table string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return local.Await(ctx, func(ctx context.Context) error {
		var n int
		err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0 AND query LIKE '%' || $1 || '%'`, table).Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("nobody waits")
		}
		return err
	})
}

// TestRenewalBesideAcquire renews a lapsed lease while a shard is being taken because of it: the renewal must wait, so that
// the owner who asks for its shards after it sees that this one is gone.
func TestRenewalBesideAcquire(t *testing.T) {
	addr := newDatabase(t)
	var armed atomic.Bool
	p, through := newProxy(t, addr, func(fromClient bool, piece []byte) verdict {
		if fromClient && isCommit(piece) && armed.CompareAndSwap(true, false) {
			return hold
		}
		return pass
	})
	a, b := open(t, Options{}, addr), open(t, Options{}, through)
	watch, err := pgx.Connect(t.Context(), addr)
	require.NoError(t, err)
	defer func() { _ = watch.Close(t.Context()) }()
	_, err = a.Renew(t.Context(), "a", "1", time.Millisecond)
	require.NoError(t, err)
	_, err = a.Acquire(t.Context(), 1, "a")
	require.NoError(t, err)
	owned, err := a.Owned(t.Context(), "a", "1")
	require.NoError(t, err)
	require.Len(t, owned, 1)
	require.NoError(t, local.Await(t.Context(), func(ctx context.Context) error {
		leases, err := a.Leases(ctx)
		if err == nil && leases[0].Left > 0 {
			err = errors.New("not lapsed")
		}
		return err
	}))

	armed.Store(true)
	taken := make(chan error, 1)
	go func() {
		_, err := b.Acquire(t.Context(), 1, "b")
		taken <- err
	}()
	require.NoError(t, awaitAnyLock(t, watch, "footfall_shards"))
	renewed := make(chan error, 1)
	go func() {
		_, err := a.Renew(t.Context(), "a", "1", time.Hour)
		renewed <- err
	}()
	require.NoError(t, awaitAnyLock(t, watch, "footfall_leases"))
	p.letGo()
	require.NoError(t, <-renewed)
	owned, err = a.Owned(t.Context(), "a", "1")
	require.NoError(t, err)
	require.Empty(t, owned)
	require.NoError(t, <-taken)
}

// TestServerDies ends the server in every way while checkpoints are written.
func TestServerDies(t *testing.T) {
	own := local.PostgresFor(t, local.PostgresOptions{})
	s := open(t, Options{}, own.URL(""))
	const shards = 3
	var epochs [shards]uint64
	var acked [shards]atomic.Uint64
	for i := range epochs {
		var err error
		epochs[i], err = s.Acquire(t.Context(), i, "node-a")
		require.NoError(t, err)
	}
	enough := func(than uint64) {
		t.Helper()
		require.NoError(t, local.Await(t.Context(), func(context.Context) error {
			for i := range shards {
				if acked[i].Load() <= than {
					return errors.New("too few")
				}
			}
			return nil
		}))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for i := range shards {
		wg.Go(func() {
			for n := uint64(1); ; n++ {
				if err := s.Checkpoint(ctx, numbered(i, epochs[i], n)); err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				acked[i].Store(n)
			}
		})
	}
	for round, end := range []func() error{own.Kill, func() error { return own.Halt(t.Context()) }} {
		enough(acked[0].Load() + uint64(round)*7 + 3)
		require.NoError(t, end())
		require.NoError(t, own.Restart(t.Context()))
	}
	enough(acked[0].Load() + 5)
	require.NoError(t, own.Kill())
	require.NoError(t, own.Restart(t.Context()))
	stop()
	wg.Wait()
	after := open(t, Options{}, own.URL(""))
	for i := range shards {
		n := requireNumbered(t, after, i, epochs[i])
		want := acked[i].Load()
		require.True(t, n == want || n == want+1, "checkpoint %d, acknowledged %d", n, want)
	}
	require.Positive(t, s.Stats().Retries[0])
}

// TestServerAway calls a store whose server is away for longer than it has patience.
func TestServerAway(t *testing.T) {
	own := local.PostgresFor(t, local.PostgresOptions{Unsynced: true})
	s := open(t, Options{Patience: 200 * time.Millisecond}, own.URL(""))
	epoch, err := s.Acquire(t.Context(), 1, "node-a")
	require.NoError(t, err)
	require.NoError(t, own.Kill())
	// The server's process for the connection may live on for a moment.
	n := uint64(1)
	for err = nil; err == nil; n++ {
		err = s.Checkpoint(t.Context(), numbered(1, epoch, n))
	}
	var unavailable *messages.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.ErrorAs(t, s.Err(), &unavailable, "while it lasts")
	_, err = s.Load(t.Context(), 1, epoch)
	require.ErrorAs(t, err, &unavailable)
	renewing, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Renew(renewing, "node-a", "1", time.Second)
	require.ErrorAs(t, err, &unavailable)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.Load(ctx, 1, epoch)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, own.Restart(t.Context()))
	require.NoError(t, local.Await(t.Context(), func(ctx context.Context) error {
		return s.Checkpoint(ctx, numbered(1, epoch, n))
	}))
	require.NoError(t, s.Err(), "it passes")
}

// TestLostHistory takes the last commits away, as a failover to an older copy does: the epoch that was given
// twice is two owners', and only the one that the database knows writes.
func TestLostHistory(t *testing.T) {
	addr := newDatabase(t)
	a, b := open(t, Options{}, addr), open(t, Options{}, addr)
	epoch, err := a.Acquire(t.Context(), 1, "node-a")
	require.NoError(t, err)
	statement(t, addr, `UPDATE footfall_shards SET epoch = 0, token = 0, owner = ''`)
	again, err := b.Acquire(t.Context(), 1, "node-b")
	require.NoError(t, err)
	require.Equal(t, epoch, again)
	require.NoError(t, b.Checkpoint(t.Context(), numbered(1, again, 1)))
	var stale *messages.StaleEpochError
	require.ErrorAs(t, a.Checkpoint(t.Context(), numbered(1, epoch, 9)), &stale)
	_, err = a.Load(t.Context(), 1, epoch)
	require.ErrorAs(t, err, &stale)
	require.EqualValues(t, 1, requireNumbered(t, b, 1, again))
}

// TestConflicts writes beside a transaction that the database decides against.
func TestConflicts(t *testing.T) {
	addr := newDatabase(t)
	s := open(t, Options{Timeout: 200 * time.Millisecond}, addr)
	epoch, err := s.Acquire(t.Context(), 1, "node-a")
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	_, err = conn.Exec(t.Context(), `BEGIN; SELECT 1 FROM footfall_shards FOR UPDATE`)
	require.NoError(t, err)
	got := make(chan error)
	go func() { got <- s.Checkpoint(t.Context(), numbered(1, epoch, 1)) }()
	// The statement runs into its time-out, at least once.
	require.NoError(t, local.Await(t.Context(), func(context.Context) error {
		if s.Stats().Retries[0] == 0 {
			return errors.New("no retry yet")
		}
		return nil
	}))
	_, err = conn.Exec(t.Context(), `ROLLBACK`)
	require.NoError(t, err)
	require.NoError(t, <-got)
	require.EqualValues(t, 1, requireNumbered(t, s, 1, epoch))
}
