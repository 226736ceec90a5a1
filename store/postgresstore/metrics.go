package postgresstore

import (
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	connectionsDesc = prometheus.NewDesc("footfall_store_connections", "Connections to a database, by what they do at the moment.", []string{"database", "pool", "state"}, nil)
	limitDesc       = prometheus.NewDesc("footfall_store_connections_limit", "The most connections to a database.", []string{"database", "pool"}, nil)
	waitsDesc       = prometheus.NewDesc("footfall_store_connection_waits_total", "Calls that waited for a connection.", []string{"database", "pool"}, nil)
	waitedDesc      = prometheus.NewDesc("footfall_store_connection_wait_seconds_total", "Time that calls have waited for a connection.", []string{"database", "pool"}, nil)
	retriesDesc     = prometheus.NewDesc("footfall_store_retries_total", "Tries after the first, of calls to a database.", []string{"database"}, nil)
	failuresDesc    = prometheus.NewDesc("footfall_store_failures_total", "Calls to a database that were given up.", []string{"database"}, nil)
	openedDesc      = prometheus.NewDesc("footfall_store_connections_opened_total", "Connections to a database that were made.", []string{"database", "pool"}, nil)
	abandonedDesc   = prometheus.NewDesc("footfall_store_connection_waits_abandoned_total", "Calls that gave up while they waited for a connection.", []string{"database", "pool"}, nil)
	errorsDesc      = prometheus.NewDesc("footfall_store_errors_total", "Tries of calls to a database that failed, by what was wrong.", []string{"database", "reason"}, nil)
	upDesc          = prometheus.NewDesc("footfall_store_up", "Whether the last call to a database was answered.", []string{"database"}, nil)
	replayedDesc    = prometheus.NewDesc("footfall_store_commits_without_answer_total", "Checkpoints whose commit took place although its answer was lost.", nil, nil)
)

// The pools of a database.
const (
	poolShards = "shards"
	poolLeases = "leases"
)

// Reasons for which a try fails.
const (
	reasonConnection = iota // there is none, or it was lost
	reasonServer            // it stops, starts, or is a standby
	reasonConflict          // of two transactions
	reasonTimeout
	reasonRefused // by a rule: a right, a full disk, a statement
	reasons
)

var reasonNames = [reasons]string{"connection", "server", "conflict", "timeout", "refused"}

// newCallSeconds makes the histogram of tries: from the round trip of a renewal, less than a
// millisecond, to the timeout of a checkpoint.
func newCallSeconds() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "footfall_store_call_seconds",
		Help:    "Time that each try of a call to a database took, waiting for a connection included.",
		Buckets: prometheus.ExponentialBuckets(500e-6, 2.5, 12),
	}, []string{"database", "pool"})
}

// Describe implements prometheus.Collector.
func (s *Store) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsDesc, limitDesc, waitsDesc, waitedDesc, retriesDesc, failuresDesc, upDesc, replayedDesc, openedDesc, abandonedDesc, errorsDesc} {
		ch <- d
	}
	s.calls.Describe(ch)
}

// Collect implements prometheus.Collector: the databases by their place in the list.
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	s.calls.Collect(ch)
	send(replayedDesc, prometheus.CounterValue, float64(s.replayed.Load()))
	for i, db := range s.databases {
		database := strconv.Itoa(i)
		for name, pool := range map[string]*pgxpool.Pool{poolShards: db.pool, poolLeases: db.lease} {
			st := pool.Stat()
			send(connectionsDesc, prometheus.GaugeValue, float64(st.AcquiredConns()), database, name, "busy")
			send(connectionsDesc, prometheus.GaugeValue, float64(st.IdleConns()), database, name, "idle")
			send(connectionsDesc, prometheus.GaugeValue, float64(st.ConstructingConns()), database, name, "connecting")
			send(limitDesc, prometheus.GaugeValue, float64(st.MaxConns()), database, name)
			send(openedDesc, prometheus.CounterValue, float64(st.NewConnsCount()), database, name)
			send(abandonedDesc, prometheus.CounterValue, float64(st.CanceledAcquireCount()), database, name)
			send(waitsDesc, prometheus.CounterValue, float64(st.EmptyAcquireCount()), database, name)
			send(waitedDesc, prometheus.CounterValue, st.EmptyAcquireWaitTime().Seconds(), database, name)
		}
		up := 1.0
		if db.failed.Load() != nil {
			up = 0
		}
		send(upDesc, prometheus.GaugeValue, up, database)
		for reason := range db.errors {
			send(errorsDesc, prometheus.CounterValue, float64(db.errors[reason].Load()), database, reasonNames[reason])
		}
		send(retriesDesc, prometheus.CounterValue, float64(db.retries.Load()), database)
		send(failuresDesc, prometheus.CounterValue, float64(db.failures.Load()), database)
	}
}
