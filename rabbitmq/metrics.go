package rabbitmq

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the series of all connections and publishers of a process. Their labels are
// bounded by the names that the process gives to them.
type Metrics struct {
	connected   *prometheus.GaugeVec
	blocked     *prometheus.GaugeVec
	reconnects  *prometheus.CounterVec
	published   *prometheus.CounterVec
	nacked      *prometheus.CounterVec
	returned    *prometheus.CounterVec
	lost        *prometheus.CounterVec
	unconfirmed *prometheus.GaugeVec
	confirm     *prometheus.HistogramVec
	deliveries  *prometheus.CounterVec
	bytes       *prometheus.CounterVec
	attached    *prometheus.CounterVec
}

// NewMetrics registers the metrics of this package. reg may be nil: then nobody sees them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "footfall_rabbitmq_" + name, Help: help}, []string{label})
	}
	gauge := func(name, help, label string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "footfall_rabbitmq_" + name, Help: help}, []string{label})
	}
	m := &Metrics{
		connected:   gauge("connected", "1 while the connection to the broker is up.", "connection"),
		blocked:     gauge("blocked", "1 while the broker takes nothing: it has an alarm.", "connection"),
		reconnects:  counter("reconnects_total", "Connections that came back after a loss.", "connection"),
		published:   counter("published_total", "Messages that the broker has confirmed.", "publisher"),
		nacked:      counter("nacked_total", "Messages that the broker refused.", "publisher"),
		returned:    counter("returned_total", "Messages that the broker could not route.", "publisher"),
		lost:        counter("lost_total", "Messages whose outcome nobody knows, or that were not sent, since their channel was lost.", "publisher"),
		unconfirmed: gauge("unconfirmed", "Messages that were sent and not answered yet.", "publisher"),
		confirm: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "footfall_rabbitmq_confirm_seconds",
			Help:    "Time from sending a message to its confirm.",
			Buckets: prometheus.ExponentialBuckets(250e-6, 2, 16),
		}, []string{"publisher"}),
		deliveries: counter("deliveries_total", "Messages that readers of the log got.", "connection"),
		bytes:      counter("delivered_bytes_total", "Bodies that readers of the log got.", "connection"),
		attached:   counter("attached_total", "Times that a reader of the log attached to its stream.", "connection"),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.connected, m.blocked, m.reconnects, m.published, m.nacked, m.returned, m.lost, m.unconfirmed, m.confirm,
		m.deliveries, m.bytes, m.attached,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// orNone gives metrics that nobody sees in place of none.
func (m *Metrics) orNone() *Metrics {
	if m == nil {
		m, _ = NewMetrics(nil) // without a registerer nothing fails
	}
	return m
}

// connSeries are one connection's.
type connSeries struct {
	connected, blocked prometheus.Gauge
	reconnects         prometheus.Counter
	deliveries, bytes  prometheus.Counter
	attached           prometheus.Counter
}

func (m *Metrics) conn(name string) *connSeries {
	m = m.orNone()
	return &connSeries{
		connected: m.connected.WithLabelValues(name), blocked: m.blocked.WithLabelValues(name), reconnects: m.reconnects.WithLabelValues(name),
		deliveries: m.deliveries.WithLabelValues(name), bytes: m.bytes.WithLabelValues(name), attached: m.attached.WithLabelValues(name),
	}
}

// publisherSeries are one publisher's.
type publisherSeries struct {
	published, nacked, returned, lost prometheus.Counter
	unconfirmed                       prometheus.Gauge
	confirm                           prometheus.Observer
}

func (m *Metrics) publisher(name string) *publisherSeries {
	m = m.orNone()
	return &publisherSeries{
		published: m.published.WithLabelValues(name), nacked: m.nacked.WithLabelValues(name), returned: m.returned.WithLabelValues(name),
		lost: m.lost.WithLabelValues(name), unconfirmed: m.unconfirmed.WithLabelValues(name), confirm: m.confirm.WithLabelValues(name),
	}
}
