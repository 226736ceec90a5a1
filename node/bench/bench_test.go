package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/node"
	"footfall/node/config"
)

// nodeEnv makes this binary a node with the configuration file that it names.
const nodeEnv = "FOOTFALL_TEST_BENCH_NODE"

func TestMain(m *testing.M) {
	if file := os.Getenv(nodeEnv); file != "" {
		if err := serve(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serve(file string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := config.Load(config.Sources{File: file})
	if err != nil {
		return err
	}
	n, err := node.New(node.Options{Config: c, Version: "v-test", Registry: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// TestQuickRun runs every benchmark small: figures come out, and the peer stream's check is right.
func TestQuickRun(t *testing.T) {
	if os.Getenv("FOOTFALL_HEAVY") != "1" {
		t.Skip("it takes a minute of both cores: FOOTFALL_HEAVY=1 runs it")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "bench-") //nolint:usetesting // t.TempDir's is closed to the user that PostgreSQL runs as
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	defer func() { require.NoError(t, os.RemoveAll(dir)) }()
	s := &Suite{
		Dir: dir, Quick: true, Progress: func(text string) { t.Log(text) },
		Node: func(file string) local.Command {
			return local.Command{Path: self, Env: append(os.Environ(), nodeEnv+"="+file)}
		},
	}
	require.ErrorContains(t, s.Run(t.Context(), "nothing"), "choose from decode")
	require.NoError(t, s.Run(t.Context(), filter()...))
	for _, r := range s.Rows {
		if r.Unit == "queries" {
			require.Zero(t, r.Value, r.Name)
		} else {
			require.Positive(t, r.Value, r.Name)
		}
		t.Logf("%-12s %-70s %12.4g %-10s %.2f %s", r.Group, r.Name, r.Value, r.Unit, r.Ratio, r.Target)
	}
	require.NoError(t, s.WriteJSON(filepath.Join(t.TempDir(), "b", "results.json"), time.Now()))
}

// filter is what FOOTFALL_TEST_BENCH names; all by default.
func filter() []string {
	if name := os.Getenv("FOOTFALL_TEST_BENCH"); name != "" {
		return []string{name}
	}
	return nil
}
