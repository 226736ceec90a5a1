package behavior

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

const (
	dayMillis = 86_400_000
	// Instants outside of the years 1 to 9999 count as the nearest one inside.
	minMillis = -62_135_596_800_000
	maxMillis = 253_402_300_799_999
	minDay    = minMillis/dayMillis - 2
	maxDay    = maxMillis/dayMillis + 2
	// The table of a calendar covers 1970 to 2200, all that the validator of events lets pass.
	tableEnd = 7_289_654_400_000
	// hintShift makes the table's buckets 99 days long: hardly a zone changes more often.
	hintShift = 33
	// No zone changes its offset off the quarter of an hour in a year without listed transitions.
	minStep = 900_000
	isoDate = "2006-01-02"
)

// Calendar maps instants to the calendar days of one time zone. It is immutable: any number
// of goroutines may share one. A day is a number, days since 1970-01-01.
//
// Clocks that go back at midnight make a zone return to a day that had ended, and some zones
// have skipped a day; so days need not follow each other in time, and EndOfDay says what the
// end of a day is.
type Calendar struct {
	loc *time.Location
	// spans are the zone's offsets since 1970, neighbours differ.
	spans []span
	// hint[i] is the span at the instant i<<hintShift.
	hint [tableEnd>>hintShift + 1]uint16
	sum  string
}

// span is a time in which the offset of a zone does not change.
type span struct {
	until  int64 // its end, Unix milliseconds
	offset int64 // local time minus UTC, milliseconds
}

// NewCalendar makes the calendar of a zone.
func NewCalendar(loc *time.Location) *Calendar {
	c := &Calendar{loc: loc}
	digest := sha256.New()
	var b [16]byte
	for from := int64(0); from < tableEnd; {
		t := time.UnixMilli(from).In(loc)
		_, offset := t.Zone()
		until := int64(tableEnd)
		if _, end := t.ZoneBounds(); !end.IsZero() {
			// Past the zone's listed transitions the end of a year may be given as an end that is not
			// after its beginning: go on in small steps then. Equal neighbours are joined below.
			until = min(max(end.UnixMilli(), from+minStep), tableEnd)
		}
		if n := len(c.spans); n > 0 && c.spans[n-1].offset == int64(offset)*1000 {
			c.spans[n-1].until = until
		} else {
			c.spans = append(c.spans, span{until, int64(offset) * 1000})
			binary.LittleEndian.PutUint64(b[:8], uint64(from))
			binary.LittleEndian.PutUint64(b[8:], uint64(offset))
			digest.Write(b[:])
		}
		// On the last day of some years ZoneBounds gives the instant it was asked for: step over it.
		from = max(until, from+dayMillis/24)
	}
	i := 0
	for k := range c.hint {
		for int64(k)<<hintShift >= c.spans[i].until && i < len(c.spans)-1 {
			i++
		}
		c.hint[k] = uint16(i)
	}
	c.sum = hex.EncodeToString(digest.Sum(nil)[:16])
	return c
}

// Location is the zone.
func (c *Calendar) Location() *time.Location { return c.loc }

// Fingerprint is a digest of the zone's offsets from 1970 to 2200. Two calendars with the same
// one give the same days.
func (c *Calendar) Fingerprint() string { return c.sum }

// Day is the calendar day of an instant in Unix milliseconds.
func (c *Calendar) Day(ms int64) int32 {
	if uint64(ms) >= tableEnd {
		return c.farDay(ms)
	}
	i := c.hint[ms>>hintShift]
	for ms >= c.spans[i].until {
		i++
	}
	return localDay(ms + c.spans[i].offset)
}

// localDay is the day of a local time, floored; no offset reaches two days before 1970.
func localDay(local int64) int32 {
	return int32(uint64(local+2*dayMillis)/dayMillis) - 2
}

// farDay is Day for the instants outside of the table.
func (c *Calendar) farDay(ms int64) int32 {
	ms = clampMillis(ms)
	_, offset := time.UnixMilli(ms).In(c.loc).Zone()
	local := ms + int64(offset)*1000
	day := local / dayMillis
	if local < day*dayMillis {
		day--
	}
	return int32(day)
}

// DayOf is the calendar day of t.
func (c *Calendar) DayOf(t time.Time) int32 { return c.Day(t.UnixMilli()) }

// EndOfDay is the first instant after the day: from it on, no instant belongs to the day or
// to one before it. A day that the zone skipped ends with the day before it.
func (c *Calendar) EndOfDay(day int32) time.Time {
	midnight := (int64(day) + 1) * dayMillis // in local time
	if day < 0 || midnight > tableEnd-2*dayMillis {
		return time.Date(1970, time.January, 2+int(day), 0, 0, 0, 0, c.loc)
	}
	// The last instant whose local time is before midnight, in the last span that has one.
	i := int(c.hint[(midnight+2*dayMillis)>>hintShift])
	for i+1 < len(c.spans) && midnight+2*dayMillis >= c.spans[i].until {
		i++
	}
	for ; i > 0; i-- {
		if end := min(midnight-c.spans[i].offset, c.spans[i].until); end > c.spans[i-1].until {
			return time.UnixMilli(end).In(c.loc)
		}
	}
	return time.UnixMilli(min(midnight-c.spans[0].offset, c.spans[0].until)).In(c.loc)
}

// LastMilli is the last millisecond of a day: the instant t of a snapshot at its end, at which
// day(t) is still the day.
func (c *Calendar) LastMilli(day int32) int64 { return c.EndOfDay(day).UnixMilli() - 1 }

// ParseDate reads an ISO 8601 date, "2017-01-31".
func ParseDate(s string) (int32, error) {
	t, err := time.Parse(isoDate, s)
	if err != nil || t.Year() < 1 {
		return 0, fmt.Errorf("%q is not a date such as 2017-01-31", s)
	}
	return int32(t.Unix() / (dayMillis / 1000)), nil
}

// FormatDate writes a day as an ISO 8601 date.
func FormatDate(day int32) string {
	return time.Unix(int64(day)*(dayMillis/1000), 0).UTC().Format(isoDate)
}

func clampMillis(ms int64) int64 { return max(minMillis, min(ms, maxMillis)) }
