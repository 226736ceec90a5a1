package actors

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// memLog is a log in memory, for tests that force what a real one does rarely.
type memLog struct {
	mu      sync.Mutex
	shards  map[int][]messages.Record
	changed chan struct{}
	// forgetTraces is set of a log that has no room for traces.
	forgetTraces bool
}

func newMemLog() *memLog {
	return &memLog{shards: map[int][]messages.Record{}, changed: make(chan struct{})}
}

func (l *memLog) Append(_ context.Context, shard int, records []messages.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := uint64(len(l.shards[shard]))
	for i, r := range records {
		r.Offset = first + uint64(i)
		r.Body = slices.Clone(r.Body)
		r.Sum = messages.RecordSum(r.Type, r.Body)
		if l.forgetTraces {
			r.TraceParent = ""
		}
		l.shards[shard] = append(l.shards[shard], r)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

func (l *memLog) Open(_ context.Context, shard int, at messages.Mark) (Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := uint64(len(l.shards[shard])); at.Next > n {
		return nil, &messages.LogRegressedError{Shard: shard, Want: at.Next, Next: n, Reason: "shorter"}
	}
	return &memReader{l, shard, at.Next}, nil
}

func (l *memLog) Bounds(_ context.Context, shard int) (first, next uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return 0, uint64(len(l.shards[shard])), nil
}

func (l *memLog) Seen(shard int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.shards[shard]))
}

type memReader struct {
	log   *memLog
	shard int
	next  uint64
}

func (r *memReader) Next(ctx context.Context, into *messages.RecordBatch) error {
	into.Reset()
	for {
		r.log.mu.Lock()
		rest, changed := r.log.shards[r.shard][r.next:], r.log.changed
		r.log.mu.Unlock()
		if len(rest) > 0 {
			rest = rest[:min(len(rest), 16)]
			// As a real log does: bodies live in the batch's own memory, which is used again.
			for _, rec := range rest {
				into.Buf = append(into.Buf, rec.Body...)
			}
			at := 0
			for _, rec := range rest {
				n := len(rec.Body)
				rec.Body = into.Buf[at : at+n]
				at += n
				into.Records = append(into.Records, rec)
			}
			r.next += uint64(len(rest))
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *memReader) Close() error { return nil }

// memStore is a store in memory. fault, where set, may refuse a checkpoint.
type memStore struct {
	mu     sync.Mutex
	epochs map[int]uint64
	metas  map[int]*footfallv1.CheckpointMeta
	values map[int]map[string][]byte
	dead   []messages.DeadLetter
	fault  func(*messages.Checkpoint) error
	reads  int
}

func newMemStore() *memStore {
	return &memStore{epochs: map[int]uint64{}, metas: map[int]*footfallv1.CheckpointMeta{}, values: map[int]map[string][]byte{}}
}

func (s *memStore) Acquire(_ context.Context, shard int, _ string) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epochs[shard]++
	return s.epochs[shard], nil
}

func (s *memStore) fenced(shard int, epoch uint64, do func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epochs[shard] != epoch {
		return &messages.StaleEpochError{Shard: shard, Epoch: epoch, Stored: s.epochs[shard]}
	}
	do()
	return nil
}

func (s *memStore) Load(_ context.Context, shard int, epoch uint64) (meta *footfallv1.CheckpointMeta, err error) {
	err = s.fenced(shard, epoch, func() {
		if m := s.metas[shard]; m != nil {
			meta = proto.CloneOf(m)
		}
	})
	return meta, err
}

func (s *memStore) Get(_ context.Context, shard int, epoch uint64, ids []string) (out [][]byte, err error) {
	err = s.fenced(shard, epoch, func() {
		s.reads++
		for _, id := range ids {
			out = append(out, slices.Clone(s.values[shard][id]))
		}
	})
	return out, err
}

func (s *memStore) Scan(_ context.Context, shard int, epoch uint64, after string, limit int) (out []messages.CustomerRecord, err error) {
	err = s.fenced(shard, epoch, func() {
		var ids []string
		for id := range s.values[shard] {
			if id > after {
				ids = append(ids, id)
			}
		}
		slices.Sort(ids)
		for _, id := range ids {
			if limit <= 0 {
				break
			}
			v := slices.Clone(s.values[shard][id])
			limit -= len(v)
			out = append(out, messages.CustomerRecord{ID: id, Value: v})
		}
	})
	return out, err
}

func (s *memStore) Checkpoint(_ context.Context, c *messages.Checkpoint) error {
	if s.fault != nil {
		if err := s.fault(c); err != nil {
			return err
		}
	}
	return s.fenced(c.Shard, c.Epoch, func() {
		s.metas[c.Shard] = proto.CloneOf(c.Meta)
		if s.values[c.Shard] == nil {
			s.values[c.Shard] = map[string][]byte{}
		}
		for _, r := range c.Customers {
			s.values[c.Shard][r.ID] = slices.Clone(r.Value)
		}
		s.dead = append(s.dead, c.Dead...)
	})
}

func (s *memStore) Release(_ context.Context, shard int, epoch uint64) error {
	return s.fenced(shard, epoch, func() {})
}

// echoScorer scores every row with its first feature, for two models, after it was asked to.
type echoScorer struct {
	mu   sync.Mutex
	rows int
	full bool
	err  error
}

func (e *echoScorer) Score(r *ScoreRequest) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.full {
		return false
	}
	e.rows += r.Rows
	err := e.err
	go func() {
		values := make([]float32, r.Rows)
		for i := range values {
			values[i] = r.Features[i*features]
		}
		r.Reply(ScoreReply{Err: err, Models: []ModelScores{{Model: "churn_risk", Version: "1", Values: values}, {Model: "purchase_prediction", Version: "3", Values: values}}})
	}()
	return true
}
