package modelstore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// contractFile is written last, and not part of its own digest.
const contractFile = "model.yaml"

// entry is a file of a version: its path from the version's folder on, with slashes.
type entry struct {
	path string
	sum  [sha256.Size]byte
}

// digest is of what sha256sum prints of the files, in the order of the bytes of their paths.
func digest(entries []entry) string {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	h := sha256.New()
	for _, e := range entries {
		fmt.Fprintf(h, "%x  %s\n", e.sum, e.path)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Digest is that of a version's files in a directory, as `files` in model.yaml has it: of all but model.yaml and those with a
// name, or in a folder, that begins with a dot. It is what
//
//	find . -type f ! -name model.yaml ! -path '*/.*' -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum
//
// prints there.
func Digest(dir string) (string, error) {
	paths, err := files(dir)
	if err != nil {
		return "", err
	}
	var entries []entry
	for _, path := range paths {
		e, err := read(dir, path, io.Discard)
		if err != nil {
			return "", err
		}
		entries = append(entries, e)
	}
	return digest(entries), nil
}

// files lists what a digest is of.
func files(dir string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := path != dir && strings.HasPrefix(e.Name(), ".")
		switch {
		case e.IsDir() && hidden:
			return fs.SkipDir
		case e.IsDir() || hidden:
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if rel = filepath.ToSlash(rel); rel != contractFile {
			out = append(out, rel)
		}
		return nil
	})
	return out, err
}

// read copies a file of a version somewhere and takes its digest.
func read(dir, path string, to io.Writer) (entry, error) {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(path)))
	if err != nil {
		return entry{}, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return tee(path, f, to)
}

// tee copies a file and takes its digest.
func tee(path string, from io.Reader, to io.Writer) (entry, error) {
	e := entry{path: path}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(h, to), from); err != nil {
		return e, fmt.Errorf("%s: %w", path, err)
	}
	h.Sum(e.sum[:0])
	return e, nil
}
