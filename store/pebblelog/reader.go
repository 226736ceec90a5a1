package pebblelog

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"footfall/messages"
)

const (
	// fillBytes and fillRecords bound what one Next returns: it stops after the record
	// that reaches either.
	fillBytes   = 256 << 10
	fillRecords = 8192
)

// Reader reads one shard's log in order. It belongs to one goroutine. It is an alias, so
// that whoever declares the same methods may take it for its own.
type Reader = interface {
	// Next resets into and fills it with the records that follow: at least one, about
	// 256 KiB at most. It waits for them, or for ctx.
	Next(ctx context.Context, into *messages.RecordBatch) error
	Close() error
}

type reader struct {
	log   *Log
	shard *shard
	next  uint64
	upper [keyLen]byte
	lower [keyLen]byte
}

// Open attaches a reader at a mark. Where at.Next is above 0, the record before it is
// proven by its checksum: *messages.LogGapError where the log begins later,
// *messages.LogRegressedError where it ends before or holds another record.
func (l *Log) Open(ctx context.Context, shard int, at messages.Mark) (Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	leave, err := l.db.Enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	s, err := l.shard(shard)
	if err != nil {
		return nil, err
	}
	first, durable, trimSum := s.bounds()
	switch {
	case at.Next > durable:
		return nil, &messages.LogRegressedError{Shard: shard, Want: at.Next, Next: durable, Reason: "the log is shorter: it has been replaced or has lost its end"}
	case at.Next < first:
		return nil, &messages.LogGapError{Shard: shard, Want: at.Next, First: first}
	case at.Next > 0:
		sum := trimSum
		if at.Next > first {
			var r messages.Record
			if err := l.record(shard, at.Next-1, &r); err != nil {
				return nil, err
			}
			sum = r.Sum
		}
		if sum != at.Sum {
			return nil, &messages.LogRegressedError{
				Shard: shard, Want: at.Next, Next: durable,
				Reason: fmt.Sprintf("message %d has checksum %08x, was checkpointed with %08x: the log has been replaced", at.Next-1, sum, at.Sum),
			}
		}
	}
	return &reader{log: l, shard: s, next: at.Next}, nil
}

// record reads one record that must be there. The caller is inside Enter.
func (l *Log) record(shard int, offset uint64, r *messages.Record) error {
	what := fmt.Sprintf("log shard %d offset %d", shard, offset)
	v, err := l.db.GetCopy(recordKey(shard, offset))
	if err != nil {
		return err
	}
	if v == nil {
		return l.db.Corrupt(what, "the record is missing")
	}
	h, stored, fault := parseHeader(v)
	if fault == "" {
		r.Body, fault = h.appendBody(nil, stored)
	}
	if fault != "" {
		return l.db.Corrupt(what, fault)
	}
	h.fill(r, offset)
	return nil
}

func (h header) fill(r *messages.Record, offset uint64) {
	r.Offset, r.Type, r.FromNode, r.Time, r.Sum = offset, h.typ, h.flags&flagFromNode != 0, h.time, h.sum
}

func (r *reader) Next(ctx context.Context, into *messages.RecordBatch) error {
	into.Reset()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		first, durable, wake := r.shard.await(r.next)
		if r.next < first {
			return &messages.LogGapError{Shard: r.shard.id, Want: r.next, First: first}
		}
		if r.next < durable {
			return r.fill(durable, into)
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.log.db.Done():
			return r.log.db.Closed()
		}
	}
}

// fill reads from next to end, which is durable: from the shard's tail where that reaches
// back to next, else from the database.
func (r *reader) fill(end uint64, into *messages.RecordBatch) error {
	r.shard.ends.Lock()
	into.Records = r.shard.tail.from(r.next, end, into.Records)
	r.shard.ends.Unlock()
	if n := uint64(len(into.Records)); n > 0 {
		r.log.read.Add(n)
		r.next += n
		return nil
	}
	leave, err := r.log.db.Enter()
	if err != nil {
		return err
	}
	defer leave()
	putRecordKey(r.lower[:], r.shard.id, r.next)
	putRecordKey(r.upper[:], r.shard.id, end)
	// A new iterator each time: it costs microseconds for a megabyte, and none is left
	// that would keep trimmed files on the disk while the reader waits.
	it, err := r.log.db.Pebble.NewIter(&pebble.IterOptions{LowerBound: r.lower[:], UpperBound: r.upper[:]})
	if err != nil {
		return r.log.db.ReadError(r.what(), err)
	}
	next, err := r.take(it, into)
	if cerr := it.Close(); cerr != nil && err == nil {
		err = r.log.db.ReadError(r.what(), cerr)
	}
	if err == nil && next == r.next {
		err = r.missing(end)
	}
	if err != nil {
		into.Reset()
		return err
	}
	r.log.read.Add(next - r.next)
	r.next = next
	return nil
}

// take copies records out of an iterator until the batch is full.
func (r *reader) take(it *pebble.Iterator, into *messages.RecordBatch) (next uint64, err error) {
	next = r.next
	for ok := it.First(); ok; ok = it.Next() {
		if offset := keyOffset(it.Key()); offset != next {
			return 0, r.missing(offset)
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return 0, r.log.db.ReadError(r.what(), err)
		}
		h, stored, fault := parseHeader(v)
		at := len(into.Buf)
		if fault == "" {
			into.Buf, fault = h.appendBody(into.Buf, stored)
		}
		if fault != "" {
			return 0, r.log.db.Corrupt(fmt.Sprintf("log shard %d offset %d", r.shard.id, next), fault)
		}
		into.Records = append(into.Records, messages.Record{Body: into.Buf[at:len(into.Buf):len(into.Buf)]})
		h.fill(&into.Records[len(into.Records)-1], next)
		next++
		if len(into.Buf) >= fillBytes || len(into.Records) >= fillRecords {
			break
		}
	}
	return next, nil
}

// missing says why a durable record is not there: trimmed while it was read, or lost.
func (r *reader) missing(found uint64) error {
	if first, _, _ := r.shard.bounds(); r.next < first {
		return &messages.LogGapError{Shard: r.shard.id, Want: r.next, First: first}
	}
	return r.log.db.Corrupt(r.what(), fmt.Sprintf("records are missing before offset %d", found))
}

func (r *reader) what() string { return fmt.Sprintf("log shard %d offset %d", r.shard.id, r.next) }

// Close has nothing to give back: no iterator outlives a call.
func (r *reader) Close() error { return nil }
