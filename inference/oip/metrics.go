package oip

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

// The labels of calls and of the ways they come.
const (
	callLive          = "server_live"
	callReady         = "server_ready"
	callModelReady    = "model_ready"
	callMetadata      = "server_metadata"
	callModelMetadata = "model_metadata"
	callInfer         = "model_infer"

	transportGRPC = "grpc"
	transportHTTP = "http"
)

// Metrics are the series of a server. Their labels are bounded by calls, transports and the
// codes of gRPC.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// NewMetrics registers the metrics of this package. reg may be nil: then nobody sees them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_oip_requests_total",
			Help: "Calls of the Open Inference Protocol, by what became of them.",
		}, []string{"call", "transport", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "footfall_oip_infer_seconds",
			Help:    "Time that a call of model_infer took, its encoding included.",
			Buckets: prometheus.ExponentialBuckets(250e-6, 2, 14),
		}, []string{"transport"}),
	}
	for _, transport := range []string{transportGRPC, transportHTTP} {
		m.requests.WithLabelValues(callInfer, transport, "OK")
		m.seconds.WithLabelValues(transport)
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.requests), reg.Register(m.seconds))
}

// observed counts and times a call.
func observed[T any](s *Server, call, transport string, f func() (T, error)) (T, error) {
	start := time.Now()
	v, err := f()
	s.Metrics.requests.WithLabelValues(call, transport, status.Code(err).String()).Inc()
	if call == callInfer {
		s.Metrics.seconds.WithLabelValues(transport).Observe(time.Since(start).Seconds())
	}
	return v, err
}
