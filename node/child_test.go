package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"footfall/node/config"
)

// childEnv makes this binary a node of its own, of the childConfig that it holds as JSON.
const childEnv = "FOOTFALL_TEST_CHILD"

// childConfig is what is told to a node in a process of its own.
type childConfig struct {
	Dir string
	// LogBroker is the URL of its broker; without one the log is in Dir.
	LogBroker string
	// LogSize bounds the log of a shard.
	LogSize int64
	// GRPC and HTTP are where it listens; any free ports by default.
	GRPC, HTTP string
	Shards     int
}

func (c childConfig) config() *config.Config {
	out := testConfig(c.Dir)
	if c.LogBroker != "" {
		out.LogDir, out.LogBroker = "", c.LogBroker
	}
	if c.GRPC != "" {
		out.GRPCListen = c.GRPC
	}
	if c.HTTP != "" {
		out.HTTPListen = c.HTTP
	}
	if c.Shards != 0 {
		out.Shards = c.Shards
	}
	out.LogSize = c.LogSize
	return out
}

// child is a node in a process of its own, for a test to kill. It tells its parent where it
// listens through its log, and ends with its parent: its standard input ends then.
func child(text string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until it ends, however it does
		cancel()
	}()
	var c childConfig
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		cfg := c.config()
		cfg.MemoryBudget = 64 << 10 // so little that customers come and go
		var n *Node
		if n, err = New(Options{
			Config: cfg, Version: "v-test", Registry: prometheus.NewRegistry(),
			Logger: slog.New(slog.NewJSONHandler(os.Stdout, nil)),
		}); err == nil {
			err = n.Run(ctx)
		}
	}
	if err != nil {
		slog.Error("child failed", "error", err)
		return 1
	}
	return 0
}

// process is a child and a client of it.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	conn  *grpc.ClientConn
	// log ends when the child's output does.
	log chan struct{}
}

var errChildEnded = errors.New("the child ended before it listened")

// spawn starts a child and returns once it listens.
func spawn(t *testing.T, c childConfig) *process {
	t.Helper()
	p, err := trySpawn(t, c)
	require.NoError(t, err)
	return p
}

// trySpawn is spawn of a child that may not find what it needs: errChildEnded.
func trySpawn(t *testing.T, c childConfig) (*process, error) {
	t.Helper()
	text, err := json.Marshal(c)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0]) //nolint:noctx // the test ends it
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{cmd: cmd, stdin: stdin, log: make(chan struct{})}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil { // the test has failed
			p.kill(t)
		}
	})
	lines := bufio.NewScanner(stdout)
	for p.conn == nil && lines.Scan() {
		tell(t, lines.Bytes())
		var l struct{ Msg, GRPC string }
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "listening" {
			p.conn, err = grpc.NewClient(l.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
			require.NoError(t, err)
		}
	}
	if p.conn == nil {
		close(p.log)
		p.wait()
		return nil, errChildEnded
	}
	go func() {
		defer close(p.log)
		for lines.Scan() {
			tell(t, lines.Bytes())
		}
	}()
	return p, nil
}

// tell shows a line of a child's log where it says that something is wrong.
func tell(t *testing.T, line []byte) {
	var l struct{ Level string }
	_ = json.Unmarshal(line, &l) // what is not JSON is nobody's line
	if testing.Verbose() || l.Level == slog.LevelError.String() {
		fmt.Fprintln(t.Output(), string(line))
	}
}

// kill ends the child as a power switch does, as far as its process is concerned.
func (p *process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	p.wait()
	if p.conn != nil {
		require.NoError(t, p.conn.Close())
	}
}

func (p *process) wait() {
	<-p.log
	_ = p.cmd.Wait() // it was killed, or the test looks at what it said
	_ = p.stdin.Close()
}
