package rollout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"footfall/inference"
	"footfall/inference/modelstore"
	"footfall/messages"
)

var testLayout = inference.Layout{
	Features: strings.Fields("recency_days visit_days_7 visit_days_28 visit_days_84 log_spend_28 log_spend_84 gap_ewma overdue departments_28 discount_share_84"),
	Steps:    10,
	Columns:  strings.Fields("age_days gap_days log_spend departments discount_share"),
}

const model = "purchase_prediction"

// fakePool serves what it is told, but for what is broken.
type fakePool struct {
	plan   inference.Plan
	broken map[string]error
}

func (p *fakePool) Apply(_ context.Context, _ *inference.Registry, plan inference.Plan) error {
	p.plan = plan
	return nil
}

func (p *fakePool) Failure(_, version string) error { return p.broken[version] }

func (p *fakePool) Champion(name string) string {
	if champion := p.plan[name].Champion; champion != "" {
		return champion
	}
	return "1"
}

func (p *fakePool) Shown() []inference.Scores {
	return []inference.Scores{{Model: model, Version: p.Champion(model)}}
}

// said is what the pool was told.
func (p *fakePool) said() string {
	m := p.plan[model]
	if m.Challenger == nil {
		return m.Champion
	}
	return fmt.Sprintf("%s, %s on %g", m.Champion, m.Challenger.Version, m.Challenger.Share)
}

// member is a node: a controller of its own, over a store and a directory that all share.
type member struct {
	*Controller
	pool *fakePool
	reg  *prometheus.Registry
}

func join(t *testing.T, store Store, dir, name string, enter float64) *member {
	t.Helper()
	source, err := modelstore.Open(t.Context(), dir, modelstore.Options{Layout: testLayout})
	require.NoError(t, err)
	m := &member{pool: &fakePool{broken: map[string]error{}}, reg: prometheus.NewRegistry()}
	metrics, err := NewMetrics(m.reg)
	require.NoError(t, err)
	m.Controller, err = NewController(Config{Store: store, Source: source, Node: name, Enter: enter, Metrics: metrics})
	require.NoError(t, err)
	_, m.pool.plan, err = m.Plan(t.Context())
	require.NoError(t, err)
	m.Serve(m.pool)
	return m
}

func (m *member) look(t *testing.T) string {
	t.Helper()
	require.NoError(t, m.Look(t.Context()))
	return m.pool.said()
}

func addVersion(t *testing.T, dir, version string) {
	t.Helper()
	text, err := os.ReadFile("../testdata/model.yaml")
	require.NoError(t, err)
	place := filepath.Join(dir, model, version)
	require.NoError(t, os.MkdirAll(place, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(place, "saved_model.pb"), nil, 0o600))
	yaml := strings.Replace(string(text), "version: 1\n", "version: "+version+"\n", 1)
	require.NoError(t, os.WriteFile(filepath.Join(place, "model.yaml"), []byte(yaml), 0o600))
}

// Nodes that share a store decide once and serve the same, and who comes back after a crash goes on with that.
func TestNodesAgree(t *testing.T) {
	dir, store := t.TempDir(), new(Memory)
	addVersion(t, dir, "1")
	a, b := join(t, store, dir, "a", .1), join(t, store, dir, "b", .1)
	require.Equal(t, "1", a.look(t))
	require.Equal(t, "1", b.look(t))
	addVersion(t, dir, "2")
	var wg sync.WaitGroup
	for _, m := range []*member{a, b} {
		wg.Go(func() {
			if err := m.Look(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, "1, 2 on 0.1", a.look(t))
	require.Equal(t, "1, 2 on 0.1", b.look(t))
	s, _ := b.State(model)
	require.EqualValues(t, 2, s.Generation, "one of them decided")

	_, err := b.Do(t.Context(), Change{Action: "canary", Model: model, Share: .5})
	require.NoError(t, err)
	require.Equal(t, "1, 2 on 0.5", a.look(t))
	again := join(t, store, dir, "a", .1) // as after kill -9
	require.Equal(t, "1, 2 on 0.5", again.pool.said())
	_, err = again.Do(t.Context(), Change{Action: "promote", Model: model})
	require.NoError(t, err)
	require.Equal(t, "2", b.look(t))

	// What only one node finds out all follow.
	addVersion(t, dir, "3")
	b.pool.broken["3"] = &inference.LoadError{Model: model, Version: "3", Err: errors.New("bad magic number")}
	require.Equal(t, "2, 3 on 0.1", again.look(t))
	require.Equal(t, "2", b.look(t))
	require.Equal(t, "2", again.look(t))
	s, _ = again.State(model)
	require.Equal(t, "bad magic number", s.Refused[0].Reason)
	require.Equal(t, "b", s.Events[0].Node)
	require.NoError(t, testutil.GatherAndCompare(b.reg, strings.NewReader(`
# HELP footfall_model_rollbacks_total Versions that this node took out, by reason; asked is a person's.
# TYPE footfall_model_rollbacks_total counter
footfall_model_rollbacks_total{model="purchase_prediction",reason="load"} 1
`), "footfall_model_rollbacks_total"))

	// A champion that breaks gives way to the one before.
	again.pool.broken["2"] = errors.New("out of memory")
	require.Equal(t, "1", again.look(t))
	require.Equal(t, "1", b.look(t))
}

// A version whose files can't be had for the moment is not refused.
func TestWhatMayPassIsNotRefused(t *testing.T) {
	dir := t.TempDir()
	addVersion(t, dir, "1")
	m := join(t, new(Memory), dir, "a", .1)
	m.look(t)
	addVersion(t, dir, "2")
	m.pool.broken["2"] = &inference.LoadError{Model: model, Version: "2", Err: &inference.FetchError{Err: errors.New("connection refused")}}
	require.Equal(t, "1, 2 on 0.1", m.look(t))
	require.Equal(t, "1, 2 on 0.1", m.look(t))
}

// away is a store that may not answer.
type away struct {
	Memory
	err error
}

func (s *away) Rollouts(ctx context.Context) ([]messages.Rollout, error) {
	if s.err != nil {
		return nil, s.err
	}
	return s.Memory.Rollouts(ctx)
}

func (s *away) PutRollout(ctx context.Context, model string, generation uint64, body []byte) error {
	if s.err != nil {
		return s.err
	}
	return s.Memory.PutRollout(ctx, model, generation, body)
}

// Without its store a node serves on what it knows, and says so.
func TestStoreAway(t *testing.T) {
	dir, store := t.TempDir(), new(away)
	addVersion(t, dir, "1")
	m := join(t, store, dir, "a", .1)
	m.look(t)
	store.err = errors.New("connection refused")
	addVersion(t, dir, "2")
	require.Equal(t, "1", m.look(t))
	_, err := m.Do(t.Context(), Change{Action: "promote", Model: model, Version: "2"})
	require.ErrorContains(t, err, "connection refused")
	require.Equal(t, "1", m.look(t))
	require.GreaterOrEqual(t, testutil.ToFloat64(m.Metrics.errors.WithLabelValues("store")), 2.)
	store.err = nil
	require.Equal(t, "1, 2 on 0.1", m.look(t))
}

func TestDoRefuses(t *testing.T) {
	dir := t.TempDir()
	addVersion(t, dir, "1")
	m := join(t, new(Memory), dir, "a", 0)
	m.Serve(nil)
	_, err := m.Do(t.Context(), Change{Action: "promote", Model: model})
	require.ErrorContains(t, err, "no version serves yet")
	m.Serve(m.pool) // nobody looks before somebody asks, as where models.watch is 0
	for want, c := range map[string]Change{
		`there is no model "x"`:                        {Action: "promote", Model: "x"},
		`there is no version "7" of ` + model:          {Action: "canary", Model: model, Version: "7", Share: .1},
		"version 1 serves already":                     {Action: "canary", Model: model, Share: .1},
		"no version is tried: name the one to promote": {Action: "promote", Model: model},
		"nothing is tried":                             {Action: "rollback", Model: model},
		`there is no action "x"`:                       {Action: "x", Model: model},
	} {
		_, err := m.Do(t.Context(), c)
		require.ErrorContains(t, err, want)
	}
}
