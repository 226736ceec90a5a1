package modelstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"footfall/inference"
)

// draft is a directory that is to become a version.
type draft struct {
	name   string
	dir    string
	layout inference.Layout
	text   []byte
	paths  []string
	// files is the digest, known after copy.
	files string
}

// newDraft looks whether a directory can be a version of a model at all.
func newDraft(name, dir string, layout inference.Layout) (*draft, error) {
	c, err := inference.ReadContract(dir)
	if err != nil {
		return nil, err
	}
	if err := layout.Place(c, name, c.Version); err != nil {
		return nil, err
	}
	d := &draft{name: name, dir: dir, layout: layout}
	if d.text, err = os.ReadFile(filepath.Join(dir, contractFile)); err != nil {
		return nil, err
	}
	if d.paths, err = files(dir); err != nil {
		return nil, err
	}
	if info, err := os.Stat(filepath.Join(dir, "saved_model.pb")); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(errors.New("saved_model.pb is missing"), err)
	}
	return d, nil
}

// copy gives every file but the contract to a place and takes the digest on the way.
func (d *draft) copy(to func(path string) (io.WriteCloser, error)) error {
	var entries []entry
	for _, path := range d.paths {
		w, err := to(path)
		if err != nil {
			return err
		}
		e, err := read(d.dir, path, w)
		if err := errors.Join(err, w.Close()); err != nil {
			return err
		}
		entries = append(entries, e)
	}
	d.files = digest(entries)
	return nil
}

var (
	versionLine = regexp.MustCompile(`(?m)^version:[^\n]*$`)
	filesLine   = regexp.MustCompile(`(?m)^files:[^\n]*\n`)
)

// contract is model.yaml for a number. The rest of its text stays as it was.
func (d *draft) contract(number int) ([]byte, error) {
	text := filesLine.ReplaceAll(d.text, nil)
	text = versionLine.ReplaceAll(text, []byte("version: "+strconv.Itoa(number)+"\nfiles: "+d.files))
	c, err := inference.ParseContract(text)
	if err != nil {
		return nil, err
	}
	if c.Files != d.files {
		return nil, fmt.Errorf("%s: version must stand in a line of its own", filepath.Join(d.dir, contractFile))
	}
	return text, d.layout.Place(c, d.name, number)
}
