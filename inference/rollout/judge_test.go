package rollout

import (
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/inference"
)

func TestJudge(t *testing.T) {
	even := func(rows uint64) (f inference.Figures) {
		f.Rows, f.Runs, f.Seconds, f.ChampionSeconds = rows, 100, .1, .1
		for i := range f.Bins {
			f.Bins[i], f.ChampionBins[i] = rows/20, rows/20
		}
		return f
	}
	shifted := func(rows uint64) inference.Figures {
		f := even(rows)
		for i := range 10 {
			f.Bins[i], f.Bins[10+i] = 0, rows/10
		}
		return f
	}
	with := func(f inference.Figures, change func(*inference.Figures)) inference.Figures {
		change(&f)
		return f
	}
	for name, c := range map[string]struct {
		f    inference.Figures
		l    Limits
		want string
	}{
		"nothing yet":             {},
		"all alike":               {f: even(10_000)},
		"too few to tell":         {f: shifted(500)},
		"shifted":                 {f: shifted(2_000), want: ReasonShift},
		"shifted, as is expected": {f: shifted(2_000), l: Limits{Shift: 20}},
		"few rows are asked for":  {f: shifted(500), l: Limits{MinRows: 100}, want: ReasonShift},
		"some errors":             {f: with(even(10_000), func(f *inference.Figures) { f.Errors = 50 })},
		"a few errors of a few":   {f: with(even(0), func(f *inference.Figures) { f.Errors = 19 })},
		"nothing but errors":      {f: with(even(0), func(f *inference.Figures) { f.Errors = 20 }), want: ReasonErrors},
		"many errors":             {f: with(even(10_000), func(f *inference.Figures) { f.Errors = 500 }), want: ReasonErrors},
		"a hang":                  {f: with(even(0), func(f *inference.Figures) { f.Hangs = 1 }), want: ReasonHang},
		"slow":                    {f: with(even(10_000), func(f *inference.Figures) { f.Seconds = 1 }), want: ReasonLatency},
		"slow, and nobody cares":  {f: with(even(10_000), func(f *inference.Figures) { f.Seconds, f.ChampionSeconds = .1, .001 })},
		"slow, in few runs":       {f: with(even(10_000), func(f *inference.Figures) { f.Seconds, f.Runs, f.ChampionSeconds = 1, 10, .01 })},
		"slower, as is allowed":   {f: with(even(10_000), func(f *inference.Figures) { f.Seconds = 1 }), l: Limits{Slowdown: 20}},
	} {
		t.Run(name, func(t *testing.T) {
			v := Judge(c.f, c.l)
			require.Equal(t, c.want, v.Reason, v.Detail)
			require.Equal(t, c.want == "", v.Detail == "")
		})
	}
}
