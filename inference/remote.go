package inference

import "github.com/prometheus/client_golang/prometheus"

// RemoteSeries are those of a device that is not of this process: its up, failures and retried
// rows stand beside those of the process's own devices, under its name.
type RemoteSeries struct {
	metrics *Metrics
	name    string
	seat    seatSeries
	rows    prometheus.Counter
}

// Remote starts the series of a device of another process at 0. Drop deletes them.
func (m *Metrics) Remote(name string) *RemoteSeries {
	return &RemoteSeries{metrics: m, name: name, seat: m.seat(name), rows: m.remote.WithLabelValues(name)}
}

// Up says whether the device takes requests.
func (s *RemoteSeries) Up(up bool) {
	value := 0.0
	if up {
		value = 1
	}
	s.seat.up.Set(value)
}

// Failed counts that the device was taken out, for [FaultRun] or [FaultHang].
func (s *RemoteSeries) Failed(reason string) { s.seat.failures[reason].Inc() }

// Retried counts rows that it failed and another device was given.
func (s *RemoteSeries) Retried(rows int) { s.seat.retried.Add(float64(rows)) }

// Rows counts rows that it answered.
func (s *RemoteSeries) Rows(rows int) { s.rows.Add(float64(rows)) }

// Drop deletes the series.
func (s *RemoteSeries) Drop() {
	s.metrics.dropSeat(s.name)
	s.metrics.remote.DeleteLabelValues(s.name)
}
