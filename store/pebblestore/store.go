package pebblestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/store/internal/pebbledb"
)

// Options says how to open a [Store]. The zero value is right for a node.
type Options struct {
	// FS is the file system, nil for the disk.
	FS vfs.FS
	// Logger gets what Pebble has to say, nil for none.
	Logger *slog.Logger
	// Reserve is the free space of the disk, in bytes, below which writes are refused:
	// 0 is 512 MiB, below 0 is none.
	Reserve int64
	// CacheBytes bounds the memory for blocks of the store: 0 is 64 MiB.
	CacheBytes int64
	// MemTableBytes is the size of Pebble's write buffers, of which up to four exist:
	// 0 is 64 MiB.
	MemTableBytes uint64
	// DeadLetters and DeadLetterBytes bound what is kept of each shard: 0 is 10,000 and
	// 16 MiB.
	DeadLetters, DeadLetterBytes uint64
}

// Store keeps the checkpoints of every shard. All methods may be called from any goroutine.
//
// A write takes these steps:
//
//  1. encode, in the caller's goroutine;
//  2. under the shard's mutex: compare the epoch, and write the batch into Pebble's log;
//  3. outside of it: wait for the sync, which Pebble shares among all that wait.
//
// The next epoch's record comes after the batch in Pebble's log, so whoever acquires the
// shard finds the batch, and a batch under the older epoch comes too late.
type Store struct {
	db *pebbledb.DB
	// maxDead and maxDeadBytes bound the dead letters of a shard.
	maxDead, maxDeadBytes uint64

	mu     sync.Mutex
	shards map[int]*shard

	// rollouts makes the check of a generation and its replacement one step.
	rollouts sync.Mutex

	checkpoints, customers, bytes, stale, gets, hits, scanned, deadDropped atomic.Uint64
}

// shard is what is known of one shard.
type shard struct {
	id int

	// mu makes the check of the epoch and a write one step.
	mu    sync.Mutex
	epoch uint64
	owner string
	dead  deadCounts

	// basing orders base snapshots.
	basing sync.Mutex
}

// Open opens or creates the store in dir.
func Open(dir string, o Options) (*Store, error) {
	db, err := pebbledb.Open(dir, pebbledb.Options{
		What: "store", Pebble: tune(&o), FS: o.FS, Logger: o.Logger, Reserve: o.Reserve,
	})
	if err != nil {
		return nil, err
	}
	if o.DeadLetters == 0 {
		o.DeadLetters = 10_000
	}
	if o.DeadLetterBytes == 0 {
		o.DeadLetterBytes = 16 << 20
	}
	return &Store{db: db, maxDead: o.DeadLetters, maxDeadBytes: o.DeadLetterBytes, shards: map[int]*shard{}}, nil
}

// tune sets Pebble up for small values that are written again and again.
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
		L0CompactionThreshold:       4,
		// Pebble must never hold a commit back for its compactions.
		L0StopWritesThreshold: 1 << 20,
		LBaseMaxBytes:         512 << 20,
		BytesPerSync:          1 << 20,
		WALBytesPerSync:       1 << 20,
		FlushDelayDeleteRange: 10 * time.Second,
	}
	p.TargetFileSizes[0] = 16 << 20
	p.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	for i := range p.Levels {
		p.Levels[i].BlockSize = 16 << 10
		p.Levels[i].IndexBlockSize = 1 << 20 // one level of index
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	p.Experimental.ReadSamplingMultiplier = -1
	return p
}

// CheckIdentity stores want in a new store and compares it in an old one: a field that
// differs is *messages.IdentityError.
func (s *Store) CheckIdentity(want messages.Identity) error { return s.db.CheckIdentity(want) }

// CheckLog stores the random name of the log that the checkpoints come from, and compares
// it from then on: *messages.IdentityError says that the log has been replaced.
func (s *Store) CheckLog(uuid string) error {
	leave, err := s.db.Enter()
	if err != nil {
		return err
	}
	defer leave()
	k := []byte("\x00log")
	have, err := s.db.GetCopy(k)
	switch {
	case err != nil:
		return err
	case have == nil:
		return s.db.SetSync(k, []byte(uuid))
	case string(have) != uuid:
		return &messages.IdentityError{Field: "log", Have: string(have), Want: uuid}
	}
	return nil
}

// Err returns why writes are refused for good, as *messages.UnavailableError; nil while the
// store works.
func (s *Store) Err() error { return s.db.Err() }

// Close waits for calls under way, and closes. It is idempotent.
func (s *Store) Close() error { return s.db.Close() }

// enter begins a call: it keeps the database open until leave, and returns the shard.
func (s *Store) enter(ctx context.Context, id int) (sh *shard, leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if id < 0 || id >= messages.MaxShards {
		return nil, nil, fmt.Errorf("store shard %d: shards are 0 to %d", id, messages.MaxShards-1)
	}
	leave, err = s.db.Enter()
	if err != nil {
		return nil, nil, err
	}
	sh, err = s.shard(id)
	if err != nil {
		leave()
		return nil, nil, err
	}
	return sh, leave, nil
}

// enterAs is enter for the owner under an epoch.
func (s *Store) enterAs(ctx context.Context, id int, epoch uint64) (sh *shard, leave func(), err error) {
	sh, leave, err = s.enter(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	sh.mu.Lock()
	err = s.fence(sh, epoch)
	sh.mu.Unlock()
	if err != nil {
		leave()
		return nil, nil, err
	}
	return sh, leave, nil
}

// readAs ends a read under an epoch, with its error: where the shard was acquired while it read,
// what it has may be the next owner's.
func (s *Store) readAs(sh *shard, epoch uint64, err error) error {
	if err != nil {
		return err
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return s.fence(sh, epoch)
}

// fence compares an epoch. The caller holds the shard's mutex.
func (s *Store) fence(sh *shard, epoch uint64) error {
	if epoch == sh.epoch && epoch != 0 {
		return nil
	}
	s.stale.Add(1)
	return &messages.StaleEpochError{Shard: sh.id, Epoch: epoch, Stored: sh.epoch}
}

// shard returns a shard, read from the database on first use. The caller is inside Enter.
func (s *Store) shard(id int) (*shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh := s.shards[id]; sh != nil {
		return sh, nil
	}
	sh := &shard{id: id}
	what := fmt.Sprintf("store shard %d owner", id)
	v, err := s.get(key(id, ownerKind), what)
	if err != nil {
		return nil, err
	}
	if v != nil {
		if len(v) < 8 {
			return nil, s.db.Corrupt(what, fmt.Sprintf("%d bytes are no owner", len(v)))
		}
		sh.epoch, sh.owner = binary.BigEndian.Uint64(v), string(v[8:])
	}
	if sh.dead, err = s.readDeadCounts(id); err != nil {
		return nil, err
	}
	s.shards[id] = sh
	return sh, nil
}

// get returns a copy of an unsealed value, nil where there is none. The caller is inside
// Enter.
func (s *Store) get(key []byte, what string) ([]byte, error) {
	sealed, err := s.db.GetCopy(key)
	if err != nil || sealed == nil {
		return nil, err
	}
	v, fault := unseal(key, sealed)
	if fault != "" {
		return nil, s.db.Corrupt(what, fault)
	}
	return v, nil
}

// commitAs writes a batch under an epoch, durably. more may add to the batch what depends
// on the shard's state; it holds the shard's mutex.
func (s *Store) commitAs(sh *shard, epoch uint64, b *pebble.Batch, more func(*pebble.Batch) error) error {
	sh.mu.Lock()
	err := s.fence(sh, epoch)
	if err == nil {
		err = s.db.Admit(b.Len())
	}
	if err == nil && more != nil {
		err = more(b)
	}
	if err == nil && b.Empty() {
		sh.mu.Unlock()
		return b.Close()
	}
	if err == nil {
		err = s.db.Write(b)
	}
	sh.mu.Unlock()
	if err != nil {
		return err
	}
	return s.db.Wait(b)
}

// Acquire takes the shard for owner and returns its new epoch, higher than all before.
func (s *Store) Acquire(ctx context.Context, shard int, owner string) (epoch uint64, err error) {
	sh, leave, err := s.enter(ctx, shard)
	if err != nil {
		return 0, err
	}
	defer leave()
	b := s.db.Pebble.NewBatch()
	sh.mu.Lock()
	epoch = sh.epoch + 1
	err = s.db.Admit(b.Len())
	if err == nil {
		err = setOwner(b, shard, epoch, owner)
	}
	if err == nil {
		err = s.db.Write(b)
	}
	if err == nil {
		sh.epoch, sh.owner = epoch, owner
	}
	sh.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if err := s.db.Wait(b); err != nil {
		return 0, err
	}
	return epoch, nil
}

// Release gives the shard up: it has no owner then, and its epoch stays.
func (s *Store) Release(ctx context.Context, shard int, epoch uint64) error {
	sh, leave, err := s.enter(ctx, shard)
	if err != nil {
		return err
	}
	defer leave()
	return s.commitAs(sh, epoch, s.db.Pebble.NewBatch(), func(b *pebble.Batch) error {
		return release(b, sh, shard, epoch)
	})
}

func release(b *pebble.Batch, sh *shard, shard int, epoch uint64) error {
	sh.owner = ""
	return setOwner(b, shard, epoch, "")
}

// Owner returns who has the shard, and its epoch: "" and 0 where nobody ever had.
func (s *Store) Owner(ctx context.Context, shard int) (owner string, epoch uint64, err error) {
	sh, leave, err := s.enter(ctx, shard)
	if err != nil {
		return "", 0, err
	}
	defer leave()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.owner, sh.epoch, nil
}

func setOwner(b *pebble.Batch, shard int, epoch uint64, owner string) error {
	return set(b, key(shard, ownerKind), append(binary.BigEndian.AppendUint64(nil, epoch), owner...))
}

// Checkpoint writes all of it durably, or nothing. A customer whose value is empty is
// removed.
func (s *Store) Checkpoint(ctx context.Context, c *messages.Checkpoint) error {
	if c.Meta == nil {
		return fmt.Errorf("store shard %d: a checkpoint needs its meta", c.Shard)
	}
	sh, leave, err := s.enterAs(ctx, c.Shard, c.Epoch)
	if err != nil {
		return err
	}
	defer leave()
	size := 0
	for i := range c.Customers {
		size += len(c.Customers[i].ID) + len(c.Customers[i].Value) + 24
	}
	b := s.db.Pebble.NewBatchWithSize(size + 4096)
	if err := encode(b, c); err != nil {
		return errors.Join(err, b.Close())
	}
	err = s.commitAs(sh, c.Epoch, b, func(b *pebble.Batch) error {
		if len(c.Dead) > 0 {
			dead, err := s.addDead(b, sh, c.Dead)
			if err != nil {
				return err
			}
			// Said before it is written: where that fails, the store takes no more.
			s.deadDropped.Add(dead.dropped - sh.dead.dropped)
			sh.dead = dead
		}
		if c.Release {
			return release(b, sh, c.Shard, c.Epoch)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.checkpoints.Add(1)
	s.customers.Add(uint64(len(c.Customers)))
	s.bytes.Add(uint64(size))
	return nil
}

// encode puts all of a checkpoint but its dead letters into a batch.
func encode(b *pebble.Batch, c *messages.Checkpoint) error {
	meta, err := proto.Marshal(c.Meta)
	if err != nil {
		return fmt.Errorf("store shard %d: checkpoint meta: %w", c.Shard, err)
	}
	if err := set(b, key(c.Shard, metaKind), meta); err != nil {
		return err
	}
	k := make([]byte, 0, 64)
	for i := range c.Customers {
		r := &c.Customers[i]
		if r.ID == "" {
			return fmt.Errorf("store shard %d: customer %d of the checkpoint has no ID", c.Shard, i)
		}
		k = customerKey(k, c.Shard, r.ID)
		if len(r.Value) == 0 {
			err = b.Delete(k, nil)
		} else {
			err = set(b, k, r.Value)
		}
		if err != nil {
			return err
		}
	}
	return encodeOutbox(b, c.Shard, c.Outbox)
}

// Load returns what the last checkpoint kept of the shard; nil before the first.
func (s *Store) Load(ctx context.Context, shard int, epoch uint64) (*footfallv1.CheckpointMeta, error) {
	sh, leave, err := s.enterAs(ctx, shard, epoch)
	if err != nil {
		return nil, err
	}
	defer leave()
	m, err := s.meta(shard)
	if err := s.readAs(sh, epoch, err); err != nil {
		return nil, err
	}
	return m, nil
}

// meta reads the checkpoint's meta, nil where there is none. The caller is inside Enter.
func (s *Store) meta(shard int) (*footfallv1.CheckpointMeta, error) {
	what := fmt.Sprintf("store shard %d checkpoint", shard)
	v, err := s.get(key(shard, metaKind), what)
	if err != nil || v == nil {
		return nil, err
	}
	m := &footfallv1.CheckpointMeta{}
	if err := proto.Unmarshal(v, m); err != nil {
		return nil, s.db.Corrupt(what, err.Error())
	}
	return m, nil
}

// Stats are the figures of a store since it was opened.
type Stats struct {
	pebbledb.Stats
	// Checkpoints, Customers and CustomerBytes count what became durable.
	Checkpoints, Customers, CustomerBytes uint64
	// Stale counts calls under an epoch that is not the shard's.
	Stale uint64
	// Gets counts customers that were asked for, Hits those that were there, Scanned those
	// that scans returned.
	Gets, Hits, Scanned uint64
	// DeadLettersDropped counts dead letters that made room for younger ones.
	DeadLettersDropped uint64
}

// Stats returns the figures since the store was opened.
func (s *Store) Stats() Stats {
	return Stats{
		Stats:              s.db.Stats(),
		Checkpoints:        s.checkpoints.Load(),
		Customers:          s.customers.Load(),
		CustomerBytes:      s.bytes.Load(),
		Stale:              s.stale.Load(),
		Gets:               s.gets.Load(),
		Hits:               s.hits.Load(),
		Scanned:            s.scanned.Load(),
		DeadLettersDropped: s.deadDropped.Load(),
	}
}
