package modelstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/memblob" // for tests, and small: no library of a cloud
	"gocloud.dev/gcerrors"

	"footfall/inference"
)

// claimFile takes a number for a publisher before anything else of the version is there.
const claimFile = ".claim"

const (
	// maxObjects bounds what is listed.
	maxObjects = 1 << 18
	// maxContractBytes bounds model.yaml.
	maxContractBytes = 1 << 20
)

// bucket is an object store.
type bucket struct {
	*blob.Bucket
	location string
	layout   inference.Layout
	versions int
	cache    *cache
}

func newBucket(ctx context.Context, location string, o Options) (*bucket, error) {
	if o.Cache == "" {
		return nil, errors.New("models: a directory for copies is needed beside an object store")
	}
	b := &bucket{Bucket: o.Bucket, location: location, layout: o.Layout, versions: o.Versions}
	if b.Bucket == nil {
		opened, err := blob.OpenBucket(ctx, location)
		if err != nil {
			return nil, fmt.Errorf("models: %s: %w", redacted(location), err)
		}
		b.Bucket = opened
	}
	var err error
	if b.cache, err = newCache(o.Cache, o.CacheBytes); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// redacted is a location without what may be secret.
func redacted(location string) string {
	u, err := url.Parse(location)
	if err != nil {
		return "models.url"
	}
	u.RawQuery = ""
	return u.Redacted()
}

// listed is what is there of a version.
type listed struct {
	name  string
	files []object
	// contract is its model.yaml, nil where there is none yet.
	contract *object
}

type object struct {
	// path is from the version's folder on.
	path  string
	size  int64
	stamp string
}

// list reads the names of all objects, and the contracts that were not read before.
func (b *bucket) list(ctx context.Context, before *inference.Registry, keep func(model, version string) bool) (*inference.Registry, error) {
	found, err := b.objects(ctx)
	if err != nil {
		return nil, fmt.Errorf("models: %s: %w", redacted(b.location), err)
	}
	var models []inference.Model
	for _, name := range sortedKeys(found) {
		m := inference.Model{Name: name}
		versions := slices.SortedFunc(values(found[name]), func(x, y *listed) int { return cmp.Compare(number(y.name), number(x.name)) })
		for i, l := range versions {
			if i >= b.versions && !keep(name, l.name) {
				continue
			}
			v, err := b.version(ctx, before, name, l)
			if err != nil {
				return nil, fmt.Errorf("models: %s: %s %s: %w", redacted(b.location), name, l.name, err)
			}
			if v != nil {
				m.Versions = append(m.Versions, *v)
			}
		}
		if len(m.Versions) > 0 {
			models = append(models, m)
		}
	}
	return inference.NewRegistry(models, b.layout), nil
}

func number(version string) int {
	n, _ := inference.VersionNumber(version)
	return n
}

// objects are those of versions, by model and version.
func (b *bucket) objects(ctx context.Context) (map[string]map[string]*listed, error) {
	found := make(map[string]map[string]*listed)
	it := b.List(nil)
	for n := 0; ; n++ {
		o, err := it.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return found, nil
		case err != nil:
			return nil, err
		case n == maxObjects:
			return nil, fmt.Errorf("it holds more than %d objects: give the models a store, or a prefix, of their own", maxObjects)
		}
		parts := strings.SplitN(o.Key, "/", 3)
		if len(parts) < 3 || !inference.ValidName(parts[0]) || number(parts[1]) == 0 || o.IsDir {
			continue
		}
		versions := found[parts[0]]
		if versions == nil {
			versions = make(map[string]*listed)
			found[parts[0]] = versions
		}
		l := versions[parts[1]]
		if l == nil {
			l = &listed{name: parts[1]}
			versions[parts[1]] = l
		}
		f := object{parts[2], o.Size, fmt.Sprintf("%x %d %d", o.MD5, o.Size, o.ModTime.UnixNano())}
		if f.path == contractFile {
			l.contract = &f
		} else if !hidden(f.path) {
			l.files = append(l.files, f)
		}
	}
}

// hidden reports whether a path is none of a version's files, as in [Digest].
func hidden(p string) bool {
	return strings.HasSuffix(p, "/") || slices.ContainsFunc(strings.Split(p, "/"), func(part string) bool { return strings.HasPrefix(part, ".") })
}

// version reads a contract, unless it was read before; nil where there is none yet.
func (b *bucket) version(ctx context.Context, before *inference.Registry, model string, l *listed) (*inference.Version, error) {
	if l.contract == nil {
		return nil, nil
	}
	if old, ok := before.Version(model, l.name); ok && old.Stamp == l.contract.stamp {
		return &old, nil
	}
	v := &inference.Version{Name: l.name, Stamp: l.contract.stamp}
	if l.contract.size > maxContractBytes {
		v.Err = fmt.Errorf("model.yaml is longer than %d bytes", maxContractBytes)
		return v, nil
	}
	text, err := b.ReadAll(ctx, path.Join(model, l.name, contractFile))
	if err != nil {
		if gcerrors.Code(err) == gcerrors.NotFound {
			return nil, nil // it has just been removed
		}
		return nil, err
	}
	if v.Contract, v.Err = inference.ParseContract(text); v.Err == nil {
		v.Err = b.layout.Place(v.Contract, model, number(l.name))
	}
	if v.Err == nil && v.Contract.Files == "" {
		v.Err = errNoDigest
	}
	if v.Err != nil {
		v.Contract = nil
	}
	return v, nil
}

// fetch copies a version here, unless its copy is here.
func (b *bucket) fetch(ctx context.Context, model string, v inference.Version) (string, error) {
	return b.cache.get(model, v.Name, v.Contract.Files, func(part string) (string, error) {
		prefix := path.Join(model, v.Name) + "/"
		var entries []entry
		it := b.List(&blob.ListOptions{Prefix: prefix})
		for {
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return "", err
			}
			name := strings.TrimPrefix(o.Key, prefix)
			if hidden(name) {
				continue
			}
			e, err := b.download(ctx, o.Key, part, name)
			if err != nil {
				return "", err
			}
			if name != contractFile {
				entries = append(entries, e)
			}
		}
		return digest(entries), nil
	})
}

func (b *bucket) download(ctx context.Context, key, dir, name string) (entry, error) {
	r, err := b.NewReader(ctx, key, nil)
	if err != nil {
		return entry{}, err
	}
	defer r.Close() //nolint:errcheck // it was only read
	f, err := create(dir, name)
	if err != nil {
		return entry{}, err
	}
	e, err := tee(name, r, f)
	return e, errors.Join(err, f.Close())
}

// publish takes a number first, then copies the files, and the contract last.
func (b *bucket) publish(ctx context.Context, name, dir string) (string, error) {
	d, err := newDraft(name, dir, b.layout)
	if err != nil {
		return "", err
	}
	n, err := b.claim(ctx, name)
	if err != nil {
		return "", err
	}
	version := strconv.Itoa(n)
	// A writer whose context has ended writes nothing.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = d.copy(func(file string) (io.WriteCloser, error) {
		return b.NewWriter(ctx, path.Join(name, version, file), &blob.WriterOptions{ContentType: "application/octet-stream"})
	})
	if err != nil {
		return "", err
	}
	text, err := d.contract(n)
	if err != nil {
		return "", err
	}
	return version, b.put(ctx, path.Join(name, version, contractFile), text)
}

// put writes an object that is not there yet.
func (b *bucket) put(ctx context.Context, key string, text []byte) error {
	w, err := b.NewWriter(ctx, key, &blob.WriterOptions{IfNotExist: true, ContentType: "text/plain; charset=utf-8"})
	if err != nil {
		return err
	}
	_, err = io.Copy(w, bytes.NewReader(text))
	return errors.Join(err, w.Close())
}

// claim takes the next number of a model, for good.
func (b *bucket) claim(ctx context.Context, name string) (int, error) {
	n := 0
	it := b.List(&blob.ListOptions{Prefix: name + "/", Delimiter: "/"})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		n = max(n, number(path.Base(strings.TrimSuffix(o.Key, "/"))))
	}
	for {
		n++
		err := b.put(ctx, path.Join(name, strconv.Itoa(n), claimFile), []byte(time.Now().UTC().Format(time.RFC3339)+"\n"))
		if err == nil {
			return n, nil
		}
		if gcerrors.Code(err) != gcerrors.FailedPrecondition {
			return 0, err
		}
	}
}

func (b *bucket) close() error { return b.Close() }
