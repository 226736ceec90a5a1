package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

const nodeBinary = "footfall-node"

func (a *app) nodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "node [FLAGS]",
		Short: "Start a node: footfall-node with the same flags",
		Long: `Start a node. It is the binary footfall-node, found beside this one or on PATH, and takes all
flags after 'node'; 'footfall node --help' shows its own help.`,
		Example: `  footfall node
  footfall node --config footfall.yaml --clock driven`,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := findNode()
			if err != nil {
				return err
			}
			// The node takes the place of this process: signals and exit code are its own.
			return fmt.Errorf("start %s: %w", path, syscall.Exec(path, append([]string{nodeBinary}, args...), os.Environ()))
		},
	}
}

// findNode returns the path of footfall-node: beside this binary, or on PATH.
func findNode() (string, error) {
	self, err := os.Executable()
	if err == nil {
		if beside, err := exec.LookPath(filepath.Join(filepath.Dir(self), nodeBinary)); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(nodeBinary)
	if err != nil {
		return "", errors.New(nodeBinary + " is neither beside this binary nor on PATH: build it with 'make build'")
	}
	return path, nil
}
