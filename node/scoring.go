package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/prometheus/client_golang/prometheus"

	"footfall/actors"
	"footfall/behavior"
	"footfall/inference"
	"footfall/inference/modelstore"
	"footfall/inference/rollout"
	"footfall/messages/footfallv1"
	"footfall/node/config"
)

// layout is what a row of the shards' matrices holds: the one thing that shards and models
// have to agree on.
var layout = inference.Layout{
	Features: behavior.FeatureNames[:],
	Steps:    10,
	Columns:  behavior.SequenceNames[:],
}

// scoring is the way from shards to models. Until they are loaded it takes no rows, and the
// shards offer them again; where none can be loaded it answers that nothing was scored.
type scoring struct {
	config inference.PoolConfig
	// versions are those of the models; nil without any.
	versions *versions
	watches  bool
	// missing says why there are no models at all.
	missing error
	// pool is set once the models are loaded.
	pool atomic.Pointer[inference.Pool]
	// queries are those of callers that wait.
	queries queries
	// others score what no device of this node takes; nil where there are no models.
	others *elsewhere
	// advertise is told the devices once they are known, where it is set.
	advertise func(devices []string)
}

// openScoring looks what models there are. It returns nil where the node runs none.
func openScoring(cfg *config.Config, runner inference.Runner, decided rollout.Store, logger *slog.Logger, reg prometheus.Registerer) (*scoring, error) {
	if runner == nil || !cfg.Roles.Has(config.RoleInference) {
		return nil, nil
	}
	s := &scoring{watches: cfg.ModelsWatch > 0}
	s.queries.scoring = s
	registry := inference.NewRegistry(nil, layout)
	if cfg.ModelsURL == "" {
		if registry, s.missing = inference.OpenRegistry("file:"+cfg.ModelsDir, layout); s.missing != nil {
			logger.Warn("there are no models: customers are answered without scores", "error", s.missing)
			return s, nil
		}
	}
	m, err := inference.NewMetrics(reg)
	if err != nil {
		return nil, err
	}
	if s.versions, err = openVersions(cfg, decided, logger, reg); err != nil {
		return nil, err
	}
	s.config = inference.PoolConfig{
		Devices: cfg.InferenceDevices,
		Config: inference.Config{
			Registry: registry,
			Runner:   runner,
			Fetch:    s.versions.store.Fetch,
			Probe:    true,
			MaxRows:  cfg.InferenceRows,
			MaxDelay: cfg.InferenceDelay,
			// Also where batches are small, what a shard hands over at once must fit.
			QueueRows:  max(16*cfg.InferenceRows, 16*actors.DefaultScoreRows),
			RunTimeout: cfg.InferenceTimeout,
			Metrics:    m,
			Log:        logger,
		},
	}
	if s.others, err = newElsewhere(cfg, s.versions.store.Registry, m, logger); err != nil {
		return nil, err
	}
	// A directory that can't be written to costs the guard, not the models.
	if attempts, err := modelstore.NewAttempts(filepath.Join(cfg.ModelsCache, ".loading", cfg.Name)); err == nil {
		s.config.Loading = attempts.Loading
	} else {
		logger.Warn("a model that ends the process will be loaded again at each start", "error", err)
	}
	s.queries.open()
	return s, nil
}

// load loads the models, and takes rows from then on. ctx ends it early.
func (s *scoring) load(ctx context.Context) error {
	if s.missing != nil {
		return nil
	}
	devices, err := inference.Devices(ctx, s.config.Runner, s.config.Devices)
	if err != nil {
		return fmt.Errorf("inference.devices: %w", err)
	}
	s.config.Devices = devices
	s.config.System = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return s.config.Log }))
	registry, plan, err := s.versions.Plan(ctx)
	switch {
	case err == nil:
		s.config.Registry, s.config.Plan = registry, plan
	case ctx.Err() != nil:
		s.config.System.Shutdown()
		return err
	default:
		s.config.Log.Error("the models can't be listed: customers are answered without scores until they can", "error", err)
	}
	p, err := inference.StartPool(ctx, s.config)
	if err != nil {
		s.config.System.Shutdown()
		return err
	}
	s.others.feeds(p)
	s.pool.Store(p)
	s.versions.Serve(p)
	s.versions.watch(ctx, s.watches)
	if s.advertise != nil {
		s.advertise(devices)
	}
	return nil
}

// Close ends the devices; no shard may offer rows any more.
func (s *scoring) Close() error {
	var err error
	if s.others != nil {
		err = s.others.Close()
	}
	if s.versions != nil {
		err = errors.Join(err, s.versions.Close())
	}
	p := s.pool.Load()
	if p == nil {
		return err
	}
	defer s.config.System.Shutdown()
	return errors.Join(err, p.Close())
}

// Score implements actors.Scorer.
func (s *scoring) Score(r *actors.ScoreRequest) bool {
	p := s.pool.Load()
	switch {
	case s.missing != nil:
		r.Reply(actors.ScoreReply{})
		return true
	case p == nil:
		return false
	}
	return offer(p, r)
}

// offer gives a shard's rows to a pool.
func offer(p *inference.Pool, r *actors.ScoreRequest) bool {
	return p.Score(&inference.Request{
		Rows: r.Rows, Features: r.Features, Sequences: r.Sequences, Customers: r.Customers,
		Reply: func(answer inference.Reply) {
			if errors.Is(answer.Err, inference.ErrNoModel) {
				answer.Err = nil // there is nothing to wait for
			}
			reply := actors.ScoreReply{Err: answer.Err, Whole: answer.Whole, Models: make([]actors.ModelScores, len(answer.Models))}
			for i, m := range answer.Models {
				reply.Models[i] = actors.ModelScores(m)
			}
			r.Reply(reply)
		},
	})
}

// List implements api.Models.
func (s *scoring) List() []*footfallv1.Model {
	if p := s.pool.Load(); p != nil {
		all := p.Models()
		for _, m := range all {
			s.versions.decided(m)
		}
		return all
	}
	if s.missing != nil {
		return nil
	}
	var all []*footfallv1.Model
	for _, m := range s.versions.store.Registry().Models() {
		view := &footfallv1.Model{Name: m.Name}
		for _, v := range m.Versions {
			view.Versions = append(view.Versions, &footfallv1.ModelVersion{Version: v.Name, State: "loading"})
		}
		all = append(all, view)
	}
	return all
}

// Segment implements api.Models.
func (s *scoring) Segment(model, version string, value float32) string {
	if s.missing != nil {
		return ""
	}
	return segmentOf(s.versions.store.Registry(), model, version, value)
}

// segmentOf names the segment that a score stands for, as a version's contract does; empty where
// there is none.
func segmentOf(contracts *inference.Registry, model, version string, value float32) string {
	if contracts == nil {
		return ""
	}
	c := contracts.Contract(model, version)
	if c == nil {
		return ""
	}
	if segment, ok := c.Segment(value); ok {
		return segment.Name
	}
	return ""
}

// Devices implements api.Models: each by its name, with the state of one that does not serve.
func (s *scoring) Devices() []string {
	p := s.pool.Load()
	if p == nil {
		return nil
	}
	var all []string
	for _, d := range p.Status() {
		all = append(all, d.String())
	}
	return all
}

// reasons tells what keeps the node from being ready, and notes what it has to do without.
func (s *scoring) reasons() (reasons, notes []string) {
	if s.missing != nil {
		return nil, []string{"customers are answered without scores: " + s.missing.Error()}
	}
	p := s.pool.Load()
	if p == nil {
		return []string{"models are being loaded"}, nil
	}
	for _, d := range p.Status() {
		switch {
		case d.State == inference.DeviceServing:
		case d.Err == nil:
			notes = append(notes, fmt.Sprintf("device %s is %s", d.Name, d.State))
		case d.Retry.IsZero():
			notes = append(notes, fmt.Sprintf("device %s is %s until what runs there returns: %v", d.Name, d.State, d.Err))
		default:
			notes = append(notes, fmt.Sprintf("device %s is %s until %s: %v", d.Name, d.State, d.Retry.UTC().Format(time.RFC3339), d.Err))
		}
	}
	for _, m := range p.Models() {
		for _, v := range m.GetVersions() {
			if v.GetState() == "failed" {
				notes = append(notes, strings.TrimSpace("model "+m.GetName()+" "+v.GetVersion())+" cannot be loaded: "+v.GetError())
			}
		}
	}
	return nil, notes
}

// Scorer scores with models whose versions can be changed.
type Scorer interface {
	actors.Scorer
	// Change decides about a model, and returns once that is served. Its errors are those of
	// [rollout.Controller.Do].
	Change(ctx context.Context, c rollout.Change) (*footfallv1.Model, error)
}

// StartScorer loads the models in a directory and scores with them, without a node around it:
// for measuring. done ends it.
func StartScorer(ctx context.Context, modelsDir string, runner inference.Runner) (_ Scorer, done func() error, err error) {
	cfg := config.Default()
	cfg.ModelsDir, cfg.ModelsWatch = modelsDir, 0
	s, err := openScoring(cfg, runner, new(rollout.Memory), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		return nil, nil, err
	}
	if s.missing != nil {
		return nil, nil, s.missing
	}
	if err := s.load(ctx); err != nil {
		return nil, nil, err
	}
	if len(s.pool.Load().Serving()) == 0 {
		return nil, nil, errors.Join(fmt.Errorf("no model of %s can be served", modelsDir), s.Close())
	}
	return s, s.Close, nil
}
