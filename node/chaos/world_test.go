package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"footfall/deploy/local"
	"footfall/messages/footfallv1"
)

// The names of the servers in the network.
const (
	broker   = "broker"
	postgres = "postgres"
)

// most is how many nodes there may be.
const most = 5

// world is the servers, the nodes, and the network between them.
type world struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	dir    string
	net    *network
	subnet string // of loopback addresses, with a final dot
	broker *local.Broker
	store  *local.Postgres
	disk   *disk
	db     string // its address, for the test itself
	nodes  [most]*member
	kept   *member // is not struck, nil where all may be
}

// member is a node that may run, and clients of it, past the network.
type member struct {
	footfallv1.IngestServiceClient
	footfallv1.CustomerServiceClient
	footfallv1.AdminServiceClient
	name string
	spec spec
	conn *grpc.ClientConn

	mu      sync.Mutex     // guards what follows
	process *local.Process // nil where it is not to run
	lives   int
	frozen  bool
}

func newWorld(t *testing.T, seed uint64, nodes int) *world {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the network of this test asks Linux who has connected")
	}
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(), net: newNetwork(t)}
	// Any program may listen on any address of 127.0.0.0/8: nobody else is where this test is.
	w.subnet = fmt.Sprintf("127.%d.%d.", 1+os.Getpid()%250, 1+time.Now().UnixNano()%250)
	var started sync.WaitGroup
	started.Go(func() { w.broker = local.TestBroker(t, local.BrokerOptions{}) })
	w.disk = newDisk(t)
	w.store = local.PostgresFor(t, local.PostgresOptions{Dir: w.disk.dir, Unsynced: true, Settings: map[string]string{
		"max_wal_size": "48MB", "min_wal_size": "32MB", "shared_buffers": "32MB",
	}})
	started.Wait()
	if t.Failed() {
		t.FailNow()
	}
	var err error
	w.db, err = w.store.CreateDatabase(t.Context(), "footfall")
	require.NoError(t, err)
	for i := range most {
		w.nodes[i] = w.member(i)
	}
	w.start(w.nodes[0])
	w.everybodyAnswers(time.Minute)
	w.audit()
	for _, m := range w.nodes[1:nodes] {
		w.start(m)
	}
	w.everybodyAnswers(time.Minute)
	require.NoError(t, w.broker.Settle(t.Context()))
	return w
}

// member makes the place of a node in the network.
func (w *world) member(i int) *member {
	t := w.t
	m := &member{name: "n" + strconv.Itoa(i+1)}
	at, via := w.subnet+strconv.Itoa(i+1), w.subnet+strconv.Itoa(101+i)
	through := func(name, addr string) string {
		u, err := url.Parse(addr)
		require.NoError(t, err)
		target := u.Host
		_, port, err := net.SplitHostPort(target)
		require.NoError(t, err)
		u.Host = net.JoinHostPort(via, port)
		w.net.tcp(t, u.Host, name, target)
		return u.String()
	}
	m.spec = spec{
		Name: m.name,
		HTTP: at + ":8080", GRPC: at + ":8081", Gossip: at + ":7946",
		ViaGRPC: via + ":8081", ViaGossip: via + ":7946",
		Broker: through(broker, w.broker.URL()), Database: through(postgres, w.db),
	}
	for other := range most {
		if other != i {
			m.spec.Join = append(m.spec.Join, w.subnet+strconv.Itoa(101+other)+":7946")
		}
	}
	w.net.tcp(t, m.spec.ViaGRPC, m.name, m.spec.GRPC)
	w.net.tcp(t, m.spec.ViaGossip, m.name, m.spec.Gossip)
	w.net.packets(t, m.spec.ViaGossip, m.name, m.spec.Gossip)
	w.net.sender(netip.MustParseAddr(at), m.name)

	pace := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}
	conn, err := grpc.NewClient(m.spec.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithIdleTimeout(0), grpc.WithConnectParams(grpc.ConnectParams{Backoff: pace, MinConnectTimeout: time.Second}))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	m.conn = conn
	m.IngestServiceClient = footfallv1.NewIngestServiceClient(conn)
	m.CustomerServiceClient = footfallv1.NewCustomerServiceClient(conn)
	m.AdminServiceClient = footfallv1.NewAdminServiceClient(conn)
	t.Cleanup(func() {
		if m.process != nil {
			require.NoError(t, m.process.Kill())
		}
		if t.Failed() || os.Getenv("FOOTFALL_CHAOS_LOGS") != "" {
			w.keepLog(m)
		}
	})
	return m
}

// keepLog says where what a node said can be read.
func (w *world) keepLog(m *member) {
	text, err := os.ReadFile(w.log(m))
	if err != nil {
		return // it never ran
	}
	dir := os.Getenv("FOOTFALL_CHAOS_LOGS")
	if dir == "" {
		w.t.Logf("the log of %s ends with:\n%s", m.name, local.Tail(w.log(m)))
		return
	}
	require.NoError(w.t, os.MkdirAll(dir, 0o755))
	path := filepath.Join(dir, fmt.Sprintf("%s-%d-%s.log", filepath.Base(w.t.Name()), w.seed, m.name))
	require.NoError(w.t, os.WriteFile(path, text, 0o600))
	w.t.Logf("the log of %s: %s", m.name, path)
}

func (w *world) log(m *member) string { return filepath.Join(w.dir, m.name+".log") }

// start starts a node that does not run, and returns once it listens.
func (w *world) start(m *member) {
	w.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lives++
	s := m.spec
	// The database says in whose name a process writes.
	s.Database += fmt.Sprintf("&application_name=%s.%d", m.name, m.lives)
	text, err := json.Marshal(s)
	require.NoError(w.t, err)
	m.process, err = local.StartProcess(local.Command{
		Title: m.name, Path: os.Args[0], Env: append(os.Environ(), childEnv+"="+string(text)), Dir: w.dir, Log: w.log(m),
	})
	require.NoError(w.t, err)
	w.net.process(m.process.Pid(), m.name)
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	ctx, stop := m.process.Watch(ctx)
	defer stop(nil)
	require.NoError(w.t, local.Await(ctx, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", s.GRPC)
		if err == nil {
			err = conn.Close()
		}
		return err
	}))
}

// kill ends a node with kill -9.
func (w *world) kill(m *member) {
	w.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	require.NoError(w.t, m.process.Ended(), "the node has ended by itself")
	require.NoError(w.t, m.process.Kill())
	m.process = nil
}

// stop ends a node in order; where something else is broken, as far as it gets within its time.
func (w *world) stop(m *member, whole bool) {
	w.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	require.NoError(w.t, m.process.Ended(), "the node has ended by itself")
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	require.NoError(w.t, m.process.Stop(ctx, syscall.SIGTERM))
	w.ended(m, whole)
}

// ended looks how a node has ended that was told to.
func (w *world) ended(m *member, whole bool) {
	w.t.Helper()
	if err := m.process.Ended(); whole {
		require.ErrorContains(w.t, err, "exit status 0")
	} else {
		require.ErrorContains(w.t, err, "exit status") // 1 where it could not hand over
	}
	m.process = nil
}

// drain has a node leave for good, asked by another.
func (w *world) drain(m, by *member, whole bool) {
	w.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	require.NoError(w.t, local.Await(ctx, func(ctx context.Context) error {
		_, err := by.DrainMember(ctx, &footfallv1.DrainMemberRequest{Member: m.name})
		return err
	}))
	select {
	case <-m.process.Done():
	case <-ctx.Done():
		require.NoError(w.t, ctx.Err(), "%s does not leave", m.name)
	}
	w.ended(m, whole)
}

var errNotStopped = errors.New("it has not stopped yet")

// freeze has a node stand still until the function that it returns is called.
func (w *world) freeze(m *member) (thaw func()) {
	w.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	pid := m.process.Pid()
	require.NoError(w.t, syscall.Kill(pid, syscall.SIGSTOP))
	require.NoError(w.t, local.Await(w.t.Context(), func(context.Context) error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !bytes.Contains(stat, []byte(") T ")) {
			err = errNotStopped
		}
		return err
	}))
	m.frozen = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.frozen = false
		require.NoError(w.t, syscall.Kill(pid, syscall.SIGCONT))
	}
}

// running are the nodes that run.
func (w *world) running() (out []*member) {
	for _, m := range w.nodes {
		m.mu.Lock()
		if m.process != nil {
			out = append(out, m)
		}
		m.mu.Unlock()
	}
	return out
}

// awake are those of running that do not stand still.
func (w *world) awake() []*member {
	return slices.DeleteFunc(w.running(), func(m *member) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.frozen
	})
}

// alive fails the test where a node has ended that nobody ended.
func (w *world) alive() {
	w.t.Helper()
	for _, m := range w.running() {
		require.NoError(w.t, m.process.Ended())
	}
}

// everybodyAnswers returns once every node that is awake answers for every shard, and how long that took. A node that
// has ended by itself, or a shard that is served by nobody for so long, fails the test.
func (w *world) everybodyAnswers(within time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(w.t.Context(), within)
	defer cancel()
	var work sync.WaitGroup
	failed := make(chan string, most)
	for _, m := range w.awake() {
		work.Go(func() {
			err := local.Await(ctx, func(ctx context.Context) error {
				if err := m.process.Ended(); err != nil {
					return nil // alive tells
				}
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				_, err := m.BatchGetCustomers(ctx, &footfallv1.BatchGetCustomersRequest{CustomerIds: probes()})
				return err
			})
			if err != nil {
				failed <- fmt.Sprintf("%s: %v", m.name, err)
			}
		})
	}
	work.Wait()
	took := time.Since(began)
	w.alive()
	close(failed)
	for f := range failed {
		w.tellShards()
		require.Fail(w.t, "a node does not answer for every shard", f)
	}
	return took
}

// tellShards says what each node knows of its shards.
func (w *world) tellShards() {
	for _, m := range w.awake() {
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		list, err := m.ListShards(ctx, &footfallv1.ListShardsRequest{})
		cancel()
		w.t.Logf("%s: %v %v", m.name, err, list)
	}
}
