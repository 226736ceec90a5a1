package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/prometheus/client_golang/prometheus"

	"footfall/actors"
	"footfall/behavior"
	"footfall/inference"
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
	registry *inference.Registry
	config   inference.Config
	// missing says why there are no models at all.
	missing error
	// device is set once the models are loaded, and serves before it: whether any of them could be.
	device atomic.Pointer[inference.Device]
	serves bool
	// queries are those of callers that wait.
	queries queries
}

// openScoring looks what models there are. It returns nil where the node runs none.
func openScoring(cfg *config.Config, runner inference.Runner, logger *slog.Logger, reg prometheus.Registerer) (*scoring, error) {
	if runner == nil || !cfg.Roles.Has(config.RoleInference) {
		return nil, nil
	}
	s := &scoring{}
	s.queries.scoring = s
	s.registry, s.missing = inference.OpenRegistry("file:"+cfg.ModelsDir, layout)
	if s.missing != nil {
		logger.Warn("there are no models: customers are answered without scores", "error", s.missing)
		return s, nil
	}
	m, err := inference.NewMetrics(reg)
	if err != nil {
		return nil, err
	}
	s.config = inference.Config{
		Registry: s.registry,
		Runner:   runner,
		MaxRows:  cfg.InferenceRows,
		MaxDelay: cfg.InferenceDelay,
		// Also where batches are small, what a shard hands over at once must fit.
		QueueRows: max(16*cfg.InferenceRows, 16*actors.DefaultScoreRows),
		Metrics:   m,
		Log:       logger,
	}
	s.queries.open()
	return s, nil
}

// load loads the models, and takes rows from then on. ctx ends it early.
func (s *scoring) load(ctx context.Context) error {
	if s.missing != nil {
		return nil
	}
	s.config.System = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return s.config.Log }))
	d, err := inference.Start(ctx, s.config)
	if err != nil {
		s.config.System.Shutdown()
		return err
	}
	s.serves = serves(d)
	s.device.Store(d)
	return nil
}

// Close ends the device; no shard may offer rows any more.
func (s *scoring) Close() error {
	d := s.device.Load()
	if d == nil {
		return nil
	}
	defer s.config.System.Shutdown()
	return d.Close()
}

// Score implements actors.Scorer.
func (s *scoring) Score(r *actors.ScoreRequest) bool {
	d := s.device.Load()
	switch {
	case s.missing != nil, d != nil && !s.serves:
		r.Reply(actors.ScoreReply{})
		return true
	case d == nil:
		return false
	}
	return d.Score(&inference.Request{
		Rows: r.Rows, Features: r.Features, Sequences: r.Sequences,
		Reply: func(answer inference.Reply) {
			reply := actors.ScoreReply{Err: answer.Err, Models: make([]actors.ModelScores, len(answer.Models))}
			for i, m := range answer.Models {
				reply.Models[i] = actors.ModelScores(m)
			}
			r.Reply(reply)
		},
	})
}

// serves reports whether any model does.
func serves(d *inference.Device) bool {
	for _, m := range d.Models() {
		for _, v := range m.GetVersions() {
			if v.GetState() == "serving" {
				return true
			}
		}
	}
	return false
}

// List implements api.Models.
func (s *scoring) List() []*footfallv1.Model {
	if d := s.device.Load(); d != nil {
		return d.Models()
	}
	if s.missing != nil {
		return nil
	}
	var all []*footfallv1.Model
	for _, m := range s.registry.Models() {
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
	c := s.registry.Contract(model, version)
	if c == nil {
		return ""
	}
	if segment, ok := c.Segment(value); ok {
		return segment.Name
	}
	return ""
}

// Devices implements api.Models.
func (s *scoring) Devices() []string {
	if d := s.device.Load(); d != nil {
		return []string{d.Device}
	}
	return nil
}

// reasons tells what keeps the node from being ready, and notes what it has to do without.
func (s *scoring) reasons() (reasons, notes []string) {
	if s.missing != nil {
		return nil, []string{"customers are answered without scores: " + s.missing.Error()}
	}
	d := s.device.Load()
	if d == nil {
		return []string{"models are being loaded"}, nil
	}
	for _, m := range d.Models() {
		for _, v := range m.GetVersions() {
			if v.GetState() == "failed" {
				notes = append(notes, fmt.Sprintf("model %s %s cannot be loaded: %s", m.GetName(), v.GetVersion(), v.GetError()))
			}
		}
	}
	return nil, notes
}

// StartScorer loads the models in a directory and scores with them, without a node around it:
// for measuring. done ends it.
func StartScorer(ctx context.Context, modelsDir string, runner inference.Runner) (_ actors.Scorer, done func() error, err error) {
	cfg := config.Default()
	cfg.ModelsDir = modelsDir
	s, err := openScoring(cfg, runner, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		return nil, nil, err
	}
	if s.missing != nil {
		return nil, nil, s.missing
	}
	if err := s.load(ctx); err != nil {
		return nil, nil, err
	}
	if !s.serves {
		return nil, nil, errors.Join(fmt.Errorf("no model of %s can be served", modelsDir), s.Close())
	}
	return s, s.Close, nil
}
