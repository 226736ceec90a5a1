package quality

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestMeasureByHand(t *testing.T) {
	tests := []struct {
		name      string
		predicted []float64
		happened  []bool
		want      Measures
	}{
		{
			// The example of scikit-learn's roc_auc_score: of the four pairs three are in order.
			name:      "scikit-learn's example",
			predicted: []float64{.1, .4, .35, .8},
			happened:  []bool{false, false, true, true},
			want: Measures{
				Rows: 4, Base: .5, AUC: .75,
				AP:      .5*1 + .5*2/3,
				LogLoss: -(math.Log(.9) + math.Log(.6) + math.Log(.35) + math.Log(.8)) / 4,
				ECE:     (.1 + .4 + .65 + .2) / 4,
			},
		},
		{
			name:      "one score for all is as good as chance",
			predicted: []float64{.5, .5, .5, .5},
			happened:  []bool{true, false, false, false},
			want:      Measures{Rows: 4, Base: .25, AUC: .5, AP: .25, LogLoss: math.Ln2, ECE: .25},
		},
		{
			name:      "the wrong way round",
			predicted: []float64{.2, .8},
			happened:  []bool{true, false},
			want:      Measures{Rows: 2, Base: .5, AUC: 0, AP: .5, LogLoss: -math.Log(.2), ECE: .8},
		},
		{
			name:      "a sure hit falls into the last bin",
			predicted: []float64{1, 0, .95},
			happened:  []bool{true, false, false},
			want: Measures{
				Rows: 3, Base: 1. / 3, AUC: 1, AP: 1,
				LogLoss: -math.Log(.05) / 3, ECE: .95 / 3,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Measure(tt.predicted, tt.happened)
			require.NoError(t, err)
			require.Equal(t, tt.want.Rows, got.Rows)
			for what, pair := range map[string][2]float64{
				"base": {tt.want.Base, got.Base}, "auc": {tt.want.AUC, got.AUC}, "ap": {tt.want.AP, got.AP},
				"log-loss": {tt.want.LogLoss, got.LogLoss}, "ece": {tt.want.ECE, got.ECE},
			} {
				require.InDelta(t, pair[0], pair[1], 1e-12, what)
			}
		})
	}
}

func TestMeasureWithOneKindOfOutcome(t *testing.T) {
	got, err := Measure([]float64{.2, .7}, []bool{false, false})
	require.NoError(t, err)
	require.True(t, math.IsNaN(got.AUC))
	require.True(t, math.IsNaN(got.AP))
	require.InDelta(t, .45, got.ECE, 1e-12)
}

func TestMeasureRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		predicted []float64
		happened  []bool
		want      string
	}{
		"lengths":  {[]float64{.1}, nil, "quality: 1 predictions for 0 outcomes"},
		"nothing":  {nil, nil, "quality: no outcome is known"},
		"above 1":  {[]float64{1.5}, []bool{true}, "quality: row 0: 1.5 is not a probability"},
		"below 0":  {[]float64{.5, -.1}, []bool{true, true}, "quality: row 1: -0.1 is not a probability"},
		"a number": {[]float64{math.NaN()}, []bool{true}, "quality: row 0: NaN is not a probability"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Measure(tt.predicted, tt.happened)
			require.EqualError(t, err, tt.want)
		})
	}
}

// TestAUCCountsPairs holds AUC to its definition: the share of (true, false) pairs in the
// right order.
func TestAUCCountsPairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 40).Draw(t, "n")
		predicted, happened := make([]float64, n), make([]bool, n)
		for i := range n {
			predicted[i] = float64(rapid.IntRange(0, 5).Draw(t, "p")) / 5
			happened[i] = rapid.Bool().Draw(t, "y")
		}
		happened[0], happened[1] = true, false
		var right, pairs float64
		for i := range n {
			for j := range n {
				if !happened[i] || happened[j] {
					continue
				}
				pairs++
				switch {
				case predicted[i] > predicted[j]:
					right++
				case predicted[i] == predicted[j]:
					right += .5
				}
			}
		}
		got, err := Measure(predicted, happened)
		require.NoError(t, err)
		require.InDelta(t, right/pairs, got.AUC, 1e-9)
	})
}
