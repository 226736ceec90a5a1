package pebblestore

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// deadCounts says what is kept of a shard's dead letters.
type deadCounts struct {
	kept, bytes, dropped uint64
	// floor is after the last one dropped: an older one that comes again is known.
	floor messages.Position
}

const deadCountsLen = 8 + 8 + 8 + 8 + 4

func (c deadCounts) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, c.kept)
	b = binary.BigEndian.AppendUint64(b, c.bytes)
	b = binary.BigEndian.AppendUint64(b, c.dropped)
	b = binary.BigEndian.AppendUint64(b, c.floor.Offset)
	return binary.BigEndian.AppendUint32(b, c.floor.Index)
}

func (s *Store) readDeadCounts(shard int) (c deadCounts, err error) {
	what := fmt.Sprintf("store shard %d dead letter counts", shard)
	v, err := s.get(key(shard, deadCountsKind), what)
	if err != nil || v == nil {
		return c, err
	}
	if len(v) != deadCountsLen {
		return c, s.db.Corrupt(what, fmt.Sprintf("%d bytes instead of %d", len(v), deadCountsLen))
	}
	c.kept, c.bytes, c.dropped = binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:]), binary.BigEndian.Uint64(v[16:])
	c.floor = messages.Position{Offset: binary.BigEndian.Uint64(v[24:]), Index: binary.BigEndian.Uint32(v[32:])}
	return c, nil
}

// addDead adds dead letters that are new to a batch, and drops the oldest beyond the
// bounds. The caller holds the shard's mutex.
func (s *Store) addDead(b *pebble.Batch, sh *shard, letters []messages.DeadLetter) (deadCounts, error) {
	c := sh.dead
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
		k := deadKey(sh.id, l.Position)
		if slices.ContainsFunc(fresh, func(e entry) bool { return e.at == l.Position }) {
			continue
		}
		switch old, err := s.db.GetCopy(k); {
		case err != nil:
			return c, err
		case old != nil:
			continue
		}
		v, err := proto.Marshal(&footfallv1.DeadLetter{
			Shard:      uint32(sh.id),
			Offset:     int64(l.Position.Offset),
			Index:      l.Position.Index,
			Field:      l.Field,
			Reason:     l.Reason,
			EventId:    l.EventID,
			CustomerId: l.CustomerID,
			Body:       l.Body,
		})
		if err != nil {
			return c, fmt.Errorf("store shard %d: dead letter at %d/%d: %w", sh.id, l.Position.Offset, l.Position.Index, err)
		}
		fresh = append(fresh, entry{l.Position, v})
		c.kept++
		c.bytes += uint64(len(v))
	}
	if len(fresh) == 0 {
		return c, nil
	}
	over := func() bool { return c.kept > s.maxDead || c.bytes > s.maxDeadBytes }
	drop := func(at messages.Position, size int) {
		c.kept--
		c.bytes -= uint64(size)
		c.dropped++
		c.floor = messages.Position{Offset: at.Offset, Index: at.Index + 1}
	}
	if over() {
		prefix := key(sh.id, deadKind)
		it, err := s.db.Pebble.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
		if err != nil {
			return c, s.db.ReadError("dead letters", err)
		}
		for ok := it.First(); ok && over(); ok = it.Next() {
			v := it.LazyValue()
			drop(deadPosition(it.Key()), v.Len()-sumLen)
			if err := b.Delete(it.Key(), nil); err != nil {
				_ = it.Close()
				return c, err
			}
		}
		if err := it.Close(); err != nil {
			return c, s.db.ReadError("dead letters", err)
		}
	}
	for _, e := range fresh {
		if over() {
			drop(e.at, len(e.body))
			continue
		}
		if err := set(b, deadKey(sh.id, e.at), e.body); err != nil {
			return c, err
		}
	}
	return c, set(b, key(sh.id, deadCountsKind), c.encode())
}

// DeadLetters returns at most limit dead letters of a shard, in the order of the log,
// beginning at a position. To go on, ask from the last one's position with the next index.
func (s *Store) DeadLetters(ctx context.Context, shard int, from messages.Position, limit int) ([]messages.DeadLetter, error) {
	_, leave, err := s.enter(ctx, shard)
	if err != nil {
		return nil, err
	}
	defer leave()
	var out []messages.DeadLetter
	err = s.each(ctx, deadKey(shard, from), prefixEnd(key(shard, deadKind)), limit, func(k, v []byte) (fault string) {
		var l footfallv1.DeadLetter
		if err := proto.Unmarshal(v, &l); err != nil {
			return err.Error()
		}
		out = append(out, messages.DeadLetter{
			Position:   deadPosition(k),
			Field:      l.GetField(),
			Reason:     l.GetReason(),
			EventID:    l.GetEventId(),
			CustomerID: l.GetCustomerId(),
			Body:       l.GetBody(),
		})
		return ""
	})
	return out, err
}

// DeadLetterCounts returns how many dead letters of a shard are kept, and how many have
// made room for younger ones.
func (s *Store) DeadLetterCounts(ctx context.Context, shard int) (kept, dropped uint64, err error) {
	sh, leave, err := s.enter(ctx, shard)
	if err != nil {
		return 0, 0, err
	}
	defer leave()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.dead.kept, sh.dead.dropped, nil
}
