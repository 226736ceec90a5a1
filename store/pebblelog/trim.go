package pebblelog

import (
	"context"
	"encoding/binary"
	"errors"
	"sort"
	"time"

	"footfall/messages"
)

const (
	// flushDelay is how long trimmed records may stay on disk for want of other writes.
	flushDelay = 10 * time.Second
	// rewriteAge is how old a blob file is before what still lives in it may be moved.
	rewriteAge = 10 * time.Minute
)

// TrimPolicy says what a shard's log keeps. A zero field sets no bound.
type TrimPolicy struct {
	// MaxAge is the age of the oldest record, by the writers' clocks.
	MaxAge time.Duration
	// MaxBytes is about what the shard's log takes on disk.
	MaxBytes int64
}

// Trim removes the records of a shard before an offset; what is beyond the end is left
// alone. Offsets are not used again, and a mark at the new beginning can still be proven.
func (l *Log) Trim(ctx context.Context, shard int, before uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	leave, err := l.db.Enter()
	if err != nil {
		return err
	}
	defer leave()
	s, err := l.shard(shard)
	if err != nil {
		return err
	}
	s.trimming.Lock()
	defer s.trimming.Unlock()
	first, durable, _ := s.bounds()
	before = min(before, durable)
	if before <= first {
		return nil
	}
	var last messages.Record
	if err := l.record(shard, before-1, &last); err != nil {
		return err
	}
	// No Admit: trimming is how a full disk gets room.
	var mark [12]byte
	binary.BigEndian.PutUint64(mark[:], before)
	binary.BigEndian.PutUint32(mark[8:], last.Sum)
	b := l.db.Pebble.NewBatch()
	if err := errors.Join(
		b.Set(trimKey(shard), mark[:], nil),
		b.DeleteRange(recordKey(shard, 0), recordKey(shard, before), nil),
	); err != nil {
		return errors.Join(err, b.Close())
	}
	// Readers must see the gap before the records are gone.
	s.ends.Lock()
	s.first, s.trimSum = before, last.Sum
	s.ends.Unlock()
	return l.db.Commit(b)
}

// Retain trims a shard by a policy, as of now, and never past limit: the oldest offset that
// somebody still needs. It returns where the log begins then.
func (l *Log) Retain(ctx context.Context, shard int, p TrimPolicy, now time.Time, limit uint64) (first uint64, err error) {
	before, err := l.cut(ctx, shard, p, now, limit)
	if err != nil {
		return 0, err
	}
	if err := l.Trim(ctx, shard, before); err != nil {
		return 0, err
	}
	first, _, err = l.Bounds(ctx, shard)
	return first, err
}

// cut finds the offset before which the policy keeps nothing. Times and sizes grow with
// the offset but for small steps of clocks, so it searches by halves.
func (l *Log) cut(ctx context.Context, shard int, p TrimPolicy, now time.Time, limit uint64) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	leave, err := l.db.Enter()
	if err != nil {
		return 0, err
	}
	defer leave()
	s, err := l.shard(shard)
	if err != nil {
		return 0, err
	}
	first, durable, _ := s.bounds()
	n := int(min(limit, durable) - min(first, limit, durable))
	if n == 0 {
		return first, nil
	}
	cut := 0
	if p.MaxAge > 0 {
		oldest := now.Add(-p.MaxAge).UnixMilli()
		cut = sort.Search(n, func(i int) bool {
			var r messages.Record
			if err == nil {
				err = l.record(shard, first+uint64(i), &r)
			}
			return err != nil || r.Time >= oldest
		})
	}
	if p.MaxBytes > 0 && err == nil {
		end := recordsEnd(shard)
		cut = max(cut, sort.Search(n, func(i int) bool {
			var size uint64
			if err == nil {
				size, err = l.db.Pebble.EstimateDiskUsage(recordKey(shard, first+uint64(i)), end)
			}
			return err != nil || size <= uint64(p.MaxBytes)
		}))
	}
	if err != nil {
		return 0, err
	}
	return first + uint64(cut), nil
}
