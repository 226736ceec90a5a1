package pebbledb

import (
	"io"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// file is a file of a guard's directory that is open for writing.
type file struct {
	vfs.File
	g    *guard
	name string
	// table tells that this process reads the file back; logs and manifests it does not.
	table bool
	// parked tells that a compaction writes the file.
	parked bool
	// size is what was written to the disk, tail what came after the guard froze.
	size int64
	tail *tail
}

func newFile(g *guard, f vfs.File, name string, category vfs.DiskWriteCategory) *file {
	ext := filepath.Ext(name)
	return &file{File: f, g: g, name: name, table: ext == ".sst" || ext == ".blob", parked: category == compaction}
}

// do does a change of the file; once frozen, none, which is called a success.
func (f *file) do(op string, do func() error) error {
	if f.g.frozen() == nil {
		if err := f.g.try(op, f.name, do); err == nil || f.g.frozen() == nil {
			return err
		}
	}
	if f.parked {
		<-f.g.released
	}
	return nil
}

func (f *file) Write(p []byte) (int, error) {
	// Once a tail is there, nothing goes to the disk before it.
	if f.tail == nil {
		done := false
		err := f.do("write", func() error {
			_, err := f.File.Write(p)
			done = err == nil
			return err
		})
		if err != nil {
			return 0, err
		}
		if done {
			f.size += int64(len(p))
			return len(p), nil
		}
		if !f.table || f.parked {
			return len(p), nil
		}
		f.tail = &tail{from: f.size}
		f.g.mu.Lock()
		f.g.tails[filepath.Base(f.name)] = f.tail
		f.g.mu.Unlock()
	}
	f.tail.append(p)
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

func (f *file) Sync() error     { return f.do("sync", f.File.Sync) }
func (f *file) SyncData() error { return f.do("sync", f.File.SyncData) }

func (f *file) SyncTo(length int64) (full bool, err error) {
	err = f.do("sync", func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Close always closes; where that fails, bytes may be lost.
func (f *file) Close() error {
	if err := f.g.try("close", f.name, f.File.Close); err != nil && f.g.frozen() == nil {
		return err
	}
	return nil
}

// tail is the end of a table that could not be written to the disk.
type tail struct {
	// from is where the tail begins in the file.
	from int64

	mu  sync.Mutex
	buf []byte
}

func (t *tail) append(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
}

// bytes returns the tail; what is appended later does not change it.
func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clip(t.buf)
}

// tailed reads a table whose end is in memory.
type tailed struct {
	vfs.File
	tail *tail
}

func (f *tailed) ReadAt(p []byte, off int64) (n int, err error) {
	if off < f.tail.from {
		n, err = f.File.ReadAt(p[:min(int64(len(p)), f.tail.from-off)], off)
		if err != nil || n == len(p) {
			return n, err
		}
	}
	buf := f.tail.bytes()
	if at := off + int64(n) - f.tail.from; at < int64(len(buf)) {
		n += copy(p[n:], buf[at:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *tailed) Stat() (vfs.FileInfo, error) {
	i, err := f.File.Stat()
	if err != nil {
		return nil, err
	}
	return tailedInfo{i, f.tail.from + int64(len(f.tail.bytes()))}, nil
}

// Fd hides the file on disk from those who would go past this one.
func (f *tailed) Fd() uintptr { return vfs.InvalidFd }

type tailedInfo struct {
	vfs.FileInfo
	size int64
}

func (i tailedInfo) Size() int64 { return i.size }
