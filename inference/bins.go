package inference

import (
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
					all = append(all, tally{input: in.Name, width: width, column: column, edges: b.Edges})
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

// count adds the batch's rows to the counters: those of one model, or of all where it is "".
func (t *tally) count(b Batch, model string) {
	if model != "" && !slices.Contains(t.models, model) {
		return
	}
	var bins [maxEdges + 1]int
	for _, piece := range b.Input(t.input) {
		for i := t.column; i < len(piece); i += t.width {
			bins[bin(t.edges, piece[i])]++
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

// bin is the number of edges below the value.
func bin(edges []float32, value float32) int {
	n := 0
	for n < len(edges) && edges[n] < value {
		n++
	}
	return n & maxEdges
}
