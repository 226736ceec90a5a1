package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"footfall/inference"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/api"
	"footfall/node/config"
)

// customerView is what the tests read of a customer's JSON.
type customerView struct {
	CustomerID string `json:"customer_id"`
	Owner      string
	AsOf       struct {
		Time   time.Time
		Offset int64
	} `json:"as_of"`
	Features map[string]float64
	Segment  string
	Scores   []struct {
		Model, Version string
		Value          float64
	}
	Lifetime struct {
		Events, Purchases uint64
		Spend             string
	}
}

func TestEventsBecomeAnswers(t *testing.T) {
	n := launch(t, testConfig(t.TempDir()))
	body := `{"event_id":"b1","customer_id":"a:b c","time":"2017-01-02T12:00:00Z","purchase":{"lines":[{"amount":"12.50"}]}}
{"event_id":"b2","customer_id":"a:b c","time":"2017-01-03T12:00:00Z","purchase":{"lines":[{"amount":"-1"}]}}
{"event_id":"b3","customer_id":"a:b c","time":"2017-01-03T12:00:00Z","purchase":{"lines":[{"amount":"7.50"}]}}`
	resp, err := http.Post("http://"+n.HTTPAddr()+"/v1/events", "application/x-ndjson", strings.NewReader(body)) //nolint:noctx // ends with the node
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.JSONEq(t, `{"accepted":2,"rejected":[{"index":1,"event_id":"b2","field":"purchase.lines[0].amount","reason":"must not be below zero"}]}`, string(text))

	var c customerView
	require.Equal(t, http.StatusOK, n.get(t, customerPath("a:b c")+"?wait_for=b3", &c))
	require.Equal(t, "a:b c", c.CustomerID)
	require.Equal(t, "test", c.Owner)
	require.Equal(t, "20", c.Lifetime.Spend[:2])
	require.Equal(t, uint64(2), c.Lifetime.Purchases)
	require.True(t, c.AsOf.Time.Equal(time.Date(2017, 1, 3, 12, 0, 0, 0, time.UTC)), "the latest event under a driven clock without a tick")
	require.InDelta(t, 2, c.Features["visit_days_28"], 0)

	require.Equal(t, http.StatusConflict, n.get(t, customerPath("a:b c")+"?wait_for=b2", nil), "it was rejected")
	require.Equal(t, http.StatusNotFound, n.get(t, customerPath("nobody"), nil))

	tick, err := n.Tick(t.Context(), &footfallv1.TickRequest{Date: "2017-01-03"})
	require.NoError(t, err)
	require.True(t, tick.GetAppended())
	n.idle(t)
	require.Equal(t, http.StatusOK, n.get(t, customerPath("a:b c"), &c))
	require.Greater(t, c.Features["recency_days"], 0.49)

	var h struct {
		Truncated bool
		Entries   []struct {
			Outcome string
			Event   struct {
				EventID string `json:"event_id"`
			}
			State customerView
		}
	}
	require.Equal(t, http.StatusOK, n.get(t, customerPath("a:b c")+"/history", &h))
	require.Len(t, h.Entries, 2)
	require.Equal(t, "b1", h.Entries[0].Event.EventID)
	require.Equal(t, "applied", h.Entries[1].Outcome)
	require.Equal(t, uint64(1), h.Entries[0].State.Lifetime.Purchases)
	require.False(t, h.Truncated)

	// A day too far ahead is refused with the reason, before it is in the log.
	answer, err := n.Publish(t.Context(), &footfallv1.EventBatch{Events: []*footfallv1.Event{view("1", "late", monday.AddDate(0, 0, 30))}})
	require.NoError(t, err)
	require.Equal(t, "time", answer.GetRejected()[0].GetField())

	var cluster struct {
		Clock    string
		LastTick string `json:"last_tick"`
		Members  []struct {
			State, Version string
			Shards         int
		}
	}
	require.Equal(t, http.StatusOK, n.get(t, "/v1/cluster", &cluster))
	require.Equal(t, "driven", cluster.Clock)
	require.Equal(t, "2017-01-03", cluster.LastTick)
	require.Equal(t, "active", cluster.Members[0].State)
	require.Equal(t, 4, cluster.Members[0].Shards)
	require.Equal(t, http.StatusOK, n.get(t, "/readyz", nil))
	require.Equal(t, uint64(2), n.verified(t))
}

func TestManyPublishersAtOnce(t *testing.T) {
	dir := t.TempDir()
	n := launch(t, testConfig(dir))
	const publishers, batches, size, customers = 8, 12, 25, 40
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for b := range batches {
				var events []*footfallv1.Event
				for i := range size {
					k := (p*batches+b)*size + i
					events = append(events, view(fmt.Sprint("c", k%customers), fmt.Sprint("e", k), monday.Add(time.Duration(k)*time.Second)))
				}
				if _, err := n.Publish(context.Background(), &footfallv1.EventBatch{Events: events}); err != nil { //nolint:usetesting // in a goroutine
					t.Error(err)
				}
				// Queries meanwhile.
				_, err := n.GetCustomer(context.Background(), &footfallv1.GetCustomerRequest{CustomerId: events[0].GetCustomerId(), WaitFor: events[0].GetEventId()}) //nolint:usetesting // in a goroutine
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n.idle(t)
	total := uint64(0)
	for c := range customers {
		got, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: fmt.Sprint("c", c)})
		require.NoError(t, err)
		total += got.GetLifetime().GetPageViews()
	}
	require.Equal(t, uint64(publishers*batches*size), total)
	require.Equal(t, total, n.verified(t))

	// All of it is there after a restart, and what is sent again changes nothing.
	n.halt(t)
	n = launch(t, testConfig(dir))
	again := view("c0", fmt.Sprint("e", publishers*batches*size-customers), monday)
	n.publish(t, again)
	n.idle(t)
	got, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "c0"})
	require.NoError(t, err)
	require.Equal(t, uint64(publishers*batches*size/customers), got.GetLifetime().GetPageViews())
	list, err := n.ListShards(t.Context(), &footfallv1.ListShardsRequest{})
	require.NoError(t, err)
	var duplicates uint64
	for _, s := range list.GetShards() {
		duplicates += s.GetDuplicates()
		require.Equal(t, "active", s.GetState())
	}
	require.Equal(t, uint64(1), duplicates)
}

func newNode(c *config.Config) error {
	n, err := New(Options{Config: c, Version: "v", Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	if err != nil {
		return err
	}
	return errors.Join(errors.New("the node came up"), n.Close())
}

func TestWhatKeepsANodeFromStarting(t *testing.T) {
	dir := t.TempDir()
	n := launch(t, testConfig(dir))

	t.Run("its directories are another node's", func(t *testing.T) {
		err := newNode(testConfig(dir))
		require.ErrorContains(t, err, "log.url: ")
		require.ErrorContains(t, err, "in use by another node")
	})
	t.Run("its port is taken", func(t *testing.T) {
		c := testConfig(t.TempDir())
		c.GRPCListen = n.GRPCAddr()
		err := newNode(c)
		require.ErrorContains(t, err, "grpc.listen: "+n.GRPCAddr()+" is in use")
	})
	t.Run("its directory cannot be made", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		c := testConfig(t.TempDir())
		c.StoreDir = filepath.Join(file, "store")
		require.ErrorContains(t, newNode(c), "store.url: the directory cannot be made")
	})
	n.halt(t)

	t.Run("its data are of another fold", func(t *testing.T) {
		for field, change := range map[string]func(*config.Config){
			"shards":   func(c *config.Config) { c.Shards = 8 },
			"currency": func(c *config.Config) { c.Currency = "EUR" },
			"timezone": func(c *config.Config) { c.Location = mustZone("America/New_York") },
		} {
			c := testConfig(dir)
			change(c)
			err := newNode(c)
			var fixed *messages.IdentityError
			require.ErrorAs(t, err, &fixed, field)
			require.Equal(t, field, fixed.Field)
		}
	})
	t.Run("its log was replaced", func(t *testing.T) {
		c := testConfig(dir)
		c.LogDir = filepath.Join(t.TempDir(), "log")
		err := newNode(c)
		require.ErrorContains(t, err, "holds checkpoints of another log")
	})
	t.Run("nothing: it starts again", func(t *testing.T) {
		require.EqualError(t, newNode(testConfig(dir)), "the node came up")
	})
}

func mustZone(name string) *time.Location {
	l, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return l
}

func TestAnOrderlyStop(t *testing.T) {
	c := testConfig(t.TempDir())
	n := launch(t, c)
	n.publish(t, view("1", "e1", monday))

	watch, err := healthpb.NewHealthClient(n.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	for {
		r, err := watch.Recv()
		require.NoError(t, err)
		if r.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			break
		}
	}
	// A query that waits is let end: here by the event that it waits for, which arrives after
	// the stop has begun.
	n.stop()
	var last healthpb.HealthCheckResponse_ServingStatus
	for {
		r, err := watch.Recv()
		if err != nil {
			require.Equal(t, codes.Unavailable, status.Code(err))
			break
		}
		last = r.GetStatus()
	}
	require.Contains(t, []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_NOT_SERVING, healthpb.HealthCheckResponse_UNKNOWN}, last)
	require.NoError(t, <-n.ended)
	n.ended = nil
	require.NoError(t, n.conn.Close())
	_, err = net.Dial("tcp", n.HTTPAddr()) //nolint:noctx // it is refused at once
	require.Error(t, err)

	// Nothing was left to fold again.
	n = launch(t, c)
	for _, st := range n.host.Status() {
		require.Zero(t, st.Lag)
	}
	require.Equal(t, http.StatusOK, n.get(t, customerPath("1"), nil))
}

func TestACallThatDoesNotEndIsCutOff(t *testing.T) {
	c := testConfig(t.TempDir())
	c.DrainTimeout = 2 * time.Second
	n := launch(t, c)
	n.publish(t, view("1", "e1", monday))
	failed := make(chan error, 1)
	began := make(chan struct{})
	go func() {
		close(began)
		_, err := n.GetCustomer(context.Background(), &footfallv1.GetCustomerRequest{CustomerId: "1", WaitFor: "never"}) //nolint:usetesting // in a goroutine
		failed <- err
	}()
	<-began
	n.halt(t)
	require.Contains(t, []codes.Code{codes.Unavailable, codes.Canceled, codes.DeadlineExceeded}, status.Code(<-failed))
}

func TestReadinessMeansWhatItSays(t *testing.T) {
	c := testConfig(t.TempDir())
	n := launch(t, c)
	require.Equal(t, api.Readiness{Ready: true}, n.Ready())

	// The log ends under the node: it says so, and why.
	require.NoError(t, n.storage.Log.Close())
	var r api.Readiness
	require.Equal(t, http.StatusServiceUnavailable, n.get(t, "/readyz", &r))
	require.Contains(t, strings.Join(r.Reasons, "; "), "log")
	require.Equal(t, http.StatusOK, n.get(t, "/healthz", nil), "the process lives")
	_, err := n.Publish(t.Context(), &footfallv1.EventBatch{Events: []*footfallv1.Event{view("1", "e1", monday)}})
	require.Equal(t, codes.Unavailable, status.Code(err))
}

func TestADiskThatIsNearlyFull(t *testing.T) {
	c := testConfig(t.TempDir())
	c.DiskReserve = 1 << 60
	n := launch(t, c)
	// The disk is looked at every few megabytes.
	var err error
	for i := 0; err == nil && i < 64; i++ {
		var events []*footfallv1.Event
		for j := range 400 {
			ev := view("1", fmt.Sprint(i, "-", j), monday)
			ev.GetPageView().Url = strings.Repeat(fmt.Sprint(i, j), 300)
			events = append(events, ev)
		}
		_, err = n.Publish(t.Context(), &footfallv1.EventBatch{Events: events})
	}
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "below the reserve")
	r := n.Ready()
	require.False(t, r.Ready)
	require.Contains(t, strings.Join(r.Reasons, "; "), "free space on this disk")
	require.Equal(t, http.StatusOK, n.get(t, customerPath("1"), nil), "what was taken is still answered")
}

func TestRetentionKeepsWhatIsNeeded(t *testing.T) {
	clock := newTicker(monday)
	c := testConfig(t.TempDir())
	c.LogAge = 10 * 24 * time.Hour
	n := launch(t, c, withNow(clock.now))
	const customers = 20
	day := func(d int) {
		var events []*footfallv1.Event
		for i := range customers {
			events = append(events, view(fmt.Sprint(i), fmt.Sprint("d", d), clock.now()))
		}
		n.publish(t, events...)
		n.idle(t)
		require.NoError(t, n.host.Checkpoint(t.Context()))
	}
	firsts := func() (sum uint64) {
		for s := range c.Shards {
			first, _, err := n.storage.Log.Bounds(t.Context(), s)
			require.NoError(t, err)
			sum += first
		}
		return sum
	}
	day(0)
	n.retain(t.Context())
	require.Zero(t, firsts(), "all of it is young")

	clock.set(monday.AddDate(0, 0, 9))
	day(9)
	clock.set(monday.AddDate(0, 0, 11))
	n.retain(t.Context())
	trimmed := firsts()
	require.NotZero(t, trimmed, "the first day is gone")
	require.Equal(t, uint64(customers), n.events(t), "and the second is not folded from the log, but in the base")
	n.verified(t)

	day(11)
	n.verified(t)
	n.retain(t.Context())
	require.Equal(t, trimmed, firsts(), "nothing else is old")

	var h struct{ Truncated bool }
	require.Equal(t, http.StatusOK, n.get(t, customerPath("1")+"/history", &h))
	require.True(t, h.Truncated)

	// It starts again from its checkpoint, and long after from a log that is all trimmed.
	clock.set(monday.AddDate(1, 0, 0))
	n.retain(t.Context())
	n.retain(t.Context())
	n.halt(t)
	n = launch(t, c, withNow(clock.now))
	got, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "1"})
	require.NoError(t, err)
	require.Equal(t, uint64(3), got.GetLifetime().GetPageViews())
	n.verified(t)
}

// events counts what a customer's picture says, over all of them divided by two days.
func (r *running) events(t *testing.T) (sum uint64) {
	t.Helper()
	for _, st := range r.host.Status() {
		sum += st.Events
	}
	return sum / 2
}

// fixed is a runner whose models answer the same for every row.
type fixed struct{ values map[string]float32 }

func (f fixed) Version() string { return "fixed" }

func (f fixed) Load(_ context.Context, _ string, c *inference.Contract, _ string) (inference.Session, error) {
	v, ok := f.values[c.Name]
	if !ok {
		return nil, errors.New("the graph has no such tensor")
	}
	return fixedSession(v), nil
}

type fixedSession float32

func (s fixedSession) Run(in inference.Batch, out []float32) error {
	for i := range in.Rows {
		out[i] = float32(s)
	}
	return nil
}

func (fixedSession) Close() error { return nil }

func writeModel(t *testing.T, dir, name, output string) {
	t.Helper()
	at := filepath.Join(dir, name, "1")
	require.NoError(t, os.MkdirAll(at, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(at, "saved_model.pb"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(at, "model.yaml"), []byte(`name: `+name+`
version: 1
description: test
inputs:
  - name: features
    tensor: features
    shape: [-1, 10]
    features: [recency_days, visit_days_7, visit_days_28, visit_days_84, log_spend_28, log_spend_84, gap_ewma, overdue, departments_28, discount_share_84]
outputs:
  - name: out
    tensor: output_0
    shape: [-1, 1]
`+output+`
data: {source: test, digest: "sha256:`+strings.Repeat("0", 64)+`", rows: 1, days: [1, 2]}
evaluation: {auc: 0.9}
trained_with: {keras: 3.12.0, tensorflow: 2.21.0, seed: 1}
created: 2026-01-01T00:00:00Z
`), 0o600))
}

func TestScoresAndSegments(t *testing.T) {
	c := testConfig(t.TempDir())
	c.Roles = config.Roles{config.RoleShards, config.RoleInference}
	c.InferenceRows = 1 // also then a shard's rows fit
	writeModel(t, c.ModelsDir, "churn_risk", "    kind: probability")
	writeModel(t, c.ModelsDir, "customer_segmentation", "    kind: segment\nsegments:\n  - {id: 0, name: rare, description: x}\n  - {id: 1, name: weekly family shop, description: x}")
	writeModel(t, c.ModelsDir, "broken", "    kind: probability")
	n := launch(t, c, withRunner(fixed{map[string]float32{"churn_risk": 0.1, "customer_segmentation": 1}}))
	var events []*footfallv1.Event
	for i := range 100 {
		events = append(events, purchase(fmt.Sprint(i), "b", monday, "1"))
	}
	n.publish(t, events...)
	n.idle(t)
	var got customerView
	require.Equal(t, http.StatusOK, n.get(t, customerPath("7"), &got))
	require.Equal(t, "weekly family shop", got.Segment)
	require.Len(t, got.Scores, 2)
	require.Equal(t, "churn_risk", got.Scores[0].Model)
	require.Equal(t, 0.1, got.Scores[0].Value)

	r := n.Ready()
	require.True(t, r.Ready)
	require.Len(t, r.Notes, 1)
	require.Contains(t, r.Notes[0], "model broken 1 cannot be loaded")
	models, err := n.ListModels(t.Context(), &footfallv1.ListModelsRequest{})
	require.NoError(t, err)
	require.Len(t, models.GetModels(), 3)
}

func TestWithoutModelsANodeServesAndSaysSo(t *testing.T) {
	for name, prepare := range map[string]func(dir string){
		"no directory": func(string) {},
		"none loads":   func(dir string) { writeModel(t, dir, "broken", "    kind: probability") },
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfig(t.TempDir())
			c.Roles = config.Roles{config.RoleShards, config.RoleInference}
			prepare(c.ModelsDir)
			n := launch(t, c, withRunner(fixed{}))
			n.publish(t, purchase("1", "b", monday, "1"))
			n.idle(t)
			var got customerView
			require.Equal(t, http.StatusOK, n.get(t, customerPath("1"), &got))
			require.Empty(t, got.Scores)
			r := n.Ready()
			require.True(t, r.Ready)
			require.NotEmpty(t, r.Notes)
		})
	}
}

func TestMetricsOfANode(t *testing.T) {
	n := launch(t, testConfig(t.TempDir()))
	n.publish(t, view("1", "e", monday))
	n.idle(t)
	families, err := n.registry.Gather()
	require.NoError(t, err)
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
	}
	for _, name := range []string{
		"footfall_build_info", "footfall_query_seconds", "footfall_events_rejected_total", "footfall_cluster_members",
		"footfall_shard_events_total", "footfall_shard_lag_messages", "footfall_apply_seconds", "footfall_log_messages_total",
		"footfall_disk_bytes", "footfall_log_trimmed_messages_total", "go_goroutines", "process_start_time_seconds",
	} {
		require.Contains(t, names, name)
	}
}
