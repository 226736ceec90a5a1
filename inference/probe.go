package inference

import (
	"slices"
)

// probeRows are how many rows [serving.probe] makes.
const probeRows = 64

// probe runs the model over rows that walk through training's bins, feature by feature: a model
// that answers zeros well may still answer what customers are with nothing of use.
func (s *serving) probe() error {
	l := s.device.layout
	b := Batch{
		Rows:      min(probeRows, s.device.MaxRows),
		Features:  [][]float32{make([]float32, min(probeRows, s.device.MaxRows)*l.width(Features))},
		Sequences: [][]float32{make([]float32, min(probeRows, s.device.MaxRows)*l.width(Sequence))},
	}
	for _, in := range s.contract.Inputs {
		values, columns := b.Input(in.Name)[0], len(in.Features)
		for i := range values {
			row, column := i/l.width(in.Name), i%columns
			j := slices.IndexFunc(s.contract.Bins, func(bins Bins) bool { return bins.Feature == in.Features[column] })
			if j < 0 {
				continue
			}
			edges := s.contract.Bins[j].Edges
			if len(edges) == 0 {
				continue
			}
			// Another stride for each column, so that rows are not all low or all high.
			values[i] = edges[(row*(2*column+1)+column)%len(edges)]
		}
	}
	out := make([]float32, b.Rows)
	if err := s.session.Run(b, out); err != nil {
		return err
	}
	if row := s.wrong(out); row >= 0 {
		return s.valueError(row, out[row])
	}
	return nil
}
