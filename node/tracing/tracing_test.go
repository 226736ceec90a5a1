package tracing

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(endpoint string) Options {
	return Options{
		Endpoint: endpoint, Sample: 1, Node: "n1", Version: "v1", Logger: slog.New(slog.DiscardHandler),
		Registry: prometheus.NewRegistry(), Now: time.Now,
	}
}

// A node whose traces are off has nothing at all.
func TestOff(t *testing.T) {
	tr, err := Open(t.Context(), options(""))
	require.NoError(t, err)
	require.Nil(t, tr)
	if tr.Tracer() != nil || tr.Provider() != nil {
		t.Fatal("there are tracers: who asks whether they are nil would use them")
	}
	require.NoError(t, tr.Close(t.Context()))
}

// received collects the names of spans.
type received struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	names []string
	node  string
}

func (r *received) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range req.GetResourceSpans() {
		for _, a := range of.GetResource().GetAttributes() {
			if a.GetKey() == "service.instance.id" {
				r.node = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				r.names = append(r.names, s.GetName())
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// Spans come to a collector by OTLP over gRPC and over HTTP, and into a file.
func TestSpansArrive(t *testing.T) {
	for _, how := range []string{"grpc", "http", "file"} {
		t.Run(how, func(t *testing.T) {
			got := &received{}
			endpoint := "file:" + filepath.Join(t.TempDir(), "spans.json")
			switch how {
			case "grpc":
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				s := grpc.NewServer()
				collector.RegisterTraceServiceServer(s, got)
				served := make(chan error, 1)
				go func() { served <- s.Serve(l) }()
				defer func() {
					s.Stop()
					require.NoError(t, <-served)
				}()
				endpoint = "grpc://" + l.Addr().String()
			case "http":
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, err := io.ReadAll(r.Body)
					var req collector.ExportTraceServiceRequest
					if err != nil || proto.Unmarshal(body, &req) != nil || r.URL.Path != "/v1/traces" {
						w.WriteHeader(http.StatusBadRequest)
						return
					}
					_, _ = got.Export(r.Context(), &req)
				}))
				defer s.Close()
				endpoint = s.URL
			}
			o := options(endpoint)
			tr, err := Open(t.Context(), o)
			require.NoError(t, err)
			ctx, parent := tr.Tracer().Start(t.Context(), "parent")
			_, child := tr.Tracer().Start(ctx, "child")
			child.End()
			parent.End()
			require.NoError(t, tr.Close(t.Context()))
			http.DefaultClient.CloseIdleConnections()
			if how == "file" {
				b, err := os.ReadFile(strings.TrimPrefix(endpoint, "file:"))
				require.NoError(t, err)
				for line := range bytes.Lines(b) {
					var s struct{ Name string }
					require.NoError(t, json.Unmarshal(line, &s))
					got.names = append(got.names, s.Name)
				}
			} else {
				require.Equal(t, "n1", got.node)
			}
			require.ElementsMatch(t, []string{"parent", "child"}, got.names)
			require.EqualValues(t, 2, testutil.ToFloat64(tr.metrics.sent))
			require.Zero(t, testutil.ToFloat64(tr.metrics.failed))
		})
	}
}

// A collector that is away costs spans, which are counted, and nothing else.
func TestACollectorThatIsAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	var log bytes.Buffer
	o := options("http://" + l.Addr().String())
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	tr, err := Open(t.Context(), o)
	require.NoError(t, err)
	_, span := tr.Tracer().Start(t.Context(), "span")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_ = tr.Close(ctx) // it may say that it was cut short
	http.DefaultClient.CloseIdleConnections()
	require.EqualValues(t, 1, testutil.ToFloat64(tr.metrics.failed))
	require.Equal(t, 1, strings.Count(log.String(), "are dropped"))
}

func TestWhatKeepsTracesFromBeginning(t *testing.T) {
	for _, endpoint := range []string{"collector:4317", "file:", "http://", "grpc://host", "file:" + filepath.Join(t.TempDir(), "no", "folder")} {
		_, err := Open(t.Context(), options(endpoint))
		require.ErrorContains(t, err, "trace.endpoint: ", endpoint)
	}
}

func TestSampler(t *testing.T) {
	now := time.Unix(1000, 0)
	refused := prometheus.NewCounter(prometheus.CounterOpts{Name: "refused"})
	var id byte
	parent := func(remote bool, flags trace.TraceFlags) context.Context {
		id++
		sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{id, 1}, SpanID: trace.SpanID{1}, TraceFlags: flags, Remote: remote})
		return trace.ContextWithSpanContext(t.Context(), sc)
	}
	sampled := func(l *limited, ctx context.Context) bool {
		id++
		r := l.ShouldSample(sdktrace.SamplingParameters{ParentContext: ctx, TraceID: trace.TraceID{1, 2, 3, 4, 5, 6, 7, 8, id, id, id, id, id, id, id, id}})
		return r.Decision == sdktrace.RecordAndSample
	}
	none := newLimited(0, func() time.Time { return now }, refused)
	require.False(t, sampled(none, t.Context()))
	require.True(t, sampled(none, parent(true, trace.FlagsSampled)))
	require.True(t, sampled(none, parent(false, trace.FlagsSampled)))
	require.False(t, sampled(none, parent(true, 0)))
	require.False(t, sampled(none, parent(false, 0)))

	all := newLimited(1, func() time.Time { return now }, refused)
	count := 0
	for range 3 * MostTraces {
		if sampled(all, t.Context()) {
			count++
		}
		if sampled(all, parent(true, trace.FlagsSampled)) {
			count++
		}
		require.True(t, sampled(all, parent(false, trace.FlagsSampled)), "what has begun goes on")
	}
	require.Equal(t, MostTraces, count)
	require.EqualValues(t, 5*MostTraces, testutil.ToFloat64(refused))
	now = now.Add(time.Second)
	require.True(t, sampled(all, t.Context()))
}

func TestLogsNameTheirTrace(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(LogHandler{slog.NewTextHandler(&out, nil)}).With("shard", 3)
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{0xcd}}))
	logger.InfoContext(ctx, "in a span")
	logger.Info("in none")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Contains(t, lines[0], `msg="in a span" shard=3 trace_id=ab000000000000000000000000000000 span_id=cd00000000000000`)
	require.NotContains(t, lines[1], "trace_id")
}
