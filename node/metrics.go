package node

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"footfall/node/api"
	"footfall/node/storage"
	"footfall/store/pebblelog"
	"footfall/store/pebblestore"
	"footfall/store/postgresstore"
)

// metrics are the series of the assembly itself.
type metrics struct {
	api *api.Metrics

	trimmed    prometheus.Counter
	trimErrors prometheus.Counter
	retained   prometheus.Gauge
	headroom   *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer, a *api.Metrics) (*metrics, error) {
	m := &metrics{
		api: a,
		trimmed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "footfall_log_trimmed_messages_total",
			Help: "Messages that retention has removed from the log.",
		}),
		trimErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "footfall_log_retention_errors_total",
			Help: "Shards whose log could not be trimmed; it is tried again a minute later.",
		}),
		retained: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "footfall_log_last_retention_timestamp_seconds",
			Help: "When retention last went through all shards.",
		}),
		headroom: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "footfall_log_headroom_messages",
			Help: "Messages between the trimmed end of the log and what the shard's checkpoint has reached: at none, the shard stops with log_gap.",
		}, []string{"shard"}),
	}
	return m, errors.Join(
		reg.Register(m.trimmed), reg.Register(m.trimErrors), reg.Register(m.retained), reg.Register(m.headroom), registerProcess(reg))
}

// state tells in which state the node is.
func (m *metrics) state(s int32) { m.api.SetState(stateNames[s]) }

// storageCollector reads the figures of log and store as they are scraped.
type storageCollector struct{ *storage.Storage }

var (
	roomLabel     = []string{"room"}
	appendsDesc   = prometheus.NewDesc("footfall_log_appends_total", "Appends that became durable.", nil, nil)
	recordsDesc   = prometheus.NewDesc("footfall_log_messages_total", "Messages that became durable.", nil, nil)
	rawDesc       = prometheus.NewDesc("footfall_log_bytes_total", "Bytes of the messages that became durable, before they are packed.", nil, nil)
	savedDesc     = prometheus.NewDesc("footfall_store_checkpoints_total", "Checkpoints that became durable.", nil, nil)
	customersDesc = prometheus.NewDesc("footfall_store_customers_total", "Customers that checkpoints wrote.", nil, nil)
	droppedDesc   = prometheus.NewDesc("footfall_store_dead_letters_dropped_total", "Dead letters that made room for younger ones.", nil, nil)
	diskDesc      = prometheus.NewDesc("footfall_disk_bytes", "What log and store take on disk.", roomLabel, nil)
	commitsDesc   = prometheus.NewDesc("footfall_disk_commits_total", "Batches that became durable.", roomLabel, nil)
	writtenDesc   = prometheus.NewDesc("footfall_disk_written_bytes_total", "Bytes written to disk, flushes and compactions included.", roomLabel, nil)
	refusedDesc   = prometheus.NewDesc("footfall_disk_refused_writes_total", "Writes that were refused since the disk is nearly full.", roomLabel, nil)
	failedDesc    = prometheus.NewDesc("footfall_disk_failed", "1 where writes are refused for good.", roomLabel, nil)
)

// Describe implements prometheus.Collector.
func (storageCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		appendsDesc, recordsDesc, rawDesc, savedDesc, customersDesc, droppedDesc, diskDesc, commitsDesc, writtenDesc, refusedDesc, failedDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c storageCollector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	saved := func(checkpoints, customers, dropped uint64) {
		send(savedDesc, prometheus.CounterValue, float64(checkpoints))
		send(customersDesc, prometheus.CounterValue, float64(customers))
		send(droppedDesc, prometheus.CounterValue, float64(dropped))
	}
	type disk struct {
		bytes, commits, written, refused uint64
		failed                           bool
	}
	disks := map[string]disk{}
	switch store := c.Store.Backing.(type) {
	case *pebblestore.Store:
		s := store.Stats()
		disks["store"] = disk{s.DiskBytes, s.Commits, s.WALBytes + s.WrittenBytes, s.Refused, s.Failed}
		saved(s.Checkpoints, s.Customers, s.DeadLettersDropped)
	case *postgresstore.Store:
		s := store.Stats()
		saved(s.Checkpoints, s.Customers, s.DeadLettersDropped)
	}
	if log, ok := c.Log.(*pebblelog.Log); ok {
		l := log.Stats()
		disks["log"] = disk{l.DiskBytes, l.Commits, l.WALBytes + l.WrittenBytes, l.Refused, l.Failed}
		send(appendsDesc, prometheus.CounterValue, float64(l.Appends))
		send(recordsDesc, prometheus.CounterValue, float64(l.Records))
		send(rawDesc, prometheus.CounterValue, float64(l.RawBytes))
	}
	for room, st := range disks {
		failed := 0.0
		if st.failed {
			failed = 1
		}
		send(diskDesc, prometheus.GaugeValue, float64(st.bytes), room)
		send(commitsDesc, prometheus.CounterValue, float64(st.commits), room)
		send(writtenDesc, prometheus.CounterValue, float64(st.written), room)
		send(refusedDesc, prometheus.CounterValue, float64(st.refused), room)
		send(failedDesc, prometheus.GaugeValue, failed, room)
	}
}
