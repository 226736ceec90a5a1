package postgresstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// deadCounts says what is kept of a shard's dead letters. It is read and written under the lock of the shard's
// row.
//
// Invariants:
//  1. A shard's letters come in the order of its log, so each is at floor or after it when it
//     is first written; whatever comes before floor was written once, and is kept, was dropped,
//     or was removed. It changes nothing.
//  2. floor and the letters before it are written in one transaction, and that has the
//     checkpoint whose position is after them. So who finds a checkpoint finds its floor, and a
//     letter that is folded again was never durable, and was removed by nobody.
type deadCounts struct {
	kept, bytes, dropped uint64
	// floor is after the last one written.
	floor messages.Position
}

func (c *deadCounts) over(s *Store) bool {
	return c.kept > s.options.DeadLetters || c.bytes > s.options.DeadLetterBytes
}

func (c *deadCounts) drop(size int) {
	c.kept--
	c.bytes -= uint64(size)
	c.dropped++
}

func deadKey(at messages.Position) []byte { return numberKey(at.Offset, uint64(at.Index)) }

const updateCounts = `
	UPDATE footfall_shards SET dead_kept = $2, dead_bytes = $3, dead_dropped = $4, floor_offset = $5, floor_index = $6
	WHERE shard = $1`

func (c *deadCounts) update(shard int) []any {
	return []any{shard, c.kept, c.bytes, c.dropped, c.floor.Offset, c.floor.Index}
}

// addDead sends dead letters that are new, and drops the oldest beyond the bounds. It returns the counts after.
func (s *Store) addDead(ctx context.Context, tx pgx.Tx, w *sender, shard int, c deadCounts, letters []messages.DeadLetter) (deadCounts, error) {
	type entry struct {
		at   messages.Position
		body []byte
	}
	var fresh []entry
	for i := range letters {
		l := &letters[i]
		if l.Position.Before(c.floor) {
			continue
		}
		c.floor = messages.Position{Offset: l.Position.Offset, Index: l.Position.Index + 1}
		v, err := proto.Marshal(l.Proto(shard))
		if err != nil {
			return c, fmt.Errorf("store shard %d: dead letter at %d/%d: %w", shard, l.Position.Offset, l.Position.Index, err)
		}
		fresh = append(fresh, entry{l.Position, v})
		c.kept++
		c.bytes += uint64(len(v))
	}
	if len(fresh) == 0 {
		return c, nil
	}
	if err := s.dropDead(ctx, tx, shard, &c); err != nil {
		return c, err
	}
	var offsets, events []int64
	var bodies [][]byte
	size := 0
	for _, e := range fresh {
		if c.over(s) {
			c.drop(len(e.body))
			continue
		}
		offsets, events = append(offsets, number(e.at.Offset)), append(events, int64(e.at.Index))
		bodies = append(bodies, sealed(deadKind, shard, deadKey(e.at), e.body))
		size += sumLen + len(e.body)
	}
	w.queue(size, `
		INSERT INTO footfall_dead_letters (shard, message, event, body)
		SELECT $1, u.message, u.event, u.body FROM unnest($2::bigint[], $3::bigint[], $4::bytea[]) AS u(message, event, body)`,
		shard, offsets, events, bodies)
	w.queue(0, updateCounts, c.update(shard)...)
	return c, nil
}

// dropDead drops the oldest letters that are stored, until the counts are within their bounds or none is left.
func (s *Store) dropDead(ctx context.Context, tx pgx.Tx, shard int, c *deadCounts) error {
	for c.over(s) {
		rows, err := tx.Query(ctx, `
			SELECT message, event, octet_length(body) FROM footfall_dead_letters
			WHERE shard = $1 ORDER BY message, event LIMIT 1000`, shard)
		if err != nil {
			return err
		}
		var message, event int64
		var size, found int
		var last [2]int64
		_, err = pgx.ForEachRow(rows, []any{&message, &event, &size}, func() error {
			if c.over(s) {
				found++
				c.drop(size - sumLen)
				last = [2]int64{message, event}
			}
			return nil
		})
		if err != nil || found == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM footfall_dead_letters WHERE shard = $1 AND (message, event) <= ($2, $3)`,
			shard, last[0], last[1]); err != nil {
			return err
		}
	}
	return nil
}

// DeadLetters returns at most limit dead letters of a shard, in the order of the log,
// beginning at a position. To go on, ask from the last one's position with the next index.
func (s *Store) DeadLetters(ctx context.Context, shard int, from messages.Position, limit int) (out []messages.DeadLetter, err error) {
	db, err := s.at(shard)
	if err != nil {
		return nil, err
	}
	err = db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		out = nil
		rows, err := conn.Query(ctx, `
			SELECT message, event, body FROM footfall_dead_letters
			WHERE shard = $1 AND (message, event) >= ($2, $3) ORDER BY message, event LIMIT $4`,
			shard, number(from.Offset), from.Index, limit)
		if err != nil {
			return err
		}
		var at messages.Position
		var body pgtype.DriverBytes
		_, err = pgx.ForEachRow(rows, []any{&at.Offset, &at.Index, &body}, func() error {
			l, err := decodeDead(shard, at, body)
			out = append(out, l)
			return err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func decodeDead(shard int, at messages.Position, stored []byte) (messages.DeadLetter, error) {
	what := func() string { return fmt.Sprintf("store shard %d dead letter at %d/%d", shard, at.Offset, at.Index) }
	v, err := unseal(deadKind, shard, deadKey(at), stored, what)
	if err != nil {
		return messages.DeadLetter{}, err
	}
	var l footfallv1.DeadLetter
	if err := proto.Unmarshal(v, &l); err != nil {
		return messages.DeadLetter{}, &messages.CorruptError{What: what(), Reason: err.Error()}
	}
	return messages.DeadLetter{
		Position:   at,
		Field:      l.GetField(),
		Reason:     l.GetReason(),
		EventID:    l.GetEventId(),
		CustomerID: l.GetCustomerId(),
		Type:       messages.RecordTypeOf(l.GetContentType(), l.GetType()),
		Body:       l.GetBody(),
	}, nil
}

// RemoveDeadLetters removes the letters of positions, durably; those that are not there are
// none. It is no owner's call: letters are removed by whoever made up for them. What was
// removed does not come back, also where its owner writes the same checkpoint again.
func (s *Store) RemoveDeadLetters(ctx context.Context, shard int, positions []messages.Position) error {
	offsets, events := make([]int64, len(positions)), make([]int64, len(positions))
	for i, at := range positions {
		offsets[i], events[i] = number(at.Offset), int64(at.Index)
	}
	return s.transact(ctx, shard, writing, func(ctx context.Context, tx pgx.Tx, row *shardRow, _ int) error {
		if row == nil || len(positions) == 0 {
			return nil
		}
		rows, err := tx.Query(ctx, `
			DELETE FROM footfall_dead_letters WHERE shard = $1
			AND (message, event) IN (SELECT u.message, u.event FROM unnest($2::bigint[], $3::bigint[]) AS u(message, event))
			RETURNING octet_length(body)`, shard, offsets, events)
		if err != nil {
			return err
		}
		var size int
		removed, err := pgx.ForEachRow(rows, []any{&size}, func() error {
			row.dead.kept--
			row.dead.bytes -= uint64(size - sumLen)
			return nil
		})
		if err != nil || removed.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, updateCounts, row.dead.update(shard)...)
		return err
	})
}

// DeadLetterCounts returns how many dead letters of a shard are kept, and how many have
// made room for younger ones.
func (s *Store) DeadLetterCounts(ctx context.Context, shard int) (kept, dropped uint64, err error) {
	db, err := s.at(shard)
	if err != nil {
		return 0, 0, err
	}
	err = db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		kept, dropped = 0, 0
		rows, err := conn.Query(ctx, `SELECT dead_kept, dead_dropped FROM footfall_shards WHERE shard = $1`, shard)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&kept, &dropped}, func() error { return nil })
		return err
	})
	return kept, dropped, err
}
