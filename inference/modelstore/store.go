package modelstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"gocloud.dev/blob"

	"footfall/inference"
)

// Options are those of a store. All but Layout have defaults.
type Options struct {
	// Layout is what contracts are held against.
	Layout inference.Layout
	// Cache is the directory for copies of what an object store has: needed for those alone.
	Cache string
	// CacheBytes bounds the copies: 4 GiB unless set. One that was just fetched stays.
	CacheBytes int64
	// Versions bounds how many of each model are listed, the highest ones, and those of Keep: 32 unless set.
	Versions int
	// Bucket, where set, is the object store, in place of the one that the URL names. It is closed with the store.
	Bucket *blob.Bucket
}

func (o *Options) complete() {
	o.CacheBytes = cmp.Or(o.CacheBytes, 4<<30)
	o.Versions = cmp.Or(o.Versions, 32)
}

// source is a place that holds models.
type source interface {
	// list tells what is there; before is what was.
	list(ctx context.Context, before *inference.Registry, keep func(model, version string) bool) (*inference.Registry, error)
	// fetch returns the folder of a version on this machine, whose files have its digest.
	fetch(ctx context.Context, model string, v inference.Version) (string, error)
	publish(ctx context.Context, name, dir string) (string, error)
	close() error
}

// Store is a place that holds models. Its methods may be called from any goroutine.
type Store struct {
	source source
	keep   func(model, version string) bool

	mu       sync.Mutex
	registry *inference.Registry
}

// Open prepares a store: a directory ("file:./models", or a path) or an object store ("s3://bucket?region=…", "gs://bucket",
// "azblob://container", with "prefix=models/" in it for a part of one). It does not look into it yet.
func Open(ctx context.Context, location string, o Options) (*Store, error) {
	o.complete()
	if err := o.Layout.Validate(); err != nil {
		return nil, err
	}
	s := &Store{registry: inference.NewRegistry(nil, o.Layout), keep: func(string, string) bool { return false }}
	if scheme, _, found := strings.Cut(location, ":"); o.Bucket == nil && (!found || scheme == "file") {
		dir, err := inference.Directory(location)
		if err != nil {
			return nil, err
		}
		s.source = &local{dir: dir, layout: o.Layout}
		return s, nil
	}
	b, err := newBucket(ctx, location, o)
	if err != nil {
		return nil, err
	}
	s.source = b
	return s, nil
}

// Keep has versions stay listed, however many higher ones there are. It is called before the first Refresh.
func (s *Store) Keep(keep func(model, version string) bool) { s.keep = keep }

// Refresh lists what is there now. After an error what was listed before stands. changed says whether there is a difference.
func (s *Store) Refresh(ctx context.Context) (r *inference.Registry, changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err = s.source.list(ctx, s.registry, s.keep)
	if err != nil {
		return s.registry, false, err
	}
	if same(r, s.registry) {
		return s.registry, false, nil
	}
	s.registry = r
	return r, true, nil
}

// same reports whether two lists are of the same versions.
func same(a, b *inference.Registry) bool {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	x, y := a.Models(), b.Models()
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i].Name != y[i].Name || text(x[i].Err) != text(y[i].Err) || len(x[i].Versions) != len(y[i].Versions) {
			return false
		}
		for j, v := range x[i].Versions {
			w := y[i].Versions[j]
			if v.Name != w.Name || v.Contract != w.Contract || text(v.Err) != text(w.Err) {
				return false
			}
		}
	}
	return true
}

// Registry is what Refresh found last; empty before.
func (s *Store) Registry() *inference.Registry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry
}

// Fetch returns a folder of this machine that holds a version's files. They are held against the digest of the contract; a
// version whose files are others is a [*DigestError]. Other errors may pass: [*inference.FetchError].
func (s *Store) Fetch(ctx context.Context, model string, v inference.Version) (dir string, err error) {
	if v.Contract == nil {
		return "", v.Err
	}
	dir, err = s.source.fetch(ctx, model, v)
	if _, wrong := errors.AsType[*DigestError](err); err != nil && !wrong {
		err = &inference.FetchError{Err: err}
	}
	return dir, err
}

// Publish adds a directory as the next version of a model and returns its number. The directory has what an exported model
// consists of, and a model.yaml whose `version` and `files` are written anew in the copy. The version is there whole once Publish
// returns; after an error it is not, though its number may be used up.
//
// Errors: [*inference.ContractError] where model.yaml is at fault or of another model; else of the place.
func (s *Store) Publish(ctx context.Context, name, dir string) (version string, err error) {
	return s.source.publish(ctx, name, dir)
}

// Close gives up the connections.
func (s *Store) Close() error { return s.source.close() }

// DigestError says that a version's files are not those that its contract is about.
type DigestError struct {
	Model, Version string
	Want, Have     string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s %s: its files have the digest %s, and model.yaml says %s: copy it again, model.yaml last", e.Model, e.Version, e.Have, e.Want)
}

var errNoDigest = errors.New("model.yaml has no digest of the other files (files: sha256:…): publish the version, or have make train write it")
