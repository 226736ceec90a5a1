package inference

import "fmt"

// What a sequence's columns mean to the baseline: each day before the newest is older by the
// gap between shopping days, up to the most that rows ever say.
const (
	ageColumn = "age_days"
	gapColumn = "gap_days"
	oldest    = 84
)

// BaselineError says that a contract names no value for a feature that an explanation could
// compare a customer's with.
type BaselineError struct{ Model, Version, Feature string }

func (e *BaselineError) Error() string {
	return fmt.Sprintf("inference: %s %s has no baseline for %s: its model.yaml needs bins or a baseline for it", e.Model, e.Version, e.Feature)
}

// BaselineOf returns the value of a feature, or of the newest day of a sequence, that
// explanations compare with: the contract's own, else the median of training's rows as its
// bins tell it.
func (c *Contract) BaselineOf(feature string) (float32, bool) {
	if v, ok := c.Baseline[feature]; ok {
		return v, true
	}
	for _, b := range c.Bins {
		if b.Feature == feature {
			return b.median(), true
		}
	}
	return 0, false
}

// median is the upper edge of the bin that holds the middle row: exact where a bin is one
// whole number or the middle a quantile; the last edge where it lies beyond all.
func (b Bins) median() float32 {
	// Shares are rounded: five of ten are not to miss the half.
	const half = .5 - 1e-4
	sum := 0.0
	for i, edge := range b.Edges {
		if sum += b.Shares[i]; sum >= half {
			return edge
		}
	}
	return b.Edges[len(b.Edges)-1]
}

// baseline returns a row of an input as the baseline customer has it: the values of
// [Contract.BaselineOf], and in a sequence the same shopping day again and again, one gap
// apart, the newest last.
func (c *Contract) baseline(in Input, l Layout) ([]float32, error) {
	row := make([]float32, l.width(in.Name))
	columns := len(in.Features)
	newest := row[len(row)-columns:]
	var age, gap float32
	ageAt := -1
	for i, feature := range in.Features {
		v, ok := c.BaselineOf(feature)
		if !ok {
			return nil, &BaselineError{c.Name, c.VersionString(), feature}
		}
		newest[i] = v
		switch feature {
		case ageColumn:
			age, ageAt = v, i
		case gapColumn:
			gap = v
		}
	}
	for day := len(row)/columns - 2; day >= 0; day-- {
		at := row[day*columns : (day+1)*columns]
		copy(at, newest)
		if ageAt >= 0 {
			age = min(age+gap, oldest)
			at[ageAt] = age
		}
	}
	return row, nil
}
