package node

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// observed tells, as it is scraped, what nobody counts: whether the node is ready, and how the rows that its models were trained
// on were spread, with which rules compare what models are fed now.
type observed struct{ *Node }

var (
	readyDesc = prometheus.NewDesc("footfall_ready", "1 where the node is ready, as /readyz says it.", nil, nil)
	shareDesc = prometheus.NewDesc("footfall_model_input_share", "Share of a model's training rows in a bin of a feature.", []string{"model", "feature", "bin"}, nil)
)

// Describe implements prometheus.Collector.
func (observed) Describe(ch chan<- *prometheus.Desc) {
	ch <- readyDesc
	ch <- shareDesc
}

// Collect implements prometheus.Collector.
func (o observed) Collect(ch chan<- prometheus.Metric) {
	ready := 0.0
	if o.Ready().Ready {
		ready = 1
	}
	ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, ready)
	if o.scoring == nil {
		return
	}
	pool := o.scoring.pool.Load()
	if pool == nil {
		return
	}
	// Of two versions of a model at once, the first that is told is the one that answers.
	told := map[string]bool{}
	for _, c := range pool.Serving() {
		if told[c.Name] {
			continue
		}
		told[c.Name] = true
		for _, b := range c.Bins {
			for bin, share := range b.Shares {
				ch <- prometheus.MustNewConstMetric(shareDesc, prometheus.GaugeValue, share, c.Name, b.Feature, strconv.Itoa(bin))
			}
		}
	}
}
