package inference

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The search finds what looking at every edge finds, whatever the values.
func TestBin(t *testing.T) {
	special := []float32{
		0, float32(math.Copysign(0, -1)), 1, -1, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32,
		float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()),
	}
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.SampledFrom(special), rapid.Float32(), rapid.Float32Range(-3, 3))
		edges := rapid.SliceOfNDistinct(number.Filter(func(v float32) bool { return v == v }), 0, maxEdges, func(v float32) float32 { return v + 0 }).Draw(t, "edges")
		slices.Sort(edges)
		tally := newTally(Features, 1, 0, edges)
		for _, v := range append(rapid.SliceOf(number).Draw(t, "values"), append(special, edges...)...) {
			want := 0
			for want < len(edges) && edges[want] < v {
				want++
			}
			require.Equal(t, want, tally.bin(v), "%v among %v", v, edges)
		}
	})
}

// Rows are all counted as long as they come at the rate that is, and beyond one batch counts
// for others.
func TestSampledWhereManyCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gatherer{device: &Device{Config: Config{Clock: SystemClock()}}, credit: countedRows}
		for range 1000 {
			require.Equal(t, 1, g.weight(500))
			pass(10 * time.Millisecond)
		}
		counted, once := 0, 0
		for range 10_000 { // a million rows a second
			switch w := g.weight(1000); w {
			case 1:
				once++
				counted++
			default:
				require.Contains(t, []int{0, sampleEvery}, w)
				counted += w
			}
			pass(time.Millisecond)
		}
		require.InDelta(t, 10_000, counted, sampleEvery)
		require.InDelta(t, 550, once, 10)
		pass(time.Hour)
		require.Equal(t, 1, g.weight(countedRows), "what was not used adds up to one second's")
		require.NotEqual(t, 1, g.weight(1))
	})
}

func BenchmarkTally(b *testing.B) {
	edges := []float32{.4, 1.2, 2.2, 3.3, 5.3, 7.6, 12.3, 20.5, 42.1}
	tally := newTally(Features, 10, 3, edges)
	// So many that no processor learns them by heart.
	const rows = 400_000
	values := make([]float32, 10*rows)
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range values {
		values[i] = float32(rnd.ExpFloat64() * 8)
	}
	in := Batch{Rows: rows, Features: [][]float32{values}}
	for b.Loop() {
		tally.count(in, "", 1)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/value")
}
