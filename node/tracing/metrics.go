package tracing

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct{ sent, failed, limited prometheus.Counter }

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "footfall_trace_spans_total",
		Help: "Spans of traces, by what became of them: sent, or dropped since they could not be.",
	}, []string{"result"})
	limited := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "footfall_trace_limited_total",
		Help: "Traces that were not taken up since there were too many in that second.",
	})
	return &metrics{sent: spans.WithLabelValues("sent"), failed: spans.WithLabelValues("dropped"), limited: limited},
		errors.Join(reg.Register(spans), reg.Register(limited))
}
