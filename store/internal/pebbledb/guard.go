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
// write of its log or manifest: it ends the process, panics under its locks, or goes on as
// if nothing had happened. So the guard keeps the failure to itself:
//
//		opening ──arm──► armed ──a write fails──► frozen ──release──► closing
//
//	  - opening: errors pass through, Pebble's Open returns them.
//	  - armed: the first failed write is told to onFreeze and freezes the guard.
//	  - frozen: the directory stays as it is. Writes to its log and manifest are dropped and
//	    said to have succeeded; removals are not done; new files are kept in memory, so that
//	    flushes that somebody waits for come to an end. Compactions, which nobody waits for,
//	    are parked: they would fill the memory.
//	  - closing: parked compactions are let go with the error.
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
	// shadow holds the files created since the guard froze, by their base names.
	shadow *vfs.MemFS
}

func newGuard(fs vfs.FS, onFreeze func(error)) *guard {
	return &guard{FS: fs, onFreeze: onFreeze, released: make(chan struct{}), shadow: vfs.NewMem()}
}

// frozen returns the failure that froze the guard, nil before one.
func (g *guard) frozen() error {
	if p := g.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// freeze keeps the first failure.
func (g *guard) freeze(err error) {
	g.once.Do(func() {
		g.cause.Store(&err)
		g.onFreeze(err)
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

// create gives a new file: on disk, or in the shadow of a frozen guard.
func (g *guard) create(op, name string, category vfs.DiskWriteCategory, do func() (vfs.File, error)) (vfs.File, error) {
	if g.frozen() == nil {
		var f vfs.File
		err := g.try(op, name, func() (err error) {
			f, err = do()
			return err
		})
		if err == nil {
			return &file{File: f, g: g, name: name}, nil
		}
		if g.frozen() == nil {
			return nil, err
		}
	}
	if category == "pebble-compaction" {
		<-g.released
		return nil, g.frozen()
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
	if g.frozen() != nil {
		if f, err := g.shadow.Open(filepath.Base(name), opts...); err == nil {
			return f, nil
		}
	}
	return g.FS.Open(name, opts...)
}

func (g *guard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &file{File: f, g: g, name: name}, nil
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

// file is an open file of a guard's directory.
type file struct {
	vfs.File
	g    *guard
	name string
}

// isTable says whether a reader would miss what was dropped of the file: tables are read
// back in this process, logs and manifests are not.
func (f *file) isTable() bool {
	switch filepath.Ext(f.name) {
	case ".sst", ".blob":
		return true
	default:
		return false
	}
}

func (f *file) do(op string, do func() error) error {
	if f.g.frozen() == nil {
		if err := f.g.try(op, f.name, do); err == nil || f.g.frozen() == nil {
			return err
		}
	}
	if f.isTable() {
		return f.g.frozen()
	}
	return nil
}

func (f *file) Write(p []byte) (int, error) {
	err := f.do("write", func() error {
		_, err := f.File.Write(p)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	err := f.do("write", func() error {
		_, err := f.File.WriteAt(p, off)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close always closes; where that fails, bytes may be lost.
func (f *file) Close() error {
	err := f.g.try("close", f.name, f.File.Close)
	if err != nil && f.g.frozen() != nil && !f.isTable() {
		return nil
	}
	return err
}

func (f *file) Sync() error     { return f.do("sync", f.File.Sync) }
func (f *file) SyncData() error { return f.do("sync", f.File.SyncData) }

func (f *file) SyncTo(length int64) (full bool, err error) {
	err = f.do("sync", func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}
