package postgresstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// ErrBaseReplaced says that a base snapshot made room for a younger one while it was read.
var ErrBaseReplaced = errors.New("the base snapshot has been replaced while it was read: begin again")

const (
	// baseRows is how many customers of a base snapshot one statement copies.
	baseRows = 2000
	// basePatience bounds the whole of a base snapshot; each statement is bounded like any other.
	basePatience = time.Hour
)

// SnapshotBase makes the present checkpoint the shard's base snapshot: it is kept apart, so
// that the shard can be folded again from there once the log before it is gone. Checkpoints may go
// on meanwhile; a reader finds the old base until the new one is whole. It fails where there
// is no checkpoint yet.
//
//  1. Under the fence, it takes a number that no base of the shard ever had.
//  2. Without it, so that others may acquire the shard, it copies one view of the customers under that number.
//  3. Under the fence again, that number becomes the base, unless a higher one is.
//  4. Lower numbers are removed: the former base, and copies that never became one.
//
// A try that fails begins again with another number.
func (s *Store) SnapshotBase(ctx context.Context, shard int, epoch uint64) error {
	db, err := s.at(shard)
	if err != nil {
		return err
	}
	return db.retryWithin(ctx, db.pool, basePatience, basePatience, func(ctx context.Context, conn *pgx.Conn, try int) error {
		var generation int64
		err := transactOn(ctx, conn, shard, writing, try, s.fenced(shard, epoch, func(ctx context.Context, tx pgx.Tx, _ *shardRow, _ int) error {
			return tx.QueryRow(ctx, `UPDATE footfall_shards SET generation = generation + 1 WHERE shard = $1 RETURNING generation`, shard).
				Scan(&generation)
		}))
		if err != nil {
			return err
		}
		var meta []byte
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
			meta, err = copyBase(ctx, tx, shard, generation)
			return err
		})
		if err != nil {
			return err
		}
		err = transactOn(ctx, conn, shard, writing, try, s.fenced(shard, epoch, func(ctx context.Context, tx pgx.Tx, _ *shardRow, _ int) error {
			_, err := tx.Exec(ctx, `
				INSERT INTO footfall_bases (shard, generation, meta) VALUES ($1, $2, $3)
				ON CONFLICT (shard) DO UPDATE SET generation = excluded.generation, meta = excluded.meta
				WHERE footfall_bases.generation < excluded.generation`, shard, generation, meta)
			return err
		}))
		if err != nil {
			return err
		}
		if err := removeBases(ctx, conn, shard, generation); err != nil {
			s.options.Logger.Warn("an old base snapshot is removed with the next one", "database", db.name, "shard", shard, "error", err)
		}
		return nil
	})
}

// copyBase copies the customers that a transaction sees, as they are stored, and returns the meta.
func copyBase(ctx context.Context, tx pgx.Tx, shard int, generation int64) (meta []byte, err error) {
	err = tx.QueryRow(ctx, `SELECT meta FROM footfall_checkpoints WHERE shard = $1`, shard).Scan(&meta)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("store shard %d: there is no checkpoint yet to make a base snapshot of", shard)
	}
	if err != nil {
		return nil, err
	}
	for after := []byte{}; ; {
		var through []byte
		err := tx.QueryRow(ctx, `
			SELECT id FROM footfall_customers WHERE shard = $1 AND id > $2 ORDER BY id LIMIT 1 OFFSET $3`,
			shard, after, baseRows-1).Scan(&through)
		rest := errors.Is(err, pgx.ErrNoRows)
		if err != nil && !rest {
			return nil, err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO footfall_base_customers (shard, generation, id, value)
			SELECT shard, $2, id, value FROM footfall_customers
			WHERE shard = $1 AND id > $3 AND ($5 OR id <= $4)`, shard, generation, after, through, rest); err != nil {
			return nil, err
		}
		if rest {
			return meta, nil
		}
		after = through
	}
}

// removeBases removes the customers of bases below a generation, a bounded number at a time.
func removeBases(ctx context.Context, conn *pgx.Conn, shard int, below int64) error {
	for {
		tag, err := conn.Exec(ctx, `
			DELETE FROM footfall_base_customers WHERE (shard, generation, id) IN (
				SELECT shard, generation, id FROM footfall_base_customers
				WHERE shard = $1 AND generation < $2 ORDER BY generation, id LIMIT $3)`, shard, below, baseRows)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
	}
}

// Base returns the meta of the shard's base snapshot, nil where there is none, and a number
// that tells one base of the shard from another.
func (s *Store) Base(ctx context.Context, shard int) (generation uint64, meta *footfallv1.CheckpointMeta, err error) {
	generation, meta, _, err = s.base(ctx, shard)
	return generation, meta, err
}

// base returns the base snapshot and the checkpoint, nil where there is none.
func (s *Store) base(ctx context.Context, shard int) (generation uint64, base, checkpoint *footfallv1.CheckpointMeta, err error) {
	db, err := s.at(shard)
	if err != nil {
		return 0, nil, nil, err
	}
	err = db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		generation, base, checkpoint = 0, nil, nil
		rows, err := conn.Query(ctx, `
			SELECT b.generation, b.meta, c.meta FROM footfall_bases b
			LEFT JOIN footfall_checkpoints c ON c.shard = b.shard WHERE b.shard = $1`, shard)
		if err != nil {
			return err
		}
		var baseMeta, checkpointMeta pgtype.DriverBytes
		_, err = pgx.ForEachRow(rows, []any{&generation, &baseMeta, &checkpointMeta}, func() (err error) {
			if base, err = decodeMeta(shard, baseMeta, "base snapshot"); err != nil {
				return err
			}
			checkpoint, err = decodeMeta(shard, checkpointMeta, "checkpoint")
			return err
		})
		return err
	})
	return generation, base, checkpoint, err
}

// ScanBase is Scan over a base snapshot: [ErrBaseReplaced] where the shard has another one
// by now.
func (s *Store) ScanBase(ctx context.Context, shard int, generation uint64, after string, limit int) ([]messages.CustomerRecord, error) {
	db, err := s.at(shard)
	if err != nil {
		return nil, err
	}
	return s.scan(shard, after, limit, func(p *page) error {
		return db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
			p.begin()
			rows, err := conn.Query(ctx, `
				SELECT c.id, c.value FROM footfall_bases b
				LEFT JOIN LATERAL (
					SELECT id, value FROM footfall_base_customers
					WHERE shard = b.shard AND generation = b.generation AND id > $3 ORDER BY id LIMIT $4
				) c ON true WHERE b.shard = $1 AND b.generation = $2`,
				shard, number(generation), []byte(p.after), p.rows)
			if err != nil {
				return err
			}
			tag, err := pgx.ForEachRow(rows, []any{&p.id, &p.stored}, p.each)
			if err == nil && tag.RowsAffected() == 0 {
				return ErrBaseReplaced
			}
			return err
		})
	})
}

// NeededFrom returns the oldest offset of the shard's log that is needed to fold it again:
// the log must not be trimmed past it. Without a base snapshot that is 0.
func (s *Store) NeededFrom(ctx context.Context, shard int) (uint64, error) {
	_, base, checkpoint, err := s.base(ctx, shard)
	if err != nil || base == nil {
		return 0, err
	}
	next := min(base.GetNextOffset(), checkpoint.GetNextOffset())
	// The message before is the proof that the log is the one that was checkpointed.
	return next - min(next, 1), nil
}
