package docs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/deploy/local"
	"footfall/messages/footfallv1"
	"footfall/node"
	"footfall/node/config"
)

// TestScalingTables holds the tables of scaling.md to those that the room of the cluster computes.
func TestScalingTables(t *testing.T) {
	computed := read(t, filepath.Join(root, "cluster", "testdata", "table.txt")) + "\n" + read(t, filepath.Join(root, "cluster", "testdata", "autoscaling.txt"))
	text := read(t, "scaling.md")
	found := 0
	for _, m := range regexp.MustCompile("(?s)<!-- table: ([^\\n]+) -->\n```text\n(.*?)```").FindAllStringSubmatch(text, -1) {
		_, want, ok := strings.Cut(computed, "\n"+m[1]+"\n----\n")
		require.True(t, ok, m[1])
		want, _, _ = strings.Cut(want, "\n\n")
		require.Equal(t, strings.TrimRight(want, "\n"), strings.TrimRight(m[2], "\n"), m[1])
		found++
	}
	require.Equal(t, 3, found)
}

// serve is footfall-node without TensorFlow: what the walk starts.
func serve(args []string) int {
	flags := pflag.NewFlagSet("footfall-node", pflag.ContinueOnError)
	file := flags.String("config", "", "")
	err := flags.Parse(args)
	var c *config.Config
	if err == nil {
		c, err = config.Load(config.Sources{File: *file})
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		var n *node.Node
		n, err = node.New(node.Options{Config: c, Version: "v-test", Registry: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		if err == nil {
			err = n.Run(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "footfall-node:", err)
		return 1
	}
	return 0
}

// step is a block of the walk, and what it leads to.
type step struct {
	text    string
	members int
}

var marked = regexp.MustCompile("(?s)<!-- walk: members (\\d+) -->\n```sh\n(.*?)```")

// TestScalingWalk does what scaling.md says, step by step, with real processes and under load.
func TestScalingWalk(t *testing.T) {
	if os.Getenv("FOOTFALL_HEAVY") != "1" {
		t.Skip("it runs a cluster of five nodes: FOOTFALL_HEAVY=1 runs it")
	}
	var steps []step
	for _, m := range marked.FindAllStringSubmatch(read(t, "scaling.md"), -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		steps = append(steps, step{m[2], n})
	}
	require.Len(t, steps, 8)
	w := newWalk(t)
	l := newLoad(t)
	l.begin(w.dial(t, "n1"), w.dial(t, "n1"))
	for i, s := range steps[:len(steps)-1] {
		if i == 1 { // now there is another one that stays
			l.begin(w.dial(t, "n2"), w.dial(t, "n1"))
			l.begin(w.dial(t, "n1"), w.dial(t, "n2"))
		}
		w.take(t, s)
	}
	l.end(t)
	said := w.take(t, steps[len(steps)-1])
	require.Contains(t, said, ": equal")
	l.proved(t, w.dial(t, "n2"))
}

// walk is a cluster that `make cluster NODES=1` has started.
type walk struct{ dir string }

func newWalk(t *testing.T) *walk {
	bin := build(t)
	self, err := os.Executable()
	require.NoError(t, err)
	if err := os.Symlink(self, filepath.Join(bin, "footfall-node")); !errors.Is(err, os.ErrExist) {
		require.NoError(t, err)
	}
	starter := filepath.Join(bin, "cluster")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", starter, "./deploy/local/cluster")
	cmd.Dir, cmd.Env = checkout, append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	// PostgreSQL runs as another user where this one is root, who must get there.
	dir, err := os.MkdirTemp("", "footfall-walk-") //nolint:usetesting // t.TempDir's is closed to others
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o711))
	w := &walk{dir}
	p, err := local.StartProcess(local.Command{
		Title: "the cluster", Path: starter, Dir: checkout, Env: os.Environ(), Log: filepath.Join(dir, "cluster.log"), OrphanSignal: syscall.SIGTERM,
		Args: []string{"--nodes", "1", "--port", "0", "--roles", "shards", "--dir", dir, "--node", filepath.Join(bin, "footfall-node")},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		w.endNodes(t)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		require.NoError(t, p.Stop(ctx, syscall.SIGTERM))
	})
	require.NoError(t, local.Await(t.Context(), func(context.Context) error {
		if err := p.Ended(); err != nil {
			t.Fatal(err)
		}
		_, err := os.Stat(filepath.Join(dir, "n1.pid"))
		return err
	}))
	t.Setenv("DIR", dir)
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("FOOTFALL_NODE", w.address(t, "n1"))
	w.settle(t, 1)
	return w
}

// address is where a node's gRPC listens, by its file.
func (w *walk) address(t *testing.T, name string) string {
	t.Helper()
	c, err := config.Load(config.Sources{File: filepath.Join(w.dir, name+".yaml")})
	require.NoError(t, err)
	return c.GRPCListen
}

func (w *walk) dial(t *testing.T, name string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(w.address(t, name), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// endNodes ends what the steps have started and is left.
func (w *walk) endNodes(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(w.dir, "n[2-9].pid"))
	require.NoError(t, err)
	for _, f := range files {
		pid, err := strconv.Atoi(strings.TrimSpace(read(t, f)))
		require.NoError(t, err)
		// One that has ended is another's by now only if all numbers have gone round: its name tells.
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(name), w.dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone by now
		}
	}
}

// take does a step and returns what it has printed, once the cluster is as the step leaves it.
func (w *walk) take(t *testing.T, s step) string {
	t.Helper()
	began := time.Now()
	out, err := exec.CommandContext(t.Context(), "bash", "-c", "set -e\n"+s.text).CombinedOutput()
	require.NoError(t, err, "%s\n%s", s.text, out)
	w.settle(t, s.members)
	t.Logf("%d members after %s:\n%s", s.members, time.Since(began).Round(time.Millisecond), s.text)
	return string(out)
}

// settle waits until so many members are there, and have all shards, evenly, twice in a row.
func (w *walk) settle(t *testing.T, members int) {
	t.Helper()
	admin := footfallv1.NewAdminServiceClient(w.dial(t, "n1"))
	var before, now map[string]int
	require.Eventually(t, func() bool {
		before, now = now, placed(t.Context(), admin, members)
		return now != nil && maps.Equal(before, now)
	}, time.Minute, 100*time.Millisecond, "%d members", members)
}

// placed returns how many shards each member has, where all is as it should be.
func placed(ctx context.Context, admin footfallv1.AdminServiceClient, members int) map[string]int {
	c, err := admin.GetCluster(ctx, &footfallv1.GetClusterRequest{}, grpc.WaitForReady(true))
	if err != nil || len(c.GetMembers()) != members {
		return nil
	}
	list, err := admin.ListShards(ctx, &footfallv1.ListShardsRequest{})
	if err != nil {
		return nil
	}
	count := map[string]int{}
	for _, s := range list.GetShards() {
		if s.GetState() != "active" {
			return nil
		}
		count[s.GetOwner()]++
	}
	most := (len(list.GetShards()) + members - 1) / members
	for _, m := range c.GetMembers() {
		if n := count[m.GetName()]; m.GetState() != "active" || n == 0 || n > most {
			return nil
		}
	}
	return count
}

// load is publishers, who ask for what they wrote, and others who ask, through the nodes that stay.
type load struct {
	ctx  context.Context //nolint:containedctx // it is the load's life
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex // guards what follows
	begun    int
	accepted map[string]int
	// known are the customers that were answered for.
	known           []string
	events, queries int
	slowest         time.Duration
	failed          []error
}

func newLoad(t *testing.T) *load {
	l := &load{accepted: map[string]int{}}
	l.ctx, l.stop = context.WithCancel(t.Context())
	t.Cleanup(l.stop)
	return l
}

// walkers is how many customers a publisher has.
const walkers = 200

// begin has a publisher publish through one node and ask through another, and somebody ask beside it.
func (l *load) begin(through, other *grpc.ClientConn) {
	ctx := l.ctx
	ingest, customers := footfallv1.NewIngestServiceClient(through), footfallv1.NewCustomerServiceClient(other)
	l.mu.Lock()
	l.begun++
	name := fmt.Sprintf("w%d", l.begun)
	l.mu.Unlock()
	l.done.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			customer, id := fmt.Sprintf("%s-%d", name, n%walkers), fmt.Sprintf("e-%d", n)
			// Publishing is not cut off: then nobody would know.
			r, err := ingest.Publish(context.WithoutCancel(ctx), &footfallv1.EventBatch{Events: []*footfallv1.Event{{
				EventId: id, CustomerId: customer, Time: timestamppb.New(time.Date(2017, 1, 2, 12, 0, 0, 0, time.UTC)),
				Kind: &footfallv1.Event_PageView{PageView: &footfallv1.PageView{Url: "/"}},
			}}})
			if err == nil && r.GetAccepted() != 1 {
				err = fmt.Errorf("not accepted: %v", r)
			}
			l.note("publish", err, func() { l.accepted[customer]++; l.events++ })
			if err == nil && l.ask(customers, customer, id) && n < walkers {
				l.mu.Lock()
				l.known = append(l.known, customer)
				l.mu.Unlock()
			}
		}
	})
	l.done.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			l.mu.Lock()
			id := ""
			if len(l.known) > 0 {
				id = l.known[n%len(l.known)]
			}
			l.mu.Unlock()
			if id != "" {
				l.ask(customers, id, "")
			}
		}
	})
}

func (l *load) note(what string, err error, good func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		good()
	case l.ctx.Err() == nil || what == "publish":
		l.failed = append(l.failed, fmt.Errorf("%s: %w", what, err))
	}
}

func (l *load) ask(customers footfallv1.CustomerServiceClient, customer, waitFor string) bool {
	began := time.Now()
	asked, cancel := context.WithTimeout(l.ctx, 10*time.Second)
	defer cancel()
	_, err := customers.GetCustomer(asked, &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: waitFor})
	l.note("query", err, func() {
		l.queries++
		l.slowest = max(l.slowest, time.Since(began))
	})
	return err == nil
}

// end stops the load: nothing of it may have failed.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.done.Wait()
	require.Empty(t, l.failed[:min(3, len(l.failed))], "%d calls failed", len(l.failed))
	require.Positive(t, l.queries)
	t.Logf("%d events, %d queries, the slowest took %s", l.events, l.queries, l.slowest)
}

// proved asks for every customer: each confirmed event was applied once.
func (l *load) proved(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ids := slices.Sorted(maps.Keys(l.accepted))
	all, err := footfallv1.NewCustomerServiceClient(conn).BatchGetCustomers(t.Context(), &footfallv1.BatchGetCustomersRequest{CustomerIds: ids})
	require.NoError(t, err)
	require.Len(t, all.GetCustomers(), len(ids))
	for _, c := range all.GetCustomers() {
		require.EqualValues(t, l.accepted[c.GetCustomerId()], c.GetLifetime().GetPageViews(), c.GetCustomerId())
	}
}
