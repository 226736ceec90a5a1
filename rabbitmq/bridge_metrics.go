package rabbitmq

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// BridgeMetrics are the series of a process's bridge. A nil one counts nothing.
type BridgeMetrics struct {
	isActive                   prometheus.Gauge
	messages, events, restarts prometheus.Counter
	rejected                   [rejections]prometheus.Counter
}

// NewBridgeMetrics registers the series.
func NewBridgeMetrics(reg prometheus.Registerer) (*BridgeMetrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "footfall_bridge_" + name, Help: help})
	}
	m := &BridgeMetrics{
		isActive: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "footfall_bridge_active", Help: "1 where this node gets the messages of the unsharded queue.",
		}),
		messages: counter("messages_total", "Messages that were taken out of the unsharded queue."),
		events:   counter("events_total", "Events of these that were taken to their shards."),
		restarts: counter("restarts_total", "Times that a failure interrupted the bridge."),
	}
	rejected := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "footfall_bridge_rejected_total", Help: "Events or whole messages of the unsharded queue that became dead letters.",
	}, []string{"reason"})
	for why := range rejections {
		m.rejected[why] = rejected.WithLabelValues(why.String())
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.isActive, m.messages, m.events, m.restarts, rejected} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *BridgeMetrics) active(yes bool) {
	switch {
	case m == nil:
	case yes:
		m.isActive.Set(1)
	default:
		m.isActive.Set(0)
	}
}

func (m *BridgeMetrics) restarted() {
	if m != nil {
		m.restarts.Inc()
	}
}

func (m *BridgeMetrics) settled(messages, events int, rejects *rejectCounts) {
	if m == nil {
		return
	}
	m.messages.Add(float64(messages))
	m.events.Add(float64(events))
	for why, n := range rejects {
		m.rejected[why].Add(float64(n))
	}
}
