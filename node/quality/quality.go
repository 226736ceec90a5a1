// Package quality measures predictions against what happened: [Measure] takes the
// probabilities that were given for a yes-or-no outcome and the outcomes themselves.
//
// The definitions are those of scikit-learn, so that figures compare with a model's own
// evaluation: AUC counts ties as a half, average precision is the step-wise sum over
// distinct scores, and calibration error is taken over ten equally wide bins.
package quality

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Bins is the number of equally wide bins of [0, 1] that ECE is taken over.
const Bins = 10

// Measures says how well probabilities foretold outcomes.
type Measures struct {
	// Rows is how many outcomes are known, Base the share of them that came true.
	Rows int     `json:"rows"`
	Base float64 `json:"base_rate"`
	// AUC is the chance that a row that came true was given a higher probability than one
	// that did not. It is NaN where all outcomes are the same, as AP is where none is true.
	AUC float64 `json:"auc"`
	// LogLoss is the mean of −ln of the probability given to what happened.
	LogLoss float64 `json:"log_loss"`
	// ECE is the mean gap between what was foretold and what happened, by bin.
	ECE float64 `json:"ece"`
	// AP is the average precision: the mean share that came true among the highest scores.
	AP float64 `json:"ap"`
}

// Measure compares predicted probabilities with outcomes, row by row. It fails where the
// two differ in length, where there is no row, or where a value is not a probability.
func Measure(predicted []float64, happened []bool) (Measures, error) {
	if len(predicted) != len(happened) {
		return Measures{}, fmt.Errorf("quality: %d predictions for %d outcomes", len(predicted), len(happened))
	}
	if len(predicted) == 0 {
		return Measures{}, fmt.Errorf("quality: no outcome is known")
	}
	rows := make([]row, len(predicted))
	for i, p := range predicted {
		if !(p >= 0 && p <= 1) {
			return Measures{}, fmt.Errorf("quality: row %d: %v is not a probability", i, p)
		}
		rows[i] = row{p, happened[i]}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(b.p, a.p) })

	m := Measures{Rows: len(rows), LogLoss: logLoss(rows), ECE: ece(rows)}
	m.AUC, m.AP = ranked(rows)
	for _, r := range rows {
		if r.y {
			m.Base++
		}
	}
	m.Base /= float64(len(rows))
	return m, nil
}

type row struct {
	p float64
	y bool
}

// ranked walks rows from the highest score down, a group of equal scores at a time.
func ranked(rows []row) (auc, ap float64) {
	var hits, misses int // above the group
	var pairs float64    // (hit, miss) pairs in the right order, ties as a half
	for i := 0; i < len(rows); {
		j, h := i, 0
		for ; j < len(rows) && rows[j].p == rows[i].p; j++ {
			if rows[j].y {
				h++
			}
		}
		m := j - i - h
		pairs += float64(m) * (float64(hits) + float64(h)/2)
		hits += h
		misses += m
		ap += float64(h) * float64(hits) / float64(hits+misses)
		i = j
	}
	return pairs / (float64(hits) * float64(misses)), ap / float64(hits)
}

// logLoss keeps probabilities the smallest step away from 0 and 1: one sure miss would
// otherwise outweigh every other row.
func logLoss(rows []row) float64 {
	const step = 1e-15
	var sum float64
	for _, r := range rows {
		p := min(max(r.p, step), 1-step)
		if !r.y {
			p = 1 - p
		}
		sum -= math.Log(p)
	}
	return sum / float64(len(rows))
}

func ece(rows []row) float64 {
	var predicted, happened [Bins]float64
	for _, r := range rows {
		b := min(int(r.p*Bins), Bins-1)
		predicted[b] += r.p
		if r.y {
			happened[b]++
		}
	}
	var sum float64
	for b := range predicted {
		sum += math.Abs(predicted[b] - happened[b])
	}
	return sum / float64(len(rows))
}
