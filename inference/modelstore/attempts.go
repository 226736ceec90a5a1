package modelstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"footfall/inference"
)

// mostCrashes is how often the process may end while it loads a version until that is not loaded any more.
const mostCrashes = 2

// Attempts remember over a restart which versions were being loaded when the process ended: a model can end the process that loads
// it, and would each that follows. Its method is [inference.Config.Loading]. They are of one node: what another
// one is loading at this moment is no crash.
type Attempts struct {
	dir string

	mu sync.Mutex
	// running counts the loads under way, by file.
	running map[string]int
}

// NewAttempts keeps them in a directory, which it makes.
func NewAttempts(dir string) (*Attempts, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("models: %w", err)
	}
	return &Attempts{dir: dir, running: make(map[string]int)}, nil
}

// Loading notes that a version is about to be loaded; done, that this is over.
func (a *Attempts) Loading(model string, v inference.Version) (done func(), err error) {
	path := filepath.Join(a.dir, fmt.Sprintf("%s-%s-%s", model, v.Name, strings.NewReplacer("/", "", " ", "-").Replace(v.Stamp)))
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running[path] == 0 {
		crashes, err := read0(path)
		if err != nil {
			return nil, &inference.FetchError{Err: err}
		}
		if crashes >= mostCrashes {
			return nil, fmt.Errorf("the process ended %d times while it was loaded: publish another version, or remove %s to try it again", crashes, path)
		}
		if err := note(path, crashes+1); err != nil {
			return nil, &inference.FetchError{Err: err}
		}
	}
	a.running[path]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.running[path]--; a.running[path] == 0 {
			delete(a.running, path)
			_ = os.Remove(path) // what stays counts one crash too many
		}
	}, nil
}

// read0 is the number in a file, 0 where there is none.
func read0(path string) (int, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, nil //nolint:nilerr // a crash of the machine may leave an empty file: nothing is known then
	}
	return n, nil
}

// note writes a number durably.
func note(path string, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(n) + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}
