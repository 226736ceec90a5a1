package pebbledb

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guard is the file system under a Pebble database. Pebble cannot live through a failed
// write: where it is of its log or manifest, it ends the process or panics under its locks,
// and a table that cannot be synced makes it panic, too. So the guard keeps the failure to
// itself:
//
//		opening ──arm──► armed ──a write fails──► frozen ──release──► closing
//
//	  - opening: errors pass through, Pebble's Open returns them.
//	  - armed: the first failed write is told to onFreeze and freezes the guard.
//	  - frozen: the directory stays as it is, and every change is said to have succeeded.
//	    What goes to the log and the manifest is dropped; removals are not done; what a flush
//	    writes is kept in memory, so that it ends for those who wait for it and its tables can
//	    be read. Compactions, which nobody waits for, are parked: they would fill the memory.
//	  - closing: parked compactions go on, into nothing.
//
// It is right to call a lost write a success here because whoever commits asks for the
// failure after the commit (invariant 1 of the package): the guard is frozen before any
// write or sync that depends on the lost one returns.
type guard struct {
	vfs.FS
	onFreeze func(error)

	armed    atomic.Bool
	once     sync.Once
	cause    atomic.Pointer[error]
	released chan struct{}

	// shadow holds the files created since the guard froze, tails the ends of those that
	// were being written then; by base name.
	shadow *vfs.MemFS
	mu     sync.Mutex
	tails  map[string]*tail
}

func newGuard(fs vfs.FS, onFreeze func(error)) *guard {
	return &guard{FS: fs, onFreeze: onFreeze, released: make(chan struct{}), shadow: vfs.NewMem(), tails: map[string]*tail{}}
}

// frozen returns the failure that froze the guard, nil before one.
func (g *guard) frozen() error {
	if p := g.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// freeze keeps the first failure. It is told before the guard is frozen: a commit whose sync
// was dropped must find the failure when it asks.
func (g *guard) freeze(err error) {
	g.once.Do(func() {
		g.onFreeze(err)
		g.cause.Store(&err)
	})
}

// try does a write. Where it fails and the guard is armed, the guard freezes.
func (g *guard) try(op, name string, do func() error) error {
	err := do()
	if err != nil && g.armed.Load() {
		g.freeze(fmt.Errorf("%s %s: %w", op, filepath.Base(name), err))
	}
	return err
}

// compaction is the category of files that Pebble writes when it compacts.
const compaction vfs.DiskWriteCategory = "pebble-compaction"

// create gives a new file: on disk, or in the shadow of a frozen guard.
func (g *guard) create(op, name string, category vfs.DiskWriteCategory, do func() (vfs.File, error)) (vfs.File, error) {
	if g.frozen() == nil {
		var f vfs.File
		err := g.try(op, name, func() (err error) {
			f, err = do()
			return err
		})
		if err == nil {
			return newFile(g, f, name, category), nil
		}
		if g.frozen() == nil {
			return nil, err
		}
	}
	if category == compaction {
		<-g.released
	}
	return g.shadow.Create(filepath.Base(name), category)
}

// drop does a change of the directory, or nothing once frozen.
func (g *guard) drop(op, name string, do func() error) error {
	if g.frozen() == nil {
		if err := g.try(op, name, do); err == nil || g.frozen() == nil {
			return err
		}
	}
	return nil
}

func (g *guard) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return g.create("create", name, category, func() (vfs.File, error) { return g.FS.Create(name, category) })
}

func (g *guard) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return g.create("open", name, category, func() (vfs.File, error) { return g.FS.OpenReadWrite(name, category, opts...) })
}

func (g *guard) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return g.create("reuse", newname, category, func() (vfs.File, error) { return g.FS.ReuseForWrite(oldname, newname, category) })
}

func (g *guard) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if g.frozen() == nil {
		return g.FS.Open(name, opts...)
	}
	if f, err := g.shadow.Open(filepath.Base(name), opts...); err == nil {
		return f, nil
	}
	f, err := g.FS.Open(name, opts...)
	g.mu.Lock()
	t := g.tails[filepath.Base(name)]
	g.mu.Unlock()
	if err != nil || t == nil {
		return f, err
	}
	return &tailed{File: f, tail: t}, nil
}

func (g *guard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return newFile(g, f, name, vfs.WriteCategoryUnspecified), nil
}

func (g *guard) Stat(name string) (vfs.FileInfo, error) {
	if g.frozen() != nil {
		if i, err := g.shadow.Stat(filepath.Base(name)); err == nil {
			return i, nil
		}
	}
	return g.FS.Stat(name)
}

func (g *guard) Link(oldname, newname string) error {
	return g.drop("link", newname, func() error { return g.FS.Link(oldname, newname) })
}

func (g *guard) Rename(oldname, newname string) error {
	return g.drop("rename", newname, func() error { return g.FS.Rename(oldname, newname) })
}

func (g *guard) MkdirAll(dir string, perm os.FileMode) error {
	return g.drop("mkdir", dir, func() error { return g.FS.MkdirAll(dir, perm) })
}

// Remove leaves files where they are once frozen: a manifest that could not be written may
// still name them. A removal that fails loses nothing and freezes nothing.
func (g *guard) Remove(name string) error {
	if g.frozen() != nil {
		return nil
	}
	return g.FS.Remove(name)
}

func (g *guard) RemoveAll(name string) error {
	if g.frozen() != nil {
		return nil
	}
	return g.FS.RemoveAll(name)
}

func (g *guard) Unwrap() vfs.FS { return g.FS }
