package access

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// The doors of a node.
const (
	transportGRPC = "grpc"
	transportHTTP = "http"
)

type metrics struct {
	refused     *prometheus.CounterVec
	limited     *prometheus.CounterVec
	turnedAway  *prometheus.CounterVec
	connections *prometheus.GaugeVec
	failed      *prometheus.CounterVec
	tokens      prometheus.Gauge
	expiry      prometheus.Gauge
}

// The files that are read again.
const (
	fileTokens = "tokens"
	fileTLS    = "tls"
)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_auth_refused_total",
			Help: "Calls and handshakes that were refused, by why.",
		}, []string{"transport", "reason"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_requests_limited_total",
			Help: "Calls that were refused since their caller made too many.",
		}, []string{"transport"}),
		turnedAway: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_connections_refused_total",
			Help: "Connections that were closed at once since there were too many.",
		}, []string{"listener"}),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "footfall_connections",
			Help: "Connections that are open.",
		}, []string{"listener"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_auth_reload_failures_total",
			Help: "Times that a changed file could not be used, and what was before stayed.",
		}, []string{"file"}),
		tokens: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "footfall_auth_tokens",
			Help: "Tokens of the tokens file.",
		}),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "footfall_tls_certificate_expiry_timestamp_seconds",
			Help: "When the certificate in use expires; 0 without one.",
		}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.refused, m.limited, m.turnedAway, m.connections, m.failed, m.tokens, m.expiry} {
		errs = append(errs, reg.Register(c))
	}
	for _, transport := range []string{transportGRPC, transportHTTP} {
		m.limited.WithLabelValues(transport)
		for _, reason := range []Reason{ReasonMissing, ReasonMalformed, ReasonUnknown, ReasonExpired, ReasonRole} {
			m.refused.WithLabelValues(transport, string(reason))
		}
	}
	for _, reason := range []Reason{ReasonForged, ReasonCertificate, ReasonPeer} {
		m.refused.WithLabelValues(transportGRPC, string(reason))
	}
	for _, file := range []string{fileTokens, fileTLS} {
		m.failed.WithLabelValues(file)
	}
	return m, errors.Join(errs...)
}
