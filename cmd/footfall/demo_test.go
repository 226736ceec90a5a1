package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/datasets"
	"footfall/messages/footfallv1"
)

// demoAt is a demo that reaches its Sunday at a node.
func demoAt(t *testing.T, f *fake, state demoState) *demo {
	t.Helper()
	t.Setenv("FOOTFALL_CACHE", t.TempDir())
	path := writeFile(t, "history.ndjson", viewLine("e1", "900", "2017-01-01T10:00:00Z")+"\n"+viewLine("e2", "901", "2017-01-01T11:00:00Z"))
	data, err := datasets.Open(t.Context(), path, datasets.Options{})
	require.NoError(t, err)
	d := &demo{app: newApp(nil, nil, nil, func(string) string { return "" }), dir: t.TempDir(), data: data, state: state}
	d.app.node = serve(t, f)
	d.client, err = d.dial()
	require.NoError(t, err)
	t.Cleanup(d.close)
	return d
}

// A node whose shards lag behind the log is waited for: it has ended the day in the log, and
// tells of the day before until it has folded that.
func TestTakeScoresWaitsForTheTick(t *testing.T) {
	f := example()
	f.cluster.LastTick = "2016-12-31"
	var waits []bool
	f.waited = func(scored bool) {
		waits = append(waits, scored)
		f.cluster.LastTick = "2017-01-01"
		if !scored {
			f.customer.Scores[0].Value = .5 // of the day before; the sweep's comes once it is scored
		} else {
			f.customer.Scores[0].Value = .25
		}
	}
	d := demoAt(t, f, demoState{Digest: "x", Sunday: "2017-01-01"})
	require.NoError(t, d.takeScores(t.Context()))
	require.Equal(t, []bool{false, true}, waits)
	want := map[string]map[string]float64{"churn_risk": {"900": .25}, "customer_segmentation": {"900": 2}, "purchase_prediction": {"900": .8125}}
	require.Equal(t, want, d.state.Scores)

	again := demo{app: d.app, dir: d.dir}
	require.NoError(t, again.load())
	require.Equal(t, want, again.state.Scores)
	require.NoError(t, d.takeScores(t.Context()))
	require.Len(t, waits, 2, "they are there")
}

// Why nothing can be compared is told as it is, also by a demo that is started again.
func TestNoQuality(t *testing.T) {
	for name, tt := range map[string]struct {
		lastTick string
		scores   []*footfallv1.Score
		want     string
	}{
		"no models":   {"2017-01-01", nil, "The node served no models when Sunday 2017-01-01 ended, so there is no score to compare with what happened."},
		"too late":    {"2017-01-02", example().customer.GetScores(), "The node had gone past Sunday 2017-01-01 before its scores of that day could be kept, so there is none to compare with what happened."},
		"other kinds": {"2017-01-01", example().customer.GetScores()[1:2], "No model that the node served when Sunday 2017-01-01 ended foretells what this history shows, so there is nothing to compare."},
	} {
		t.Run(name, func(t *testing.T) {
			f := example()
			f.cluster.LastTick, f.customer.Scores = tt.lastTick, tt.scores
			f.waited = func(bool) {}
			d := demoAt(t, f, demoState{Digest: "x", Sunday: "2017-01-01"})
			require.NoError(t, d.takeScores(t.Context()))
			require.NoError(t, d.save())
			again := demo{app: d.app, dir: d.dir}
			require.NoError(t, again.load())
			require.Equal(t, tt.want, noQuality(&again.state))
		})
	}
}
