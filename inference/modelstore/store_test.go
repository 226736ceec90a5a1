package modelstore

import (
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	_ "gocloud.dev/blob/s3blob"

	"footfall/inference"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testLayout = inference.Layout{
	Features: []string{
		"recency_days", "visit_days_7", "visit_days_28", "visit_days_84", "log_spend_28", "log_spend_84",
		"gap_ewma", "overdue", "departments_28", "discount_share_84",
	},
	Steps:   10,
	Columns: []string{"age_days", "gap_days", "log_spend", "departments", "discount_share"},
}

const model = "purchase_prediction"

// exported is a directory as a training leaves it.
func exported(tb testing.TB, about string) string {
	tb.Helper()
	dir := tb.TempDir()
	text, err := os.ReadFile("../testdata/model.yaml")
	require.NoError(tb, err)
	text = []byte(strings.Replace(string(text), "description: Prob", "description: "+about+" Prob", 1))
	for path, text := range map[string]string{
		"model.yaml": string(text), "saved_model.pb": about, "variables/variables.index": "index of " + about,
		"variables/variables.data-00000-of-00001": strings.Repeat(about, 1000), ".git/HEAD": "not a part", "variables/.lock": "nor this",
	} {
		require.NoError(tb, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		require.NoError(tb, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600))
	}
	return dir
}

// places are stores of every kind: open gives another one over the same place.
func places(t *testing.T, test func(t *testing.T, open func(cache string) *Store)) {
	open := func(t *testing.T, url string, o Options) *Store {
		s, err := Open(t.Context(), url, o)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	t.Run("directory", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "models")
		require.NoError(t, os.Mkdir(dir, 0o755))
		test(t, func(cache string) *Store { return open(t, "file:"+dir, Options{Layout: testLayout, Cache: cache}) })
	})
	t.Run("memory", func(t *testing.T) {
		b := memblob.OpenBucket(nil)
		test(t, func(cache string) *Store {
			return open(t, "mem:", Options{Layout: testLayout, Cache: cache, Bucket: blob.PrefixedBucket(b, "")})
		})
	})
	t.Run("s3", func(t *testing.T) {
		test(t, func(cache string) *Store { return open(t, s3(t), Options{Layout: testLayout, Cache: cache}) })
	})
}

var s3Servers sync.Map

// s3 starts a server of that protocol, one for each test, and returns the URL of a bucket.
func s3(t *testing.T) string {
	t.Helper()
	if url, ok := s3Servers.Load(t.Name()); ok {
		return url.(string)
	}
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket("models"))
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	url := "s3://models?region=us-east-1&use_path_style=true&endpoint=" + server.URL + "&prefix=live/"
	s3Servers.Store(t.Name(), url)
	return url
}

func refresh(t *testing.T, s *Store) *inference.Registry {
	t.Helper()
	r, _, err := s.Refresh(t.Context())
	require.NoError(t, err)
	return r
}

func versions(r *inference.Registry) (all []string) {
	for _, m := range r.Models() {
		for _, v := range m.Versions {
			all = append(all, m.Name+" "+v.Name)
		}
	}
	return all
}

func TestPublishAndFetch(t *testing.T) {
	places(t, func(t *testing.T, open func(string) *Store) {
		writer, reader := open(t.TempDir()), open(t.TempDir())
		require.Empty(t, refresh(t, reader).Models())
		for i, about := range []string{"one", "two"} {
			version, err := writer.Publish(t.Context(), model, exported(t, about))
			require.NoError(t, err)
			require.Equal(t, []string{"1", "2"}[i], version)
		}
		r, changed, err := reader.Refresh(t.Context())
		require.NoError(t, err)
		require.True(t, changed)
		require.Equal(t, []string{model + " 2", model + " 1"}, versions(r))
		for i, about := range []string{"two", "one"} {
			v := r.Models()[0].Versions[i]
			require.NoError(t, v.Err)
			require.True(t, strings.HasPrefix(v.Contract.Description, about))
			dir, err := reader.Fetch(t.Context(), model, v)
			require.NoError(t, err)
			for _, file := range []string{"saved_model.pb", "variables/variables.index", "model.yaml"} {
				require.FileExists(t, filepath.Join(dir, file))
			}
			text, err := os.ReadFile(filepath.Join(dir, "variables/variables.data-00000-of-00001"))
			require.NoError(t, err)
			require.Equal(t, strings.Repeat(about, 1000), string(text))
			have, err := Digest(dir)
			require.NoError(t, err)
			require.Equal(t, v.Contract.Files, have)
		}
		again, changed, err := reader.Refresh(t.Context())
		require.NoError(t, err)
		require.False(t, changed)
		require.Same(t, r, again)
		require.Same(t, r.Contract(model, "1"), refresh(t, reader).Contract(model, "1"))
	})
}

// Publishers at the same time never share a version.
func TestPublishersDoNotShare(t *testing.T) {
	places(t, func(t *testing.T, open func(string) *Store) {
		s := []*Store{open(t.TempDir()), open(t.TempDir())}
		dirs := []string{exported(t, "left"), exported(t, "right")}
		var mu sync.Mutex
		of := map[string]string{}
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				v, err := s[i%2].Publish(t.Context(), model, dirs[i%2])
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("publisher %d: %v", i, err)
					return
				}
				of[v] += []string{"left", "right"}[i%2]
			})
		}
		wg.Wait()
		require.Len(t, of, 6)
		r := refresh(t, s[0])
		require.Len(t, versions(r), 6)
		for _, v := range r.Models()[0].Versions {
			dir, err := s[0].Fetch(t.Context(), model, v)
			require.NoError(t, err)
			text, err := os.ReadFile(filepath.Join(dir, "saved_model.pb"))
			require.NoError(t, err)
			require.Equal(t, of[v.Name], string(text))
		}
	})
}

func TestPublishRefuses(t *testing.T) {
	places(t, func(t *testing.T, open func(string) *Store) {
		s := open(t.TempDir())
		dir := exported(t, "x")
		_, err := s.Publish(t.Context(), "another", dir)
		require.ErrorContains(t, err, `name: is "purchase_prediction", but the folder is "another"`)
		require.NoError(t, os.Remove(filepath.Join(dir, "saved_model.pb")))
		_, err = s.Publish(t.Context(), model, dir)
		require.ErrorContains(t, err, "saved_model.pb is missing")
		require.NoError(t, os.Remove(filepath.Join(dir, "model.yaml")))
		_, err = s.Publish(t.Context(), model, dir)
		require.ErrorContains(t, err, "model.yaml is missing")
		require.Empty(t, refresh(t, s).Models())
	})
}

func bucketed(t *testing.T, o Options) (*Store, *blob.Bucket) {
	t.Helper()
	base := memblob.OpenBucket(nil)
	b := blob.PrefixedBucket(base, "")
	t.Cleanup(func() { b.Close() })
	o.Layout, o.Cache, o.Bucket = testLayout, t.TempDir(), blob.PrefixedBucket(base, "")
	s, err := Open(t.Context(), "mem:", o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s, b
}

// What is half there is not listed, and what is not what its contract says is not loaded.
func TestHalfThere(t *testing.T) {
	s, b := bucketed(t, Options{})
	whole, err := s.Publish(t.Context(), model, exported(t, "whole"))
	require.NoError(t, err)
	put := func(key, text string) { require.NoError(t, b.WriteAll(t.Context(), key, []byte(text), nil)) }
	put(model+"/2/saved_model.pb", "half")
	put(model+"/2/variables/variables.index", "half")
	put("no-model/1/model.yaml", "")
	put("README.md", "")
	require.Equal(t, []string{model + " " + whole}, versions(refresh(t, s)), "its model.yaml is not there yet")

	text, err := b.ReadAll(t.Context(), model+"/1/model.yaml")
	require.NoError(t, err)
	put(model+"/2/model.yaml", strings.Replace(string(text), "version: 1\n", "version: 2\n", 1))
	put(model+"/3/model.yaml", "name: x")
	plain, err := os.ReadFile("../testdata/model.yaml")
	require.NoError(t, err)
	put(model+"/4/model.yaml", strings.Replace(string(plain), "version: 1\n", "version: 4\n", 1))
	r := refresh(t, s)
	require.Equal(t, []string{model + " 4", model + " 3", model + " 2", model + " 1"}, versions(r))
	all := r.Models()[0].Versions
	require.ErrorContains(t, all[0].Err, "has no digest")
	require.ErrorContains(t, all[1].Err, "model.yaml: ")
	_, err = s.Fetch(t.Context(), model, all[2])
	var wrong *DigestError
	require.ErrorAs(t, err, &wrong)
	require.False(t, inference.Passing(err))
	require.Equal(t, []string{model, "2"}, []string{wrong.Model, wrong.Version})
	// What was changed after it was copied here is fetched again.
	dir, err := s.Fetch(t.Context(), model, all[3])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "saved_model.pb"), []byte("torn"), 0o600))
	other, err := Open(t.Context(), "mem:", Options{Layout: testLayout, Cache: filepath.Dir(dir), Bucket: blob.PrefixedBucket(b, "")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	dir, err = other.Fetch(t.Context(), model, all[3])
	require.NoError(t, err)
	have, err := os.ReadFile(filepath.Join(dir, "saved_model.pb"))
	require.NoError(t, err)
	require.Equal(t, "whole", string(have))
}

func TestCopiesAreBounded(t *testing.T) {
	s, _ := bucketed(t, Options{CacheBytes: 30_000, Versions: 4})
	for range 6 {
		_, err := s.Publish(t.Context(), model, exported(t, "model of some bytes"))
		require.NoError(t, err)
	}
	kept := ""
	s.Keep(func(_, version string) bool { return version == kept })
	require.Len(t, versions(refresh(t, s)), 4)
	kept = "1"
	r := refresh(t, s)
	require.Equal(t, []string{model + " 6", model + " 5", model + " 4", model + " 3", model + " 1"}, versions(r))
	for _, v := range r.Models()[0].Versions {
		dir, err := s.Fetch(t.Context(), model, v)
		require.NoError(t, err)
		require.DirExists(t, dir, "the newest stays")
		copies, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*"))
		require.NoError(t, err)
		require.LessOrEqual(t, len(copies), 1)
	}
}

// A store that cannot be reached leaves what was listed, and says so.
func TestAway(t *testing.T) {
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket("models"))
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	s, err := Open(t.Context(), "s3://models?region=us-east-1&use_path_style=true&endpoint="+server.URL, Options{Layout: testLayout, Cache: t.TempDir()})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Publish(t.Context(), model, exported(t, "x"))
	require.NoError(t, err)
	before := refresh(t, s)
	server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	after, changed, err := s.Refresh(ctx)
	require.Error(t, err)
	require.False(t, changed)
	require.Same(t, before, after)
	_, err = s.Publish(ctx, model, exported(t, "x"))
	require.Error(t, err)
	_, err = s.Fetch(ctx, model, before.Models()[0].Versions[0])
	require.Error(t, err)
	require.True(t, inference.Passing(err), "it is tried again")
}

// The digest is what the tools of a shell say.
func TestDigestOfTheShell(t *testing.T) {
	dir := exported(t, "x")
	want, err := Digest(dir)
	require.NoError(t, err)
	const line = `find . -type f ! -name model.yaml ! -path '*/.*' -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum`
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = dir
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, want, "sha256:"+strings.Fields(string(out))[0])
	listed, err := files(dir)
	require.NoError(t, err)
	slices.Sort(listed)
	require.Equal(t, []string{"saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"}, listed)
}
