package postgresstore

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"footfall/messages"
)

// AppendOutbox writes rows durably, or none. A row with a sequence that is there already
// replaces it. One that was published and deleted while the answer to this call was lost may
// come back.
func (s *Store) AppendOutbox(ctx context.Context, shard int, epoch uint64, rows []messages.OutboxRow) error {
	encoded, err := encodeOutbox(shard, rows)
	if err != nil {
		return err
	}
	return s.writeAs(ctx, shard, epoch, beside, func(ctx context.Context, tx pgx.Tx, _ *shardRow, _ int) error {
		if len(rows) == 0 {
			return nil
		}
		_, err := tx.Exec(ctx, insertOutbox, shard, encoded.seqs, encoded.bodies)
		return err
	})
}

const insertOutbox = `
	INSERT INTO footfall_outbox (shard, seq, body)
	SELECT $1, u.seq, u.body FROM unnest($2::bigint[], $3::bytea[]) AS u(seq, body)
	ON CONFLICT (shard, seq) DO UPDATE SET body = excluded.body`

// outboxRows are rows as they are stored, in order of their sequences.
type outboxRows struct {
	seqs   []int64
	bodies [][]byte
	size   int
}

func encodeOutbox(shard int, rows []messages.OutboxRow) (out outboxRows, err error) {
	last := map[uint64][]byte{} // of a sequence that comes twice
	for i := range rows {
		switch seq := rows[i].Seq; {
		case seq == 0:
			return out, fmt.Errorf("store shard %d: outbox row %d has no sequence: they count from 1", shard, i)
		case seq > math.MaxInt64:
			return out, fmt.Errorf("store shard %d: outbox row %d has sequence %d: the highest is %d", shard, i, seq, int64(math.MaxInt64))
		default:
			last[seq] = rows[i].Body
		}
	}
	for seq := range last {
		out.seqs = append(out.seqs, int64(seq))
	}
	slices.Sort(out.seqs)
	for _, seq := range out.seqs {
		body := sealed(outboxKind, shard, numberKey(uint64(seq)), last[uint64(seq)])
		out.bodies = append(out.bodies, body)
		out.size += len(body)
	}
	return out, nil
}

// Outbox returns at most limit rows with sequences above after, in their order.
func (s *Store) Outbox(ctx context.Context, shard int, epoch, after uint64, limit int) (out []messages.OutboxRow, err error) {
	var seq pgtype.Int8
	var body pgtype.DriverBytes
	err = s.readAs(ctx, shard, epoch, `
		SELECT s.epoch, s.token, o.seq, o.body FROM footfall_shards s
		LEFT JOIN LATERAL (
			SELECT seq, body FROM footfall_outbox
			WHERE shard = s.shard AND seq > $2 ORDER BY seq LIMIT $3
		) o ON true WHERE s.shard = $1`,
		[]any{number(after), limit}, []any{&seq, &body}, func() { out = nil }, func() error {
			if !seq.Valid {
				return nil
			}
			v, err := unseal(outboxKind, shard, numberKey(uint64(seq.Int64)), body, func() string {
				return fmt.Sprintf("store shard %d outbox row %d", shard, seq.Int64)
			})
			if err != nil {
				return err
			}
			out = append(out, messages.OutboxRow{Seq: uint64(seq.Int64), Body: slices.Clone(v)})
			return nil
		})
	return out, err
}

// DeleteOutbox removes the rows with sequences up to and including through, durably.
func (s *Store) DeleteOutbox(ctx context.Context, shard int, epoch, through uint64) error {
	return s.writeAs(ctx, shard, epoch, beside, func(ctx context.Context, tx pgx.Tx, _ *shardRow, _ int) error {
		_, err := tx.Exec(ctx, `DELETE FROM footfall_outbox WHERE shard = $1 AND seq <= $2`, shard, number(through))
		return err
	})
}
