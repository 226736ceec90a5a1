package pebblelog

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"footfall/messages"
	"footfall/store/internal/pebbledb"
)

// MaxBody is the largest body of a record, in bytes.
const MaxBody = 16 << 20

// Options says how to open a [Log]. The zero value is right for a node.
type Options struct {
	// FS is the file system, nil for the disk.
	FS vfs.FS
	// Logger gets what Pebble has to say, nil for none.
	Logger *slog.Logger
	// Reserve is the free space of the disk, in bytes, below which appends are refused:
	// 0 is 512 MiB, below 0 is none.
	Reserve int64
	// CacheBytes bounds the memory for what readers that lag read again: 0 is 64 MiB.
	CacheBytes int64
	// MemTableBytes is the size of Pebble's write buffers, of which up to four exist:
	// 0 is 64 MiB.
	MemTableBytes uint64
}

// Log is the log of every shard. All methods may be called from any goroutine.
//
// An append takes these steps:
//
//  1. encode, in the caller's goroutine: checksums, compression;
//  2. under the shard's mutex: take the next offsets and write the batch into Pebble's
//     log, so that the order of offsets is the order on disk;
//  3. outside of it: wait for the sync, which Pebble shares among all that wait;
//  4. publish: raise the shard's durable end and wake its readers.
//
// A crash between 2 and 4 leaves records that nobody was told of: they are in the log, in
// order, or are not, and then none after them is. That is why 4 may raise the end past
// appends that still wait: a sync covers all that was written before.
//
// Gathering appends in a goroutine of ours, one batch of Pebble's for all that wait, was
// half as fast (BenchmarkCommitter): while it syncs, nobody writes.
type Log struct {
	db   *pebbledb.DB
	uuid string

	mu     sync.Mutex
	shards map[int]*shard

	appends, records, rawBytes, storedBytes, read atomic.Uint64
}

// shard is the state of one shard's log.
type shard struct {
	id int

	// mu orders appends. next is the offset that the next append takes.
	mu   sync.Mutex
	next uint64

	// trimming orders trims.
	trimming sync.Mutex

	// ends guards what readers see: records first ≤ offset < durable, and trimSum, the
	// checksum of record first-1. wake is closed when durable grows; nil while nobody waits.
	ends    sync.Mutex
	first   uint64
	trimSum uint32
	durable uint64
	wake    chan struct{}
	tail    tail
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

// Open opens or creates the log in dir.
func Open(dir string, o Options) (*Log, error) {
	db, err := pebbledb.Open(dir, pebbledb.Options{
		What: "log", Pebble: tune(&o), FS: o.FS, Logger: o.Logger, Reserve: o.Reserve,
	})
	if err != nil {
		return nil, err
	}
	l := &Log{db: db, shards: map[int]*shard{}}
	if l.uuid, err = db.UUID(); err != nil {
		_ = db.Close()
		return nil, err
	}
	return l, nil
}

// tune sets Pebble up for keys that only grow and bodies that never change.
func tune(o *Options) *pebble.Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 64 << 20
	}
	p := &pebble.Options{
		FormatMajorVersion: pebble.FormatValueSeparation,
		// Pebble takes its write buffers out of the cache: two of them most of the time.
		CacheSize:                   o.CacheBytes + 2*int64(o.MemTableBytes),
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		// Tables hold keys only, so many at level 0 cost little. Pebble must never hold
		// a commit back for them: on a failed disk no compaction would let it go.
		L0CompactionThreshold: 8,
		L0StopWritesThreshold: 1 << 20,
		LBaseMaxBytes:         64 << 20,
		// Let the disk work all the time instead of all at once.
		BytesPerSync:          1 << 20,
		WALBytesPerSync:       1 << 20,
		FlushDelayDeleteRange: flushDelay,
	}
	p.TargetFileSizes[0] = 16 << 20
	// A flush gives one table: splitting it would only make more files.
	p.FlushSplitBytes = 1 << 30
	p.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range p.Levels {
		p.Levels[i].BlockSize = 32 << 10
		p.Levels[i].FilterPolicy = pebble.NoFilterPolicy
	}
	p.Experimental.ReadSamplingMultiplier = -1
	p.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{
			Enabled:     true,
			MinimumSize: 256,
			// A table may point to as many blob files as there were flushes since the
			// last compaction reached it: never write a body again for that.
			MaxBlobReferenceDepth: 1 << 20,
			RewriteMinimumAge:     rewriteAge,
			TargetGarbageRatio:    0.5,
		}
	}
	return p
}

// UUID is a random name that the log got when it was created: a store keeps it to notice
// another log.
func (l *Log) UUID() string { return l.uuid }

// CheckIdentity stores want in a new log and compares it in an old one: a field that
// differs is *messages.IdentityError.
func (l *Log) CheckIdentity(want messages.Identity) error { return l.db.CheckIdentity(want) }

// Err returns why appends are refused for good, as *messages.UnavailableError; nil while
// the log works.
func (l *Log) Err() error { return l.db.Err() }

// Close waits for appends under way, wakes waiting readers with an error, and closes. It is
// idempotent.
func (l *Log) Close() error { return l.db.Close() }

// Append adds records to a shard's log and returns once all are durable. Where ctx ends before they are written, none is. The log keeps the bodies for
// readers that keep up: they must not be changed any more.
func (l *Log) Append(ctx context.Context, shard int, records []messages.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range records {
		if n := len(records[i].Body); n > MaxBody {
			return fmt.Errorf("log shard %d: record %d of the append has %d bytes, more than %d", shard, i, n, MaxBody)
		}
	}
	leave, err := l.db.Enter()
	if err != nil {
		return err
	}
	defer leave()
	s, err := l.shard(shard)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return l.db.Admit(0)
	}

	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	e.reset()
	raw := 0
	for i := range records {
		e.add(&records[i])
		raw += len(records[i].Body)
	}
	if err := l.db.Admit(len(e.buf)); err != nil {
		return err
	}
	b := l.db.Pebble.NewBatchWithSize(len(e.buf) + len(e.ends)*(keyLen+16) + 64)

	s.mu.Lock()
	first := s.next
	at := 0
	for i, end := range e.ends {
		d := b.SetDeferred(keyLen, end-at)
		putRecordKey(d.Key, shard, first+uint64(i))
		copy(d.Value, e.buf[at:end])
		if err = d.Finish(); err != nil {
			break
		}
		at = end
	}
	if err == nil {
		err = l.db.Write(b)
	}
	if err == nil {
		s.next += uint64(len(records))
		s.hold(first, records, e.sums)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}

	if err := l.db.Wait(b); err != nil {
		return err
	}
	s.publish(first + uint64(len(records)))
	l.appends.Add(1)
	l.records.Add(uint64(len(records)))
	l.rawBytes.Add(uint64(raw))
	l.storedBytes.Add(uint64(len(e.buf)))
	return nil
}

// Bounds returns the oldest offset that the shard's log holds and the one to be written
// next.
func (l *Log) Bounds(ctx context.Context, shard int) (first, next uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	leave, err := l.db.Enter()
	if err != nil {
		return 0, 0, err
	}
	defer leave()
	s, err := l.shard(shard)
	if err != nil {
		return 0, 0, err
	}
	first, next, _ = s.bounds()
	return first, next, nil
}

// Seen returns the offset of a shard to be written next; 0 where it cannot be read.
func (l *Log) Seen(shard int) uint64 {
	_, next, err := l.Bounds(context.Background(), shard)
	if err != nil {
		return 0
	}
	return next
}

// shard returns the state of a shard, read from the database on first use. The caller is
// inside Enter.
func (l *Log) shard(id int) (*shard, error) {
	if id < 0 || id >= messages.MaxShards {
		return nil, fmt.Errorf("log shard %d: shards are 0 to %d", id, messages.MaxShards-1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.shards[id]; s != nil {
		return s, nil
	}
	s := &shard{id: id}
	t, err := l.db.GetCopy(trimKey(id))
	if err != nil {
		return nil, err
	}
	if t != nil {
		if len(t) != 12 {
			return nil, l.db.Corrupt(fmt.Sprintf("log shard %d trim mark", id), fmt.Sprintf("%d bytes instead of 12", len(t)))
		}
		s.first, s.trimSum = binary.BigEndian.Uint64(t), binary.BigEndian.Uint32(t[8:])
	}
	what := fmt.Sprintf("log shard %d", id)
	it, err := l.db.Pebble.NewIter(&pebble.IterOptions{LowerBound: recordKey(id, 0), UpperBound: recordsEnd(id)})
	if err != nil {
		return nil, l.db.ReadError(what, err)
	}
	s.durable = s.first
	if it.Last() {
		s.durable = keyOffset(it.Key()) + 1
	}
	if err := it.Close(); err != nil {
		return nil, l.db.ReadError(what, err)
	}
	s.next = s.durable
	l.shards[id] = s
	return s, nil
}

func (s *shard) bounds() (first, durable uint64, trimSum uint32) {
	s.ends.Lock()
	defer s.ends.Unlock()
	return s.first, s.durable, s.trimSum
}

// hold puts records that were written into the tail; readers see them once they are durable.
// The caller holds mu, which keeps them in order.
func (s *shard) hold(first uint64, records []messages.Record, sums []uint32) {
	s.ends.Lock()
	defer s.ends.Unlock()
	for i, r := range records {
		r.Offset, r.Sum, r.Origin = first+uint64(i), sums[i], messages.Origin{} // as on disk
		s.tail.add(r)
	}
}

// publish raises the durable end and wakes readers.
func (s *shard) publish(end uint64) {
	s.ends.Lock()
	defer s.ends.Unlock()
	if end <= s.durable {
		return
	}
	s.durable = end
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

// await returns the durable end and, where it is not past next, a channel that is closed
// when it grows.
func (s *shard) await(next uint64) (first, durable uint64, wake <-chan struct{}) {
	s.ends.Lock()
	defer s.ends.Unlock()
	if s.durable <= next && s.wake == nil {
		s.wake = make(chan struct{})
	}
	return s.first, s.durable, s.wake
}

// Stats are the figures of a log since it was opened.
type Stats struct {
	pebbledb.Stats
	// Appends and Records count what became durable, RawBytes its bodies, StoredBytes
	// what they took with headers and compressed.
	Appends, Records, RawBytes, StoredBytes uint64
	// Read counts records that readers got.
	Read uint64
}

// Stats returns the figures since the log was opened.
func (l *Log) Stats() Stats {
	return Stats{
		Stats:       l.db.Stats(),
		Appends:     l.appends.Load(),
		Records:     l.records.Load(),
		RawBytes:    l.rawBytes.Load(),
		StoredBytes: l.storedBytes.Load(),
		Read:        l.read.Load(),
	}
}
