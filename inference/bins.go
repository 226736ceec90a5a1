package inference

import (
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// tally counts one column of an input into bins. Models that were trained on the same rows
// have the same edges, and share one tally.
type tally struct {
	input string
	// A row has width values; column is the one that is counted.
	width, column int
	edges         []float32
	// keys are the edges in the order of whole numbers, filled up with the largest.
	keys [maxEdges + 1]int32
	// counters are by model, in the order of models, then by bin.
	models   []string
	counters [][]prometheus.Counter
}

// tallies returns what is to be counted for the serving models.
func tallies(models []*serving, l Layout, m *Metrics) []tally {
	var all []tally
	for _, s := range models {
		for _, b := range s.contract.Bins {
			for _, in := range s.contract.Inputs {
				column := slices.Index(in.Features, b.Feature)
				if column < 0 {
					continue
				}
				width := l.width(in.Name)
				// The newest day of a sequence is its last row.
				column += width - len(in.Features)
				i := slices.IndexFunc(all, func(t tally) bool {
					return t.input == in.Name && t.column == column && slices.Equal(t.edges, b.Edges)
				})
				if i < 0 {
					all = append(all, newTally(in.Name, width, column, b.Edges))
					i = len(all) - 1
				}
				all[i].models = append(all[i].models, s.contract.Name)
				all[i].counters = append(all[i].counters, m.inputs(s.contract.Name, b))
				break
			}
		}
	}
	return all
}

func newTally(input string, width, column int, edges []float32) tally {
	t := tally{input: input, width: width, column: column, edges: edges}
	for i := range t.keys {
		t.keys[i] = math.MaxInt32
	}
	for i, e := range edges {
		t.keys[i] = key(e)
	}
	return t
}

// key orders values other than NaN as the numbers themselves are ordered, -0 like 0.
func key(v float32) int32 {
	b := int32(math.Float32bits(v + 0))
	return b ^ b>>31&math.MaxInt32
}

// count adds the batch's rows, each weight times, to the counters: those of one model, or of
// all where it is "".
func (t *tally) count(b Batch, model string, weight int) {
	if model != "" && !slices.Contains(t.models, model) {
		return
	}
	var bins [maxEdges + 1]int
	for _, piece := range b.Input(t.input) {
		for i := t.column; i < len(piece); i += t.width {
			bins[t.bin(piece[i])] += weight
		}
	}
	for i, n := range bins[:len(t.edges)+1] {
		if n == 0 {
			continue
		}
		for m, counters := range t.counters {
			if model == "" || t.models[m] == model {
				counters[i].Add(float64(n))
			}
		}
	}
}

// bin is the number of edges below the value; none is below NaN. It searches without a branch,
// since none could be predicted: 6 ns instead of 20 for values that come in no order.
func (t *tally) bin(value float32) int {
	if value != value {
		return 0
	}
	k, n := int64(key(value)), 0
	if len(t.edges) > 15 {
		n = int((int64(t.keys[15])-k)>>63) & 16
	}
	n += int((int64(t.keys[(n+7)&maxEdges])-k)>>63) & 8
	n += int((int64(t.keys[(n+3)&maxEdges])-k)>>63) & 4
	n += int((int64(t.keys[(n+1)&maxEdges])-k)>>63) & 2
	n += int((int64(t.keys[n&maxEdges])-k)>>63) & 1
	return n
}
