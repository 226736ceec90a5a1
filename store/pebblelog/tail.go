package pebblelog

import "footfall/messages"

// tailBytes bounds the bodies that a shard's tail holds.
const tailBytes = 512 << 10

// tail holds a shard's newest records, so that a reader that keeps up gets them from memory:
// the very bodies that were appended, neither copied nor decompressed. It is guarded by the
// shard's ends.
//
// Invariant: its records follow each other without gap up to the newest written.
type tail struct {
	records []messages.Record
	// head is the oldest record that is still held.
	head  int
	bytes int
}

// add appends a record that was written, and forgets the oldest past the bound.
func (t *tail) add(r messages.Record) {
	t.records = append(t.records, r)
	t.bytes += len(r.Body)
	for t.bytes > tailBytes && t.head < len(t.records)-1 {
		t.bytes -= len(t.records[t.head].Body)
		t.records[t.head] = messages.Record{}
		t.head++
	}
	if t.head > len(t.records)/2 {
		n := copy(t.records, t.records[t.head:])
		clear(t.records[n:])
		t.records, t.head = t.records[:n], 0
	}
}

// from returns the held records with next ≤ offset < end, at most about fillBytes; none where
// next is not held any more.
func (t *tail) from(next, end uint64, into []messages.Record) []messages.Record {
	held := t.records[t.head:]
	if len(held) == 0 || next < held[0].Offset {
		return into
	}
	bytes := 0
	for _, r := range held[next-held[0].Offset:] {
		if r.Offset >= end || bytes >= fillBytes || len(into) >= fillRecords {
			break
		}
		bytes += len(r.Body)
		into = append(into, r)
	}
	return into
}
