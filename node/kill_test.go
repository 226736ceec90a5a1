package node

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"footfall/messages/footfallv1"
)

// child is a node in a process of its own, for a test to kill. It tells its parent where it
// listens through its log, and ends with its parent: its standard input ends then.
func child(dir string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until it ends, however it does
		cancel()
	}()
	c := testConfig(dir)
	c.MemoryBudget = 64 << 10 // so little that customers come and go
	n, err := New(Options{
		Config: c, Version: "v-test", Registry: prometheus.NewRegistry(),
		Logger: slog.New(slog.NewJSONHandler(os.Stdout, nil)),
	})
	if err == nil {
		err = n.Run(ctx)
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

func spawn(t *testing.T, dir string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:noctx // the test ends it
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{cmd: cmd, stdin: stdin, log: make(chan struct{})}
	lines := bufio.NewScanner(stdout)
	for p.conn == nil && lines.Scan() {
		var l struct{ Msg, GRPC string }
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "listening" {
			p.conn, err = grpc.NewClient(l.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
			require.NoError(t, err)
		}
	}
	require.NotNil(t, p.conn, "the child ended")
	go func() {
		defer close(p.log)
		for lines.Scan() {
			if testing.Verbose() || json.Valid(lines.Bytes()) && slices.Contains([]string{"ERROR"}, level(lines.Bytes())) {
				fmt.Fprintln(t.Output(), lines.Text())
			}
		}
	}()
	return p
}

func level(line []byte) string {
	var l struct{ Level string }
	_ = json.Unmarshal(line, &l) // it is valid
	return l.Level
}

// kill ends the child as a power switch does, as far as its process is concerned.
func (p *process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	p.wait()
	require.NoError(t, p.conn.Close())
}

func (p *process) wait() {
	<-p.log
	_ = p.cmd.Wait() // it was killed, or the test looks at what it said
	_ = p.stdin.Close()
}

// publisher sends numbered events of its own customers, in order, and keeps every batch
// until it was accepted: then, and only then, it is in the log for certain.
type publisher struct {
	id      int
	rng     *rand.Rand
	pending *footfallv1.EventBatch
	next    int
	// accepted are the events of each customer, in order.
	accepted map[string][]string
}

func (p *publisher) batch() *footfallv1.EventBatch {
	if p.pending == nil {
		p.pending = &footfallv1.EventBatch{}
		for range 1 + p.rng.IntN(20) {
			customer := fmt.Sprintf("p%d-%d", p.id, p.rng.IntN(8))
			p.pending.Events = append(p.pending.Events, view(customer, strconv.Itoa(p.next), monday.Add(time.Duration(p.next)*time.Second)))
			p.next++
		}
	}
	return p.pending
}

// run publishes until the node is gone, or stop says that it is enough.
func (p *publisher) run(ctx context.Context, c footfallv1.IngestServiceClient, accepted func() (enough bool)) error {
	for {
		b := p.batch()
		answer, err := c.Publish(ctx, b, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		if len(answer.GetRejected()) > 0 || int(answer.GetAccepted()) != len(b.GetEvents()) {
			return fmt.Errorf("unexpected answer: %v", answer)
		}
		for _, ev := range b.GetEvents() {
			p.accepted[ev.GetCustomerId()] = append(p.accepted[ev.GetCustomerId()], ev.GetEventId())
		}
		p.pending = nil
		if accepted() {
			return nil
		}
	}
}

// Invariants 2 and 3 of the design: kill -9 at random moments under load, and every accepted
// event is in the state of its customer exactly once, and the state is what the log folds to.
func TestKill(t *testing.T) {
	rounds := 3
	if os.Getenv("FOOTFALL_HEAVY") == "1" {
		rounds = 20
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	var publishers []*publisher
	for id := range 4 {
		publishers = append(publishers, &publisher{id: id, rng: rand.New(rand.NewPCG(seed, uint64(id+1))), accepted: map[string][]string{}})
	}

	for round := range rounds {
		p := spawn(t, dir)
		// The moment is after so many batches of this round, while the others are under way. None:
		// while it recovers.
		left, due := rng.IntN(120), make(chan struct{})
		var (
			mu   sync.Mutex
			once sync.Once
		)
		if left == 0 || round%5 == 4 {
			close(due)
			once.Do(func() {})
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, pub := range publishers {
			wg.Go(func() {
				_ = pub.run(ctx, footfallv1.NewIngestServiceClient(p.conn), func() bool { // the node is gone
					mu.Lock()
					defer mu.Unlock()
					if left--; left <= 0 {
						once.Do(func() { close(due) })
					}
					return false
				})
			})
		}
		select {
		case <-due:
		case <-p.log:
			t.Fatal("the child ended by itself")
		}
		p.kill(t)
		cancel()
		wg.Wait()
	}

	// What was never accepted is sent once more. It may be in the log already: then it is a
	// duplicate, and here every event is in exactly once.
	n := launch(t, testConfig(dir))
	total := 0
	for _, pub := range publishers {
		require.NoError(t, pub.run(t.Context(), n.IngestServiceClient, func() bool { return true }))
		total += pub.next
	}
	n.idle(t)
	require.Equal(t, uint64(total), n.applied(t))
	n.verified(t)
	for _, pub := range publishers {
		for customer, want := range pub.accepted {
			var got []string
			h, err := n.GetHistory(t.Context(), &footfallv1.GetHistoryRequest{CustomerId: customer, Limit: 10000})
			require.NoError(t, err)
			require.False(t, h.GetTruncated())
			for _, e := range h.GetEntries() {
				if e.GetOutcome() == "applied" {
					got = append(got, e.GetEvent().GetEventId())
				}
			}
			require.Equal(t, want, got, customer)
			c, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer})
			require.NoError(t, err)
			require.Equal(t, uint64(len(want)), c.GetLifetime().GetPageViews(), customer)
		}
	}
	t.Logf("%d rounds, %d events", rounds, total)
}

// applied is how many events the shards have applied.
func (r *running) applied(t *testing.T) (sum uint64) {
	t.Helper()
	list, err := r.ListShards(t.Context(), &footfallv1.ListShardsRequest{})
	require.NoError(t, err)
	for _, s := range list.GetShards() {
		sum += s.GetEvents()
	}
	return sum
}
