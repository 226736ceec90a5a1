package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// script makes a program that stands in for a node.
func script(t *testing.T, body string) (path, log string) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "node")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700))
	return path, filepath.Join(dir, "node.log")
}

func TestChildStopsInOrder(t *testing.T) {
	path, log := script(t, "sleep 1000 & trap 'kill $!; echo stopped; exit 0' TERM; echo \"with $1\"; wait\n")
	c, err := startNode(path, log, "--flag")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return lastLine(log) == "with --flag" }, time.Minute, time.Millisecond)
	require.NoError(t, c.stop())
	require.Equal(t, "stopped", lastLine(log))
	require.NoError(t, c.stop(), "once more changes nothing")
}

func TestChildThatEndsSaysWhy(t *testing.T) {
	path, log := script(t, "echo first; echo the disk is on fire >&2; exit 3\n")
	c, err := startNode(path, log)
	require.NoError(t, err)
	ctx, cancel := c.watch(t.Context())
	defer cancel(nil)
	<-ctx.Done()
	require.EqualError(t, context.Cause(ctx), "the node has ended (exit status 3: the disk is on fire): its log is "+log)
	require.Error(t, c.stop())
}

func TestChildThatCannotStart(t *testing.T) {
	_, err := startNode("/no/such/node", filepath.Join(t.TempDir(), "node.log"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
