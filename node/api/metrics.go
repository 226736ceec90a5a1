package api

import (
	"errors"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"footfall/inference/oip"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Metrics are the series of a node's API. Labels are bounded: methods by the services,
// reasons by the fields of an event.
type Metrics struct {
	query       *prometheus.HistogramVec
	rejections  *prometheus.CounterVec
	untold      prometheus.Counter
	members     *prometheus.GaugeVec
	panics      prometheus.Counter
	rejectionOf map[string]prometheus.Counter
	oip         *oip.Metrics
}

// Reasons that are no field of an event.
const (
	reasonUnreadable = "unreadable"
	reasonOther      = "other"
)

// NewMetrics registers the API's metrics.
func NewMetrics(reg prometheus.Registerer, version string) (*Metrics, error) {
	m := &Metrics{
		query: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "footfall_query_seconds",
			Help:    "Time that a query of customers took, by where it was answered.",
			Buckets: []float64{50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1, 2.5, 10},
		}, []string{"method", "where"}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_events_rejected_total",
			Help: "Events that were refused, by the field that broke a rule.",
		}, []string{"reason"}),
		members: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "footfall_cluster_members",
			Help: "Members of the cluster, by state.",
		}, []string{"state"}),
		untold: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "footfall_rejections_untold_total",
			Help: "Refused events of which the owner could not be told: whoever waits for one there waits in vain.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "footfall_api_panics_total",
			Help: "Calls that ended in a panic: each is a bug, and is in the log.",
		}),
		rejectionOf: map[string]prometheus.Counter{},
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "footfall_build_info",
		Help:        "1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	info.Set(1)
	var errs []error
	var err error
	m.oip, err = oip.NewMetrics(reg)
	errs = append(errs, err)
	for _, c := range []prometheus.Collector{m.query, m.rejections, m.untold, m.panics, info} {
		errs = append(errs, reg.Register(c))
	}
	for _, reason := range rejectionReasons() {
		m.rejectionOf[reason] = m.rejections.WithLabelValues(reason)
	}
	for _, method := range footfallv1.CustomerService_ServiceDesc.Methods {
		m.query.WithLabelValues(method.MethodName, whereOwner)
	}
	return m, errors.Join(errs...)
}

// Alone registers what only a node on its own tells of itself: in a cluster the loop that knows
// the members does.
func (m *Metrics) Alone(reg prometheus.Registerer) error {
	for _, state := range memberStates {
		m.members.WithLabelValues(state)
	}
	return reg.Register(m.members)
}

// InCluster begins the series of queries that other nodes answer.
func (m *Metrics) InCluster() {
	for _, method := range footfallv1.CustomerService_ServiceDesc.Methods {
		m.query.WithLabelValues(method.MethodName, whereForwarded)
	}
}

// whereOwner says that a query was answered by the node that got it, whereForwarded that another
// did, for all of it or for a part.
const (
	whereOwner     = "owner"
	whereForwarded = "forwarded"
)

// stateDraining is that of a node to which nothing new should be sent.
const stateDraining = "draining"

var memberStates = [...]string{"joining", "active", stateDraining}

// SetState says where in its life a node on its own is.
func (m *Metrics) SetState(state string) {
	for _, s := range memberStates {
		n := 0.0
		if s == state {
			n = 1
		}
		m.members.WithLabelValues(s).Set(n)
	}
}

// rejectionReasons are the top fields of an event and its kinds, and what is neither.
func rejectionReasons() []string {
	reasons := []string{reasonUnreadable, reasonOther, "kind"}
	fields := (*footfallv1.Event)(nil).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		reasons = append(reasons, string(fields.Get(i).Name()))
	}
	return reasons
}

func (m *Metrics) rejected(f *messages.Fault) {
	reason := f.Field
	if i := strings.IndexAny(reason, ".["); i >= 0 {
		reason = reason[:i]
	}
	if reason == "" {
		reason = reasonUnreadable
	}
	c, ok := m.rejectionOf[reason]
	if !ok {
		c = m.rejectionOf[reasonOther]
	}
	c.Inc()
}
