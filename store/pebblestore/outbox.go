package pebblestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"footfall/messages"
)

// AppendOutbox writes rows durably, or none. A row with a sequence that is there already
// replaces it.
func (s *Store) AppendOutbox(ctx context.Context, shard int, epoch uint64, rows []messages.OutboxRow) error {
	sh, leave, err := s.enterAs(ctx, shard, epoch)
	if err != nil {
		return err
	}
	defer leave()
	b := s.db.Pebble.NewBatch()
	if err := encodeOutbox(b, shard, rows); err != nil {
		return errors.Join(err, b.Close())
	}
	return s.commitAs(sh, epoch, b, nil)
}

func encodeOutbox(b *pebble.Batch, shard int, rows []messages.OutboxRow) error {
	for i := range rows {
		if rows[i].Seq == 0 {
			return fmt.Errorf("store shard %d: outbox row %d has no sequence: they count from 1", shard, i)
		}
		if err := set(b, outboxKey(shard, rows[i].Seq), rows[i].Body); err != nil {
			return err
		}
	}
	return nil
}

// Outbox returns at most limit rows with sequences above after, in their order.
func (s *Store) Outbox(ctx context.Context, shard int, epoch, after uint64, limit int) ([]messages.OutboxRow, error) {
	sh, leave, err := s.enterAs(ctx, shard, epoch)
	if err != nil {
		return nil, err
	}
	defer leave()
	if after == math.MaxUint64 {
		return nil, nil
	}
	var out []messages.OutboxRow
	err = s.each(ctx, outboxKey(shard, after+1), prefixEnd(key(shard, outboxKind)), limit, func(k, v []byte) string {
		out = append(out, messages.OutboxRow{Seq: binary.BigEndian.Uint64(k[prefixLen:]), Body: slices.Clone(v)})
		return ""
	})
	if err := s.readAs(sh, epoch, err); err != nil {
		return nil, err
	}
	return out, nil
}

// DeleteOutbox removes the rows with sequences up to and including through, durably.
func (s *Store) DeleteOutbox(ctx context.Context, shard int, epoch, through uint64) error {
	sh, leave, err := s.enterAs(ctx, shard, epoch)
	if err != nil {
		return err
	}
	defer leave()
	end := prefixEnd(key(shard, outboxKind))
	if through < math.MaxUint64 {
		end = outboxKey(shard, through+1)
	}
	b := s.db.Pebble.NewBatch()
	if err := b.DeleteRange(outboxKey(shard, 0), end, nil); err != nil {
		return errors.Join(err, b.Close())
	}
	return s.commitAs(sh, epoch, b, nil)
}

// each calls do with at most limit unsealed values between two keys, in order; do tells
// in words what is wrong with one. The caller is inside Enter.
func (s *Store) each(ctx context.Context, lower, upper []byte, limit int, do func(k, v []byte) (fault string)) error {
	what := fmt.Sprintf("store keys from %x", lower)
	it, err := s.db.Pebble.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return s.db.ReadError(what, err)
	}
	for n, ok := 0, it.First(); ok && n < limit; n, ok = n+1, it.Next() {
		var sealed []byte
		if sealed, err = it.ValueAndErr(); err != nil {
			break
		}
		v, fault := unseal(it.Key(), sealed)
		if fault == "" {
			fault = do(it.Key(), v)
		}
		if fault != "" {
			err = s.db.Corrupt(fmt.Sprintf("store key %x", it.Key()), fault)
			break
		}
	}
	return s.closeIter(ctx, it, what, err)
}
