package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/actors"
	"footfall/inference"
	"footfall/inference/modelstore"
	"footfall/inference/rollout"
	"footfall/messages/footfallv1"
	"footfall/node/api"
	"footfall/node/config"
)

// versions are those of the models that a node has: where they come from, and what is decided
// about them.
type versions struct {
	store *modelstore.Store
	*rollout.Controller

	stop     context.CancelFunc
	watching sync.WaitGroup
}

var _ api.Rollouts = (*scoring)(nil)

// openVersions prepares them; decided keeps what is decided, for all nodes.
func openVersions(cfg *config.Config, decided rollout.Store, logger *slog.Logger, reg prometheus.Registerer) (*versions, error) {
	location := cfg.ModelsURL
	if location == "" {
		location = "file:" + cfg.ModelsDir
	}
	v := &versions{}
	var err error
	v.store, err = modelstore.Open(context.Background(), location, modelstore.Options{
		Layout: layout, Cache: cfg.ModelsCache, CacheBytes: cfg.ModelsCacheSize,
	})
	if err != nil {
		return nil, err
	}
	m, err := rollout.NewMetrics(reg)
	if err != nil {
		return nil, errors.Join(err, v.store.Close())
	}
	v.Controller, err = rollout.NewController(rollout.Config{
		Store: decided, Source: v.store, Node: cfg.Name, Every: cfg.ModelsWatch, Enter: cfg.ModelsCanary, Metrics: m, Log: logger,
	})
	if err != nil {
		return nil, errors.Join(err, v.store.Close())
	}
	v.store.Keep(v.Keeps)
	return v, nil
}

// watch looks again and again what is new, unless it is told not to.
func (v *versions) watch(ctx context.Context, every bool) {
	ctx, v.stop = context.WithCancel(context.WithoutCancel(ctx))
	if every {
		v.watching.Go(func() { v.Run(ctx) })
	}
}

// Close ends that.
func (v *versions) Close() error {
	if v.stop != nil {
		v.stop()
	}
	v.watching.Wait()
	return v.store.Close()
}

// shows has shards told whose scores customers are to have.
func (s *scoring) shows(host *actors.Host) {
	if s.versions == nil {
		return
	}
	s.versions.Shown = func(all []inference.Scores) {
		models := make([]actors.ModelScores, len(all))
		for i, v := range all {
			models[i] = actors.ModelScores{Model: v.Model, Version: v.Version}
		}
		host.Serving(models)
	}
}

// Change implements api.Rollouts.
func (s *scoring) Change(ctx context.Context, c rollout.Change) (*footfallv1.Model, error) {
	switch {
	case s.missing != nil:
		return nil, &rollout.UnknownError{Model: c.Model}
	case s.pool.Load() == nil:
		return nil, &rollout.StateError{Model: c.Model, Reason: "the models are being loaded: try again"}
	}
	if _, err := s.versions.Do(ctx, c); err != nil {
		return nil, err
	}
	all := s.List()
	i := slices.IndexFunc(all, func(m *footfallv1.Model) bool { return m.GetName() == c.Model })
	if i < 0 {
		return nil, &rollout.UnknownError{Model: c.Model}
	}
	return all[i], nil
}

// decided adds to a model what is decided about it, and what was found of the version that is tried.
func (v *versions) decided(m *footfallv1.Model) {
	s, ok := v.State(m.GetName())
	if !ok {
		return
	}
	m.Generation = s.Generation
	for _, e := range s.Events {
		m.Events = append(m.Events, &footfallv1.RolloutEvent{
			Time: timestamppb.New(e.At), Action: e.Action, Version: e.Version, Reason: e.Reason, Node: e.Node, Share: e.Share,
		})
	}
	for _, version := range m.GetVersions() {
		if s.Challenger != nil && version.GetVersion() == s.Challenger.Version {
			if f, ok := v.Figures(m.GetName()); ok {
				version.Trial = trialOf(s.Challenger, f)
			}
		}
		if r, refused := s.Refusal(version.GetVersion()); refused && version.GetState() == "idle" {
			version.State, version.Error = "refused", r.Reason
		}
	}
}

func trialOf(c *rollout.Challenger, f inference.Figures) *footfallv1.ModelTrial {
	t := &footfallv1.ModelTrial{Since: timestamppb.New(c.Since), Rows: f.Rows, Errors: f.Errors, Shift: f.Shift()}
	if f.Rows > 0 {
		t.Difference, t.AbsoluteDifference = f.Difference/float64(f.Rows), f.Absolute/float64(f.Rows)
	}
	t.Seconds, t.ChampionSeconds = f.MeanSeconds()
	return t
}
