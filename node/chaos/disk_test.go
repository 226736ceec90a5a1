package chaos

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"footfall/deploy/local"
)

// diskSize is enough for what a test writes.
const diskSize = 384 << 20

// disk is where a server has its data: a file system of its own that a test can fill, where this
// process may mount one. Elsewhere the server is given a limit on the size of its files instead, so
// that its writes fail one after the other all the same.
type disk struct {
	dir     string
	mounted bool
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	dir := t.TempDir()
	// The server's user is another.
	for _, at := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(at)
		require.NoError(t, err)
		require.NoError(t, os.Chmod(at, info.Mode().Perm()|0o011))
	}
	d := &disk{dir: filepath.Join(dir, "disk")}
	require.NoError(t, os.Mkdir(d.dir, 0o755))
	err := unix.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", diskSize))
	if err != nil {
		t.Logf("no file system of its own for PostgreSQL (%v): files are limited in size instead", err)
		return d
	}
	d.mounted = true
	t.Cleanup(func() {
		err := unix.Unmount(d.dir, 0)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(d.dir, unix.MNT_DETACH)
		}
		require.NoError(t, err)
	})
	return d
}

// fill takes all space, or all that the server's processes may take. The function that it returns
// gives it back.
func (d *disk) fill(t *testing.T, p *local.Postgres) (free func()) {
	t.Helper()
	if !d.mounted {
		set := func(limit uint64) {
			for _, pid := range d.processes(t) {
				var l unix.Rlimit
				if unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &l) == nil { // else it has ended
					l.Cur = min(limit, l.Max)
					_ = unix.Prlimit(pid, unix.RLIMIT_FSIZE, &l, nil)
				}
			}
		}
		set(8 << 10)
		return func() { set(unix.RLIM_INFINITY) }
	}
	path := filepath.Join(d.dir, "filler")
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = io.Copy(f, zeros{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
	return func() { require.NoError(t, os.Remove(path)) }
}

// processes are the server's: the first one, and its children.
func (d *disk) processes(t *testing.T) (pids []int) {
	text, err := os.ReadFile(filepath.Join(d.dir, "data", "postmaster.pid"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(text), "\n")
	children, _ := os.ReadFile(filepath.Join("/proc", first, "task", first, "children"))
	for _, s := range append(strings.Fields(string(children)), first) {
		pid, err := strconv.Atoi(s)
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
