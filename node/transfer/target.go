package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"footfall/messages"
	"footfall/node/storage"
)

// Folder is a folder of data that comes into being: log and store are in a folder beside it, of its
// name with ".partial", until Done. A crash leaves that, and the next OpenFolder goes on with it.
type Folder struct {
	*storage.Storage
	path string
}

// fromFile names what an unfinished folder is made from.
const fromFile = "from"

// OpenFolder begins a folder of data, or goes on with one that is being made from the same: name
// says what that is. Where name is another, the unfinished folder is made anew.
func OpenFolder(path, name string, id messages.Identity) (_ *Folder, err error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s is there already: name a folder that is not", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	partial := path + ".partial"
	have, err := os.ReadFile(filepath.Join(partial, fromFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if string(have) != name {
		if err := os.RemoveAll(partial); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(partial, 0o750); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(partial, fromFile), []byte(name), 0o600); err != nil {
		return nil, err
	}
	s, err := storage.Open(storage.Options{LogDir: filepath.Join(partial, "log"), StoreDir: filepath.Join(partial, "store"), Identity: id})
	if err != nil {
		return nil, err
	}
	return &Folder{Storage: s, path: path}, nil
}

// Done closes the folder and gives it its name: from then on it is there, whole.
func (f *Folder) Done() error {
	if err := f.Close(); err != nil {
		return err
	}
	partial := f.path + ".partial"
	if err := os.Rename(partial, f.path); err != nil {
		return err
	}
	// What it was made from is of no use any more, and does no harm.
	return errors.Join(os.Remove(filepath.Join(f.path, fromFile)), SyncDir(f.path), SyncDir(filepath.Dir(f.path)))
}
