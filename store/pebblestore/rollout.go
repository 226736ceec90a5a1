package pebblestore

import (
	"context"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"footfall/messages"
)

// rolloutPrefix begins the keys of roll-outs: they belong to no shard. A value is sealed; it is the generation in eight bytes and
// the body.
const rolloutPrefix = "\x00rollout/"

// Rollouts returns what is kept about models, in order of name.
func (s *Store) Rollouts(ctx context.Context) ([]messages.Rollout, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	leave, err := s.db.Enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	const what = "store roll-outs"
	it, err := s.db.Pebble.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte(rolloutPrefix), UpperBound: prefixEnd([]byte(rolloutPrefix))})
	if err != nil {
		return nil, s.db.ReadError(what, err)
	}
	var out []messages.Rollout
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var sealed []byte
		if sealed, err = it.ValueAndErr(); err != nil {
			break
		}
		var r messages.Rollout
		if r, err = s.rollout(it.Key(), sealed); err == nil {
			out = append(out, r)
		}
	}
	if closed := it.Close(); err == nil && closed != nil {
		err = s.db.ReadError(what, closed)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Store) rollout(key, sealed []byte) (messages.Rollout, error) {
	r := messages.Rollout{Model: string(key[len(rolloutPrefix):])}
	v, fault := unseal(key, sealed)
	if fault == "" && len(v) < 8 {
		fault = "it has no generation"
	}
	if fault != "" {
		return r, s.db.Corrupt("store roll-out of "+r.Model, fault)
	}
	r.Generation, r.Body = binary.LittleEndian.Uint64(v), append([]byte(nil), v[8:]...)
	return r, nil
}

// PutRollout replaces what is kept about a model under a generation, 0 where nothing is, by what is kept under the next one. It
// fails with *messages.GenerationError where another generation is there.
func (s *Store) PutRollout(ctx context.Context, model string, generation uint64, body []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	leave, err := s.db.Enter()
	if err != nil {
		return err
	}
	defer leave()
	s.rollouts.Lock()
	defer s.rollouts.Unlock()
	k := []byte(rolloutPrefix + model)
	sealed, err := s.db.GetCopy(k)
	if err != nil {
		return err
	}
	var have uint64
	if sealed != nil {
		r, err := s.rollout(k, sealed)
		if err != nil {
			return err
		}
		have = r.Generation
	}
	if have != generation {
		return &messages.GenerationError{What: "roll-out of " + model, Want: generation, Have: have}
	}
	b := s.db.Pebble.NewBatch()
	if err := set(b, k, append(binary.LittleEndian.AppendUint64(nil, generation+1), body...)); err != nil {
		return err
	}
	return s.db.Commit(b)
}
