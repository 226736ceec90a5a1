package local

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// removeInterlock removes the few bytes of shared memory by which PostgreSQL knows that a server runs over its data: one that
// was killed and is not started again leaves them behind.
func removeInterlock(data string) {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return // it ended in order
	}
	const line = 6 // holds the key and the ID
	lines := strings.Split(string(b), "\n")
	if len(lines) <= line {
		return
	}
	if fields := strings.Fields(lines[line]); len(fields) == 2 {
		if id, err := strconv.Atoi(fields[1]); err == nil {
			_, _, _ = syscall.Syscall(syscall.SYS_SHMCTL, uintptr(id), 0 /* IPC_RMID */, 0)
		}
	}
}
