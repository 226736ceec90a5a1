package behavior

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Zones with what makes days hard: offsets of quarter hours, clocks that change at midnight or
// a minute past it, half-hour summer times, a day that was skipped.
var hardZones = []string{
	"UTC", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kiritimati",
	"America/St_Johns", "America/Sao_Paulo", "America/Havana", "Africa/Casablanca", "Asia/Gaza", "America/Scoresbysund", "Antarctica/Troll",
}

// TestCalendarDay compares days with those of package time, near transitions above all.
func TestCalendarDay(t *testing.T) {
	for _, name := range hardZones {
		t.Run(name, func(t *testing.T) {
			loc := zone(t, name)
			cal, o := NewCalendar(loc), newOracle(loc)
			rapid.Check(t, func(t *rapid.T) {
				ms := rapid.OneOf(
					rapid.Int64Range(minMillis+2*dayMillis, maxMillis-2*dayMillis),
					rapid.Int64Range(0, tableEnd),
					rapid.Custom(func(t *rapid.T) int64 {
						s := cal.spans[rapid.IntRange(0, len(cal.spans)-1).Draw(t, "span")]
						return s.until + rapid.Int64Range(-2*hour, 2*hour).Draw(t, "off")
					}),
					rapid.Custom(func(t *rapid.T) int64 {
						return rapid.Int64Range(-10, 90_000).Draw(t, "day")*dayMillis + rapid.Int64Range(-15*4, 15*4).Draw(t, "quarter")*900_000
					}),
				).Draw(t, "ms")
				require.Equal(t, o.day(ms), cal.Day(ms))
				require.Equal(t, cal.Day(ms), cal.DayOf(time.UnixMilli(ms)))
			})
		})
	}
	cal := NewCalendar(time.UTC)
	require.Equal(t, cal.Day(minMillis), cal.Day(-1<<63))
	require.Equal(t, cal.Day(maxMillis), cal.Day(1<<63-1))
}

// TestEndOfDay looks minute by minute whether a day comes back after its end, and at the ends
// that zones are known to have.
func TestEndOfDay(t *testing.T) {
	for _, name := range hardZones {
		t.Run(name, func(t *testing.T) {
			cal := NewCalendar(zone(t, name))
			rapid.Check(t, func(t *rapid.T) {
				day := rapid.Int32Range(0, 60_000).Draw(t, "day")
				if len(cal.spans) > 1 && rapid.Bool().Draw(t, "at a transition") {
					day = cal.Day(cal.spans[rapid.IntRange(0, len(cal.spans)-2).Draw(t, "span")].until) + rapid.Int32Range(-2, 2).Draw(t, "off")
				}
				end := cal.EndOfDay(day).UnixMilli()
				require.Greater(t, cal.Day(end), day)
				require.LessOrEqual(t, cal.Day(end-1), day)
				require.Equal(t, end-1, cal.LastMilli(day))
				for ms := end; ms < end+2*dayMillis; ms += 60_000 {
					if cal.Day(ms) <= day {
						t.Fatalf("day %d ends at %d, but %d belongs to it", day, end, ms)
					}
				}
			})
		})
	}
	for _, c := range []struct{ zone, day, end string }{
		{"UTC", "2017-01-31", "2017-02-01T00:00:00Z"},
		{"America/New_York", "2017-03-11", "2017-03-12T05:00:00Z"},
		{"America/New_York", "2017-03-12", "2017-03-13T04:00:00Z"},  // 23 hours
		{"America/New_York", "2017-11-05", "2017-11-06T05:00:00Z"},  // 25 hours
		{"America/Sao_Paulo", "2017-10-14", "2017-10-15T03:00:00Z"}, // the next day begins at 01:00
		{"America/Sao_Paulo", "2018-02-17", "2018-02-18T03:00:00Z"}, // 23:00 to 24:00 twice
		{"America/St_Johns", "2010-11-06", "2010-11-07T03:30:00Z"},  // at 00:01 back to 23:01
		{"Pacific/Apia", "2011-12-29", "2011-12-30T10:00:00Z"},
		{"Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z"}, // never was
		{"UTC", "1969-12-31", "1970-01-01T00:00:00Z"},
		{"UTC", "1901-05-01", "1901-05-02T00:00:00Z"},
		{"America/New_York", "2300-07-01", "2300-07-02T04:00:00Z"},
	} {
		day, err := ParseDate(c.day)
		require.NoError(t, err)
		end := NewCalendar(zone(t, c.zone)).EndOfDay(day)
		require.Equal(t, c.end, end.UTC().Format(time.RFC3339), "%s in %s", c.day, c.zone)
	}
}

func TestDates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		day := rapid.Int32Range(-719162, 2932896).Draw(t, "day")
		back, err := ParseDate(FormatDate(day))
		require.NoError(t, err)
		require.Equal(t, day, back)
	})
	day, err := ParseDate("2017-01-01")
	require.NoError(t, err)
	require.Equal(t, int32(17167), day)
	require.Equal(t, "1969-12-31", FormatDate(-1))
	for _, s := range []string{"", "2017-02-29", "2017-1-1", "20170101", "2017-01-01T00:00:00Z", "0000-01-01"} {
		_, err := ParseDate(s)
		require.ErrorContains(t, err, "is not a date", s)
	}
}

func TestFingerprint(t *testing.T) {
	sum := func(name string) string { return NewCalendar(zone(t, name)).Fingerprint() }
	require.Equal(t, sum("America/New_York"), sum("US/Eastern"), "an alias is the same zone")
	require.NotEqual(t, sum("America/New_York"), sum("America/Toronto"))
	require.Equal(t, NewCalendar(time.UTC).Fingerprint(), NewCalendar(time.FixedZone("here", 0)).Fingerprint())
	require.NotEqual(t, NewCalendar(time.UTC).Fingerprint(), NewCalendar(time.FixedZone("here", 60)).Fingerprint())
}
