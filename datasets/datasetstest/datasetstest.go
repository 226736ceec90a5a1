// Package datasetstest opens real data sets in tests: it shares one cache between all packages of a
// checkout.
package datasetstest

import (
	"os"
	"path/filepath"
	"testing"

	"footfall/datasets"
)

// Options are those of a test: the cache of the checkout, or $FOOTFALL_CACHE, and the checkout's
// Python.
func Options(t testing.TB) datasets.Options {
	t.Helper()
	root := root(t)
	opt := datasets.Options{Cache: os.Getenv("FOOTFALL_CACHE")}
	if opt.Cache == "" {
		opt.Cache = filepath.Join(root, ".cache")
	}
	if os.Getenv("FOOTFALL_PYTHON") == "" {
		if python := filepath.Join(root, ".venv", "bin", "python"); exists(python) {
			opt.Python = python
		}
	}
	return opt
}

// Open opens a data set, downloading it if it must.
func Open(t testing.TB, name string) *datasets.Dataset {
	t.Helper()
	d, err := datasets.Open(t.Context(), name, Options(t))
	if err != nil {
		t.Fatalf("this test needs the data set %s: %v", name, err)
	}
	return d
}

// root is the folder of go.mod.
func root(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for !exists(filepath.Join(dir, "go.mod")) {
		if dir == filepath.Dir(dir) {
			t.Fatal("the test runs outside of the checkout")
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
