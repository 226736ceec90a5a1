package local

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockFolder makes a folder where it is missing, and keeps other processes from locking it until the file is closed or
// this process ends.
func lockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s belongs to a server that runs: stop it, or choose another folder (%w)", dir, err)
	}
	return f, nil
}
