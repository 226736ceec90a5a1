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
	upDesc          = prometheus.NewDesc("footfall_store_up", "Whether the last call to a database was answered.", []string{"database"}, nil)
	replayedDesc    = prometheus.NewDesc("footfall_store_commits_without_answer_total", "Checkpoints whose commit took place although its answer was lost.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Store) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsDesc, limitDesc, waitsDesc, waitedDesc, retriesDesc, failuresDesc, upDesc, replayedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector: the databases by their place in the list.
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	send(replayedDesc, prometheus.CounterValue, float64(s.replayed.Load()))
	for i, db := range s.databases {
		database := strconv.Itoa(i)
		for name, pool := range map[string]*pgxpool.Pool{"shards": db.pool, "leases": db.lease} {
			st := pool.Stat()
			send(connectionsDesc, prometheus.GaugeValue, float64(st.AcquiredConns()), database, name, "busy")
			send(connectionsDesc, prometheus.GaugeValue, float64(st.IdleConns()), database, name, "idle")
			send(connectionsDesc, prometheus.GaugeValue, float64(st.ConstructingConns()), database, name, "connecting")
			send(limitDesc, prometheus.GaugeValue, float64(st.MaxConns()), database, name)
			send(waitsDesc, prometheus.CounterValue, float64(st.EmptyAcquireCount()), database, name)
			send(waitedDesc, prometheus.CounterValue, st.EmptyAcquireWaitTime().Seconds(), database, name)
		}
		up := 1.0
		if db.failed.Load() != nil {
			up = 0
		}
		send(upDesc, prometheus.GaugeValue, up, database)
		send(retriesDesc, prometheus.CounterValue, float64(db.retries.Load()), database)
		send(failuresDesc, prometheus.CounterValue, float64(db.failures.Load()), database)
	}
}
