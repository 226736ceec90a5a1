package postgresstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"footfall/messages"
)

// leaseConns are the connections of a database that only leases use, so that no renewal waits
// behind a checkpoint.
const leaseConns = 2

// database is one of the list.
type database struct {
	store *Store
	index int
	// name is where it is, without what is secret: "host:5432/name".
	name        string
	pool, lease *pgxpool.Pool

	// failed is why the last call failed, nil after one that succeeded.
	failed            atomic.Pointer[messages.UnavailableError]
	retries, failures atomic.Uint64
	errors            [reasons]atomic.Uint64
	// took observes the tries of each pool.
	took, leaseTook prometheus.Observer
}

func openDatabase(s *Store, index int, addr string) (*database, error) {
	cfg, err := pgxpool.ParseConfig(addr)
	if err != nil {
		// What the driver says quotes the URL.
		return nil, fmt.Errorf("database %d: its URL must read postgres://user:password@host:port/database?sslmode=verify-full&...: %s", index, parseFault(addr, err))
	}
	cc := cfg.ConnConfig
	db := &database{
		store: s,
		index: index,
		name:  net.JoinHostPort(cc.Host, strconv.Itoa(int(cc.Port))) + "/" + cc.Database,

		took: s.calls.WithLabelValues(strconv.Itoa(index), poolShards), leaseTook: s.calls.WithLabelValues(strconv.Itoa(index), poolLeases),
	}
	if !strings.Contains(addr, "pool_max_conns=") {
		cfg.MaxConns = int32(s.options.MaxConns)
	}
	cfg.PingTimeout = 2 * time.Second
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = 5 * time.Second
	}
	timeout := strconv.FormatInt(s.options.Timeout.Milliseconds(), 10)
	for name, value := range map[string]string{
		"application_name":  "footfall",
		"statement_timeout": timeout,
		"lock_timeout":      timeout,
		// A node that is gone without a word holds its shards' locks no longer than this.
		"idle_in_transaction_session_timeout": "2000",
	} {
		if _, set := cc.RuntimeParams[name]; !set {
			cc.RuntimeParams[name] = value
		}
	}
	cfg.AfterConnect = db.connected
	// No connection is made before the first call.
	if db.pool, err = pgxpool.NewWithConfig(s.ctx, cfg); err != nil {
		return nil, fmt.Errorf("database %d (%s): %w", index, db.name, err)
	}
	cfg = cfg.Copy()
	cfg.MaxConns, cfg.MinConns, cfg.MinIdleConns = leaseConns, 0, 0
	if db.lease, err = pgxpool.NewWithConfig(s.ctx, cfg); err != nil {
		db.pool.Close()
		return nil, fmt.Errorf("database %d (%s): %w", index, db.name, err)
	}
	return db, nil
}

// parseFault is what is wrong with a URL, without its password. Of what cannot be taken apart nothing is repeated.
func parseFault(text string, err error) string {
	u, bad := url.Parse(text)
	if bad != nil || u.Scheme == "" || u.Host == "" {
		return "this does not; in a password, write % as %25, / as %2F and @ as %40"
	}
	fault := err.Error()
	if _, after, ok := strings.Cut(fault, "`: "); ok {
		fault = after // what stands before quotes the URL
	}
	if password, _ := u.User.Password(); password != "" {
		fault = strings.NewReplacer(text, "the URL", password, "…", url.QueryEscape(password), "…").Replace(fault)
	}
	return fault
}

// byKey are settings for which there may be none: all statements read a few rows by their keys, in the order of
// keys, out of shards that may be large. PostgreSQL should not read a whole shard and sort it because it knows
// little of a table that is new.
//
// A scan of the few rows of a small table then looks so dear that it would be compiled, which takes each new connection
// half a second: longer than a lease may wait for its renewal.
const byKey = `SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
	SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off`

// connected prepares a new connection.
func (db *database) connected(ctx context.Context, conn *pgx.Conn) error {
	var mode string
	err := conn.QueryRow(ctx, `SHOW synchronous_commit`, pgx.QueryExecModeSimpleProtocol).Scan(&mode)
	if err == nil && mode == "off" {
		_, err = conn.Exec(ctx, `SET synchronous_commit = on`)
	}
	if err == nil {
		_, err = conn.Exec(ctx, byKey, pgx.QueryExecModeSimpleProtocol)
	}
	if _, ok := errors.AsType[*pgconn.PgError](err); ok && !conn.IsClosed() {
		return nil // a database without these settings does as they say
	}
	return err
}

func (db *database) close() {
	db.lease.Close()
	db.pool.Close()
}

// The time between two tries: it doubles, and is drawn between half of it and all.
const (
	leastPause = 10 * time.Millisecond
	mostPause  = time.Second
)

// retry calls do with a connection until it succeeds, fails for good, or Options.Patience or
// ctx ends; try counts from 0. do must be repeatable: what an earlier try did may have taken
// effect, or, where it was the answer to a commit that got lost, still be taking effect.
func (db *database) retry(ctx context.Context, pool *pgxpool.Pool, do func(ctx context.Context, conn *pgx.Conn, try int) error) error {
	return db.retryWithin(ctx, pool, db.store.options.Timeout, db.store.options.Patience, do)
}

func (db *database) retryWithin(ctx context.Context, pool *pgxpool.Pool, timeout, patience time.Duration, do func(ctx context.Context, conn *pgx.Conn, try int) error) error {
	switch {
	case db.store.ctx.Err() != nil:
		return errClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(db.store.ctx, func() { stop(errClosed) })()
	patient, done := context.WithTimeout(ctx, patience)
	defer done()

	var last error
	for try, pause := 0, leastPause; ; try, pause = try+1, min(2*pause, mostPause) {
		err := db.once(patient, pool, timeout, func(ctx context.Context, conn *pgx.Conn) error { return do(ctx, conn, try) })
		fault := db.judge(err)
		if !fault.again {
			return fault.err
		}
		// What the end of the context has cut short says less than what failed before.
		if last == nil || patient.Err() == nil {
			last = err
		}
		if db.store.ctx.Err() != nil {
			return errClosed
		}
		if patient.Err() == nil {
			if lost, ok := errors.AsType[*lostError](err); fault.reset || ok && lost.used && try > 0 {
				// The others were made when that one was. Those that are being made are not given up: on a busy machine, they
				// may take longer than a try.
				pool.Reset()
			}
			db.retries.Add(1)
			db.store.options.Logger.Debug("a call to the database is tried again", "database", db.name, "try", try+1, "error", err)
			timer := time.NewTimer(pause/2 + rand.N(pause/2))
			select {
			case <-timer.C:
				continue
			case <-patient.Done():
				timer.Stop()
			}
		}
		if db.store.ctx.Err() != nil {
			return errClosed
		}
		if try == 0 && errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err() // nothing has failed
		}
		return db.unavailable("it does not answer, or not as it should: check that it runs and can be reached", errors.Join(last, ctx.Err()))
	}
}

// once makes one try.
func (db *database) once(ctx context.Context, pool *pgxpool.Pool, timeout time.Duration, do func(context.Context, *pgx.Conn) error) error {
	ctx, done := context.WithTimeout(ctx, timeout)
	defer done()
	took := db.took
	if pool == db.lease {
		took = db.leaseTook
	}
	began := time.Now()
	defer func() { took.Observe(time.Since(began).Seconds()) }()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return &lostError{err: err}
	}
	defer conn.Release()
	if err = do(ctx, conn.Conn()); err != nil && conn.Conn().IsClosed() {
		return &lostError{err: err, used: true}
	}
	return err
}

// lostError says that there is no connection, or, where it was used, no longer.
type lostError struct {
	err  error
	used bool
}

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// fault is what becomes of an error.
type fault struct {
	err error
	// again: another try may succeed. reset: over other connections only.
	again, reset bool
}

// judge types an error.
func (db *database) judge(err error) fault {
	if err == nil {
		db.failed.Store(nil)
		return fault{}
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		// Without a word of the server it is the connection, or one of our own errors.
		_, lost := errors.AsType[*lostError](err)
		if lost {
			db.errors[reasonConnection].Add(1)
		} else {
			db.failed.Store(nil)
		}
		return fault{err: err, again: lost}
	}
	switch pg.Code {
	case "57P01", "57P02", // it is shut down, or has crashed
		"25006": // it is a standby
		db.errors[reasonServer].Add(1)
		return fault{err: err, again: true, reset: true}
	case "40001", "40003", "40P01": // a conflict of transactions, or nobody knows
		db.errors[reasonConflict].Add(1)
		return fault{err: err, again: true}
	case "53300", "57P03": // it has too many clients, or starts
		db.errors[reasonServer].Add(1)
		return fault{err: err, again: true}
	case "55P03", "57014", "25P03", "25P04":
		db.errors[reasonTimeout].Add(1)
		return fault{err: err, again: true}
	case "XX001", "XX002":
		return fault{err: &messages.CorruptError{What: "database " + db.name, Reason: pg.Message}}
	case "53100":
		return fault{err: db.unavailable("its disk is full: free space there; all that was accepted is kept", err)}
	}
	if strings.HasPrefix(pg.Code, "08") {
		db.errors[reasonConnection].Add(1)
		return fault{err: err, again: true}
	}
	db.errors[reasonRefused].Add(1)
	switch pg.Code {
	case "28P01", "28000":
		return fault{err: db.unavailable("it refuses the user or the password of store.url", err)}
	case "3D000":
		return fault{err: db.unavailable("there is no database of that name: create it (CREATE DATABASE), or correct store.url", err)}
	case "42501":
		return fault{err: db.unavailable("the user of store.url lacks a right: it must own the schema that the tables are in", err)}
	}
	return fault{err: db.unavailable("it refuses a statement", err)}
}

func (db *database) unavailable(reason string, err error) error {
	u := &messages.UnavailableError{What: "store", Reason: "database " + db.name + ": " + reason, Err: err}
	db.failures.Add(1)
	if db.failed.Swap(u) == nil {
		db.store.options.Logger.Warn("the database fails", "database", db.name, "error", u)
	}
	return u
}
