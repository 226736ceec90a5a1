package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/actors"
	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// flood publishes to one shard.
type flood struct {
	*outsider
	shard    int
	customer string
	sent     int
}

// send publishes n events, a message each, of a kilobyte.
func (f *flood) send(t *testing.T, n int) {
	t.Helper()
	for range n {
		f.sent++
		e := view(f.customer, strconv.Itoa(f.sent), monday.Add(time.Duration(f.sent)*time.Second))
		e.GetPageView().Url = "/" + strings.Repeat("x", 1000)
		f.publish(t, strconv.Itoa(f.shard), protobufEach([]*footfallv1.Event{e})[0])
	}
}

// testTrimmed has the broker drop what a shard has not folded. Before that the node warns; then
// the shard stops for good and says why, and the others go on.
func testTrimmed(t *testing.T, b *local.Broker, vhost string) {
	dir := t.TempDir()
	cfg := brokerConfig(dir, b.URLIn(vhost, "node"))
	cfg.LogSize = 512 << 10 // eight segments
	n := launch(t, cfg)
	f := &flood{outsider: newOutsider(t, b.URLIn(vhost, publisherUser)), shard: 1, customer: customerOf(1, cfg.Shards)}
	f.send(t, 100)
	n.idle(t)
	n.halt(t)

	// Nothing reaches a checkpoint any more, and the beginning of the log comes nearer.
	cfg.CheckpointInterval = time.Hour
	said := &said{}
	n = launch(t, cfg, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(said, nil)) })
	for rounds := 0; !said.has("about to be trimmed"); rounds++ {
		require.Less(t, rounds, 100, "nobody warns")
		f.send(t, 20)
		n.idle(t)
		n.retain(t.Context())
	}
	headroom := n.metric(t, "footfall_log_headroom_messages", "1")
	require.Positive(t, headroom, "the warning came too late")
	t.Logf("warned at %v messages of %d", headroom, f.sent)
	require.Equal(t, actors.Active, n.host.Status()[f.shard].State)
	n.verified(t)
	n.halt(t)

	// A node that stands still for too long.
	p := spawn(t, childConfig{Dir: dir, LogBroker: cfg.LogBroker, LogSize: cfg.LogSize, Shards: cfg.Shards})
	f.send(t, 10)
	other := view(customerOf(2, cfg.Shards), "before", monday)
	publish := func(ctx context.Context, e *footfallv1.Event) error {
		_, err := footfallv1.NewIngestServiceClient(p.conn).Publish(ctx, &footfallv1.EventBatch{Events: []*footfallv1.Event{e}})
		return err
	}
	until(t, func(ctx context.Context) error { return publish(ctx, other) })
	customers := footfallv1.NewCustomerServiceClient(p.conn)
	until(t, func(ctx context.Context) error {
		_, err := customers.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: f.customer, WaitFor: strconv.Itoa(f.sent)})
		return err
	})
	before := f.sent
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	f.send(t, 3000)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGCONT))
	var failed *footfallv1.Shard
	until(t, func(ctx context.Context) error {
		list, err := footfallv1.NewAdminServiceClient(p.conn).ListShards(ctx, &footfallv1.ListShardsRequest{})
		if err != nil {
			return err
		}
		for i, s := range list.GetShards() {
			if i == f.shard && s.GetState() == "failed" {
				failed = s
				return nil
			}
		}
		return fmt.Errorf("shard %d is not failed: %v", f.shard, list.GetShards()[f.shard])
	})
	t.Log(failed.GetError())
	require.Contains(t, failed.GetError(), "log_gap")
	require.NoError(t, publish(t.Context(), view(other.GetCustomerId(), "after", monday)))
	_, err := customers.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: f.customer})
	require.ErrorContains(t, err, "log_gap")
	p.kill(t)

	// It stays so: what is missing is never passed over.
	n = launch(t, cfg)
	st := n.host.Status()[f.shard]
	require.Equal(t, actors.Failed, st.State)
	var gap *messages.LogGapError
	require.ErrorAs(t, st.Err, &gap)
	require.Greater(t, gap.First, gap.Want)
	require.GreaterOrEqual(t, gap.Want, uint64(before))
	require.Equal(t, http.StatusServiceUnavailable, n.get(t, "/readyz", nil))
	c, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: other.GetCustomerId(), WaitFor: "after"})
	require.NoError(t, err)
	require.EqualValues(t, 2, c.GetLifetime().GetEvents())
	for shard := range cfg.Shards {
		v, err := n.host.Verify(t.Context(), shard)
		if shard == f.shard {
			require.Error(t, err)
			continue
		}
		require.NoError(t, err)
		require.Empty(t, v.Differences)
	}
}

// said keeps a log.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

var _ io.Writer = (*said)(nil)

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) has(words string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), words)
}
