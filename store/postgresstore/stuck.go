package postgresstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"footfall/messages"
)

// An owner that goes silent in the middle of a bundle of statements, frozen or cut off, leaves a
// server process that holds the shard's row and waits for the rest: no timeout of PostgreSQL ends
// that before its transport does, which takes hours. So whoever takes the shard looks first whether
// the owner's lease holds, without a lock; then waits for the row, and after a while ends those who
// hold it: their epoch is over whatever they have sent, and a transaction that ends has done nothing.

// stuckAfter is how long the row of a shard is waited for whose owner's lease has lapsed. Longer
// than a checkpoint that is alive should take to notice.
const stuckAfter = 2500 * time.Millisecond

// take is transact for who acquires the shard.
func (s *Store) take(ctx context.Context, shard int, member, incarnation string, do work) error {
	db, err := s.at(shard)
	if err != nil {
		return err
	}
	return db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, try int) error {
		if err := heldBy(ctx, conn, shard, member, incarnation); err != nil {
			return err
		}
		stop := db.endStuck(ctx, shard, conn.PgConn().PID())
		defer stop()
		return transactOn(ctx, conn, shard, alone, try, do)
	})
}

// heldBy fails with *messages.HeldError where another than the incarnation of a member holds the
// shard at the moment. It locks nothing, so that the transaction looks again: see free.
func heldBy(ctx context.Context, conn *pgx.Conn, shard int, member, incarnation string) error {
	held := messages.HeldError{Shard: shard}
	var holder string
	err := conn.QueryRow(ctx, `
		SELECT s.owner, s.incarnation, s.epoch, l.expires - clock_timestamp() FROM footfall_shards s
		JOIN footfall_leases l ON l.member = s.owner AND l.incarnation = s.incarnation
		WHERE s.shard = $1`, shard).Scan(&held.Owner, &holder, &held.Epoch, &held.For)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil && held.For > 0 && (held.Owner != member || holder != incarnation) {
		return &held
	}
	return err
}

// endStuck ends, after a while and until it is stopped, the server processes of this user that
// another one waits for. A database that does not know how leaves them to its own timeouts.
func (db *database) endStuck(ctx context.Context, shard int, waiting uint32) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(stuckAfter)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			var n int
			err := db.lease.QueryRow(ctx, `
				SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
				WHERE pid = ANY(pg_blocking_pids($1)) AND datname = current_database() AND usename = current_user`, int32(waiting)).Scan(&n)
			switch {
			case ctx.Err() != nil:
			case err != nil:
				db.store.options.Logger.Debug("who holds a shard's row is not known", "database", db.name, "shard", shard, "error", err)
			case n > 0:
				db.store.options.Logger.Warn("ended the database's processes that held the row of a shard whose owner has no lease",
					"database", db.name, "shard", shard, "processes", n)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}
