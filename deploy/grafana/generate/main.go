// Generate writes the dashboards into a folder: make dashboards.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"footfall/deploy/grafana"
)

func main() {
	into := flag.String("into", "deploy/grafana/dashboards", "the folder")
	runbooks := flag.String("runbooks", grafana.DefaultRunbooks, "where docs/runbooks is, as a browser reaches it")
	flag.Parse()
	if err := run(*into, *runbooks); err != nil {
		fmt.Fprintf(os.Stderr, "footfall: %v\n", err)
		os.Exit(1)
	}
}

func run(into, runbooks string) error {
	all, err := grafana.Dashboards(runbooks)
	if err != nil {
		return err
	}
	for _, d := range all {
		if err := os.WriteFile(filepath.Join(into, d.File), d.JSON, 0o644); err != nil { //nolint:gosec // everybody may read them
			return err
		}
	}
	return nil
}
