package actors

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"footfall/behavior"
	"footfall/messages"
)

// business is what the shards of this process have seen of the retailer's doings. It only grows,
// whatever shards come and go, as counters of a process must.
//
// Departments that have a label of their own are bounded: a place is given at a scrape to the one
// of most sales that has none, and kept for good. What a department sold between the first scrape
// and the one at which it got a place stays with the others, so that no counter falls.
type business struct {
	mu     sync.Mutex
	kinds  [eventKinds]uint64
	late   [len(lateDays)]uint64
	newest [eventKinds]int64 // Unix milliseconds
	last   [eventKinds]time.Time

	// labelled are the sums of departments with a place, waiting those of the others, since they
	// were first seen.
	labelled, waiting map[string]float64
	none, others      float64
	scraped           bool
}

const (
	// mostDepartments have a label of their own.
	mostDepartments = 30
	// mostWaiting bounds the others that are told apart to find the next to have one.
	mostWaiting = 1024

	// The labels of what has no department's.
	unnamed = "none"
	other   = "other"
)

// take adds what a shard hands over.
func (b *business) take(n *notes, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, count := range n.kinds {
		if count > 0 {
			b.kinds[k] += count
			b.last[k] = now
			b.newest[k] = max(b.newest[k], n.newest[k])
		}
	}
	for i, count := range n.late {
		b.late[i] += count
	}
	b.none += n.sales.none
	b.others += n.sales.others
	for i := range n.sales.table {
		if d := &n.sales.table[i]; d.amount != 0 {
			b.sold(d.name, d.amount)
		}
	}
}

func (b *business) sold(name string, amount float64) {
	switch _, has := b.labelled[name]; {
	case name == unnamed:
		b.none += amount
	case name == other:
		b.others += amount
	case has:
		b.labelled[name] += amount
	default:
		b.others += amount
		if _, waits := b.waiting[name]; waits || len(b.waiting) < mostWaiting {
			if b.waiting == nil {
				b.waiting = map[string]float64{}
			}
			b.waiting[name] += amount
		}
	}
}

// promote gives the places that are free to those of most sales.
func (b *business) promote() {
	free := mostDepartments - len(b.labelled)
	if free == 0 || len(b.waiting) == 0 {
		return
	}
	names := slices.SortedFunc(maps.Keys(b.waiting), func(x, y string) int {
		return cmp.Or(cmp.Compare(b.waiting[y], b.waiting[x]), cmp.Compare(x, y))
	})
	if b.labelled == nil {
		b.labelled = map[string]float64{}
	}
	for _, name := range names[:min(free, len(names))] {
		b.labelled[name] = 0
		if !b.scraped {
			b.labelled[name] = b.waiting[name]
			b.others -= b.waiting[name]
		}
		delete(b.waiting, name)
	}
	if len(b.labelled) == mostDepartments {
		b.waiting = nil
	}
}

var (
	kindsDesc     = prometheus.NewDesc("footfall_events_applied_total", "Events that shards of this node have folded, by kind; what is folded again after a crash counts again.", []string{"kind"}, nil)
	lateKindsDesc = prometheus.NewDesc("footfall_late_events_total", "Those of a day that had ended in their shard, by days since.", []string{"days"}, nil)
	lastDesc      = prometheus.NewDesc("footfall_events_last_applied_timestamp_seconds", "When an event of the kind was folded last; no series before the first.", []string{"kind"}, nil)
	newestDesc    = prometheus.NewDesc("footfall_events_newest_timestamp_seconds", "The latest time that an event of the kind says it happened at.", []string{"kind"}, nil)
	salesDesc     = prometheus.NewDesc("footfall_sales_total", "What purchases cost, in the currency, by department.", []string{"department"}, nil)
)

// collect sends the series.
func (b *business) collect(out chan<- prometheus.Metric) {
	b.mu.Lock()
	defer b.mu.Unlock()
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, label string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, label)
	}
	for k := behavior.Purchase; int(k) < eventKinds; k++ {
		send(kindsDesc, prometheus.CounterValue, float64(b.kinds[k]), k.String())
		if !b.last[k].IsZero() {
			send(lastDesc, prometheus.GaugeValue, seconds(b.last[k].UnixMilli()), k.String())
			send(newestDesc, prometheus.GaugeValue, seconds(b.newest[k]), k.String())
		}
	}
	for i, n := range b.late {
		send(lateKindsDesc, prometheus.CounterValue, float64(n), lateDays[i].name)
	}
	b.promote()
	b.scraped = true
	for name, sum := range b.labelled {
		send(salesDesc, prometheus.CounterValue, sum/messages.MoneyScale, name)
	}
	send(salesDesc, prometheus.CounterValue, b.none/messages.MoneyScale, unnamed)
	send(salesDesc, prometheus.CounterValue, b.others/messages.MoneyScale, other)
}

func seconds(ms int64) float64 { return float64(ms) / 1e3 }
