package rollout

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the series of a controller. Their labels are bounded by models, with two versions of each, and reasons.
type Metrics struct {
	share     *prometheus.GaugeVec
	trial     *prometheus.GaugeVec
	rollbacks *prometheus.CounterVec
	errors    *prometheus.CounterVec

	mu sync.Mutex
	// failing are the places that could not be read the last time.
	failing map[string]bool
}

// NewMetrics registers the metrics of this package. reg may be nil: then nobody sees them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		share: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "footfall_model_rollout_share",
			Help: "Share of the customers that a version scores, by its part: champion, canary or shadow.",
		}, []string{"model", "version", "part"}),
		trial: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "footfall_model_trial",
			Help: "What this node found of a version that is tried beside the champion, by measure.",
		}, []string{"model", "version", "measure"}),
		rollbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_model_rollbacks_total",
			Help: "Versions that this node took out, by reason; asked is a person's.",
		}, []string{"model", "reason"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_models_watch_errors_total",
			Help: "Times that the versions of models, or what is decided about them, could not be read.",
		}, []string{"what"}),
		failing: make(map[string]bool),
	}
	for _, what := range []string{"registry", "store"} {
		m.errors.WithLabelValues(what)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.share, m.trial, m.rollbacks, m.errors} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// failed counts, and reports whether it is the first time since all was well.
func (m *Metrics) failed(what string) bool {
	m.errors.WithLabelValues(what).Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	first := !m.failing[what]
	m.failing[what] = true
	return first
}

func (m *Metrics) fine(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failing[what] = false
}

func (m *Metrics) rolledBack(model, reason string) { m.rollbacks.WithLabelValues(model, reason).Inc() }

// publish replaces what is told of states and trials.
func (m *Metrics) publish(states []State, trials map[string]trial) {
	m.share.Reset()
	m.trial.Reset()
	for _, s := range states {
		rest := 1.
		if c := s.Challenger; c != nil {
			m.share.WithLabelValues(s.Model, c.Version, string(c.Mode)).Set(c.Share)
			if c.Mode == Canary {
				rest -= c.Share
			}
			f := trials[s.Model].comparison.Figures()
			own, champion := f.MeanSeconds()
			n := max(float64(f.Rows), 1)
			for measure, value := range map[string]float64{
				"rows": float64(f.Rows), "errors": float64(f.Errors), "shift": f.Shift(), "difference": f.Difference / n,
				"absolute_difference": f.Absolute / n, "seconds": own, "champion_seconds": champion,
			} {
				m.trial.WithLabelValues(s.Model, c.Version, measure).Set(value)
			}
		}
		m.share.WithLabelValues(s.Model, s.Champion, "champion").Set(rest)
	}
}
