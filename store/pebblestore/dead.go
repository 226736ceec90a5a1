package pebblestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// deadCounts says what is kept of a shard's dead letters.
//
// Invariants:
//  1. A shard's letters come in the order of its log, so each is at floor or after it when it
//     is first written; whatever comes before floor was written once, and is kept, was dropped,
//     or was removed. It changes nothing.
//  2. floor and the letters before it are written in one batch, and that batch has the
//     checkpoint whose position is after them. So who finds a checkpoint finds its floor, and a
//     letter that is folded again was never durable, and was removed by nobody.
type deadCounts struct {
	kept, bytes, dropped uint64
	// floor is after the last one written.
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
		c.floor = messages.Position{Offset: l.Position.Offset, Index: l.Position.Index + 1}
		v, err := proto.Marshal(l.Proto(sh.id))
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
	drop := func(size int) {
		c.kept--
		c.bytes -= uint64(size)
		c.dropped++
	}
	if over() {
		prefix := key(sh.id, deadKind)
		it, err := s.db.Pebble.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
		if err != nil {
			return c, s.db.ReadError("dead letters", err)
		}
		for ok := it.First(); ok && over(); ok = it.Next() {
			v := it.LazyValue()
			drop(v.Len() - sumLen)
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
			drop(len(e.body))
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
			Type:       messages.RecordTypeOf(l.GetContentType(), l.GetType()),
			Body:       l.GetBody(),
		})
		return ""
	})
	return out, err
}

// RemoveDeadLetters removes the letters of positions, durably; those that are not there are
// none. It is no owner's call: letters are removed by whoever made up for them. What was
// removed does not come back, also where its owner writes the same checkpoint again.
func (s *Store) RemoveDeadLetters(ctx context.Context, shard int, positions []messages.Position) error {
	sh, leave, err := s.enter(ctx, shard)
	if err != nil {
		return err
	}
	defer leave()
	b := s.db.Pebble.NewBatch()
	sh.mu.Lock()
	err = s.removeDead(b, sh, positions)
	sh.mu.Unlock()
	if err != nil || b.Empty() {
		return errors.Join(err, b.Close())
	}
	return s.db.Wait(b)
}

// removeDead writes a batch that removes letters; the batch stays empty where none is there.
// The caller holds the shard's mutex.
func (s *Store) removeDead(b *pebble.Batch, sh *shard, positions []messages.Position) error {
	if err := s.db.Admit(0); err != nil {
		return err
	}
	c := sh.dead
	gone := make(map[messages.Position]bool, len(positions))
	for _, at := range positions {
		if gone[at] {
			continue
		}
		gone[at] = true
		k := deadKey(sh.id, at)
		sealed, err := s.db.GetCopy(k)
		if err != nil {
			return err
		}
		if sealed == nil {
			continue
		}
		if err := b.Delete(k, nil); err != nil {
			return err
		}
		c.kept--
		c.bytes -= uint64(len(sealed) - sumLen)
	}
	if b.Empty() {
		return nil
	}
	if err := set(b, key(sh.id, deadCountsKind), c.encode()); err != nil {
		return err
	}
	if err := s.db.Write(b); err != nil {
		return err
	}
	sh.dead = c
	return nil
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
