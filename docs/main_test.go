// Package docs_test holds the documents to the program that they describe: links and paths exist, tables name what
// the code names, and the commands of the guide are run against a real node.
package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// root is the checkout, seen from this folder.
const root = ".."

var (
	// checkout is root, for those who have left the folder.
	checkout string
	// binaries is the folder of what the tests have built, empty before that.
	binaries string
)

func TestMain(m *testing.M) {
	// The guide calls curl, which a machine may lack: a link of that name to this binary takes its place.
	if filepath.Base(os.Args[0]) == "curl" {
		os.Exit(curl(os.Args[1:]))
	}
	// The walk through the scaling of a cluster starts nodes: this binary is one without TensorFlow.
	if filepath.Base(os.Args[0]) == "footfall-node" {
		os.Exit(serve(os.Args[1:]))
	}
	var err error
	if checkout, err = filepath.Abs(root); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if binaries != "" {
		_ = os.RemoveAll(binaries) // what is left lies in the system's temporary folder
	}
	os.Exit(code)
}
