package actors

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the series of the shards. They are read from each shard's status as they are
// scraped, so that they cost nothing in between, and only owned shards have any.
type Metrics struct {
	apply    prometheus.Histogram
	append   prometheus.Histogram
	handoff  prometheus.Histogram
	business business
	// duplicates and newer count what this process did, whichever shards it had.
	duplicates, newer prometheus.Counter
	host              atomic.Pointer[Host]
}

var (
	shardLabel    = []string{"shard"}
	eventsDesc    = prometheus.NewDesc("footfall_shard_events_total", "Events that this process has applied to customers; what is folded again after a crash counts again.", shardLabel, nil)
	lagDesc       = prometheus.NewDesc("footfall_shard_lag_messages", "Messages of the log that are not folded yet.", shardLabel, nil)
	customersDesc = prometheus.NewDesc("footfall_shard_customers", "Customers by state: resident in memory, or passivated.", []string{"shard", "state"}, nil)
	bytesDesc     = prometheus.NewDesc("footfall_shard_resident_bytes", "Memory of the resident customers.", shardLabel, nil)
	ownedDesc     = prometheus.NewDesc("footfall_shard_owned", "1 where this node serves the shard, 0 where it tries to.", shardLabel, nil)
	epochDesc     = prometheus.NewDesc("footfall_shard_epoch", "The epoch under which the shard was acquired.", shardLabel, nil)
	savedDesc     = prometheus.NewDesc("footfall_shard_last_checkpoint_timestamp_seconds", "When the last checkpoint was written.", shardLabel, nil)
	unscoredDesc  = prometheus.NewDesc("footfall_shard_unscored_customers", "Customers whose newest state waits to be scored.", shardLabel, nil)
	deadDesc      = prometheus.NewDesc("footfall_shard_dead_letters_total", "Events of the log that this process could not fold.", shardLabel, nil)
	busyDesc      = prometheus.NewDesc("footfall_shard_apply_seconds_total", "Time that the shard has folded.", shardLabel, nil)
	foldedDesc    = prometheus.NewDesc("footfall_shard_bytes_total", "Bytes of the messages that were folded.", shardLabel, nil)
	queriesDesc   = prometheus.NewDesc("footfall_shard_queries_total", "Queries that the shard has answered.", shardLabel, nil)
	lateDesc      = prometheus.NewDesc("footfall_shard_too_late_events_total", "Purchases that this process found too late for their day.", shardLabel, nil)
)

// NewMetrics registers the series. They show nothing until a host is made with them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "footfall_apply_seconds", Help: "How long a shard folded before it looked at its mailbox again.",
			Buckets: prometheus.ExponentialBuckets(10e-6, 4, 8),
		}),
		append: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "footfall_append_seconds", Help: "Time until events that came to this node were in a shard's log for good.",
			Buckets: prometheus.ExponentialBuckets(250e-6, 2, 14),
		}),
		handoff: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "footfall_handoff_seconds", Help: "From beginning to acquire a shard until it was active.",
			Buckets: prometheus.ExponentialBuckets(1e-3, 4, 8),
		}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "footfall_duplicate_events_total", Help: "Events that this process dropped as duplicates.",
		}),
		newer: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "footfall_newer_records_total", Help: "Control records that this process passed over, since only newer nodes know their kind.",
		}),
	}
	for _, c := range []prometheus.Collector{m.apply, m.append, m.handoff, m.duplicates, m.newer, m} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Describe sends nothing: the series come and go with the shards.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads the status of each shard.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	h := m.host.Load()
	if h == nil {
		return
	}
	m.business.collect(out)
	statuses := h.Status()
	collectCensus(statuses, h.cfg.Meaning, out)
	for _, st := range statuses {
		if st.State == Idle {
			continue
		}
		shard := strconv.Itoa(st.Shard)
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{shard}, labels...)...)
		}
		counter := func(d *prometheus.Desc, v uint64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), shard)
		}
		owned := 0.0
		if st.State == Active {
			owned = 1
		}
		counter(eventsDesc, st.did.events)
		counter(deadDesc, st.did.rejected)
		counter(lateDesc, st.did.tooLate)
		counter(foldedDesc, st.Bytes)
		counter(queriesDesc, st.Queries)
		out <- prometheus.MustNewConstMetric(busyDesc, prometheus.CounterValue, st.Busy.Seconds(), shard)
		gauge(lagDesc, float64(st.Lag))
		gauge(customersDesc, float64(st.Resident), "resident")
		gauge(customersDesc, float64(max(st.Customers, st.Resident)-st.Resident), "passivated")
		gauge(bytesDesc, float64(st.ResidentBytes))
		gauge(ownedDesc, owned)
		gauge(epochDesc, float64(st.Epoch))
		gauge(unscoredDesc, float64(st.Unscored))
		if !st.LastCheckpoint.IsZero() {
			gauge(savedDesc, float64(st.LastCheckpoint.UnixMilli())/1e3)
		}
	}
}
