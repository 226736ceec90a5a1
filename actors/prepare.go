package actors

import (
	"context"
	"sync"
	"time"

	"footfall/messages"
)

// Preparer is a log that can get ready for the first append to a shard.
type Preparer interface {
	Prepare(ctx context.Context, shard int) error
}

// Prepare gets ready to open a shard whose owner is about to give it up: the log can be appended to, and a reader of it
// stands at a mark, that of the owner's last checkpoint. It owns nothing by that; what it has found Open proves again. A shard
// that is not opened after all should be told so by Forget.
func (h *Host) Prepare(ctx context.Context, shard int, at messages.Mark) error {
	s := h.shards[shard]
	if p, ok := h.log.(Preparer); ok {
		if err := p.Prepare(ctx, shard); err != nil {
			return err
		}
	}
	r, err := h.log.Open(ctx, shard, at)
	if err != nil {
		return err
	}
	return s.standby.put(&preparedReader{Reader: r, at: at})
}

// Forget gives back what Prepare got, where Open has not taken it.
func (h *Host) Forget(shard int) { h.shards[shard].standby.drop() }

// Saved is up to where the last checkpoint of a shard that works here holds its log.
func (h *Host) Saved(shard int) messages.Mark { return h.shards[shard].seen().saved }

// standby has the reader of a shard that is expected.
type standby struct {
	mu     sync.Mutex // guards what follows
	reader *preparedReader
	closed bool
}

// put keeps a reader in the place of the one before.
func (b *standby) put(r *preparedReader) error {
	b.mu.Lock()
	last := b.reader
	b.reader = r
	if b.closed {
		b.reader, last = nil, r
	}
	b.mu.Unlock()
	if last != nil {
		return last.Close()
	}
	return nil
}

// take returns the reader, nil where there is none.
func (b *standby) take() *preparedReader {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.reader
	b.reader = nil
	return r
}

func (b *standby) drop() {
	if r := b.take(); r != nil {
		_ = r.Close() // it has only been read
	}
}

// end is drop for good.
func (b *standby) end() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.drop()
}

// preparedReader is a reader that was attached before the mark was known at which to begin.
type preparedReader struct {
	Reader
	at messages.Mark
	// rest are records that it has read already, from the place next.
	rest messages.RecordBatch
	next int
}

const (
	// mostAhead is how many records a reader passes over to come to its mark, and passWithin for how long: a new one
	// is there sooner.
	mostAhead  = 10_000
	passWithin = 500 * time.Millisecond
)

// pass reads up to a mark, and reports whether what is before it is what was checkpointed. It is the proof that
// Log.Open makes: the message before the mark has its checksum, and all from where the reader was attached follow each other.
func (r *preparedReader) pass(ctx context.Context, to messages.Mark) bool {
	if to.Next < r.at.Next || to.Next-r.at.Next > mostAhead {
		return false
	}
	if to.Next == r.at.Next {
		return to.Sum == r.at.Sum
	}
	ctx, cancel := context.WithTimeout(ctx, passWithin)
	defer cancel()
	for {
		if err := r.Reader.Next(ctx, &r.rest); err != nil {
			return false
		}
		last := r.rest.Records[len(r.rest.Records)-1].Offset
		if last+1 < to.Next {
			continue
		}
		for i := range r.rest.Records {
			if m := &r.rest.Records[i]; m.Offset+1 == to.Next {
				r.next = i + 1
				return m.Sum == to.Sum
			}
		}
		return false
	}
}

// Next implements Reader.
func (r *preparedReader) Next(ctx context.Context, into *messages.RecordBatch) error {
	if r.next < len(r.rest.Records) {
		into.Records, into.Buf = r.rest.Records[r.next:], r.rest.Buf
		r.rest, r.next = messages.RecordBatch{}, 0
		return nil
	}
	return r.Reader.Next(ctx, into)
}

// attach returns a reader at a mark: the one that was prepared, or a new one.
func (s *shard) attach(ctx context.Context, at messages.Mark) (Reader, error) {
	if r := s.standby.take(); r != nil {
		if r.pass(ctx, at) {
			return r, nil
		}
		_ = r.Close() // it has only been read
	}
	return s.log.Open(ctx, s.id, at)
}
