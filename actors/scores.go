package actors

import (
	"encoding/binary"
	"fmt"
	"math"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// scoreBytes is the size of an encoded score:
//
//	model u16 │ 2 spare │ value f32 │ epoch u32 │ index u32 │ offset u64 │ time i64
//
// The model is its place in the shard's list of model versions.
const scoreBytes = 32

// maxScores bounds the scores of a customer.
const maxScores = 64

type packedScore struct {
	model    uint16
	value    float32
	epoch    uint32
	position messages.Position
	time     int64
}

func (s packedScore) put(b []byte) {
	binary.LittleEndian.PutUint16(b, s.model)
	binary.LittleEndian.PutUint16(b[2:], 0)
	binary.LittleEndian.PutUint32(b[4:], math.Float32bits(s.value))
	binary.LittleEndian.PutUint32(b[8:], s.epoch)
	binary.LittleEndian.PutUint32(b[12:], s.position.Index)
	binary.LittleEndian.PutUint64(b[16:], s.position.Offset)
	binary.LittleEndian.PutUint64(b[24:], uint64(s.time))
}

func getScore(b []byte) packedScore {
	return packedScore{
		model: binary.LittleEndian.Uint16(b),
		value: math.Float32frombits(binary.LittleEndian.Uint32(b[4:])),
		epoch: binary.LittleEndian.Uint32(b[8:]),
		position: messages.Position{
			Index:  binary.LittleEndian.Uint32(b[12:]),
			Offset: binary.LittleEndian.Uint64(b[16:]),
		},
		time: int64(binary.LittleEndian.Uint64(b[24:])),
	}
}

// newer reports whether s may replace t: positions of the log decide, then the as_of.
func (s packedScore) newer(t packedScore) bool {
	if s.position != t.position {
		return t.position.Before(s.position)
	}
	return s.time >= t.time
}

// modelTable numbers the model versions that the scores of a shard refer to. Numbers are
// never used again, so an old score keeps its meaning.
type modelTable struct {
	refs []*footfallv1.ModelRef
}

func (t *modelTable) number(model, version string) uint16 {
	for i, r := range t.refs {
		if r.GetModel() == model && r.GetVersion() == version {
			return uint16(i)
		}
	}
	t.refs = append(t.refs, &footfallv1.ModelRef{Model: model, Version: version})
	return uint16(len(t.refs) - 1)
}

// sameModel reports whether two numbers are versions of one model.
func (t *modelTable) sameModel(a, b uint16) bool {
	return a == b || t.refs[a].GetModel() == t.refs[b].GetModel()
}

// merge puts s among the encoded scores of a customer: it replaces an older one of the
// same model. An older s is dropped (invariant 6) and scores is returned as it was.
func (t *modelTable) merge(scores []byte, s packedScore) []byte {
	for at := 0; at < len(scores); at += scoreBytes {
		old := getScore(scores[at:])
		if !t.sameModel(old.model, s.model) {
			continue
		}
		if s.newer(old) {
			s.put(scores[at:])
		}
		return scores
	}
	if len(scores) >= maxScores*scoreBytes {
		return scores
	}
	var b [scoreBytes]byte
	s.put(b[:])
	return append(scores, b[:]...)
}

// decode returns the scores for people, in order of model name.
func (t *modelTable) decode(scores []byte) []Score {
	out := make([]Score, 0, len(scores)/scoreBytes)
	for at := 0; at < len(scores); at += scoreBytes {
		s := getScore(scores[at:])
		if int(s.model) >= len(t.refs) {
			continue
		}
		ref := t.refs[s.model]
		out = append(out, Score{
			Model: ref.GetModel(), Version: ref.GetVersion(), Value: s.value,
			Epoch: uint64(s.epoch), Position: s.position, Time: s.time,
		})
	}
	return out
}

// A customer's value in the store is its scores (derived part) before its record (folded
// part): version 1 │ number of scores │ scores │ record.
const valueVersion = 1

func appendValue(dst, scores []byte, rec behavior.Record) []byte {
	dst = append(dst, valueVersion, byte(len(scores)/scoreBytes))
	dst = append(dst, scores...)
	return append(dst, rec...)
}

// splitValue returns the parts of a stored value, as slices of it.
func splitValue(id string, value []byte) (scores []byte, rec behavior.Record, err error) {
	corrupt := func(format string, args ...any) error {
		return &messages.CorruptError{What: fmt.Sprintf("customer %q", id), Reason: fmt.Sprintf(format, args...)}
	}
	if len(value) < 2 {
		return nil, nil, corrupt("%d bytes", len(value))
	}
	if value[0] != valueVersion {
		return nil, nil, corrupt("value version %d: this program reads version %d", value[0], valueVersion)
	}
	n := 2 + int(value[1])*scoreBytes
	if n > len(value) {
		return nil, nil, corrupt("%d bytes cannot hold %d scores", len(value), value[1])
	}
	rec, err = behavior.Load(value[n:])
	if err != nil {
		return nil, nil, corrupt("%v", err)
	}
	return value[2:n], rec, nil
}
