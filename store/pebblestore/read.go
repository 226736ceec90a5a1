package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/cockroachdb/pebble/v2"

	"footfall/messages"
)

// Get returns the values of customers, nil for each that the store does not have. The
// values share their memory: copy what is to be kept longer than the others.
func (s *Store) Get(ctx context.Context, shard int, epoch uint64, ids []string) ([][]byte, error) {
	sh, leave, err := s.enterAs(ctx, shard, epoch)
	if err != nil {
		return nil, err
	}
	defer leave()
	// In the order of keys, neighbours share blocks.
	order := make([]int, len(ids))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(ids[a], ids[b]) })

	out := make([][]byte, len(ids))
	var buf, k []byte
	hits := 0
	what := fmt.Sprintf("store shard %d customers", shard)
	prefix := key(shard, customerKind)
	// New customers are asked for most often: with filters at every level, they cost no
	// block of data.
	it, err := s.db.Pebble.NewIterWithContext(ctx, &pebble.IterOptions{
		LowerBound: prefix, UpperBound: prefixEnd(prefix), UseL6Filters: true,
	})
	if err != nil {
		return nil, s.db.ReadError(what, err)
	}
	for _, i := range order {
		k = customerKey(k, shard, ids[i])
		if !it.SeekPrefixGE(k) {
			if it.Error() != nil {
				break
			}
			continue
		}
		var sealed []byte
		if sealed, err = it.ValueAndErr(); err != nil {
			break
		}
		v, fault := unseal(k, sealed)
		if fault != "" {
			err = s.db.Corrupt(fmt.Sprintf("store shard %d customer %q", shard, ids[i]), fault)
			break
		}
		out[i], buf = carve(buf, v)
		hits++
	}
	if err := s.readAs(sh, epoch, s.closeIter(ctx, it, what, err)); err != nil {
		return nil, err
	}
	s.gets.Add(uint64(len(ids)))
	s.hits.Add(uint64(hits))
	return out, nil
}

// closeIter closes an iterator and types the first error of its use.
func (s *Store) closeIter(ctx context.Context, it *pebble.Iterator, what string, err error) error {
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	var corrupt *messages.CorruptError
	switch {
	case err == nil, errors.As(err, &corrupt):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return s.db.ReadError(what, err)
	}
}

// carve copies v to the end of buf. A full buffer is left to those who share it and a new
// one begun, so that what was carved before does not move.
func carve(buf, v []byte) (copied, rest []byte) {
	const chunk = 64 << 10
	if cap(buf)-len(buf) < len(v) {
		buf = make([]byte, 0, max(chunk, len(v)))
	}
	at := len(buf)
	buf = append(buf, v...)
	return buf[at:len(buf):len(buf)], buf
}

// Scan returns customers in order of ID, beginning after the one named, until their values
// exceed limit bytes or none is left. IDs and values share their memory: copy what is to be
// kept longer than the others.
func (s *Store) Scan(ctx context.Context, shard int, epoch uint64, after string, limit int) ([]messages.CustomerRecord, error) {
	sh, leave, err := s.enterAs(ctx, shard, epoch)
	if err != nil {
		return nil, err
	}
	defer leave()
	out, err := s.scan(ctx, shard, key(shard, customerKind), after, limit)
	if err := s.readAs(sh, epoch, err); err != nil {
		return nil, err
	}
	return out, nil
}

// scan reads customers below a prefix of keys. The caller is inside Enter.
func (s *Store) scan(ctx context.Context, shard int, prefix []byte, after string, limit int) ([]messages.CustomerRecord, error) {
	lower := slices.Clone(prefix)
	if after != "" {
		// The first key that may follow.
		lower = append(append(lower, after...), 0)
	}
	what := fmt.Sprintf("store shard %d customers after %q", shard, after)
	it, err := s.db.Pebble.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return nil, s.db.ReadError(what, err)
	}
	var (
		out  []messages.CustomerRecord
		buf  []byte
		size int
	)
	for ok := it.First(); ok; ok = it.Next() {
		var sealed []byte
		if sealed, err = it.ValueAndErr(); err != nil {
			break
		}
		v, fault := unseal(it.Key(), sealed)
		if fault != "" {
			err = s.db.Corrupt(fmt.Sprintf("store shard %d customer %q", shard, it.Key()[len(prefix):]), fault)
			break
		}
		r := messages.CustomerRecord{}
		var id []byte
		id, buf = carve(buf, it.Key()[len(prefix):])
		r.ID = unsafe.String(unsafe.SliceData(id), len(id))
		r.Value, buf = carve(buf, v)
		out = append(out, r)
		if size += len(v); size > limit {
			break
		}
	}
	if err := s.closeIter(ctx, it, what, err); err != nil {
		return nil, err
	}
	s.scanned.Add(uint64(len(out)))
	return out, nil
}

// prefixEnd sorts after every key with a prefix, whose last byte must be below 0xff or
// which must be followed by one that is.
func prefixEnd(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
