package inference

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// Requests for one model and for all of them share a batch, and each gets what it asked for.
func TestNamedModel(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, func(c *Config) { c.MaxRows = 32 })
		ask := func(change func(*Request), values ...float32) *asked {
			a := &asked{}
			r := request(a.reply, values...)
			if change != nil {
				change(r)
			}
			require.True(t, f.Score(r))
			return a
		}
		one := func(model string, values ...float32) []Reply {
			return []Reply{{Models: []Scores{{Model: model, Version: "1", Values: values}}}}
		}
		all := ask(nil, .1, .2)
		dense := ask(func(r *Request) { r.Model, r.Sequences = "dense", nil }, .3, .4, .5)
		lstm := ask(func(r *Request) { r.Model, r.Version, r.Features = "lstm", "1", nil }, .6)
		unknown := ask(func(r *Request) { r.Model = "gpt" }, .7)
		stale := ask(func(r *Request) { r.Model, r.Version = "dense", "2" }, .8)
		unfed := ask(func(r *Request) { r.Model, r.Features = "dense", nil }, .9)
		short := ask(func(r *Request) { r.Model, r.Features = "dense", r.Features[:9] }, .9)
		after := ask(nil, .11)
		pass(2 * time.Millisecond)

		require.Equal(t, []Reply{wantScores(.1, .2)}, all.take())
		require.Equal(t, one("dense", .3, .4, .5), dense.take())
		require.Equal(t, one("lstm", .6), lstm.take())
		require.Equal(t, []Reply{wantScores(.11)}, after.take())
		for a, want := range map[*asked]string{
			unknown: `no model "gpt" serves`,
			stale:   `no version "2" of a model "dense" serves`,
			unfed:   "request.features is empty, and dense 1 is fed it",
			short:   "request.features has 9 values, where 1 rows have 10",
		} {
			replies := a.take()
			require.Len(t, replies, 1)
			require.Nil(t, replies[0].Models)
			require.ErrorContains(t, replies[0].Err, want)
			var none *NotServingError
			var bad *RequestError
			require.True(t, errors.As(replies[0].Err, &none) || errors.As(replies[0].Err, &bad))
		}
		require.Len(t, f.Serving(), 2)
		require.NoError(t, f.Close())
	})
}

// What a model is fed is counted for that model alone, and not at all where rows are made up.
func TestNamedModelInputs(t *testing.T) {
	dir := modelsDir(t)
	writeModel(t, dir, "other", "1")
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, nil)
		rows := func(model string) float64 {
			n := 0.0
			for bin := range 10 {
				n += testutil.ToFloat64(f.Metrics.input.WithLabelValues(model, "recency_days", string(rune('0'+bin))))
			}
			return n
		}
		var a asked
		for _, r := range []*Request{
			request(a.reply, .1, .2),
			{Rows: 3, Features: make([]float32, 30), Model: "dense", Reply: a.reply},
			{Rows: 1, Features: make([]float32, 10), Model: "dense", Synthetic: true, Reply: a.reply},
			{Rows: 1, Features: make([]float32, 10), Sequences: make([]float32, 50), Synthetic: true, Reply: a.reply},
		} {
			require.True(t, f.Score(r))
		}
		pass(2 * time.Millisecond)
		require.Len(t, a.take(), 4)
		require.InDelta(t, 5, rows("dense"), 0)
		require.InDelta(t, 2, rows("other"), 0)
		require.NoError(t, f.Close())
	})
}
