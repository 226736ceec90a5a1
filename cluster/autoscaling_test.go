package cluster

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// autoscaler is the rule by which Kubernetes' HorizontalPodAutoscaler chooses a number of
// replicas, version autoscaling/v2, with the settings of the chart (deploy/helm).
type autoscaler struct {
	least, most int
	cpu         float64 // target, of a node's capacity
	lag         float64 // target, messages of the mean shard that wait
	tolerance   float64
	downAfter   time.Duration // the highest of so long is what scaling down goes by
	downEvery   time.Duration // at most one replica down in that time
	upCount     int           // at most so many more each minute

	wishes []wish
	ups    []wish // what the number was, for the rate of scaling up
	downAt time.Duration
}

type wish struct {
	at time.Duration
	n  int
}

// decide returns the number of replicas that should be, of n that are.
func (h *autoscaler) decide(now time.Duration, n int, cpu, lag float64) int {
	want := 0
	for _, ratio := range []float64{cpu / h.cpu, lag / h.lag} {
		need := n
		if math.Abs(ratio-1) > h.tolerance {
			need = int(math.Ceil(float64(n) * ratio))
		}
		want = max(want, need)
	}
	want = min(max(want, h.least), h.most)
	h.wishes = append(h.wishes, wish{now, want})
	h.wishes = slices.DeleteFunc(h.wishes, func(w wish) bool { return now-w.at > h.downAfter })
	h.ups = append(h.ups, wish{now, n})
	h.ups = slices.DeleteFunc(h.ups, func(w wish) bool { return now-w.at > time.Minute })
	switch {
	case want > n:
		first := h.ups[0].n
		return min(want, first+h.upCount)
	case want < n:
		for _, w := range h.wishes {
			want = max(want, w.n)
		}
		if want < n && now-h.downAt >= h.downEvery {
			h.downAt = now
			return n - 1
		}
	}
	return n
}

// shopDay is a day's load in events a second at an instant: a quiet night, a peak at noon, a
// higher one in the evening, a sale at 20:00 that doubles it within a minute, and noise.
func shopDay(at time.Duration, peak float64, noise *rand.Rand) float64 {
	hour := at.Hours()
	hill := func(middle, width float64) float64 {
		return math.Exp(-(hour - middle) * (hour - middle) / (2 * width * width))
	}
	load := .08 + .62*hill(12.5, 2.2) + .9*hill(19.5, 1.7)
	if sale := 20.; hour >= sale && hour < sale+.75 {
		load *= 1 + min(1, (hour-sale)*60)
	}
	return peak * load * (1 + .08*noise.NormFloat64())
}

// dayAtWork is a day of a cluster whose members come and go as the autoscaler wants it, placed as
// they are. A step is a second. Members work their shards off side by side; a shard that is handed
// over stands still for a moment.
type dayAtWork struct {
	shards   int
	capacity float64 // of a member, events/s
	peak     float64 // of the day, events/s
	start    time.Duration
	pause    float64 // seconds
	h        *autoscaler

	// What came of it.
	moves, scaled, reversals int
	worstLag                 float64 // seconds, of any shard
	hours                    []hourAtWork
}

type hourAtWork struct {
	rate           float64
	fewest, most   int
	cpu, lag       float64
	moves, changes int
}

func (d *dayAtWork) run(seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	weights := make([]float64, d.shards)
	sum := 0.
	for s := range weights {
		weights[s] = math.Exp(.25 * random.NormFloat64())
		sum += weights[s]
	}
	name := func(i int) string { return fmt.Sprintf("footfall-%d", i) }
	members := d.h.least
	var names []string
	for i := range members {
		names = append(names, name(i))
	}
	owners := Place(d.shards, names, nil)
	backlog, still := make([]float64, d.shards), make([]float64, d.shards)
	wanted := members
	var ready []time.Duration // when those that start are there
	load := map[string]float64{}
	var cpuWindow, lagWindow []float64
	lastUp, lastDown := -time.Hour, -time.Hour
	d.hours = make([]hourAtWork, 24)
	for i := range d.hours {
		d.hours[i].fewest = math.MaxInt
	}

	for second := range 24 * 3600 {
		now := time.Duration(second) * time.Second
		hour := &d.hours[second/3600]
		// Who is there.
		n := members
		for len(ready) > 0 && ready[0] <= now {
			ready, n = ready[1:], n+1
		}
		if wanted < n {
			n = wanted
		}
		if n != members {
			members, names = n, names[:0]
			for i := range n {
				names = append(names, name(i))
			}
			next := Place(d.shards, names, nil)
			for s := range next {
				if next[s] != owners[s] {
					still[s] = d.pause
					d.moves++
					hour.moves++
				}
			}
			owners = next
		}
		// A second's work.
		rate := shopDay(now, d.peak, random)
		clear(load)
		for s := range backlog {
			backlog[s] += rate * weights[s] / sum
			load[owners[s]] += backlog[s]
		}
		lag, wait, busy := 0., 0., 0.
		for s := range backlog {
			share := min(1, d.capacity/load[owners[s]])
			share *= 1 - min(1, still[s])
			still[s] = max(0, still[s]-1)
			busy += backlog[s] * share
			backlog[s] -= backlog[s] * share
			lag = max(lag, backlog[s]/(rate*weights[s]/sum))
			wait += backlog[s] / float64(d.shards)
		}
		cpu := busy / (float64(members) * d.capacity)
		d.worstLag = max(d.worstLag, lag)
		hour.rate += rate / 3600
		hour.cpu += cpu / 3600
		hour.lag = max(hour.lag, lag)
		hour.fewest, hour.most = min(hour.fewest, members), max(hour.most, members)
		// Of replicas that start it is supposed that they take their part.
		cpuWindow, lagWindow = append(cpuWindow, busy/(float64(max(members, wanted))*d.capacity)), append(lagWindow, wait)
		// The autoscaler looks each 15 s at the last minute.
		if second%15 != 0 || second < 60 {
			continue
		}
		mean := func(v []float64) (m float64) {
			for _, x := range v {
				m += x / float64(len(v))
			}
			return m
		}
		cpuWindow, lagWindow = cpuWindow[len(cpuWindow)-60:], lagWindow[len(lagWindow)-60:]
		want := d.h.decide(now, wanted, mean(cpuWindow), mean(lagWindow))
		for range want - wanted {
			ready = append(ready, now+d.start)
		}
		switch {
		case want > wanted:
			if now-lastDown < 30*time.Minute {
				d.reversals++
			}
			lastUp = now
		case want < wanted:
			if now-lastUp < 30*time.Minute {
				d.reversals++
			}
			lastDown = now
			ready = ready[:max(0, len(ready)-(wanted-want))]
		default:
			continue
		}
		d.scaled++
		hour.changes++
		wanted = want
	}
}

// charted is the autoscaler of the chart, with enough nodes for the shards of the day.
func charted(t *testing.T) *autoscaler {
	text, err := os.ReadFile(filepath.Join("..", "deploy", "helm", "footfall", "values.yaml"))
	require.NoError(t, err)
	var values struct {
		Autoscaling struct {
			MinReplicas                   int `yaml:"minReplicas"`
			CPU                           int `yaml:"cpu"`
			LagPerShard                   int `yaml:"lagPerShard"`
			ScaleUpPodsPerMinute          int `yaml:"scaleUpPodsPerMinute"`
			ScaleDownStabilizationSeconds int `yaml:"scaleDownStabilizationSeconds"`
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &values))
	a := values.Autoscaling
	require.Positive(t, a.CPU)
	require.Positive(t, a.LagPerShard)
	return &autoscaler{
		least: a.MinReplicas, most: 16, cpu: float64(a.CPU) / 100, lag: float64(a.LagPerShard), tolerance: .1,
		upCount: a.ScaleUpPodsPerMinute, downAfter: time.Duration(a.ScaleDownStabilizationSeconds) * time.Second, downEvery: 5 * time.Minute,
	}
}

// TestAutoscaling tries the chart's settings on a shop's day: the cluster follows it, does not
// go up and down within half an hour, and is never far behind.
func TestAutoscaling(t *testing.T) {
	datadriven.RunTest(t, "testdata/autoscaling.txt", func(t *testing.T, cmd *datadriven.TestData) string {
		var seed uint64
		cmd.ScanArgs(t, "seed", &seed)
		d := &dayAtWork{
			shards: 128, capacity: 16_000, peak: 100_000, start: 40 * time.Second, pause: .2,
			h: charted(t),
		}
		d.run(seed)
		require.Zero(t, d.reversals, "up and down within half an hour")
		require.Less(t, d.worstLag, 30., "seconds behind")
		var b strings.Builder
		fmt.Fprintf(&b, "%4s %9s %7s %5s %7s %6s %6s\n", "hour", "events/s", "members", "cpu", "lag s", "scaled", "moved")
		for i, h := range d.hours {
			fmt.Fprintf(&b, "%4d %9.0f %7s %4.0f%% %7.1f %6d %6d\n", i, h.rate, fmt.Sprintf("%d-%d", h.fewest, h.most), h.cpu*100, h.lag, h.changes, h.moves)
		}
		fmt.Fprintf(&b, "scaled %d times, %d shards moved, %d times up and down within half an hour, at most %.1f s behind\n", d.scaled, d.moves, d.reversals, d.worstLag)
		return b.String()
	})
}
