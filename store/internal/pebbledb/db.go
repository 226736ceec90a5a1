package pebbledb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"footfall/messages"
)

// DefaultReserve is the free space of the disk, in bytes, below which writes are refused:
// room for Pebble to flush what is in its memory and to compact.
const DefaultReserve = 512 << 20

// reserveStride is how many bytes may be written between two looks at the free space.
const reserveStride = 1 << 20

// Options says how to open a [DB].
type Options struct {
	// What is the name in errors: "log" or "store".
	What string
	// Pebble is tuned by the caller; FS, Logger, EventListener and Lock are set here.
	Pebble *pebble.Options
	// FS is the file system, nil for the disk.
	FS vfs.FS
	// Logger gets what Pebble has to say, nil for none.
	Logger *slog.Logger
	// Reserve is the free space in bytes below which writes are refused: 0 is
	// DefaultReserve, below 0 is none.
	Reserve int64
}

// DB is an open database. All methods may be called from any goroutine.
type DB struct {
	// Pebble is the database itself, for reading inside Enter and for building batches.
	// Writes go through Write and Wait, or Commit.
	Pebble *pebble.DB

	what    string
	dir     string
	log     *slog.Logger
	guard   *guard
	lock    *pebble.Lock
	reserve uint64

	failed atomic.Pointer[messages.UnavailableError]
	// unlooked counts bytes written since the free space was looked at.
	unlooked atomic.Int64
	refused  atomic.Uint64
	commits  atomic.Uint64

	// mu is held for reading by whatever uses Pebble, and for writing by Close.
	mu     sync.RWMutex
	closed bool
	// done is closed when Close begins.
	closing sync.Once
	done    chan struct{}
}

// Open opens or creates the database in dir. The error is *messages.UnavailableError where
// the directory is in use, full or damaged.
func Open(dir string, o Options) (*DB, error) {
	fs := o.FS
	if fs == nil {
		fs = vfs.Default
		// One path for one directory, so that the lock is seen within the process too.
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.What, err)
		}
		dir = abs
	}
	db := &DB{what: o.What, dir: dir, log: o.Logger, done: make(chan struct{})}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Reserve == 0:
		db.reserve = DefaultReserve
	case o.Reserve > 0:
		db.reserve = uint64(o.Reserve)
	}
	db.guard = newGuard(fs, db.fail)

	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return nil, db.unavailable(err)
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return nil, &messages.UnavailableError{
			What:   o.What,
			Reason: fmt.Sprintf("%s is in use by another node: stop that one, or give this node a directory of its own", dir),
			Err:    err,
		}
	}
	db.lock = lock
	po := o.Pebble
	po.FS = db.guard
	po.Lock = lock
	po.LoggerAndTracer = nil
	po.Logger = logger{db}
	po.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) {
			db.log.Warn("a flush or compaction failed", "what", db.what, "error", err)
		},
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			db.Fail(fmt.Errorf("%w: %w", pebble.ErrCorruption, i.Details))
		},
	}
	db.Pebble, err = pebble.Open(dir, po)
	if err != nil {
		return nil, errors.Join(db.unavailable(err), lock.Close())
	}
	db.guard.armed.Store(true)
	return db, nil
}

// Enter keeps the database open until leave is called. It fails once it is closed.
func (db *DB) Enter() (leave func(), err error) {
	db.mu.RLock()
	if db.closed {
		db.mu.RUnlock()
		return nil, db.Closed()
	}
	return db.mu.RUnlock, nil
}

// Done is closed when Close begins.
func (db *DB) Done() <-chan struct{} { return db.done }

// Close waits for those inside, and closes. It is idempotent.
func (db *DB) Close() error {
	// First, since a commit that is under way may wait for what is parked.
	db.closing.Do(func() {
		close(db.done)
		close(db.guard.released)
	})
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	var err error
	if db.failed.Load() == nil {
		// Tables are proven to the last byte, the end of Pebble's log is not; and the next
		// start has nothing to replay.
		err = db.Pebble.Flush()
	}
	err = errors.Join(err, db.Pebble.Close(), db.lock.Close())
	if db.guard.frozen() != nil {
		// What Pebble says of a frozen directory has been said better.
		return nil
	}
	return err
}

// Admit says whether n more bytes may be written: *messages.UnavailableError where the
// database has failed, or where the disk is down to its reserve. The latter ends when
// space is freed.
func (db *DB) Admit(n int) error {
	if f := db.failed.Load(); f != nil {
		return f
	}
	if db.reserve == 0 || db.unlooked.Add(int64(n)) < reserveStride {
		return nil
	}
	u, err := db.guard.GetDiskUsage(db.dir)
	switch {
	case err != nil:
		// Not every file system can tell; a full one is found out by writing.
		db.unlooked.Store(0)
		return nil
	case u.AvailBytes < db.reserve:
		db.refused.Add(1)
		return &messages.UnavailableError{
			What: db.what,
			Reason: fmt.Sprintf("%s has %d MiB free, below the reserve of %d MiB: free space on this disk, or shorten what the log keeps",
				db.dir, u.AvailBytes>>20, db.reserve>>20),
			Err: syscall.ENOSPC,
		}
	}
	db.unlooked.Store(0)
	return nil
}

// Write puts a batch into the order of commits, to be followed by Wait. Batches written
// one after another are durable in that order.
func (db *DB) Write(b *pebble.Batch) error {
	if f := db.failed.Load(); f != nil {
		return f
	}
	return db.Pebble.ApplyNoSyncWait(b, pebble.Sync)
}

// Wait returns once a batch passed to Write is durable, and closes it.
func (db *DB) Wait(b *pebble.Batch) error {
	err := errors.Join(b.SyncWait(), b.Close())
	// Asked after the sync: a lost write freezes the guard before the sync returns.
	if f := db.failed.Load(); f != nil {
		return f
	}
	if err != nil {
		db.Fail(err)
		return db.failed.Load()
	}
	db.commits.Add(1)
	return nil
}

// WriteLazily puts a batch into the order of commits: it is durable with the next one that
// is waited for. The caller keeps the batch.
func (db *DB) WriteLazily(b *pebble.Batch) error {
	if f := db.failed.Load(); f != nil {
		return f
	}
	if b.Empty() {
		return nil
	}
	return db.Pebble.Apply(b, pebble.NoSync)
}

// Commit writes a batch and waits until it is durable.
func (db *DB) Commit(b *pebble.Batch) error {
	if b.Empty() {
		return b.Close()
	}
	if err := db.Write(b); err != nil {
		return err
	}
	return db.Wait(b)
}

// Fail makes the database refuse writes from now on, and freezes its directory.
func (db *DB) Fail(err error) { db.guard.freeze(err) }

// Err returns why the database has failed, as *messages.UnavailableError; nil while it works.
func (db *DB) Err() error {
	if f := db.failed.Load(); f != nil {
		return f
	}
	return nil
}

// ReadError types an error of Pebble's reads: *messages.CorruptError, which fails the
// database, or *messages.UnavailableError. what names what was read.
func (db *DB) ReadError(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case pebble.IsCorruptionError(err):
		c := &messages.CorruptError{What: what, Reason: err.Error()}
		db.Fail(c)
		return c
	default:
		return &messages.UnavailableError{What: db.what, Reason: "reading " + what + " failed: check the disk of " + db.dir, Err: err}
	}
}

// Corrupt is a value that is not what was written. The database fails: its disk cannot be
// trusted with more.
func (db *DB) Corrupt(what, reason string) error {
	c := &messages.CorruptError{What: what, Reason: reason}
	db.Fail(c)
	return c
}

// fail is called once, by the guard.
func (db *DB) fail(err error) {
	u := db.unavailable(err)
	db.failed.Store(u)
	db.log.Error("writes are refused from now on", "what", db.what, "error", u)
}

func (db *DB) unavailable(err error) *messages.UnavailableError {
	u := &messages.UnavailableError{What: db.what, Err: err}
	var corrupt *messages.CorruptError
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		u.Reason = fmt.Sprintf("the disk of %s is full: free space, then start the node again; all that was accepted is kept", db.dir)
	case pebble.IsCorruptionError(err), errors.As(err, &corrupt):
		u.Reason = fmt.Sprintf("files in %s are damaged: check the disk, then restore the directory from a copy", db.dir)
	default:
		u.Reason = fmt.Sprintf("writing to %s failed: check the disk, then start the node again; all that was accepted is kept", db.dir)
	}
	return u
}

// Closed is what a caller gets that comes too late: it wraps os.ErrClosed.
func (db *DB) Closed() error {
	return &messages.UnavailableError{What: db.what, Reason: "it is closed", Err: os.ErrClosed}
}

// Stats are the figures of a database.
type Stats struct {
	// Commits counts durable batches, Refused writes that the reserve turned away.
	Commits, Refused uint64
	// DiskBytes is what the database takes on disk.
	DiskBytes uint64
	// WALBytes and WrittenBytes are what was written to Pebble's log and to its tables
	// (flushes and compactions) since the start.
	WALBytes, WrittenBytes uint64
	// ReadAmplification is how many tables a read may have to look at.
	ReadAmplification int
	// Failed tells that writes are refused for good.
	Failed bool
}

// Stats returns the figures since the start; zero once closed.
func (db *DB) Stats() Stats {
	leave, err := db.Enter()
	if err != nil {
		return Stats{}
	}
	defer leave()
	m := db.Pebble.Metrics()
	var written uint64
	for i := range m.Levels {
		l := &m.Levels[i]
		written += l.TableBytesFlushed + l.TableBytesCompacted
		if i == 0 {
			// Pebble counts the blobs of a flush as compacted, too.
			written += l.BlobBytesFlushed
		} else {
			written += l.BlobBytesCompacted
		}
	}
	return Stats{
		Commits:           db.commits.Load(),
		Refused:           db.refused.Load(),
		DiskBytes:         m.DiskSpaceUsage(),
		WALBytes:          m.WAL.BytesWritten,
		WrittenBytes:      written,
		ReadAmplification: m.ReadAmp(),
		Failed:            db.failed.Load() != nil,
	}
}

// NewUUID returns a random UUID, version 4.
func NewUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// logger passes on what Pebble says. It never ends the process.
type logger struct{ db *DB }

func (l logger) Infof(format string, args ...any) {
	if l.db.log.Enabled(context.Background(), slog.LevelDebug) {
		l.db.log.Debug("pebble", "what", l.db.what, "text", strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

func (l logger) Errorf(format string, args ...any) {
	l.db.log.Warn("pebble reports an error", "what", l.db.what, "text", fmt.Sprintf(format, args...))
}

// Fatalf is called where Pebble cannot go on. It goes on, over a frozen directory.
func (l logger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, a := range args {
		if e, ok := a.(error); ok {
			err = fmt.Errorf("%w", e)
		}
	}
	l.db.Fail(err)
}
