package actors

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// census counts the customers of a shard by what models say of them, and by how long ago they
// came. It goes round all resident customers in small steps, a few times a second, so that nobody
// notices; what it publishes is the last round that it has finished. Passivated customers are
// taken to be like the resident ones.
type census struct {
	cursor uint32
	began  time.Time
	round  count
	// done is not changed any more once it is published.
	done *count
}

// count is a round of the census.
type count struct {
	customers uint64
	// scores are by the numbers of the shard's model versions, models what those numbers mean.
	scores []scoreCount
	models []modelVersion
	seen   [len(recencies)]uint64
}

type modelVersion struct{ model, version string }

// scoreCount counts the values of one version: by tenths of 0 to 1, and by whole numbers, of which
// its meaning tells which is right.
type scoreCount struct {
	tenths [10]uint64
	whole  [maxSegments]uint64
}

// maxSegments bounds the segments of a model that are counted: those whose numbers are below.
const maxSegments = 32

// recencies are the upper ends, in days, of how long ago a customer's last event was.
var recencies = [...]struct {
	upTo int64
	name string
}{{1, "1"}, {7, "2-7"}, {28, "8-28"}, {84, "29-84"}, {math.MaxInt64, "85-"}}

const (
	// censusStep is how many places are looked at a time, censusEvery the least time of a round.
	censusStep  = 64
	censusEvery = 5 * time.Second
)

// census takes a step of it.
func (s *shard) takeCensus(now time.Time) {
	c := &s.census
	if c.cursor == 0 {
		if !c.began.IsZero() && now.Sub(c.began) < censusEvery {
			return
		}
		c.began = now
		c.round = count{}
	}
	slots := uint32(len(s.residents.slots))
	end := min(c.cursor+censusStep, slots)
	at := s.asOf(0, now.UnixMilli())
	for ; c.cursor < end; c.cursor++ {
		if s.residents.inUse(c.cursor) {
			c.round.add(s.residents.at(c.cursor), at)
		}
	}
	if c.cursor < slots {
		return
	}
	c.cursor = 0
	done := c.round
	for _, r := range s.models.refs {
		done.models = append(done.models, modelVersion{r.GetModel(), r.GetVersion()})
	}
	c.done = &done
}

func (c *count) add(customer cell, at int64) {
	rec := customer.record()
	if !rec.Exists() {
		return
	}
	c.customers++
	days := max(at-rec.Lifetime().LastEvent, 0)/dayMS + 1
	for i := range recencies {
		if days <= recencies[i].upTo {
			c.seen[i]++
			break
		}
	}
	scores := customer.scores()
	for i := 0; i < len(scores); i += scoreBytes {
		score := getScore(scores[i:])
		for int(score.model) >= len(c.scores) {
			c.scores = append(c.scores, scoreCount{})
		}
		of := &c.scores[score.model]
		of.tenths[int(max(0, min(9, math.Ceil(float64(score.value)*10)-1)))]++
		if whole := int(score.value); whole >= 0 && whole < maxSegments && float32(whole) == score.value {
			of.whole[whole]++
		}
	}
}

// Meaning says what a model's values are: [Config.Meaning] tells it of each.
type Meaning struct {
	// Probability is set where they are from 0 to 1.
	Probability bool
	// Segments names what whole numbers stand for; nil where they stand for nothing.
	Segments map[int]string
}

var (
	segmentDesc = prometheus.NewDesc("footfall_segment_customers", "Customers of this node's shards by segment, as of the last round of counting.", []string{"segment"}, nil)
	scoreDesc   = prometheus.NewDesc("footfall_score_customers", "Customers of this node's shards by what a model says of them, in tenths: bin 0.3 is above 0.2 and up to 0.3.", []string{"model", "bin"}, nil)
	recencyDesc = prometheus.NewDesc("footfall_recency_customers", "Customers of this node's shards by days since their last event.", []string{"days"}, nil)
)

var tenthNames = [...]string{"0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"}

// collectCensus sends the sums over shards.
func collectCensus(statuses []Status, meaning func(model, version string) Meaning, out chan<- prometheus.Metric) {
	var (
		seen     [len(recencies)]float64
		segments = map[string]float64{}
		scores   = map[string]*[len(tenthNames)]float64{}
		known    = map[modelVersion]Meaning{}
	)
	for _, st := range statuses {
		c := st.census
		if st.State != Active || c == nil || c.customers == 0 {
			continue
		}
		scale := float64(max(st.Customers, c.customers)) / float64(c.customers)
		for i, n := range c.seen {
			seen[i] += float64(n) * scale
		}
		for i := range min(len(c.scores), len(c.models)) {
			m := c.models[i]
			means, ok := known[m]
			if !ok && meaning != nil {
				means = meaning(m.model, m.version)
				known[m] = means
			}
			for whole, name := range means.Segments {
				if whole >= 0 && whole < maxSegments {
					segments[name] += float64(c.scores[i].whole[whole]) * scale
				}
			}
			if means.Probability {
				bins := scores[m.model]
				if bins == nil {
					bins = new([len(tenthNames)]float64)
					scores[m.model] = bins
				}
				for j, n := range c.scores[i].tenths {
					bins[j] += float64(n) * scale
				}
			}
		}
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, math.Round(v), labels...)
	}
	for i, v := range seen {
		gauge(recencyDesc, v, recencies[i].name)
	}
	for name, v := range segments {
		gauge(segmentDesc, v, name)
	}
	for model, bins := range scores {
		for i, v := range bins {
			gauge(scoreDesc, v, model, tenthNames[i])
		}
	}
}
