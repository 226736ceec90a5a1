package pebblestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// ErrBaseReplaced says that a base snapshot made room for a younger one while it was read.
var ErrBaseReplaced = errors.New("the base snapshot has been replaced while it was read: begin again")

// baseChunk is how many bytes of a base snapshot are written at once.
const baseChunk = 1 << 20

// SnapshotBase makes the present checkpoint the shard's base snapshot: it is kept apart, so
// that the shard can be folded again from there once the log before it is gone. Checkpoints may go
// on meanwhile; a reader finds the old base until the new one is whole. It fails where there
// is no checkpoint yet.
func (s *Store) SnapshotBase(ctx context.Context, shard int, epoch uint64) error {
	sh, leave, err := s.enterAs(ctx, shard, epoch)
	if err != nil {
		return err
	}
	defer leave()
	sh.basing.Lock()
	defer sh.basing.Unlock()

	generation, _, err := s.base(shard)
	if err != nil {
		return err
	}
	generation++
	// What a copy that was cut short has left.
	b := s.db.Pebble.NewBatch()
	if err := b.DeleteRange(baseRowPrefix(shard, generation), prefixEnd(key(shard, baseRowKind)), nil); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := s.db.Commit(b); err != nil {
		return err
	}
	meta, err := s.copyBase(ctx, shard, generation)
	if err != nil {
		return err
	}
	b = s.db.Pebble.NewBatch()
	if err := errors.Join(
		set(b, key(shard, baseKind), append(binary.BigEndian.AppendUint64(nil, generation), meta...)),
		b.DeleteRange(baseRowPrefix(shard, 0), baseRowPrefix(shard, generation), nil),
	); err != nil {
		return errors.Join(err, b.Close())
	}
	return s.commitAs(sh, epoch, b, nil)
}

// copyBase copies the customers of one view of the checkpoint, not durably yet: the commit
// that names the generation comes later in Pebble's log. It returns the view's meta.
func (s *Store) copyBase(ctx context.Context, shard int, generation uint64) (meta []byte, err error) {
	view := s.db.Pebble.NewSnapshot()
	defer func() { err = errors.Join(err, view.Close()) }()

	k := key(shard, metaKind)
	sealed, closer, err := view.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, fmt.Errorf("store shard %d: there is no checkpoint yet to make a base snapshot of", shard)
	}
	what := fmt.Sprintf("store shard %d checkpoint", shard)
	if err != nil {
		return nil, s.db.ReadError(what, err)
	}
	v, fault := unseal(k, sealed)
	meta = append(meta, v...)
	if err := closer.Close(); err != nil {
		return nil, s.db.ReadError(what, err)
	}
	if fault != "" {
		return nil, s.db.Corrupt(what, fault)
	}

	prefix := key(shard, customerKind)
	it, err := view.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return nil, s.db.ReadError(what, err)
	}
	err = s.copyRows(ctx, it, shard, baseRowPrefix(shard, generation))
	if cerr := it.Close(); err == nil {
		err = s.db.ReadError(what, cerr)
	}
	return meta, err
}

func (s *Store) copyRows(ctx context.Context, it *pebble.Iterator, shard int, prefix []byte) error {
	b := s.db.Pebble.NewBatch()
	defer func() { _ = b.Close() }()
	flush := func() error {
		if err := s.db.Admit(b.Len()); err != nil {
			return err
		}
		if err := s.db.WriteLazily(b); err != nil {
			return err
		}
		b.Reset()
		return ctx.Err()
	}
	for ok := it.First(); ok; ok = it.Next() {
		sealed, err := it.ValueAndErr()
		if err != nil {
			return s.db.ReadError(fmt.Sprintf("store shard %d customers", shard), err)
		}
		id := it.Key()[prefixLen:]
		v, fault := unseal(it.Key(), sealed)
		if fault != "" {
			return s.db.Corrupt(fmt.Sprintf("store shard %d customer %q", shard, id), fault)
		}
		if err := set(b, append(slices.Clip(prefix), id...), v); err != nil {
			return err
		}
		if b.Len() >= baseChunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// Base returns the meta of the shard's base snapshot, nil where there is none, and a number
// that tells one base of the shard from another.
func (s *Store) Base(ctx context.Context, shard int) (generation uint64, meta *footfallv1.CheckpointMeta, err error) {
	_, leave, err := s.enter(ctx, shard)
	if err != nil {
		return 0, nil, err
	}
	defer leave()
	return s.base(shard)
}

func (s *Store) base(shard int) (generation uint64, meta *footfallv1.CheckpointMeta, err error) {
	what := fmt.Sprintf("store shard %d base snapshot", shard)
	v, err := s.get(key(shard, baseKind), what)
	if err != nil || v == nil {
		return 0, nil, err
	}
	if len(v) < 8 {
		return 0, nil, s.db.Corrupt(what, fmt.Sprintf("%d bytes are no base snapshot", len(v)))
	}
	meta = &footfallv1.CheckpointMeta{}
	if err := proto.Unmarshal(v[8:], meta); err != nil {
		return 0, nil, s.db.Corrupt(what, err.Error())
	}
	return binary.BigEndian.Uint64(v), meta, nil
}

// ScanBase is Scan over a base snapshot: [ErrBaseReplaced] where the shard has another one
// by now.
func (s *Store) ScanBase(ctx context.Context, shard int, generation uint64, after string, limit int) ([]messages.CustomerRecord, error) {
	_, leave, err := s.enter(ctx, shard)
	if err != nil {
		return nil, err
	}
	defer leave()
	out, err := s.scan(ctx, shard, baseRowPrefix(shard, generation), after, limit)
	if err != nil {
		return nil, err
	}
	// Asked after the scan: rows may have been removed under it.
	switch now, meta, err := s.base(shard); {
	case err != nil:
		return nil, err
	case meta == nil || now != generation:
		return nil, ErrBaseReplaced
	}
	return out, nil
}

// NeededFrom returns the oldest offset of the shard's log that is needed to fold it again:
// the log must not be trimmed past it. Without a base snapshot that is 0.
func (s *Store) NeededFrom(ctx context.Context, shard int) (uint64, error) {
	_, leave, err := s.enter(ctx, shard)
	if err != nil {
		return 0, err
	}
	defer leave()
	_, base, err := s.base(shard)
	if err != nil || base == nil {
		return 0, err
	}
	next := base.GetNextOffset()
	meta, err := s.meta(shard)
	if err != nil {
		return 0, err
	}
	next = min(next, meta.GetNextOffset())
	// The message before is the proof that the log is the one that was checkpointed.
	return next - min(next, 1), nil
}
