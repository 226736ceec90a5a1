package storage

import (
	"context"
	"errors"
	"time"

	"footfall/messages"
	"footfall/store/pebblelog"
)

// Retention bounds what the log of a shard keeps; 0 is no bound.
type Retention struct {
	MaxAge   time.Duration
	MaxBytes int64
}

// Retain sees to it that a shard's log keeps what the policy says, as of now, and that the
// shard can be folded again all the same. It returns how many messages it has removed. epoch
// is the shard's.
//
// A shard is folded again from its base snapshot on, or from the beginning where it has none.
// A log of Pebble's is never trimmed past that: where the policy reaches it, the present
// checkpoint becomes the base, and the log is trimmed after. A broker trims its streams by
// itself: there the checkpoint becomes the base before the policy can reach the one there is.
// A base is a copy of all customers of the shard: with a policy of 35 days there is a new one
// every 35 days on Pebble, and every 17 on a broker.
func (s *Storage) Retain(ctx context.Context, shard int, epoch uint64, p Retention, now time.Time) (trimmed uint64, err error) {
	if p.MaxAge <= 0 && p.MaxBytes <= 0 {
		return 0, nil
	}
	if log, ok := s.Log.(*pebblelog.Log); ok {
		return s.trim(ctx, log, shard, epoch, pebblelog.TrimPolicy{MaxAge: p.MaxAge, MaxBytes: p.MaxBytes}, now)
	}
	due, err := s.baseDue(ctx, shard, p, now)
	if err != nil || !due {
		return 0, err
	}
	return 0, s.Store.SnapshotBase(ctx, shard, epoch)
}

func (s *Storage) trim(ctx context.Context, log *pebblelog.Log, shard int, epoch uint64, p pebblelog.TrimPolicy, now time.Time) (trimmed uint64, err error) {
	before, next, err := log.Bounds(ctx, shard)
	if err != nil || next == 0 {
		return 0, err
	}
	limit, err := s.Store.NeededFrom(ctx, shard)
	if err != nil {
		return 0, err
	}
	first, err := log.Retain(ctx, shard, p, now, limit)
	if err != nil {
		return 0, err
	}
	if first < limit {
		return first - before, nil
	}
	// The policy reaches the base, or there is none.
	if beyond, err := s.beyond(ctx, shard, p, now); err != nil || !beyond {
		return first - before, err
	}
	if err := s.Store.SnapshotBase(ctx, shard, epoch); err != nil {
		return first - before, err
	}
	if limit, err = s.Store.NeededFrom(ctx, shard); err != nil {
		return first - before, err
	}
	if first, err = log.Retain(ctx, shard, p, now, limit); err != nil {
		return 0, err
	}
	return first - before, nil
}

// beyond reports whether the policy would remove what the base still needs: whether the
// first message after it is too old, or there is a bound in bytes, of which only the log
// knows whether it is reached.
func (s *Storage) beyond(ctx context.Context, shard int, p pebblelog.TrimPolicy, now time.Time) (bool, error) {
	base, err := s.Store.Base(ctx, shard)
	if err != nil {
		return false, err
	}
	_, next, err := s.Log.Bounds(ctx, shard)
	if err != nil || base.GetNextOffset() >= next {
		return false, err
	}
	if p.MaxBytes > 0 {
		return true, nil
	}
	return s.olderThan(ctx, shard, messages.Mark{Next: base.GetNextOffset(), Sum: base.GetSum()}, now.Add(-p.MaxAge))
}

// baseDue reports whether a broker may soon remove what the base still needs, or has.
func (s *Storage) baseDue(ctx context.Context, shard int, p Retention, now time.Time) (bool, error) {
	first, next, err := s.Log.Bounds(ctx, shard)
	if err != nil || next == 0 {
		return false, err
	}
	base, err := s.Store.Base(ctx, shard)
	if err != nil {
		return false, err
	}
	from := base.GetNextOffset()
	switch {
	case from >= next:
		return false, nil
	case from < first, first > 0 && from-first < (next-first)/2:
		return true, nil
	case p.MaxBytes > 0 && base == nil:
		// The first removal by size comes without a sign.
		return true, nil
	case p.MaxAge <= 0:
		return false, nil
	}
	return s.olderThan(ctx, shard, messages.Mark{Next: from, Sum: base.GetSum()}, now.Add(-p.MaxAge/2))
}

// olderThan reports whether the message at a mark, which must be in the log, was written
// before an instant. One that tells no time was not.
func (s *Storage) olderThan(ctx context.Context, shard int, at messages.Mark, limit time.Time) (bool, error) {
	r, err := s.Log.Open(ctx, shard, at)
	if err != nil {
		return false, err
	}
	var batch messages.RecordBatch
	if err := errors.Join(r.Next(ctx, &batch), r.Close()); err != nil {
		return false, err
	}
	written := batch.Records[0].Time
	return written != 0 && time.UnixMilli(written).Before(limit), nil
}
