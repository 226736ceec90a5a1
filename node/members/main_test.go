package members_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"footfall/messages/footfallv1"
	"footfall/node"
	"footfall/node/config"
)

// childEnv makes this binary a node of its own, of the spec that it holds as JSON.
const childEnv = "FOOTFALL_TEST_MEMBER"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		os.Exit(child(text))
	}
	goleak.VerifyTestMain(m)
}

// spec is a node of a cluster.
type spec struct {
	Name             string
	Broker, Database string
	Join             []string
	Shards           int
	// GRPC and Gossip are where it listens; any free ports by default.
	GRPC, Gossip string
	// Models is where the models are; with it the node has devices, and all of them answer Score.
	Models string
	Score  float32
	// ByVersion has a model answer a tenth of its version instead.
	ByVersion bool
	// Watch is how often the node looks what versions there are, and what others have decided.
	Watch time.Duration
	// Servers are the outside servers of a node.
	Servers []string
	// Secure is the folder of its certificates, tokens and keys; empty: it asks nobody.
	Secure string
}

func (s spec) config() *config.Config {
	c := config.Default()
	c.Name, c.Roles, c.Zone = s.Name, config.Roles{config.RoleShards}, "zone of "+s.Name
	c.HTTPListen, c.GRPCListen, c.ClusterListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.GRPCListen, c.ClusterListen = cmp.Or(s.GRPC, c.GRPCListen), cmp.Or(s.Gossip, c.ClusterListen)
	c.LogDir, c.LogBroker = "", s.Broker
	c.StoreDir, c.StoreDatabases = "", []string{s.Database}
	c.ClusterJoin = s.Join
	c.Shards = s.Shards
	c.Clock = footfallv1.ClockMode_CLOCK_MODE_DRIVEN
	c.CheckpointInterval = time.Second
	c.DrainTimeout = 20 * time.Second
	c.InferenceServers = s.Servers
	c.ModelsDir = cmp.Or(s.Models, c.ModelsDir)
	c.ModelsWatch = cmp.Or(s.Watch, c.ModelsWatch)
	if s.Score != 0 || s.ByVersion {
		c.Roles = config.Roles{config.RoleInference}
	}
	if s.Secure != "" {
		s.secure(c)
	}
	return c
}

func (s spec) node(logger *slog.Logger, reg *prometheus.Registry) (*node.Node, error) {
	o := node.Options{Config: s.config(), Version: "v-test", Logger: logger, Registry: reg}
	if s.Score != 0 {
		o.Runner = steady(s.Score)
	}
	if s.ByVersion {
		o.Runner = byVersion{}
	}
	return node.New(o)
}

// child is a node in a process of its own, for a test to kill. It ends with its parent: its
// standard input ends then.
func child(text string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until it ends, however it does
		cancel()
	}()
	var s spec
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		var n *node.Node
		if n, err = s.node(slog.New(slog.NewJSONHandler(os.Stdout, nil)), prometheus.NewRegistry()); err == nil {
			err = n.Run(ctx)
		}
	}
	if err != nil {
		slog.Error("child failed", "error", err)
		return 1
	}
	return 0
}

// member is a node that runs, here or in a process of its own, and clients of it.
type member struct {
	footfallv1.IngestServiceClient
	footfallv1.CustomerServiceClient
	footfallv1.AdminServiceClient
	name string
	conn *grpc.ClientConn

	// Here.
	node     *node.Node
	registry *prometheus.Registry
	cancel   context.CancelFunc
	ended    chan error

	// In a process of its own.
	cmd    *exec.Cmd
	stdin  io.Closer
	log    sync.WaitGroup
	gossip string // where its gossip listens
}

func (m *member) dial(t *testing.T, address string, doors ...grpc.DialOption) {
	t.Helper()
	conn, err := grpc.NewClient(address, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, doors...)...)
	require.NoError(t, err)
	m.conn = conn
	m.IngestServiceClient = footfallv1.NewIngestServiceClient(conn)
	m.CustomerServiceClient = footfallv1.NewCustomerServiceClient(conn)
	m.AdminServiceClient = footfallv1.NewAdminServiceClient(conn)
}

// launch starts a node in this process.
func launch(t *testing.T, s spec) *member {
	t.Helper()
	m := &member{name: s.Name, registry: prometheus.NewRegistry(), ended: make(chan error, 1)}
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("on", s.Name)
	}
	var err error
	m.node, err = s.node(logger, m.registry)
	require.NoError(t, err)
	m.dial(t, m.node.GRPCAddr())
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // the node outlives the test's context, until its cleanup
	m.cancel = cancel
	go func() { m.ended <- m.node.Run(ctx) }()
	t.Cleanup(func() { m.halt(t) })
	return m
}

// halt stops a node in order. It does nothing the second time.
func (m *member) halt(t *testing.T) {
	t.Helper()
	if m.conn == nil {
		return
	}
	if m.cmd != nil {
		if m.cmd.ProcessState == nil {
			require.NoError(t, m.cmd.Process.Kill())
			require.Error(t, m.wait())
		}
	} else {
		m.cancel()
		require.NoError(t, <-m.ended)
	}
	require.NoError(t, m.conn.Close())
	m.conn = nil
}

// spawn starts a node in a process of its own, and returns once it listens.
func spawn(t *testing.T, s spec) *member {
	t.Helper()
	text, err := json.Marshal(s)
	require.NoError(t, err)
	m := &member{name: s.Name, cmd: exec.Command(os.Args[0])} //nolint:noctx // the test ends it
	m.cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	m.cmd.Stderr = t.Output()
	m.stdin, err = m.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := m.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, m.cmd.Start())
	lines := bufio.NewScanner(out)
	for m.gossip == "" && lines.Scan() {
		var l struct{ Msg, GRPC, Address string }
		if json.Unmarshal(lines.Bytes(), &l) == nil {
			switch l.Msg {
			case "listening":
				m.dial(t, l.GRPC, s.doors(t)...)
			case "listening for gossip":
				m.gossip = l.Address
			}
		}
		tell(t, lines.Bytes())
	}
	m.log.Go(func() {
		for lines.Scan() {
			tell(t, lines.Bytes())
		}
	})
	require.NotNil(t, m.conn, "the child has ended")
	t.Cleanup(func() { m.halt(t) })
	return m
}

// tell shows a line of a child's log where it says that something is wrong.
func tell(t *testing.T, line []byte) {
	var l struct{ Level string }
	_ = json.Unmarshal(line, &l) // what is not JSON is nobody's line
	if testing.Verbose() || l.Level == slog.LevelError.String() {
		fmt.Fprintln(t.Output(), string(line))
	}
}

// wait returns how a process ended.
func (m *member) wait() error {
	m.log.Wait()
	err := m.cmd.Wait()
	_ = m.stdin.Close() // it is gone
	return err
}
