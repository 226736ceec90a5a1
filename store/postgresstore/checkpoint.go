package postgresstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
)

// sendBytes is about how much of a checkpoint is sent at once.
const sendBytes = 2 << 20

// Checkpoint writes all of it durably, or nothing. A customer whose value is empty is
// removed.
//
// Where the answer to a commit is lost, the next try finds out what became of it: it is written once.
func (s *Store) Checkpoint(ctx context.Context, c *messages.Checkpoint) error {
	if c.Meta == nil {
		return fmt.Errorf("store shard %d: a checkpoint needs its meta", c.Shard)
	}
	meta, err := proto.Marshal(c.Meta)
	if err != nil {
		return fmt.Errorf("store shard %d: checkpoint meta: %w", c.Shard, err)
	}
	outbox, err := encodeOutbox(c.Shard, c.Outbox)
	if err != nil {
		return err
	}
	order, size, err := sortCustomers(c)
	if err != nil {
		return err
	}
	write := rand.Int64()
	var dropped uint64
	err = s.writeAs(ctx, c.Shard, c.Epoch, writing, func(ctx context.Context, tx pgx.Tx, row *shardRow, try int) error {
		if try > 0 {
			switch stored, err := lastWrite(ctx, tx, c.Shard); {
			case err != nil:
				return err
			case stored == write:
				s.replayed.Add(1)
				return nil
			}
		}
		w := sender{tx: tx}
		if err := w.customers(ctx, c, order); err != nil {
			return err
		}
		dead, err := s.addDead(ctx, tx, &w, c.Shard, row.dead, c.Dead)
		if err != nil {
			return err
		}
		dropped = dead.dropped - row.dead.dropped
		if len(outbox.seqs) > 0 {
			w.queue(outbox.size, insertOutbox, c.Shard, outbox.seqs, outbox.bodies)
		}
		w.queue(len(meta), `
			INSERT INTO footfall_checkpoints (shard, write_id, meta) VALUES ($1, $2, $3)
			ON CONFLICT (shard) DO UPDATE SET write_id = excluded.write_id, meta = excluded.meta`,
			c.Shard, write, sealed(metaKind, c.Shard, nil, meta))
		if c.Release {
			w.queue(0, release, c.Shard)
		}
		return w.flush(ctx)
	})
	if err != nil {
		return err
	}
	s.checkpoints.Add(1)
	s.customers.Add(uint64(len(c.Customers)))
	s.bytes.Add(uint64(size))
	s.deadDropped.Add(dropped)
	return nil
}

// lastWrite returns which write the shard's checkpoint is.
func lastWrite(ctx context.Context, tx pgx.Tx, shard int) (write int64, err error) {
	rows, err := tx.Query(ctx, `SELECT write_id FROM footfall_checkpoints WHERE shard = $1`, shard)
	if err != nil {
		return 0, err
	}
	_, err = pgx.ForEachRow(rows, []any{&write}, func() error { return nil })
	return write, err
}

// sortCustomers returns the customers' places in order of ID, of each ID the last one. In that
// order the database goes through its index once.
func sortCustomers(c *messages.Checkpoint) (order []int32, size int, err error) {
	order = make([]int32, len(c.Customers))
	for i := range c.Customers {
		r := &c.Customers[i]
		if r.ID == "" {
			return nil, 0, fmt.Errorf("store shard %d: customer %d of the checkpoint has no ID", c.Shard, i)
		}
		order[i] = int32(i)
		size += len(r.ID) + len(r.Value)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return strings.Compare(c.Customers[a].ID, c.Customers[b].ID) })
	kept := order[:0]
	for i, at := range order {
		if i+1 < len(order) && c.Customers[at].ID == c.Customers[order[i+1]].ID {
			continue
		}
		kept = append(kept, at)
	}
	return kept, size, nil
}

// sender sends statements of a transaction in bundles, so that a checkpoint costs few round trips and its
// copy little memory.
type sender struct {
	tx    pgx.Tx
	batch pgx.Batch
	bytes int
}

func (w *sender) queue(size int, sql string, args ...any) {
	w.batch.Queue(sql, args...)
	w.bytes += size
}

func (w *sender) flush(ctx context.Context) error {
	if w.batch.Len() == 0 {
		return nil
	}
	err := w.tx.SendBatch(ctx, &w.batch).Close()
	w.batch, w.bytes = pgx.Batch{}, 0
	return err
}

// customers sends those of a checkpoint.
func (w *sender) customers(ctx context.Context, c *messages.Checkpoint, order []int32) error {
	var gone [][]byte
	for len(order) > 0 {
		// One buffer holds the values of a bundle: it must not move.
		n, size := 0, 0
		for n < len(order) && size < sendBytes {
			size += sumLen + len(c.Customers[order[n]].Value)
			n++
		}
		buf := make([]byte, 0, size)
		ids, values := make([][]byte, 0, n), make([][]byte, 0, n)
		for _, at := range order[:n] {
			r := &c.Customers[at]
			id := []byte(r.ID)
			if len(r.Value) == 0 {
				gone = append(gone, id)
				continue
			}
			from := len(buf)
			buf = appendSealed(buf, customerKind, c.Shard, id, r.Value)
			ids, values = append(ids, id), append(values, buf[from:len(buf):len(buf)])
		}
		order = order[n:]
		if len(ids) > 0 {
			w.queue(size, `
				INSERT INTO footfall_customers (shard, id, value)
				SELECT $1, u.id, u.value FROM unnest($2::bytea[], $3::bytea[]) AS u(id, value)
				ON CONFLICT (shard, id) DO UPDATE SET value = excluded.value`,
				c.Shard, ids, values)
		}
		if len(order) > 0 {
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
	}
	if len(gone) > 0 {
		w.queue(0, `DELETE FROM footfall_customers WHERE shard = $1 AND id = ANY($2::bytea[])`, c.Shard, gone)
	}
	return nil
}
