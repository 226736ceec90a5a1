package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"footfall/actors"
	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

var rewrite = flag.Bool("rewrite", false, "write golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

// indent makes JSON readable without touching its numbers or order.
func indent(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, json.Indent(&out, bytes.TrimSpace(b), "", "  "))
	return append(out.Bytes(), '\n')
}

// scripted is a host that answers what a test tells it to. The node's tests run the real one;
// here are the answers that a real one gives only when something is broken.
type scripted struct {
	mu       sync.Mutex
	appended map[int][]*footfallv1.Event
	rejected map[string]messages.Fault

	appendErr func(shard int) error
	askErr    error
	waitErr   error
	tickErr   error
	answer    *actors.Answer
	statuses  []actors.Status
	hot       map[int]actors.Hot
	verified  *actors.Verified
	panics    bool
}

const shardsOfTest = 4

func (h *scripted) Append(_ context.Context, shard int, events []*footfallv1.Event) error {
	if h.appendErr != nil {
		if err := h.appendErr(shard); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.appended == nil {
		h.appended = map[int][]*footfallv1.Event{}
	}
	h.appended[shard] = append(h.appended[shard], events...)
	return nil
}

func (h *scripted) CheckTime(_ int, ms int64) *messages.Fault {
	if ms > time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() {
		return &messages.Fault{Field: "time", Reason: "is too far ahead"}
	}
	return nil
}

func (h *scripted) NoteRejected(customerID, eventID string, f messages.Fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rejected == nil {
		h.rejected = map[string]messages.Fault{}
	}
	h.rejected[customerID+" "+eventID] = f
}

func (h *scripted) LastTick(int) string { return "" }

func (h *scripted) LearnTick(string) {}

func (h *scripted) Ask(_ context.Context, id string) (*actors.Answer, error) {
	if h.panics {
		panic("a bug")
	}
	if h.askErr != nil {
		return nil, h.askErr
	}
	if h.answer == nil || h.answer.CustomerID != id {
		return nil, &actors.NotFoundError{CustomerID: id}
	}
	return h.answer, nil
}

func (h *scripted) AskMany(ctx context.Context, ids []string) ([]*actors.Answer, error) {
	out := make([]*actors.Answer, len(ids))
	for i, id := range ids {
		if h.askErr != nil {
			return nil, h.askErr
		}
		out[i], _ = h.Ask(ctx, id) // nil where not found
	}
	return out, nil
}

func (h *scripted) WaitFor(ctx context.Context, _, eventID string) error {
	if eventID == "never" {
		<-ctx.Done()
		return ctx.Err()
	}
	return h.waitErr
}

func (h *scripted) History(context.Context, string, int, func(actors.HistoryEntry) error) (bool, error) {
	return false, h.askErr
}

func (h *scripted) Tick(context.Context, string) (bool, error)           { return true, h.tickErr }
func (h *scripted) SetClock(context.Context, footfallv1.ClockMode) error { return nil }
func (h *scripted) Clock() footfallv1.ClockMode                          { return footfallv1.ClockMode_CLOCK_MODE_DRIVEN }
func (h *scripted) WaitIdle(context.Context, bool) error                 { return nil }
func (h *scripted) WaitShardIdle(context.Context, int, bool) error       { return nil }
func (h *scripted) Status() []actors.Status                              { return h.statuses }
func (h *scripted) Hot(_ context.Context, shard, limit int) (actors.Hot, error) {
	hot, ok := h.hot[shard]
	if !ok {
		return hot, &actors.NotActiveError{Shard: shard}
	}
	hot.Customers = hot.Customers[:min(len(hot.Customers), limit)]
	return hot, nil
}
func (h *scripted) Verify(context.Context, int) (*actors.Verified, error) { return h.verified, nil }

// served is the API with its doors open.
type served struct {
	*footfallClients
	url      string
	registry *prometheus.Registry
	api      *API
}

type footfallClients struct {
	footfallv1.IngestServiceClient
	footfallv1.CustomerServiceClient
	footfallv1.AdminServiceClient
	conn *grpc.ClientConn
}

func serve(t *testing.T, h Host, change ...func(*Options)) *served {
	t.Helper()
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg, "v-test")
	require.NoError(t, err)
	require.NoError(t, m.Alone(reg))
	o := Options{
		Identity: Identity{
			Name: "a", Version: "v-test", Roles: []string{"shards"}, Shards: shardsOfTest, Currency: "USD",
			Calendar: behavior.NewCalendar(time.UTC), Started: time.Unix(1500000000, 0),
			HTTPAddress: "127.0.0.1:8080", GRPCAddress: "127.0.0.1:8081",
		},
		Limits:  Limits{Message: 1 << 20, Ingest: 4 << 20, Query: 5 * time.Second},
		Host:    h,
		Rates:   &Rates{},
		Ready:   func() Readiness { return Readiness{Ready: true} },
		State:   func() string { return "active" },
		Now:     func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) },
		Metrics: m, Gatherer: reg, Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&o)
	}
	a, err := New(o)
	require.NoError(t, err)
	web := httptest.NewServer(a.HTTP.Handler)
	t.Cleanup(web.Close)

	pipe := bufconn.Listen(1 << 20)
	stopped := make(chan error, 1)
	go func() { stopped <- a.GRPC.Serve(pipe) }()
	conn, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		a.GRPC.Stop()
		require.NoError(t, <-stopped)
	})
	return &served{
		footfallClients: &footfallClients{
			footfallv1.NewIngestServiceClient(conn), footfallv1.NewCustomerServiceClient(conn),
			footfallv1.NewAdminServiceClient(conn), conn,
		},
		url: web.URL, registry: reg, api: a,
	}
}

type reply struct {
	code   int
	body   string
	header http.Header
}

// err reads the error of a reply.
func (r reply) err(t *testing.T) Error {
	t.Helper()
	require.Equal(t, "application/json", r.header.Get("Content-Type"), r.body)
	var b struct{ Error Error }
	require.NoError(t, json.Unmarshal([]byte(r.body), &b), r.body)
	return b.Error
}

func (s *served) do(t *testing.T, method, path, contentType string, body io.Reader, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, body)
	require.NoError(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return reply{resp.StatusCode, string(b), resp.Header}
}

func (s *served) get(t *testing.T, path string) reply {
	t.Helper()
	return s.do(t, http.MethodGet, path, "", nil)
}

func (s *served) post(t *testing.T, path, body string) reply {
	t.Helper()
	return s.do(t, http.MethodPost, path, typeJSON, strings.NewReader(body))
}

// series returns the values of a metric by their first label, "" where it has none.
func (s *served) series(t *testing.T, name string) map[string]float64 {
	t.Helper()
	families, err := s.registry.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			label := ""
			if len(m.GetLabel()) > 0 {
				label = m.GetLabel()[0].GetValue()
			}
			out[label] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}
