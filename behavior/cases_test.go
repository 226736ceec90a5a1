package behavior

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// instant reads a time such as "2017-03-12T01:30:00-05:00" as Unix milliseconds.
func instant(t *testing.T, s string) int64 {
	at, err := time.Parse(time.RFC3339, s)
	require.NoError(t, err)
	return at.UnixMilli()
}

// TestDaysOfSummerTime holds that windows and gaps are of calendar days of the zone, and
// recency of 86,400 seconds.
func TestDaysOfSummerTime(t *testing.T) {
	cal := NewCalendar(zone(t, "America/New_York"))
	rec := live([]Event{
		{ID: 1, Kind: Purchase, Time: instant(t, "2017-03-11T23:59:59-05:00"), Spend: 10_000},
		{ID: 2, Kind: Purchase, Time: instant(t, "2017-03-12T00:00:00-05:00"), Spend: 10_000},
		{ID: 3, Kind: Purchase, Time: instant(t, "2017-03-12T23:59:59-04:00"), Spend: 10_000},
		{ID: 4, Kind: Purchase, Time: instant(t, "2017-03-13T00:00:00-04:00"), Spend: 10_000},
	}, cal)
	require.Equal(t, uint64(3), rec.Lifetime().ShoppingDays)

	var f Features
	day, err := ParseDate("2017-03-18")
	require.NoError(t, err)
	rec.Features(cal.LastMilli(day), cal, &f)
	require.InDelta(t, 2.0, f[VisitDays7], 0, "the 12th and the 13th")
	require.InDelta(t, 3.0, f[VisitDays28], 0)
	require.InDelta(t, 1.0, f[GapEWMA], 0)
	require.InDelta(t, 6.0, f[RecencyDays], 1e-7)
	require.InDelta(t, math.Log(5), f[LogSpend84], 1e-12)
	rec.Features(cal.LastMilli(day)+1, cal, &f)
	require.InDelta(t, 1.0, f[VisitDays7], 0, "the next day has begun")
}

func TestNeverBought(t *testing.T) {
	cal := NewCalendar(time.UTC)
	want := Features{RecencyDays: 84, GapEWMA: 28, Overdue: 3}
	var f Features
	for name, rec := range map[string]Record{
		"unknown": nil,
		"looked":  live([]Event{{ID: 1, Kind: PageView, Time: benchStart}}, cal),
		"erased":  live(goldens()["erased"], cal),
	} {
		rec.Features(benchStart, cal, &f)
		require.Equal(t, want, f, name)
		var s [10][5]float64
		rec.Sequence(benchStart, cal, &s)
		require.Equal(t, [5]float64{84, 84, 0, 0, 0}, s[9], name)
	}
	require.False(t, Record(nil).Exists())
	require.False(t, Record(nil).HasEvent(0))
	require.Zero(t, Record(nil).Lifetime())
	require.Empty(t, Record(nil).KnownAs())
	require.NoError(t, Record(nil).Validate())
}

// TestErase holds that erased events stay duplicates, and that nothing else stays.
func TestErase(t *testing.T) {
	cal := NewCalendar(time.UTC)
	rec := make(Record, 0, 4096)
	secret := strings.Repeat("secret", 9)
	for i, ev := range []Event{
		{Kind: Purchase, Spend: 10_000, Departments: []uint32{1, 2}},
		{Kind: Profile, Attributes: []Attribute{{"name", secret}}},
		{Kind: Profile, Attributes: []Attribute{{"name", "x"}}},
		{Kind: Erase},
	} {
		ev.ID, ev.Time = uint64(i+1), benchStart
		rec, _ = Apply(rec, &ev, cal)
	}
	require.False(t, rec.Exists())
	require.NotContains(t, string(rec[:cap(rec)]), "secret")

	again, outcome := Apply(rec, &Event{ID: 1, Kind: Purchase, Time: benchStart}, cal)
	require.Equal(t, Duplicate, outcome)
	require.False(t, again.Exists())

	rec, outcome = Apply(rec, &Event{ID: 9, Kind: PageView, Time: 5}, cal)
	require.Equal(t, Applied, outcome)
	require.True(t, rec.Exists())
	require.Equal(t, Lifetime{Events: 1, PageViews: 1, LastEvent: 5, LastPageView: 5}, rec.Lifetime())
	require.True(t, rec.HasEvent(4))
}

// TestTooLate holds what purchases do whose days are not kept: they are never in a feature,
// and a new shopping day only before all others.
func TestTooLate(t *testing.T) {
	cal := NewCalendar(time.UTC)
	var rec Record
	id := uint64(0)
	buy := func(day, spend int64) Outcome {
		id++
		var outcome Outcome
		rec, outcome = Apply(rec, &Event{ID: id, Kind: Purchase, Time: day*dayMillis + hour, Spend: spend}, cal)
		require.NoError(t, rec.Validate())
		return outcome
	}
	for i := range int64(12) {
		require.Equal(t, Applied, buy(1000+20*i, 100)) // 1000, 1020 ... 1220; kept are those from 1040 on
	}
	var before, after Features
	rec.Features(1220*dayMillis+hour, cal, &before)
	for _, c := range []struct {
		day, spend int64
		want       Outcome
		days       uint64
		first      int32
		firstSpend int64
	}{
		{1020, 1, TooLate, 12, 1000, 100},
		{1030, 1, TooLate, 12, 1000, 100},
		{1000, 7, TooLate, 12, 1000, 107},
		{990, 5, TooLate, 13, 990, 5},
		{990, 6, TooLate, 13, 990, 11},
		{995, 1, TooLate, 13, 990, 11},
		{1040, 1, Applied, 13, 990, 11},
		{1041, 1, Applied, 14, 990, 11}, // drops 1040
		{1040, 1, TooLate, 14, 990, 11},
	} {
		require.Equal(t, c.want, buy(c.day, c.spend), "day %d", c.day)
		l := rec.Lifetime()
		require.Equal(t, []any{c.days, c.first, c.firstSpend}, []any{l.ShoppingDays, l.FirstShoppingDay, l.FirstDaySpend}, "day %d", c.day)
		if c.want == TooLate && c.day < 1040 {
			rec.Features(1220*dayMillis+hour, cal, &after)
			require.Equal(t, before, after)
		}
	}
	require.Equal(t, uint64(7), rec.Lifetime().TooLate)
	require.Equal(t, int64(1200+24), rec.Lifetime().Spend)
}

// TestSums holds that sums end instead of wrapping.
func TestSums(t *testing.T) {
	cal := NewCalendar(time.UTC)
	var rec Record
	for i := range uint64(400) {
		ev := Event{ID: i + 1, Kind: Purchase, Time: benchStart + int64(i/4)*dayMillis, Spend: math.MaxInt64, Discount: math.MaxInt64, Items: math.MaxUint32}
		rec, _ = Apply(rec, &ev, cal)
	}
	require.NoError(t, rec.Validate())
	l := rec.Lifetime()
	require.Equal(t, []int64{math.MaxInt64, math.MaxInt64, math.MaxInt64}, []int64{l.Spend, l.Discount, l.FirstDaySpend})
	var f Features
	rec.Features(l.LastEvent, cal, &f)
	require.InDelta(t, math.Log(84*float64(maxTileMoney)/10_000), f[LogSpend84], 1e-9)
	require.InDelta(t, 0.5, f[DiscountShare84], 0)

	for i := range uint64(200) {
		rec, _ = Apply(rec, &Event{ID: i + 1000, Kind: Refund, Time: l.LastEvent, Spend: math.MaxInt64}, cal)
	}
	require.Equal(t, int64(math.MaxInt64), rec.Lifetime().Refunded)
	require.NoError(t, rec.Validate())
	require.Equal(t, int64(math.MinInt64), addSaturated(math.MinInt64, -1))
	require.Equal(t, int64(math.MinInt64), subSaturated(math.MinInt64, 1))
}

// TestManyDepartments goes past the bits that masks can have.
func TestManyDepartments(t *testing.T) {
	cal := NewCalendar(time.UTC)
	var rec Record
	var f Features
	for _, c := range []struct{ names, day, words, departments int }{
		{64, 0, 1, 64},
		{64, 1, 1, 64},
		{65, 2, 2, 65},
		{1024, 3, 16, 1024},
		{3000, 4, 16, 1024},
		{3, 200, 16, 3},
	} {
		ev := Event{ID: uint64(c.names + c.day), Kind: Purchase, Time: benchStart + int64(c.day)*dayMillis}
		for i := range c.names {
			ev.Departments = append(ev.Departments, Department(fmt.Sprint(i)))
		}
		rec, _ = Apply(rec, &ev, cal)
		require.NoError(t, rec.Validate())
		rec.Features(ev.Time, cal, &f)
		require.Equal(t, c.words, rec.head().u8(hWords), "%+v", c)
		require.InDelta(t, float64(c.departments), f[Departments28], 0, "%+v", c)
	}
}

func TestProfileLimits(t *testing.T) {
	cal := NewCalendar(time.UTC)
	var rec Record
	id := uint64(0)
	set := func(as ...Attribute) {
		id++
		rec, _ = Apply(rec, &Event{ID: id, Kind: Profile, Attributes: as}, cal)
		require.NoError(t, rec.Validate())
	}
	var many []Attribute
	for i := range 70 {
		many = append(many, Attribute{fmt.Sprintf("k%02d", i), "v"})
	}
	set(many...)
	require.Equal(t, many[:messages.MaxAttributes], rec.Attributes(), "the first in order find room")
	set(Attribute{"a", "new"}, Attribute{"k03", "changed"})
	require.Equal(t, Attribute{"k03", "changed"}, rec.Attributes()[3], "a known one is changed, a new one has no room")
	set(Attribute{"a", "new"}, Attribute{"k03", ""})
	require.Equal(t, Attribute{"a", "new"}, rec.Attributes()[0], "one removed makes room")
	require.Len(t, rec.Attributes(), messages.MaxAttributes)
	for i := range many {
		many[i].Value = ""
	}
	set(append([]Attribute{{"a", ""}}, many...)...)
	require.Empty(t, rec.Attributes())
	require.Len(t, []byte(rec), rec.head().profileAt(), "an empty profile takes no bytes")
	set(Attribute{strings.Repeat("k", 300), strings.Repeat("v", 300)}, Attribute{"", "nameless"})
	require.Equal(t, []Attribute{{strings.Repeat("k", 64), strings.Repeat("v", 256)}}, rec.Attributes())
}

func TestNames(t *testing.T) {
	require.Equal(t, "page_view", PageView.String())
	require.Equal(t, "unknown", Kind(0).String())
	require.Equal(t, "unknown", Kind(99).String())
	require.Equal(t, []string{"applied", "duplicate", "too_late", "unknown"},
		[]string{Applied.String(), Duplicate.String(), TooLate.String(), Outcome(0).String()})
}

// TestSize holds what a customer with twenty baskets in a year takes.
func TestSize(t *testing.T) {
	cal := NewCalendar(time.UTC)
	var rec Record
	var flat Event
	for i := range 20 {
		require.NoError(t, Flatten(benchEvent(i, 20), &flat))
		rec, _ = Apply(rec, &flat, cal)
	}
	require.LessOrEqual(t, len(rec), 800)
}
