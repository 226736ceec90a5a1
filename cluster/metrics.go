package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	membersDesc  = prometheus.NewDesc("footfall_cluster_members", "Members whom gossip knows to be there, by state.", []string{"state"}, nil)
	shardsDesc   = prometheus.NewDesc("footfall_cluster_shards", "Shards on this node, by state.", []string{"state"}, nil)
	acquiresDesc = prometheus.NewDesc("footfall_cluster_acquires_total", "Tries to acquire a shard.", nil, nil)
	refusalsDesc = prometheus.NewDesc("footfall_cluster_refusals_total", "Tries to acquire a shard that another member had.", nil, nil)
	drainsDesc   = prometheus.NewDesc("footfall_cluster_drains_total", "Tries to drain a shard.", nil, nil)
	dropsDesc    = prometheus.NewDesc("footfall_cluster_drops_total", "Shards that another member took, so that they were dropped.", nil, nil)
	lapsesDesc   = prometheus.NewDesc("footfall_cluster_lease_lapses_total", "Times that this node's lease ended before it was renewed.", nil, nil)
)

var (
	healthDesc    = prometheus.NewDesc("footfall_gossip_health_score", "How badly this member keeps up with its gossip: 0 is well, and each point lets it wait longer for others.", nil, nil)
	knownDesc     = prometheus.NewDesc("footfall_gossip_members", "Members whom the gossip holds to be there: known, and lost without a word but still looked for.", []string{"state"}, nil)
	strangersDesc = prometheus.NewDesc("footfall_gossip_refused_total", "Packets and streams of those who have not the key or the name of this cluster.", nil, nil)
	keysDesc      = prometheus.NewDesc("footfall_gossip_key_info", "1 for each key of the gossip, by the first digits of its SHA-256, and whether it encrypts or only decrypts.", []string{"key", "does"}, nil)
	releasesDesc  = prometheus.NewDesc("footfall_gossip_dropped_releases_total", "Words of a released shard that found no room; the shard is tried for all the same.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *Membership) Describe(ch chan<- *prometheus.Desc) {
	ch <- healthDesc
	ch <- knownDesc
	ch <- releasesDesc
	ch <- strangersDesc
	ch <- keysDesc
}

// Collect implements prometheus.Collector.
func (m *Membership) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	known, lost := len(m.peers), len(m.lost)
	m.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(healthDesc, prometheus.GaugeValue, float64(m.list.GetHealthScore()))
	ch <- prometheus.MustNewConstMetric(knownDesc, prometheus.GaugeValue, float64(known), "known")
	ch <- prometheus.MustNewConstMetric(knownDesc, prometheus.GaugeValue, float64(lost), "lost")
	ch <- prometheus.MustNewConstMetric(releasesDesc, prometheus.CounterValue, float64(m.dropped.Load()))
	ch <- prometheus.MustNewConstMetric(strangersDesc, prometheus.CounterValue, float64(m.strangers.count.Load()))
	for name, does := range m.keyNames() {
		ch <- prometheus.MustNewConstMetric(keysDesc, prometheus.GaugeValue, 1, name, does)
	}
}

// counts are what the loop has met so far.
type counts struct{ acquires, refusals, drains, drops, lapses uint64 }

func (n *counts) count(e Event, commands []Command) {
	switch e.(type) {
	case Refused:
		n.refusals++
	case SteppedDown:
		n.drops++
	}
	for _, c := range commands {
		switch c.(type) {
		case Acquire:
			n.acquires++
		case Drain:
			n.drains++
		case Drop:
			n.drops++
		case LeaseLapsed:
			n.lapses++
		}
	}
}

// Describe implements prometheus.Collector.
func (r *Reconciler) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{membersDesc, shardsDesc, acquiresDesc, refusalsDesc, drainsDesc, dropsDesc, lapsesDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (r *Reconciler) Collect(ch chan<- prometheus.Metric) {
	var members [len(memberStates)]int
	for _, m := range r.gossip.Members() {
		members[m.State]++
	}
	var shards [len(shardStates)]int
	r.state.RLock()
	for i := range r.own.shards {
		shards[r.own.shards[i].state]++
	}
	n := r.counts
	r.state.RUnlock()

	for s, name := range memberStates {
		ch <- prometheus.MustNewConstMetric(membersDesc, prometheus.GaugeValue, float64(members[s]), name)
	}
	for s, name := range shardStates {
		ch <- prometheus.MustNewConstMetric(shardsDesc, prometheus.GaugeValue, float64(shards[s]), name)
	}
	for d, v := range map[*prometheus.Desc]uint64{
		acquiresDesc: n.acquires, refusalsDesc: n.refusals, drainsDesc: n.drains, dropsDesc: n.drops, lapsesDesc: n.lapses,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
}
