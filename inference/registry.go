package inference

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Registry is the models that a place holds, as they were when it was listed. It does not
// change afterwards: what is listed again is another one, in which a version that is as it was
// has the same contract, by its address.
type Registry struct {
	dir    string
	layout Layout
	models []Model
}

// Model is a model of a registry.
type Model struct {
	Name string
	// Versions are in descending order, the unreadable ones last.
	Versions []Version
	// Err says why there are no versions, where there are none.
	Err error
}

// Version is a version of a model.
type Version struct {
	// Name is the folder's, which is the number where that is right.
	Name string
	Dir  string
	// Contract is nil where Err is set.
	Contract *Contract
	// Err says why the version can't be loaded.
	Err error
	// Stamp changes with the version's files, where somebody changes what should stay as it is.
	Stamp string
}

// NewRegistry is a registry of models that were listed elsewhere: in order of name, versions in
// descending order.
func NewRegistry(models []Model, layout Layout) *Registry {
	return &Registry{layout: layout, models: models}
}

// OpenRegistry lists the models at a location: "file:./models" or a path. Its error is
// about the place as a whole; what is wrong with one model or version is that one's Err.
// Contracts must fit the layout.
func OpenRegistry(location string, layout Layout) (*Registry, error) {
	if err := layout.Validate(); err != nil {
		return nil, err
	}
	dir, err := Directory(location)
	if err != nil {
		return nil, err
	}
	return (&Registry{dir: dir, layout: layout}).Refresh()
}

// Refresh lists the directory of the registry again.
func (r *Registry) Refresh() (*Registry, error) {
	dir, before := r.dir, r
	r = &Registry{dir: dir, layout: before.layout}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("models: there is no directory %s: %w", dir, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("models: %w", err)
	}
	for _, name := range folders(dir, entries) {
		r.models = append(r.models, r.model(name, before))
	}
	return r, nil
}

// ValidName reports whether a model may have a name.
func ValidName(name string) bool { return nameForm.MatchString(name) }

// Directory returns the directory that a location names.
func Directory(location string) (string, error) {
	scheme, rest, found := strings.Cut(location, ":")
	if !found {
		scheme, rest = "file", location
	}
	switch {
	case scheme != "file":
		return "", fmt.Errorf("models: scheme %q is not supported: name a directory, like file:./models", scheme)
	case strings.HasPrefix(rest, "//"):
		// file:///srv/models: a host between the slashes would be another machine's.
		u, err := url.Parse(location)
		if err != nil || u.Host != "" && u.Host != "localhost" {
			return "", fmt.Errorf("models: %q names no directory of this machine: write file:./models or file:///srv/models", location)
		}
		rest = u.Path
	}
	if rest == "" {
		return "", errors.New("models: the location is empty: name a directory, like file:./models")
	}
	return filepath.Clean(rest), nil
}

// folders returns the names of the directories among entries, links to some included.
// Hidden ones are not models: tools keep things there.
func folders(dir string, entries []fs.DirEntry) []string {
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func (r *Registry) model(name string, before *Registry) Model {
	m := Model{Name: name}
	dir := filepath.Join(r.dir, name)
	if !nameForm.MatchString(name) {
		m.Err = fmt.Errorf("%s: %q is no name of a model: lower-case letters, digits and _ are, from a letter on", dir, name)
		return m
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		m.Err = err
		return m
	}
	for _, v := range folders(dir, entries) {
		m.Versions = append(m.Versions, r.version(name, v, before))
	}
	if len(m.Versions) == 0 {
		m.Err = fmt.Errorf("%s: holds no version: put the model into %s", dir, filepath.Join(dir, "1"))
	}
	number := func(v Version) int {
		n, _ := VersionNumber(v.Name)
		return n
	}
	slices.SortStableFunc(m.Versions, func(a, b Version) int { return cmp.Compare(number(b), number(a)) })
	return m
}

// VersionNumber is the number that a folder's name stands for.
func VersionNumber(folder string) (int, bool) {
	n, err := strconv.ParseInt(folder, 10, 32)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != folder {
		return 0, false
	}
	return int(n), true
}

func (r *Registry) version(name, folder string, before *Registry) Version {
	v := Version{Name: folder, Dir: filepath.Join(r.dir, name, folder)}
	v.Stamp = stamp(v.Dir)
	if old, ok := before.Version(name, folder); ok && old.Stamp == v.Stamp {
		return old
	}
	c, err := r.contract(name, folder, v.Dir)
	if err != nil {
		v.Err = fmt.Errorf("%s: %w", v.Dir, err)
		return v
	}
	v.Contract = c
	return v
}

// stamp tells a folder's files apart from what they are after a change.
func stamp(dir string) string {
	h := xxhash.New()
	//nolint:errcheck // what can't be read is not in the stamp, and is told by whoever reads it
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil && !e.IsDir() {
			fmt.Fprintf(h, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
		return nil
	})
	return strconv.FormatUint(h.Sum64(), 16)
}

// contract reads a version's contract and holds it against its place and the layout.
func (r *Registry) contract(name, folder, dir string) (*Contract, error) {
	number, ok := VersionNumber(folder)
	if !ok {
		return nil, fmt.Errorf("%q is no version: a whole number from 1 on is, without leading zeros", folder)
	}
	c, err := ReadContract(dir)
	if err != nil {
		return nil, err
	}
	if err := r.layout.Place(c, name, number); err != nil {
		return nil, err
	}
	info, err := os.Stat(filepath.Join(dir, "saved_model.pb"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("saved_model.pb is missing: %w", fs.ErrNotExist)
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("saved_model.pb is not a file")
	}
	return c, nil
}

// Place holds a contract against the place where it stands, and the layout of rows. Its error
// is a [*ContractError].
func (l Layout) Place(c *Contract, name string, version int) error {
	var faults []Fault
	if c.Name != name {
		faults = append(faults, Fault{Key: "name", Reason: fmt.Sprintf("is %q, but the folder is %q", c.Name, name)})
	}
	if c.Version != version {
		faults = append(faults, Fault{Key: "version", Reason: fmt.Sprintf("is %d, but the folder is %d", c.Version, version)})
	}
	if faults = l.fits(c, faults); len(faults) > 0 {
		return &ContractError{Faults: faults}
	}
	return nil
}

// ReadContract reads model.yaml in a version's directory.
func ReadContract(dir string) (*Contract, error) {
	path := filepath.Join(dir, "model.yaml")
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("model.yaml is missing: %w", fs.ErrNotExist)
	case err != nil:
		return nil, err
	case info.Size() > maxContract:
		return nil, &ContractError{Faults: []Fault{{Reason: fmt.Sprintf("is longer than %d bytes", maxContract)}}}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseContract(text)
}

// Models returns the models in order of name. The caller must not change them.
func (r *Registry) Models() []Model { return r.models }

// Layout returns the layout that the contracts were held against.
func (r *Registry) Layout() Layout { return r.layout }

// Contract returns the contract of a version; nil where the registry has none.
func (r *Registry) Contract(model, version string) *Contract {
	v, _ := r.Version(model, version)
	return v.Contract
}

// Version returns a version by its name.
func (r *Registry) Version(model, version string) (Version, bool) {
	for _, m := range r.models {
		if m.Name != model {
			continue
		}
		for _, v := range m.Versions {
			if v.Name == version {
				return v, true
			}
		}
	}
	return Version{}, false
}
