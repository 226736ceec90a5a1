package local

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func query(t *testing.T, url, sql string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&n))
	return n
}

func TestPostgres(t *testing.T) {
	dir, err := os.MkdirTemp("", "footfall-postgres-test-") //nolint:usetesting // t.TempDir belongs to root alone, as the server does not
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	p := PostgresFor(t, PostgresOptions{Dir: dir, Unsynced: true, Settings: map[string]string{"work_mem": "5MB"}})
	url, err := p.CreateDatabase(t.Context(), "the shop")
	require.NoError(t, err)

	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 7 AS n")
	require.NoError(t, err)
	require.Equal(t, 5<<10, query(t, url, "SELECT setting::int FROM pg_settings WHERE name = 'work_mem'"))

	// A killed server has all that was committed, at the same address.
	require.NoError(t, p.Kill())
	for err == nil { // its process may live on for a moment
		_, err = conn.Exec(t.Context(), "SELECT 1")
	}
	require.NoError(t, p.Restart(t.Context()))
	require.Equal(t, 7, query(t, url, "SELECT n FROM kept"))

	require.NoError(t, p.Halt(t.Context()))
	require.NoError(t, p.Restart(t.Context()))
	require.Equal(t, 7, query(t, url, "SELECT n FROM kept"))

	// It asks for the password, on the socket, too.
	cfg, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	for _, host := range []string{cfg.Host, p.dir} {
		c := cfg.Copy()
		c.Host, c.Password = host, "wrong"
		_, err = pgx.ConnectConfig(t.Context(), c)
		require.ErrorContains(t, err, "password authentication failed", host)
	}

	// The next run finds the data of the last in a folder of the caller's, even where that was cut short.
	require.NoError(t, p.Kill())
	require.NoError(t, p.Stop(t.Context()))
	p = PostgresFor(t, PostgresOptions{Dir: dir, Unsynced: true})
	require.Equal(t, 7, query(t, p.URL("the shop"), "SELECT n FROM kept"))
}

func TestPostgresLeavesNothing(t *testing.T) {
	p, err := StartPostgres(t.Context(), PostgresOptions{Unsynced: true})
	require.NoError(t, err)
	pid := p.process.Pid()
	require.NoError(t, p.Kill())
	require.NoError(t, p.Stop(t.Context()))
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	require.NoDirExists(t, p.dir)
}

func TestPostgresSaysWhyItDoesNotStart(t *testing.T) {
	_, err := StartPostgres(t.Context(), PostgresOptions{Unsynced: true, Settings: map[string]string{"no_such_setting": "1"}})
	require.ErrorContains(t, err, "no_such_setting")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = StartPostgres(ctx, PostgresOptions{Unsynced: true})
	require.ErrorIs(t, err, context.Canceled)
}
