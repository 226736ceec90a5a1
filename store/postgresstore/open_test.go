package postgresstore

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/store/storetest"
)

var identity = messages.Identity{FoldVersion: 1, Shards: 8, Timezone: "UTC", TimezoneSum: "abc", Currency: "USD"}

func TestConcurrentOpen(t *testing.T) {
	urls := []string{newDatabase(t), newDatabase(t)}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := Open(t.Context(), urls, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.CheckIdentity(identity); err != nil {
				t.Error(err)
			}
			if err := s.CheckLog("log"); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	open(t, Options{}, urls...)
}

// TestUpgrade opens a store of each older version, with something in it.
func TestUpgrade(t *testing.T) {
	steps := migrations()
	for n := range len(steps) - 1 {
		addr := newDatabase(t)
		s := newStore(Options{})
		db, err := openDatabase(s, 0, addr)
		require.NoError(t, err)
		s.databases = append(s.databases, db)
		require.NoError(t, db.migrate(t.Context(), steps[:n+1]))
		require.NoError(t, s.Close())
		value := sealed(customerKind, 1, []byte("c"), []byte("state"))
		statement(t, addr, `INSERT INTO footfall_shards (shard, epoch, token, owner) VALUES (1, 7, 3, 'node-a')`)
		statement(t, addr, `INSERT INTO footfall_customers (shard, id, value) VALUES (1, 'c', $1)`, value)

		s = open(t, Options{}, addr)
		owner, epoch, err := s.Owner(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "node-a", owner)
		require.EqualValues(t, 7, epoch)
		got, err := s.Get(t.Context(), 1, 7, []string{"c"})
		require.NoError(t, err)
		require.Equal(t, [][]byte{[]byte("state")}, got)
		_, err = s.Renew(t.Context(), "node-b", "1", time.Minute)
		require.NoError(t, err)
		epoch, err = s.Acquire(t.Context(), 1, "node-b")
		require.NoError(t, err)
		require.EqualValues(t, 8, epoch)
	}
}

func TestNewerTables(t *testing.T) {
	addr := newDatabase(t)
	open(t, Options{}, addr)
	statement(t, addr, `UPDATE footfall_schema SET version = 999`)
	statement(t, addr, `DELETE FROM footfall_identity WHERE name = $1`, usableKey)
	_, err := Open(t.Context(), []string{addr}, Options{})
	var unavailable *messages.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.ErrorContains(t, err, "its tables have version 999, and this program knows versions up to")

	// A newer program may say that older ones can work with what it has made of the tables.
	newest := migrations()[len(migrations())-1].version
	statement(t, addr, `INSERT INTO footfall_identity (name, value) VALUES ($1, $2)`, usableKey, strconv.Itoa(newest+1))
	_, err = Open(t.Context(), []string{addr}, Options{})
	require.ErrorContains(t, err, "its tables have version 999")
	statement(t, addr, `UPDATE footfall_identity SET value = $2 WHERE name = $1`, usableKey, strconv.Itoa(newest))
	statement(t, addr, `ALTER TABLE footfall_checkpoints ADD COLUMN newer text NOT NULL DEFAULT 'kept'`)
	statement(t, addr, `ALTER TABLE footfall_customers ADD COLUMN newer text NOT NULL DEFAULT 'kept'`)
	s := open(t, Options{}, addr)
	_, err = s.Renew(t.Context(), "n", "1", time.Minute)
	require.NoError(t, err)
	epoch, err := s.Acquire(t.Context(), 1, "n")
	require.NoError(t, err)
	c := &messages.Checkpoint{
		Shard: 1, Epoch: epoch, Meta: &footfallv1.CheckpointMeta{NextOffset: 1},
		Customers: []messages.CustomerRecord{{ID: "c", Value: []byte("state")}},
	}
	require.NoError(t, s.Checkpoint(t.Context(), c))
	statement(t, addr, `UPDATE footfall_customers SET newer = 'written'`)
	require.NoError(t, s.Checkpoint(t.Context(), c))
	got, err := s.Get(t.Context(), 1, epoch, []string{"c"})
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("state")}, got)
	var beside string
	conn, err := pgx.Connect(t.Context(), addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT newer FROM footfall_customers`).Scan(&beside))
	require.Equal(t, "written", beside, "what a newer program wrote beside it stays")
}

func TestListOfDatabases(t *testing.T) {
	a, b, other := newDatabase(t), newDatabase(t), newDatabase(t)
	open(t, Options{}, a, b)
	open(t, Options{}, a, b)
	open(t, Options{}, other)
	for name, try := range map[string]struct {
		urls []string
		says string
	}{
		"another order":   {[]string{b, a}, "stored number 1, configured number 0"},
		"one less":        {[]string{a}, "stored 2 databases, configured 1 databases"},
		"one more":        {[]string{a, b, newDatabase(t)}, "stored 2 databases, configured 3 databases"},
		"another's":       {[]string{a, other}, "database 1"},
		"one of them new": {[]string{newDatabase(t), b}, "database 1"},
		"none":            {nil, "the list of databases is empty"},
	} {
		_, err := Open(t.Context(), try.urls, Options{})
		require.ErrorContains(t, err, try.says, name)
		if name != "none" {
			var fixed *messages.IdentityError
			require.ErrorAs(t, err, &fixed, name)
		}
	}
}

func TestSpread(t *testing.T) {
	urls := []string{newDatabase(t), newDatabase(t)}
	s := open(t, Options{}, urls...)
	for shard := range 4 {
		epoch, err := s.Acquire(t.Context(), shard, "node-a")
		require.NoError(t, err)
		require.NoError(t, s.Checkpoint(t.Context(), &messages.Checkpoint{Shard: shard, Epoch: epoch, Meta: storetest.Meta(1)}))
	}
	lasts, err := s.Renew(t.Context(), "node-a", "1", time.Minute)
	require.NoError(t, err)
	require.Len(t, lasts, 2)
	for i, addr := range urls {
		conn, err := pgx.Connect(t.Context(), addr)
		require.NoError(t, err)
		var shards []int
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT array_agg(shard ORDER BY shard) FROM footfall_checkpoints`).Scan(&shards))
		require.Equal(t, []int{i, i + 2}, shards)
		var members int
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM footfall_leases`).Scan(&members))
		require.Equal(t, 1, members)
		require.NoError(t, conn.Close(t.Context()))
	}
	leases, err := s.Leases(t.Context())
	require.NoError(t, err)
	require.Len(t, leases, 1)
	require.Equal(t, Lease{"node-a", "1", leases[0].Left}, leases[0])
	require.InDelta(t, time.Minute, leases[0].Left, float64(30*time.Second))

	// A member that is away for a moment keeps its place, one that left has none.
	_, err = s.Renew(t.Context(), "node-b", "1", time.Millisecond)
	require.NoError(t, err)
	statement(t, urls[0], `INSERT INTO footfall_leases (member, incarnation, expires) VALUES ('node-c', '1', now() - interval '2 minutes')`)
	places, err := s.Places(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"node-a", "node-b"}, places)
	require.NoError(t, s.GiveUp(t.Context(), "node-a", "1"))
	places, err = s.Places(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"node-b"}, places)
}

// TestNoPasswordIsSaid makes every kind of opening fail.
func TestNoPasswordIsSaid(t *testing.T) {
	good, err := url.Parse(server.URL(""))
	require.NoError(t, err)
	const password = "s3cr%t/p@ss" // as it may be mistyped
	ports, err := local.ReservePorts(1)
	require.NoError(t, err)
	defer ports.Release()
	for name, try := range map[string]struct{ url, says string }{
		"not a URL":      {"postgres://u:" + password + "@host:port/db", "its URL must read postgres://"},
		"bad port":       {"postgres://u:secret@host:99999/db", "database 0"},
		"bad option":     {"postgres://u:secret@host/db?sslmode=maybe", "sslmode"},
		"bad escape":     {"postgres://u:se%zzcret@host/db", "database 0"},
		"as pairs":       {"host=h user=u password='s3cr%t/p@ss' sslmode=maybe", "database 0"},
		"wrong password": {"postgres://footfall:s3cret@" + good.Host + "/postgres?sslmode=disable", "refuses the user or the password"},
		"no database":    {strings.Replace(good.String(), "/postgres?", "/nothing?", 1), "create it"},
		"nobody there":   {"postgres://u:s3cret@" + local.Address(ports.Next()) + "/db?sslmode=disable", "does not answer"},
		"no TLS there":   {strings.Replace(good.String(), "sslmode=disable", "sslmode=require", 1), "TLS"},
		"no rights":      {rightless(t), "lacks a right"},
	} {
		o := Options{}
		if strings.HasSuffix(name, " there") {
			o.Patience = time.Second // may pass, so it is tried again
		}
		_, err := Open(t.Context(), []string{try.url}, o)
		require.ErrorContains(t, err, try.says, name)
		own, _ := good.User.Password()
		for _, secret := range []string{password, "s3cr", "secret", "cret", "p@ss", "no-rights", own} {
			require.NotContains(t, err.Error(), secret, name)
		}
	}
}

// rightless is the address of a user that may do nothing.
func rightless(t *testing.T) string {
	t.Helper()
	statement(t, server.URL(""), `CREATE USER nobody PASSWORD 'no-rights'`)
	statement(t, server.URL(""), `REVOKE CREATE ON SCHEMA public FROM public`)
	u, err := url.Parse(server.URL(""))
	require.NoError(t, err)
	u.User = url.UserPassword("nobody", "no-rights")
	return u.String()
}

func TestClosed(t *testing.T) {
	s := open(t, Options{}, newDatabase(t))
	epoch, err := s.Acquire(t.Context(), 1, "node-a")
	require.NoError(t, err)
	require.NoError(t, s.Err())
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = s.Load(t.Context(), 1, epoch)
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = s.Acquire(t.Context(), 1, "node-b")
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorIs(t, s.CheckLog("x"), os.ErrClosed)
	require.ErrorIs(t, s.Err(), os.ErrClosed)
}

// TestCloseEndsCalls closes while a call waits for a lock.
func TestCloseEndsCalls(t *testing.T) {
	addr := newDatabase(t)
	s := open(t, Options{}, addr)
	_, err := s.Acquire(t.Context(), 1, "node-a")
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	_, err = conn.Exec(t.Context(), `BEGIN; SELECT 1 FROM footfall_shards FOR UPDATE`)
	require.NoError(t, err)
	got := make(chan error)
	go func() {
		_, err := s.Acquire(t.Context(), 1, "node-b")
		got <- err
	}()
	require.NoError(t, awaitLock(t, conn))
	require.NoError(t, s.Close())
	require.ErrorIs(t, <-got, os.ErrClosed)
}

// awaitLock waits until somebody waits for a lock that conn has.
func awaitLock(t *testing.T, conn *pgx.Conn) error {
	t.Helper()
	return local.Await(t.Context(), func(ctx context.Context) error {
		var n int
		err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))`).Scan(&n)
		if err == nil && n == 0 {
			err = fmt.Errorf("nobody waits")
		}
		return err
	})
}

func TestDurableCommits(t *testing.T) {
	addr := newDatabase(t)
	s := open(t, Options{}, addr+"&synchronous_commit=off")
	conn, err := s.databases[0].pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	var mode string
	require.NoError(t, conn.QueryRow(t.Context(), `SHOW synchronous_commit`).Scan(&mode))
	require.Equal(t, "on", mode)
}

func TestMetrics(t *testing.T) {
	s := open(t, Options{}, newDatabase(t), newDatabase(t))
	reg := prometheus.NewPedanticRegistry()
	require.NoError(t, reg.Register(s))
	n, err := testutil.GatherAndCount(reg)
	require.NoError(t, err)
	require.Equal(t, 2*(2*(8+1)+3+len(reasonNames))+1, n)
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}
