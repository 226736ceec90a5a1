package storage

import (
	"context"
	"errors"
	"time"

	"footfall/messages"
	"footfall/store/pebblelog"
)

// Retain removes from a shard's log what the policy does not keep, as of now, and returns
// how many messages that were. epoch is the shard's.
//
// A shard is folded again from its base snapshot on, or from the beginning where it has none,
// so the log is never trimmed past that. Where the policy reaches it, the present checkpoint
// becomes the base, and the log is trimmed after. A base is a copy of all customers of the
// shard: with a policy of 35 days there is a new one about every 35 days.
func (s *Storage) Retain(ctx context.Context, shard int, epoch uint64, p pebblelog.TrimPolicy, now time.Time) (trimmed uint64, err error) {
	if p.MaxAge <= 0 && p.MaxBytes <= 0 {
		return 0, nil
	}
	before, next, err := s.Log.Bounds(ctx, shard)
	if err != nil || next == 0 {
		return 0, err
	}
	limit, err := s.Store.NeededFrom(ctx, shard)
	if err != nil {
		return 0, err
	}
	first, err := s.Log.Retain(ctx, shard, p, now, limit)
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
	if first, err = s.Log.Retain(ctx, shard, p, now, limit); err != nil {
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
	r, err := s.Log.Open(ctx, shard, messages.Mark{Next: base.GetNextOffset(), Sum: base.GetSum()})
	if err != nil {
		return false, err
	}
	var batch messages.RecordBatch
	if err := errors.Join(r.Next(ctx, &batch), r.Close()); err != nil {
		return false, err
	}
	return time.UnixMilli(batch.Records[0].Time).Before(now.Add(-p.MaxAge)), nil
}
