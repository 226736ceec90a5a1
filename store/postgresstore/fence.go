package postgresstore

import (
	"context"
	"errors"
	"math"

	"github.com/jackc/pgx/v5"

	"footfall/messages"
)

// lock is a strength of PostgreSQL's row locks: see the package comment.
type lock string

const (
	// beside lets checkpoints pass.
	beside lock = "FOR KEY SHARE"
	// writing lets those beside pass, and no other.
	writing lock = "FOR NO KEY UPDATE"
	// alone lets nobody pass.
	alone lock = "FOR UPDATE"
)

// shardRow is what a transaction knows of the shard whose row it has locked.
type shardRow struct {
	epoch uint64
	token int64
	dead  deadCounts
}

// lockShard locks a shard's row; nil where nobody has ever acquired the shard.
func lockShard(ctx context.Context, tx pgx.Tx, shard int, l lock) (*shardRow, error) {
	var r shardRow
	err := tx.QueryRow(ctx, `
		SELECT epoch, token, dead_kept, dead_bytes, dead_dropped, floor_offset, floor_index
		FROM footfall_shards WHERE shard = $1 `+string(l), shard).
		Scan(&r.epoch, &r.token, &r.dead.kept, &r.dead.bytes, &r.dead.dropped, &r.dead.floor.Offset, &r.dead.floor.Index)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &r, err
}

// work is what a transaction does that holds a shard's row; try counts from 0.
type work func(ctx context.Context, tx pgx.Tx, row *shardRow, try int) error

// transact runs a transaction that holds the shard's row: nil where there is none. A try after the first waits for what the ones
// before may have left undecided.
func (s *Store) transact(ctx context.Context, shard int, l lock, do work) error {
	db, err := s.at(shard)
	if err != nil {
		return err
	}
	return db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, try int) error {
		return transactOn(ctx, conn, shard, l, try, do)
	})
}

func transactOn(ctx context.Context, conn *pgx.Conn, shard int, l lock, try int, do work) error {
	if try > 0 {
		l = alone
	}
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		row, err := lockShard(ctx, tx, shard, l)
		if err != nil {
			return err
		}
		return do(ctx, tx, row, try)
	})
}

// writeAs is transact for the owner under an epoch.
func (s *Store) writeAs(ctx context.Context, shard int, epoch uint64, l lock, do work) error {
	return s.transact(ctx, shard, l, s.fenced(shard, epoch, do))
}

// fenced compares the epoch first.
func (s *Store) fenced(shard int, epoch uint64, do work) work {
	return func(ctx context.Context, tx pgx.Tx, row *shardRow, try int) error {
		if row == nil {
			row = &shardRow{}
		}
		if err := s.fence(shard, epoch, row.epoch, row.token); err != nil {
			return err
		}
		return do(ctx, tx, row, try)
	}
}

// fence compares an epoch with what the shard's row says.
func (s *Store) fence(shard int, epoch, stored uint64, token int64) error {
	granted := s.granted(shard, epoch)
	if epoch == stored && epoch != 0 && (granted == 0 || granted == token) {
		return nil
	}
	s.stale.Add(1)
	return &messages.StaleEpochError{Shard: shard, Epoch: epoch, Stored: stored}
}

// readAs runs a statement whose rows begin with the epoch and the token of the shard's row, and calls each with the other columns,
// which it must not keep. The statement reads from the shard's row outward, so that there is
// one row at least where the shard was ever acquired; then the other columns may be null.
func (s *Store) readAs(ctx context.Context, shard int, epoch uint64, sql string, args []any, columns []any, begin func(), each func() error) error {
	db, err := s.at(shard)
	if err != nil {
		return err
	}
	return db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		begin()
		rows, err := conn.Query(ctx, sql, append([]any{shard}, args...)...)
		if err != nil {
			return err
		}
		var stored uint64
		var token int64
		checked := false
		_, err = pgx.ForEachRow(rows, append([]any{&stored, &token}, columns...), func() error {
			if !checked {
				checked = true
				if err := s.fence(shard, epoch, stored, token); err != nil {
					return err
				}
			}
			return each()
		})
		if err == nil && !checked {
			return s.fence(shard, epoch, 0, 0)
		}
		return err
	})
}

// number is a number as the database has it: those that are too large for it stand for the largest.
func number(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
