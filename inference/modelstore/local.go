package modelstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"footfall/inference"
)

// local is a directory. Its versions are loaded from where they are.
type local struct {
	dir    string
	layout inference.Layout
}

func (l *local) list(_ context.Context, before *inference.Registry, _ func(model, version string) bool) (*inference.Registry, error) {
	if len(before.Models()) == 0 {
		return inference.OpenRegistry(l.dir, l.layout)
	}
	return before.Refresh()
}

// fetch holds the files against the digest, where the contract has one.
func (l *local) fetch(_ context.Context, model string, v inference.Version) (string, error) {
	if v.Contract.Files == "" {
		return v.Dir, nil
	}
	have, err := Digest(v.Dir)
	switch {
	case err != nil:
		return "", err
	case have != v.Contract.Files:
		return "", &DigestError{Model: model, Version: v.Name, Want: v.Contract.Files, Have: have}
	}
	return v.Dir, nil
}

// publish copies the directory to a hidden one beside its place and then gives it its name: a name that is taken refuses that.
func (l *local) publish(_ context.Context, name, dir string) (string, error) {
	d, err := newDraft(name, dir, l.layout)
	if err != nil {
		return "", err
	}
	home := filepath.Join(l.dir, name)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", err
	}
	part, err := os.MkdirTemp(home, ".draft-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part) //nolint:errcheck // hidden, and not a version
	if err := os.Chmod(part, 0o755); err != nil {
		return "", err
	}
	if err := d.copy(func(path string) (io.WriteCloser, error) { return create(part, path) }); err != nil {
		return "", err
	}
	for n := highest(home) + 1; ; n++ {
		text, err := d.contract(n)
		if err != nil {
			return "", err
		}
		f, err := create(part, contractFile)
		if err != nil {
			return "", err
		}
		if _, err = f.Write(text); err != nil {
			return "", errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return "", err
		}
		place := filepath.Join(home, strconv.Itoa(n))
		if _, err := os.Lstat(place); err == nil {
			continue
		}
		err = os.Rename(part, place)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		return strconv.Itoa(n), syncDir(home)
	}
}

// highest is the highest number among the folders of a directory, 0 where there is none.
func highest(home string) int {
	entries, err := os.ReadDir(home)
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		if v, ok := inference.VersionNumber(e.Name()); ok {
			n = max(n, v)
		}
	}
	return n
}

func (l *local) close() error { return nil }

// create makes a file in dir, with the folders of its path. Closing it makes it durable.
func create(dir, path string) (*durable, error) {
	if !filepath.IsLocal(filepath.FromSlash(path)) {
		return nil, fmt.Errorf("%q is no path of a file in a version", path)
	}
	path = filepath.Join(dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	return &durable{f}, nil
}

// durable is a file that is on the disk once it is closed without an error.
type durable struct{ *os.File }

func (d *durable) Close() error { return errors.Join(d.Sync(), d.File.Close()) }

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
