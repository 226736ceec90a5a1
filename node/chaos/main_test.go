package chaos

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"footfall/messages/footfallv1"
	"footfall/node"
	"footfall/node/config"
)

// childEnv makes this binary a node of its own, of the spec that it holds as JSON.
const childEnv = "FOOTFALL_TEST_CHAOS"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		os.Exit(child(text))
	}
	goleak.VerifyTestMain(m)
}

// heavy says that there is time.
func heavy() bool { return os.Getenv("FOOTFALL_HEAVY") == "1" }

// shards are few, so that each has much to suffer.
const shards = 16

// spec is what a node is told.
type spec struct {
	Name string
	// HTTP, GRPC and Gossip are where it listens.
	HTTP, GRPC, Gossip string
	// ViaGRPC and ViaGossip are where the others reach it.
	ViaGRPC, ViaGossip string
	Join               []string
	Broker, Database   string
}

// child is a node in a process of its own, stopped by SIGTERM like any other.
func child(text string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	var s spec
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		c := config.Default()
		c.Name, c.Roles = s.Name, config.Roles{config.RoleShards}
		c.HTTPListen, c.GRPCListen, c.ClusterListen = s.HTTP, s.GRPC, s.Gossip
		c.GRPCAdvertise, c.ClusterAdvertise, c.ClusterJoin = s.ViaGRPC, s.ViaGossip, s.Join
		c.LogDir, c.LogBroker = "", s.Broker
		c.StoreDir, c.StoreDatabases = "", []string{s.Database}
		c.Shards = shards
		c.Clock = footfallv1.ClockMode_CLOCK_MODE_DRIVEN
		c.CheckpointInterval = 500 * time.Millisecond
		c.DrainTimeout = 10 * time.Second
		var n *node.Node
		if n, err = node.New(node.Options{Config: c, Version: "v-test", Logger: logger, Registry: prometheus.NewRegistry()}); err == nil {
			err = n.Run(ctx)
		}
	}
	if err != nil {
		logger.Error("the node failed", "error", err)
		return 1
	}
	return 0
}
