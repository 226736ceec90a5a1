package postgresstore

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"footfall/deploy/local"
	"footfall/store/storetest"
)

// server is the PostgreSQL of all tests that do not harm it.
var server *local.Postgres

func TestMain(m *testing.M) {
	if os.Getenv(crashURLKey) != "" {
		checkpointUntilKilled()
		return
	}
	var err error
	if server, err = local.StartPostgres(context.Background(), local.PostgresOptions{Unsynced: os.Getenv("FOOTFALL_BENCH_SYNC") == ""}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := server.Stop(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

var databases atomic.Int64

// newDatabase returns the address of an empty database: a schema of its own, which is made faster.
func newDatabase(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("test%d", databases.Add(1))
	statement(tb, server.URL(""), "CREATE SCHEMA "+name)
	return server.URL("") + "&search_path=" + name
}

func open(tb testing.TB, o Options, urls ...string) *Store {
	tb.Helper()
	s, err := Open(tb.Context(), urls, o)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.Close()) })
	return s
}

// statement runs a statement beside the store.
func statement(tb testing.TB, url, sql string, args ...any) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	require.NoError(tb, err)
	defer func() { _ = conn.Close(tb.Context()) }()
	_, err = conn.Exec(tb.Context(), sql, args...)
	require.NoError(tb, err)
}

func conformance(t *testing.T, databases int) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		var urls []string
		for range databases {
			urls = append(urls, newDatabase(t))
		}
		o := Options{DeadLetters: 20}
		s := open(t, o, urls...)
		return storetest.Harness{
			Store:       s,
			DeadLetters: 20,
			Reopen: func(t *testing.T) storetest.Store {
				require.NoError(t, s.Close())
				s = open(t, o, urls...)
				return s
			},
			Another: func(t *testing.T) storetest.Store { return open(t, o, urls...) },
			Corrupt: func(t *testing.T, shard int, id string) {
				statement(t, urls[shard%databases], `
					UPDATE footfall_customers SET value = set_byte(value, octet_length(value) - 1, get_byte(value, octet_length(value) - 1) # 1)
					WHERE shard = $1 AND id = $2`, shard, []byte(id))
			},
		}
	})
}

func TestConformance(t *testing.T) { conformance(t, 1) }

func TestConformanceOfSeveralDatabases(t *testing.T) {
	heavy(t)
	conformance(t, 3)
}

// heavy skips a test that takes more than a moment.
func heavy(t *testing.T) {
	t.Helper()
	if os.Getenv("FOOTFALL_HEAVY") != "1" {
		t.Skip("set FOOTFALL_HEAVY=1 to run it")
	}
}
