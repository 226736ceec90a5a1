package inference

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// shapleyByOrders is the definition: what each adds on its way in, averaged over all orders.
func shapleyByOrders(v []float32, n int) []float64 {
	phi := make([]float64, n)
	orders := 0.0
	var walk func(in int)
	walk = func(in int) {
		if in == 1<<n-1 {
			orders++
			return
		}
		for i := range n {
			if in&(1<<i) == 0 {
				walk(in | 1<<i)
			}
		}
	}
	walk(0)
	// Each step is on as many paths as there are orders of those before times those after.
	factorial := func(k int) float64 {
		f := 1.0
		for ; k > 1; k-- {
			f *= float64(k)
		}
		return f
	}
	for s := range 1 << n {
		k := 0
		for i := range n {
			k += s >> i & 1
		}
		for i := range n {
			if s&(1<<i) == 0 {
				phi[i] += factorial(k) * factorial(n-1-k) / orders * (float64(v[s|1<<i]) - float64(v[s]))
			}
		}
	}
	return phi
}

func TestShapley(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 6).Draw(t, "players")
		v := rapid.SliceOfN(rapid.Float32Range(0, 1), 1<<n, 1<<n).Draw(t, "values")
		have, want := shapley(v), shapleyByOrders(v, n)
		sum := 0.0
		for i, phi := range have {
			sum += phi
			if math.Abs(phi-want[i]) > 1e-12 {
				t.Fatalf("player %d of %v: %v, not %v", i, v, phi, want[i])
			}
		}
		if math.Abs(sum-(float64(v[len(v)-1])-float64(v[0]))) > 1e-12 {
			t.Fatalf("%v add up to %v", have, sum)
		}
	})
}

func exampleContract(tb testing.TB, replace ...string) *Contract {
	tb.Helper()
	text := example(tb)
	for i := 0; i < len(replace); i += 2 {
		require.Contains(tb, text, replace[i])
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	c, err := ParseContract([]byte(text))
	require.NoError(tb, err)
	return c
}

// withBaseline gives every feature a baseline of b.
func withBaseline(c *Contract, b float32) *Contract {
	c.Baseline = map[string]float32{}
	for _, in := range c.Inputs {
		for _, feature := range in.Features {
			c.Baseline[feature] = b
		}
	}
	return c
}

// model answers rows by a function.
func model(width int, rows func(Request) []float32, f func(row []float32) float32) func(context.Context, Request) (Scores, error) {
	return func(_ context.Context, r Request) (Scores, error) {
		s := Scores{Model: r.Model, Version: r.Version}
		values := rows(r)
		for row := range r.Rows {
			s.Values = append(s.Values, f(values[row*width:(row+1)*width]))
		}
		return s, nil
	}
}

func features(r Request) []float32  { return r.Features }
func sequences(r Request) []float32 { return r.Sequences }

// Of a linear model each contribution is known: the weight times what the value differs.
// Interactions are shared by those who interact, and who is ignored gets nothing.
func TestExplainFeatures(t *testing.T) {
	c := withBaseline(exampleContract(t), 1)
	row := []float32{3, 2, 2, 1, 5, 1, 1, 1, 1, 7}
	e, err := Explain(t.Context(), c, testLayout, row, nil, model(10, features, func(x []float32) float32 {
		return .25*x[0] - .5*x[4] + x[1]*x[2]
	}))
	require.NoError(t, err)
	require.Equal(t, "purchase_prediction", e.Model)
	require.Equal(t, "1", e.Version)
	require.InDelta(t, .25*3-.5*5+2*2, e.Value, 1e-6)
	require.InDelta(t, .25-.5+1, e.Baseline, 1e-6)
	want := []Contribution{
		{"recency_days", .5},
		// x1·x2 goes from 1 to 4, and both did the same.
		{"visit_days_7", 1.5},
		{"visit_days_28", 1.5},
		{"visit_days_84", 0},
		{"log_spend_28", -2},
		{"log_spend_84", 0},
		{"gap_ewma", 0},
		{"overdue", 0},
		{"departments_28", 0},
		{"discount_share_84", 0}, // differs, and is ignored
	}
	sum := 0.0
	for i, have := range e.Contributions {
		require.Equal(t, want[i].Feature, have.Feature)
		require.InDelta(t, want[i].Value, have.Value, 1e-6, have.Feature)
		sum += have.Value
	}
	require.InDelta(t, e.Value-e.Baseline, sum, 1e-9)
}

// The rows that are asked for are every mixture of the customer and the baseline, once; those
// that are alike are not asked for.
func TestExplainRows(t *testing.T) {
	c := withBaseline(exampleContract(t), 0)
	row := make([]float32, 10)
	row[3], row[7], row[8] = 1, 2, 4
	var asked Request
	score := func(_ context.Context, r Request) (Scores, error) {
		asked = r
		return model(10, features, func(x []float32) float32 { return x[3] + x[7] + x[8] })(t.Context(), r)
	}
	_, err := Explain(t.Context(), c, testLayout, row, nil, score)
	require.NoError(t, err)
	require.True(t, asked.Synthetic)
	require.Empty(t, asked.Sequences)
	require.Equal(t, 8, asked.Rows)
	var sums []float32
	for r := range asked.Rows {
		sum := float32(0)
		for _, v := range asked.Features[r*10 : (r+1)*10] {
			sum += v
		}
		sums = append(sums, sum)
	}
	require.Equal(t, []float32{0, 1, 2, 3, 4, 5, 6, 7}, sums)

	e, err := Explain(t.Context(), c, testLayout, make([]float32, 10), nil, score)
	require.NoError(t, err)
	require.Equal(t, 1, asked.Rows, "the baseline itself")
	require.Equal(t, e.Value, e.Baseline)
}

// Of a sequence columns are told apart, over all days.
func TestExplainSequence(t *testing.T) {
	c := withBaseline(exampleContract(t, sequenceInput...), 1)
	row := slices.Repeat([]float32{1, 1, 1, 1, 1}, 10)
	for day := range 10 {
		row[day*5] = min(float32(10-day), 10) // as the baseline's days: 1, 2, … 10, the oldest first
		row[day*5+2] = 3
		row[day*5+4] = float32(day)
	}
	e, err := Explain(t.Context(), c, testLayout, nil, row, model(50, sequences, func(x []float32) float32 {
		return x[0]/100 + x[2]/10 + x[47]/10 + x[49]/10
	}))
	require.NoError(t, err)
	require.InDelta(t, .1+.1+.1+.1, e.Baseline, 1e-6)
	want := map[string]float64{"age_days": 0, "gap_days": 0, "log_spend": .4, "departments": 0, "discount_share": .8}
	require.Len(t, e.Contributions, 5)
	for _, have := range e.Contributions {
		require.InDelta(t, want[have.Feature], have.Value, 1e-6, have.Feature)
	}
}

// Beside features, a sequence is one.
func TestExplainBoth(t *testing.T) {
	c := exampleContract(t)
	c.Inputs = append(c.Inputs, exampleContract(t, sequenceInput...).Inputs...)
	withBaseline(c, 0)
	own := slices.Repeat([]float32{1}, 50)
	rows := 0
	e, err := Explain(t.Context(), c, testLayout, own[:10], own, func(_ context.Context, r Request) (Scores, error) {
		rows = r.Rows
		s := Scores{}
		for i := range r.Rows {
			s.Values = append(s.Values, r.Features[i*10]/4+r.Sequences[i*50+7]/2)
		}
		return s, nil
	})
	require.NoError(t, err)
	require.Equal(t, 1<<11, rows)
	require.Len(t, e.Contributions, 11)
	require.InDelta(t, .25, e.Contributions[0].Value, 1e-6)
	require.Equal(t, Sequence, e.Contributions[10].Feature)
	require.InDelta(t, .5, e.Contributions[10].Value, 1e-6)
}

func TestBaseline(t *testing.T) {
	c := exampleContract(t, "# baseline:\n#   overdue: 0.63", "baseline:\n  overdue: 0.63\n  visit_days_7: 5")
	for feature, want := range map[string]float32{
		"recency_days": 6.2, // five of ten bins lie below
		"visit_days_7": 5,   // not the bins' 1
		"overdue":      .63,
	} {
		have, ok := c.BaselineOf(feature)
		require.True(t, ok)
		require.Equal(t, want, have)
	}
	_, ok := c.BaselineOf("gap_ewma")
	require.False(t, ok)
	require.Equal(t, float32(2), Bins{Edges: []float32{1, 2}, Shares: []float64{.1, .2, .7}}.median(), "beyond the last edge")
	require.Equal(t, float32(1), Bins{Edges: []float32{0, 1, 2}, Shares: []float64{.42, .27, .16, .15}}.median())

	// Days of a sequence lie one gap apart, and none is older than rows ever say.
	s := withBaseline(exampleContract(t, sequenceInput...), 2)
	s.Baseline["age_days"], s.Baseline["gap_days"] = 30, 20
	row, err := s.baseline(s.Inputs[0], testLayout)
	require.NoError(t, err)
	require.Equal(t, []float32{84, 20, 2, 2, 2}, row[:5])
	require.Equal(t, []float32{70, 20, 2, 2, 2, 50, 20, 2, 2, 2, 30, 20, 2, 2, 2}, row[35:])
}

func TestExplainRefuses(t *testing.T) {
	never := func(context.Context, Request) (Scores, error) { panic("asked") }
	row := make([]float32, 10)

	_, err := Explain(t.Context(), exampleContract(t), testLayout, row, nil, never)
	var missing *BaselineError
	require.ErrorAs(t, err, &missing)
	require.Equal(t, "visit_days_28", missing.Feature)

	_, err = Explain(t.Context(), withBaseline(exampleContract(t), 0), testLayout, row[:9], nil, never)
	var bad *RequestError
	require.ErrorAs(t, err, &bad)

	segments := withBaseline(exampleContract(t), 0)
	segments.Outputs[0].Kind = SegmentID
	_, err = Explain(t.Context(), segments, testLayout, row, nil, never)
	var cannot *ExplainError
	require.ErrorAs(t, err, &cannot)
	require.ErrorContains(t, err, "it answers a segment")

	busy := func(context.Context, Request) (Scores, error) { return Scores{}, ErrBusy }
	_, err = Explain(t.Context(), withBaseline(exampleContract(t), 1), testLayout, row, nil, busy)
	require.ErrorIs(t, err, ErrBusy)
}

// Callers that wait never hold more rows than the limit, and hold theirs until the reply.
func TestQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var offered []*Request
		full := false
		q := &Queries{Limit: 10, MaxRows: 6, Offer: func(r *Request) bool {
			if !full {
				offered = append(offered, r)
			}
			return !full
		}}
		type answer struct {
			scores Scores
			err    error
		}
		ask := func(ctx context.Context, rows int) <-chan answer {
			answers := make(chan answer, 1)
			go func() {
				s, err := q.Score(ctx, Request{Model: "dense", Rows: rows})
				answers <- answer{s, err}
			}()
			synctest.Wait()
			return answers
		}
		var bad *RequestError
		for _, rows := range []int{0, -1, 7} {
			require.ErrorAs(t, (<-ask(t.Context(), rows)).err, &bad)
		}
		_, err := q.Score(t.Context(), Request{Rows: 1})
		require.ErrorAs(t, err, &bad)

		first := ask(t.Context(), 6)
		gone, cancel := context.WithCancel(t.Context())
		second := ask(gone, 4)
		require.Len(t, offered, 2)
		require.ErrorIs(t, (<-ask(t.Context(), 1)).err, ErrBusy)
		cancel()
		require.ErrorIs(t, (<-second).err, context.Canceled)
		require.ErrorIs(t, (<-ask(gone, 1)).err, context.Canceled)
		require.ErrorIs(t, (<-ask(t.Context(), 1)).err, ErrBusy, "the rows of who is gone are still there")
		offered[1].Reply(Reply{Err: ErrClosed})
		third := ask(t.Context(), 4)

		offered[0].Reply(Reply{Models: []Scores{{Model: "dense", Version: "1", Values: make([]float32, 6)}}})
		have := <-first
		require.NoError(t, have.err)
		require.Len(t, have.scores.Values, 6)
		offered[2].Reply(Reply{Err: &NotServingError{"dense", ""}})
		var none *NotServingError
		require.ErrorAs(t, (<-third).err, &none)

		full = true
		require.ErrorIs(t, (<-ask(t.Context(), 6)).err, ErrBusy)
		full = false
		fourth := ask(t.Context(), 6)
		offered[3].Reply(Reply{Err: ErrClosed})
		require.ErrorIs(t, (<-fourth).err, ErrClosed)
	})
}
