package chaos

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
// that its writes fail one after the other all the same; where not even that is allowed, the test says so.
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
		d.limit(t, "8192:")
		return func() { d.limit(t, "unlimited:") }
	}
	path := filepath.Join(d.dir, "filler")
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = io.Copy(f, zeros{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
	return func() { require.NoError(t, os.Remove(path)) }
}

// limit sets the soft limit on the size of files of the server's processes. Those are another
// user's, where this process is root, and only that one may in a container.
func (d *disk) limit(t *testing.T, size string) {
	t.Helper()
	info, err := os.Stat(filepath.Join(d.dir, "data"))
	require.NoError(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	for _, pid := range d.processes(t) {
		cmd := exec.CommandContext(t.Context(), "prlimit", "--pid", pid, "--fsize="+size)
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		}
		if said, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(said), "No such process") {
			t.Logf("the size of files cannot be limited here, either: %v: %s", err, said)
			return
		}
	}
}

// processes are the server's: the first one, and its children.
func (d *disk) processes(t *testing.T) (pids []string) {
	text, err := os.ReadFile(filepath.Join(d.dir, "data", "postmaster.pid"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(text), "\n")
	children, _ := os.ReadFile(filepath.Join("/proc", first, "task", first, "children"))
	return append(strings.Fields(string(children)), first)
}

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
