// Package docs_test holds the documents to the program that they describe: links and paths exist, tables name what
// the code names, and the commands of the guide are run against a real node.
package docs_test

import (
	"os"
	"path/filepath"
	"testing"
)

// root is the checkout, seen from this folder.
const root = ".."

func TestMain(m *testing.M) {
	// The guide calls curl, which a machine may lack: a link of that name to this binary takes its place.
	if filepath.Base(os.Args[0]) == "curl" {
		os.Exit(curl(os.Args[1:]))
	}
	os.Exit(m.Run())
}
