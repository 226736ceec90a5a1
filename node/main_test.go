package node

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/inference"
	"footfall/messages/footfallv1"
	"footfall/node/config"
)

func TestMain(m *testing.M) {
	if c := os.Getenv(childEnv); c != "" {
		os.Exit(child(c))
	}
	goleak.VerifyTestMain(m)
}

// testConfig is a small node's in dir, on any free ports.
func testConfig(dir string) *config.Config {
	c := config.Default()
	c.Name = "test"
	c.Roles = config.Roles{config.RoleShards}
	c.HTTPListen, c.GRPCListen = "127.0.0.1:0", "127.0.0.1:0"
	c.LogDir, c.StoreDir = filepath.Join(dir, "log"), filepath.Join(dir, "store")
	c.ModelsDir, c.ModelsCache = filepath.Join(dir, "models"), filepath.Join(dir, "cache")
	c.Shards = 4
	c.Clock = footfallv1.ClockMode_CLOCK_MODE_DRIVEN
	c.CheckpointInterval = 50 * time.Millisecond
	c.DrainTimeout = 20 * time.Second
	return c
}

// running is a node that is served, with clients of it.
type running struct {
	*Node
	footfallv1.IngestServiceClient
	footfallv1.CustomerServiceClient
	footfallv1.AdminServiceClient
	conn *grpc.ClientConn

	registry *prometheus.Registry
	stop     context.CancelFunc
	ended    chan error
}

type option func(*Options)

func withRunner(r inference.Runner) option { return func(o *Options) { o.Runner = r } }

func withNow(now func() time.Time) option { return func(o *Options) { o.Now = now } }

// launch starts a node, and stops it at the end of the test where that was not done before.
func launch(t testing.TB, c *config.Config, options ...option) *running {
	t.Helper()
	r := begin(t, c, options...)
	r.wait(t)
	return r
}

// wait returns once the node has started.
func (r *running) wait(t testing.TB) {
	t.Helper()
	select {
	case <-r.started:
	case err := <-r.ended:
		r.ended = nil
		require.NoError(t, err, "the node ended")
	}
}

// begin is launch of a node that may not start soon.
func begin(t testing.TB, c *config.Config, options ...option) *running {
	t.Helper()
	o := Options{Config: c, Version: "v-test", Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()}
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	for _, f := range options {
		f(&o)
	}
	n, err := New(o)
	require.NoError(t, err)
	conn, err := grpc.NewClient(n.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background()) //nolint:usetesting // the node outlives the test's context, until its cleanup
	r := &running{
		Node: n, conn: conn, registry: o.Registry, stop: stop, ended: make(chan error, 1),
		IngestServiceClient:   footfallv1.NewIngestServiceClient(conn),
		CustomerServiceClient: footfallv1.NewCustomerServiceClient(conn),
		AdminServiceClient:    footfallv1.NewAdminServiceClient(conn),
	}
	go func() { r.ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		if r.ended != nil {
			r.halt(t)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return r
}

// halt stops the node in order.
func (r *running) halt(t testing.TB) {
	t.Helper()
	r.stop()
	require.NoError(t, <-r.ended)
	r.ended = nil
	require.NoError(t, r.conn.Close())
}

func (r *running) get(t *testing.T, path string, into any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.HTTPAddr()+path, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if into != nil {
		require.NoError(t, json.Unmarshal(body, into), string(body))
	}
	return resp.StatusCode
}

func customerPath(id string) string { return "/v1/customers/" + url.PathEscape(id) }

func (r *running) publish(t *testing.T, events ...*footfallv1.Event) {
	t.Helper()
	answer, err := r.Publish(t.Context(), &footfallv1.EventBatch{Events: events})
	require.NoError(t, err)
	require.Empty(t, answer.GetRejected())
	require.Equal(t, len(events), int(answer.GetAccepted()))
}

// idle waits until all that the log holds is folded.
func (r *running) idle(t *testing.T) {
	t.Helper()
	_, err := r.WaitIdle(t.Context(), &footfallv1.WaitIdleRequest{Scored: true})
	require.NoError(t, err)
}

// verified folds every shard's log again and returns how many events that were.
func (r *running) verified(t *testing.T) (events uint64) {
	t.Helper()
	stream, err := r.Verify(t.Context(), &footfallv1.VerifyRequest{})
	require.NoError(t, err)
	for {
		p, err := stream.Recv()
		if err == io.EOF { //nolint:errorlint // gRPC's own, never wrapped
			return events
		}
		require.NoError(t, err)
		require.Empty(t, p.GetDifferences())
		events += p.GetEvents()
	}
}

var monday = time.Date(2017, 1, 2, 12, 0, 0, 0, time.UTC)

func view(customer, id string, at time.Time) *footfallv1.Event {
	return &footfallv1.Event{
		EventId: id, CustomerId: customer, Time: timestamppb.New(at),
		Kind: &footfallv1.Event_PageView{PageView: &footfallv1.PageView{Url: "/"}},
	}
}

func purchase(customer, id string, at time.Time, amount string) *footfallv1.Event {
	return &footfallv1.Event{
		EventId: id, CustomerId: customer, Time: timestamppb.New(at),
		Kind: &footfallv1.Event_Purchase{Purchase: &footfallv1.Purchase{
			BasketId: id, Lines: []*footfallv1.Line{{ProductId: "p", Department: "PASTRY", Quantity: 1, Amount: amount}},
		}},
	}
}

// ticker is a clock that a test moves.
type ticker struct{ ms atomic.Int64 }

func newTicker(t time.Time) *ticker {
	c := &ticker{}
	c.set(t)
	return c
}

func (c *ticker) set(t time.Time) { c.ms.Store(t.UnixMilli()) }
func (c *ticker) now() time.Time  { return time.UnixMilli(c.ms.Load()) }
