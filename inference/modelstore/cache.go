package modelstore

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// cache holds copies of versions, each in a folder whose name has its digest:
//
//	<name>-<version>-<digest>/   whole: it was renamed from
//	.part-…/                     one in the making, or what a crash left of it
//
// Other processes may use the same directory.
type cache struct {
	dir   string
	bytes int64

	mu sync.Mutex
	// checked are the folders that were held against their digest since the start.
	checked map[string]bool
}

// leftAlone is how long a part may be another process's work.
const leftAlone = time.Hour

func newCache(dir string, bytes int64) (*cache, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("models: %w", err)
	}
	c := &cache{dir: dir, bytes: bytes, checked: make(map[string]bool)}
	parts, err := filepath.Glob(filepath.Join(dir, ".part-*"))
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if info, err := os.Stat(p); err == nil && time.Since(info.ModTime()) > leftAlone {
			err = errors.Join(err, os.RemoveAll(p))
			if err != nil {
				return nil, fmt.Errorf("models: %w", err)
			}
		}
	}
	return c, nil
}

// get returns the folder of a version. Where it isn't there, or is not what it was, fill copies the version into a folder and
// returns the digest of what it copied.
func (c *cache) get(model, version, want string, fill func(part string) (string, error)) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, hex, _ := strings.Cut(want, ":")
	place := filepath.Join(c.dir, fmt.Sprintf("%s-%s-%s", model, version, hex))
	if _, err := os.Stat(place); err == nil {
		if c.checked[place] {
			return place, touch(place)
		}
		if have, err := Digest(place); err == nil && have == want {
			c.checked[place] = true
			return place, touch(place)
		}
		if err := os.RemoveAll(place); err != nil {
			return "", err
		}
	}
	part, err := os.MkdirTemp(c.dir, ".part-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part) //nolint:errcheck // what stays behind is removed by a later start
	have, err := fill(part)
	if err != nil {
		return "", fmt.Errorf("%s %s can't be fetched: %w", model, version, err)
	}
	if have != want {
		return "", &DigestError{Model: model, Version: version, Want: want, Have: have}
	}
	if err := os.Rename(part, place); err != nil {
		if _, there := os.Stat(place); there != nil {
			return "", err
		}
		// Another process was first, with the same files.
	}
	c.checked[place] = true
	c.clean(place)
	return place, nil
}

// touch notes a use.
func touch(place string) error {
	now := time.Now()
	return os.Chtimes(place, now, now)
}

// clean removes the copies that were used longest ago until the rest is within the bound. A loaded model needs its copy no more.
func (c *cache) clean(but string) {
	type copied struct {
		path  string
		bytes int64
		used  time.Time
	}
	var all []copied
	var total int64
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		one := copied{filepath.Join(c.dir, e.Name()), size(filepath.Join(c.dir, e.Name())), info.ModTime()}
		total += one.bytes
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b copied) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.path, b.path)) })
	for _, one := range all {
		if total <= c.bytes {
			return
		}
		if one.path != but && os.RemoveAll(one.path) == nil {
			delete(c.checked, one.path)
			total -= one.bytes
		}
	}
}

func size(dir string) (n int64) {
	//nolint:errcheck // what can't be read counts nothing
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil {
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func values[V any](m map[string]V) iter.Seq[V] { return maps.Values(m) }
