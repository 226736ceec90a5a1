package access

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile puts a file in the place of another as a whole: whoever reads it sees the old or the
// new one, whenever this process ends.
func WriteFile(path string, content []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil //nolint:nilerr // the file is there; only a crash of the machine could still lose its name
	}
	err = dir.Sync()
	return errors.Join(err, dir.Close())
}

// AddToken adds a token to a tokens file, and makes the file where there is none. A file with a
// fault is left alone.
func AddToken(path string, t Token) error {
	mode := fs.FileMode(0o600)
	old, err := os.ReadFile(path)
	switch {
	case err == nil:
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := DecodeTokens(old); err != nil {
		return err
	}
	content := bytes.TrimRight(old, "\n")
	if len(content) > 0 {
		content = append(content, '\n')
	}
	content = append(content, t.Line()+"\n"...)
	if _, err := DecodeTokens(content); err != nil {
		return errors.Join(errors.New("the list is not written one token a line: add the line by hand"), err)
	}
	return WriteFile(path, content, mode)
}
