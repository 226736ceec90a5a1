package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages/footfallv1"
	"footfall/node"
	"footfall/node/config"
)

// A node's data become a cluster's, on RabbitMQ and PostgreSQL; that is backed up, restored beside it, and doubled.
func TestTransferOfCluster(t *testing.T) {
	if os.Getenv("FOOTFALL_HEAVY") != "1" {
		t.Skip("FOOTFALL_HEAVY is not 1: it starts a broker and a database")
	}
	dir := t.TempDir()
	broker := local.TestBroker(t, local.BrokerOptions{})
	postgres := local.PostgresFor(t, local.PostgresOptions{})
	place := func(name string, shards int) (file string) {
		logURL, err := broker.VHost(t.Context(), name)
		require.NoError(t, err)
		storeURL, err := postgres.CreateDatabase(t.Context(), name)
		require.NoError(t, err)
		file = filepath.Join(dir, name+".yaml")
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "node: {name: n1, roles: shards}\nshards: %d\nclock: driven\nlog.url: %q\nstore.url: %q\n"+
			"http.listen: 127.0.0.1:0\ngrpc.listen: 127.0.0.1:0\ncluster.listen: 127.0.0.1:0\n", shards, logURL, storeURL), 0o600))
		return file
	}
	must := func(args ...string) string {
		t.Helper()
		r := footfall(t, "", args...)
		require.Equal(t, exitOK, r.code, r.err)
		return r.out
	}

	// What a node on its own knows.
	single, first := filepath.Join(dir, "single"), filepath.Join(dir, "first")
	addr, stop := realNode(t, single, footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
	var lines []string
	for i := range 200 {
		lines = append(lines, viewLine(fmt.Sprintf("e-%d", i), fmt.Sprint(i%40), fmt.Sprintf("2017-01-%02dT10:00:00Z", 1+i/40)))
	}
	t.Setenv("FOOTFALL_CACHE", t.TempDir())
	must("replay", writeFile(t, "history.ndjson", strings.Join(lines, "\n")), "--node", addr)
	stop()
	must("backup", first, "--data", single)

	a := place("a", 4)
	require.Contains(t, must("restore", first, "--config", a), "4 shards, 40 customers in ")
	require.Contains(t, footfall(t, "", "restore", first, "--config", place("b", 8)).err, "the data are of 4 shards")

	addr, stop = clusterNode(t, a)
	require.Equal(t, "4 shards, 40 customers, 200 events: equal\n", must("verify", "--node", addr))
	r := footfall(t, viewLine("new", "7", "2017-01-06T10:00:00Z"), "publish", "-", "--node", addr)
	require.Equal(t, exitOK, r.code, r.err)
	require.Eventually(t, func() bool {
		return strings.Contains(footfall(t, "", "customer", "7", "--node", addr, "-o", "json").out, `"last_event_time": "2017-01-06`)
	}, time.Minute, 10*time.Millisecond)
	stop()

	second := filepath.Join(dir, "second")
	require.Contains(t, must("backup", second, "--config", a), "4 shards, 40 customers in ")
	must("backup", filepath.Join(dir, "third"), "--config", a, "--no-log")
	require.Contains(t, must("restore", second, "--config", place("c", 4)), "4 shards, 40 customers in ")
	require.Contains(t, footfall(t, "", "restore", second, "--config", a).err, "there are data already")

	d := place("d", 8)
	require.Contains(t, must("reshard", "--config", a, "--into-config", d), "8 shards, 40 customers in ")
	addr, _ = clusterNode(t, d)
	require.Equal(t, "8 shards, 40 customers, 201 events: equal\n", must("verify", "--node", addr))
}

// clusterNode runs a node of a configuration, and returns once it is ready.
func clusterNode(t *testing.T, file string) (addr string, stop func()) {
	t.Helper()
	cfg, err := config.Load(config.Sources{File: file})
	require.NoError(t, err)
	n, err := node.New(node.Options{Config: cfg, Version: "test", Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // the node outlives the test's context, until its cleanup
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			require.NoError(t, <-ended)
		}
	}
	t.Cleanup(stop)
	require.Eventually(t, func() bool { return n.Ready().Ready }, time.Minute, 10*time.Millisecond, "%v", n.Ready())
	return n.GRPCAddr(), stop
}
