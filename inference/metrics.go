package inference

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the series of all devices of a process. Their labels are bounded by models,
// versions, devices, features and bins.
type Metrics struct {
	rows      *prometheus.CounterVec
	batchRows *prometheus.HistogramVec
	seconds   *prometheus.HistogramVec
	queueRows *prometheus.GaugeVec
	refused   *prometheus.CounterVec
	errors    *prometheus.CounterVec
	input     *prometheus.CounterVec
	quality   *prometheus.GaugeVec

	// Of pools.
	up       *prometheus.GaugeVec
	failures *prometheus.CounterVec
	retried  *prometheus.CounterVec
	remote   *prometheus.CounterVec

	loads *prometheus.CounterVec
}

// NewMetrics registers the metrics of this package. reg may be nil: then nobody sees them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_inference_rows_total",
			Help: "Rows that a model has scored.",
		}, []string{"model", "version", "device"}),
		batchRows: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "footfall_inference_batch_rows",
			Help:    "Rows of each run of a model.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 13),
		}, []string{"model", "device"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "footfall_inference_seconds",
			Help:    "Time that each run of a model took.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 16),
		}, []string{"model", "device"}),
		queueRows: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "footfall_inference_queue_rows",
			Help: "Rows that wait for a batch.",
		}, []string{"device"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_inference_refused_rows_total",
			Help: "Rows that were not taken since the queue was full. Whoever brought them offers them again.",
		}, []string{"device"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_inference_errors_total",
			Help: "Requests that a model gave no usable values for, by reason.",
		}, []string{"model", "version", "device", "reason"}),
		input: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_model_input_total",
			Help: "Values that a model was fed, by the bins of its training data.",
		}, []string{"model", "feature", "bin"}),
		quality: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "footfall_model_quality",
			Help: "How good a model was on its test data, by measure.",
		}, []string{"model", "version", "measure"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "footfall_inference_device_up",
			Help: "1 where the device is in service, 0 where it loads or is out.",
		}, []string{"device"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_inference_device_failures_total",
			Help: "Times that a device was taken out of service, by reason.",
		}, []string{"device", "reason"}),
		retried: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_inference_retried_rows_total",
			Help: "Rows that a device failed, and another one was given.",
		}, []string{"device"}),
		remote: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "footfall_inference_remote_rows_total",
			Help: "Rows that another member, or an outside server, has scored for this node.",
		}, []string{"device"}),
	}
	m.loads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "footfall_model_load_failures_total",
		Help: "Times that a version of a model could not be loaded, or failed the rows that it is tried with.",
	}, []string{"model"})
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.rows, m.batchRows, m.seconds, m.queueRows, m.refused, m.errors, m.input, m.quality, m.up, m.failures, m.retried, m.remote, m.loads} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) loadFailed(model string) { m.loads.WithLabelValues(model).Inc() }

// Reasons for which a request gets no values from a model.
const (
	reasonRun   = "run"
	reasonValue = "value"
)

// deviceSeries are one device's.
type deviceSeries struct {
	queueRows prometheus.Gauge
	refused   prometheus.Counter
}

func (m *Metrics) device(device string) deviceSeries {
	return deviceSeries{queueRows: m.queueRows.WithLabelValues(device), refused: m.refused.WithLabelValues(device)}
}

func (m *Metrics) dropDevice(device string) {
	labels := prometheus.Labels{"device": device}
	m.queueRows.Delete(labels)
	m.refused.Delete(labels)
	m.batchRows.DeletePartialMatch(labels)
	m.seconds.DeletePartialMatch(labels)
}

// seatSeries are those of a device that outlast its failures.
type seatSeries struct {
	up prometheus.Gauge
	// failures is by reason.
	failures map[string]prometheus.Counter
	retried  prometheus.Counter
}

func (m *Metrics) seat(device string) seatSeries {
	s := seatSeries{up: m.up.WithLabelValues(device), failures: make(map[string]prometheus.Counter), retried: m.retried.WithLabelValues(device)}
	for _, reason := range []string{FaultRun, FaultHang, FaultLoad} {
		s.failures[reason] = m.failures.WithLabelValues(device, reason)
	}
	return s
}

func (m *Metrics) dropSeat(device string) {
	labels := prometheus.Labels{"device": device}
	m.up.Delete(labels)
	m.failures.DeletePartialMatch(labels)
	m.retried.Delete(labels)
}

// modelSeries are those of a serving version on a device.
type modelSeries struct {
	rows      prometheus.Counter
	batchRows prometheus.Observer
	seconds   prometheus.Observer
	// errors is by reason.
	errors map[string]prometheus.Counter
}

// model starts the series of a version at 0.
func (m *Metrics) model(c *Contract, device string) modelSeries {
	version := c.VersionString()
	for measure, value := range c.Evaluation {
		m.quality.WithLabelValues(c.Name, version, measure).Set(value)
	}
	return modelSeries{
		rows:      m.rows.WithLabelValues(c.Name, version, device),
		batchRows: m.batchRows.WithLabelValues(c.Name, device),
		seconds:   m.seconds.WithLabelValues(c.Name, device),
		errors: map[string]prometheus.Counter{
			reasonRun:   m.errors.WithLabelValues(c.Name, version, device, reasonRun),
			reasonValue: m.errors.WithLabelValues(c.Name, version, device, reasonValue),
		},
	}
}

func (m *Metrics) dropModel(c *Contract, device string) {
	labels := prometheus.Labels{"model": c.Name, "version": c.VersionString(), "device": device}
	m.rows.Delete(labels)
	m.errors.DeletePartialMatch(labels)
}

// inputs returns the counters of a feature's bins, started at 0.
func (m *Metrics) inputs(model string, b Bins) []prometheus.Counter {
	counters := make([]prometheus.Counter, len(b.Edges)+1)
	for i := range counters {
		counters[i] = m.input.WithLabelValues(model, b.Feature, strconv.Itoa(i))
	}
	return counters
}
