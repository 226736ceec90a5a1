package behavior

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const hour = int64(3_600_000)

var zones = []string{"UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"}

func zone(t require.TestingT, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	require.NoError(t, err)
	return loc
}

// history draws streams of events that come in bursts, late, doubled, and with jumps.
type history struct {
	now         int64
	ids         []uint64
	departments int
	money       int64
	// pace scales the steps forward.
	pace int64
}

func drawHistory(t *rapid.T) *history {
	return &history{
		now:         rapid.Int64Range(0, 4_000_000_000_000).Draw(t, "start"),
		departments: rapid.SampledFrom([]int{1, 5, 60, 70, 300, 900}).Draw(t, "departments"),
		money:       rapid.SampledFrom([]int64{3, 500_000, 1e13}).Draw(t, "money"),
		pace:        rapid.SampledFrom([]int64{1, 6, 30}).Draw(t, "pace"),
	}
}

func (g *history) draw(t *rapid.T) Event {
	kind := rapid.SampledFrom([]Kind{
		Purchase, Purchase, Purchase, Purchase, Purchase, Purchase, Purchase, Purchase, Refund, Refund,
		PageView, CartAdd, CartRemove, CampaignReceived, CouponRedeemed, Profile, Identify, Erase,
	}).Draw(t, "kind")
	if kind == Erase && rapid.IntRange(0, 4).Draw(t, "spared") > 0 {
		kind = Purchase
	}
	// The steps forward: minutes to days, some of months.
	step := g.pace * rapid.SampledFrom([]int64{0, 4, 8, 30, 30, 30, 30, 60}).Draw(t, "step")
	if rapid.IntRange(0, 30).Draw(t, "long") == 0 {
		step *= 100
	}
	g.now += rapid.Int64Range(step*hour/2, step*hour).Draw(t, "forward")
	at := g.now
	if rapid.IntRange(0, 3).Draw(t, "late") == 0 {
		at -= rapid.Int64Range(0, rapid.SampledFrom([]int64{30, 24 * 30, 24 * 90, 24 * 600}).Draw(t, "how late")*hour).Draw(t, "back")
	}
	ev := Event{ID: rapid.Uint64().Draw(t, "id"), Time: max(0, at), Kind: kind}
	if n := len(g.ids); n > 0 && rapid.IntRange(0, 9).Draw(t, "again") == 0 {
		ev.ID = g.ids[rapid.IntRange(max(0, n-40), n-1).Draw(t, "which")]
	}
	g.ids = append(g.ids, ev.ID)
	switch kind {
	case Purchase:
		ev.Spend = rapid.Int64Range(0, g.money).Draw(t, "spend")
		ev.Discount = rapid.Int64Range(0, g.money/4).Draw(t, "discount")
		ev.Items = rapid.Uint32Range(0, 20).Draw(t, "items")
		for range rapid.IntRange(0, 12).Draw(t, "lines") {
			ev.Departments = append(ev.Departments, Department(fmt.Sprint(rapid.IntRange(1, g.departments).Draw(t, "department"))))
		}
	case Refund:
		ev.Spend = rapid.Int64Range(1, g.money).Draw(t, "refund")
	case CampaignReceived:
		ev.Until = rapid.SampledFrom([]int64{0, ev.Time + 100*hour}).Draw(t, "until")
	case Profile:
		for _, k := range []string{"age", "city", "tier"} {
			if rapid.Bool().Draw(t, k) {
				ev.Attributes = append(ev.Attributes, Attribute{k, rapid.SampledFrom([]string{"", "a", "bcd"}).Draw(t, "value")})
			}
		}
	case Identify:
		ev.Known = rapid.SampledFrom([]string{"anna", "b"}).Draw(t, "known")
	case PageView, CartAdd, CartRemove, CouponRedeemed, Erase: // have nothing more
	}
	return ev
}

// TestFoldAgainstOracle folds random histories and compares all that can be read of a record,
// after each event, with the oracle.
func TestFoldAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		loc := zone(t, rapid.SampledFrom(zones).Draw(t, "zone"))
		cal, want, gen := NewCalendar(loc), newOracle(loc), drawHistory(t)
		var rec Record
		latest := int64(math.MinInt64)
		for range rapid.IntRange(1, 150).Draw(t, "events") {
			ev := gen.draw(t)
			before := slices.Clone(rec)
			var outcome Outcome
			rec, outcome = Apply(rec, &ev, cal)
			require.Equal(t, want.apply(ev), outcome)
			require.NoError(t, rec.Validate())
			if outcome == Duplicate {
				require.Equal(t, before, rec)
			}
			require.True(t, rec.HasEvent(ev.ID))
			require.Equal(t, want.exists, rec.Exists())
			require.Equal(t, want.lifetime(), rec.Lifetime())
			require.Equal(t, want.known, rec.KnownAs())
			require.Len(t, rec.Attributes(), len(want.attrs))
			for _, a := range rec.Attributes() {
				require.Equal(t, want.attrs[a.Key], a.Value)
			}

			latest = max(latest, ev.Time)
			at := latest + rapid.Int64Range(0, rapid.SampledFrom([]int64{1, 30, 24 * 100}).Draw(t, "ahead")*hour).Draw(t, "at")
			compare(t, want, rec, at, cal)
		}
	})
}

func compare(t require.TestingT, want *oracle, rec Record, at int64, cal *Calendar) {
	var f Features
	rec.Features(at, cal, &f)
	for i, v := range want.features(at) {
		k := slices.Index(FeatureNames[:], i)
		delta := 1e-12
		if i == "gap_ewma" {
			delta = 0
		}
		require.InDelta(t, v, f[k], delta, i)
	}
	var s [10][5]float64
	rec.Sequence(at, cal, &s)
	for i, row := range want.sequence(at) {
		require.InDeltaSlice(t, row[:], s[i][:], 1e-12, "row %d", i)
	}
}

// TestFoldInPlace folds the same history into a cell of an arena, into ample capacity, and
// into copies without any: the bytes are the same, and none is written outside of the cell.
func TestFoldInPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cal, gen := NewCalendar(zone(t, "America/New_York")), drawHistory(t)
		arena := bytes.Repeat([]byte{0xAA}, 1<<16)
		const from, to = 1 << 8, 1<<16 - 1<<8
		cell := Record(arena[from:from:to])
		var grown, copied Record
		for range rapid.IntRange(1, 120).Draw(t, "events") {
			ev := gen.draw(t)
			var outcomes [3]Outcome
			cell, outcomes[0] = Apply(cell, &ev, cal)
			grown, outcomes[1] = Apply(grown, &ev, cal)
			copied, outcomes[2] = Apply(slices.Clip(slices.Clone(copied)), &ev, cal)
			require.Equal(t, []Outcome{outcomes[0], outcomes[0]}, outcomes[1:])
			require.Equal(t, grown, copied)
			require.Equal(t, grown, cell)
			require.Same(t, &arena[from], &cell[0])
		}
		require.Equal(t, bytes.Repeat([]byte{0xAA}, from), arena[:from])
		require.Equal(t, bytes.Repeat([]byte{0xAA}, 1<<16-to), arena[to:])
	})
}
