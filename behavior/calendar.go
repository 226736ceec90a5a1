package behavior

import "time"

// Calendar maps instants to calendar days of one time zone. It is immutable: any number of
// goroutines may share one. A day is a number: days since 1970-01-01.
type Calendar struct {
	loc *time.Location
}

// NewCalendar makes the calendar of a zone.
func NewCalendar(loc *time.Location) *Calendar { return &Calendar{loc: loc} }

// Location is the zone.
func (c *Calendar) Location() *time.Location { return c.loc }

// Day is the calendar day of an instant in Unix milliseconds.
func (c *Calendar) Day(ms int64) int32 { panic("not yet") }

// DayOf is the calendar day of t.
func (c *Calendar) DayOf(t time.Time) int32 { return c.Day(t.UnixMilli()) }

// EndOfDay is the first instant after the day: from it on, no instant belongs to the day or
// one before it.
func (c *Calendar) EndOfDay(day int32) time.Time { panic("not yet") }

// LastMilli is the last millisecond of the day: the instant t of a snapshot at its end, so
// that day(t) is still the day.
func (c *Calendar) LastMilli(day int32) int64 { return c.EndOfDay(day).UnixMilli() - 1 }

// Fingerprint is a digest of the zone's offsets from 1970 to 2100.
func (c *Calendar) Fingerprint() string { panic("not yet") }

// ParseDate reads an ISO 8601 date, "2017-01-31".
func ParseDate(s string) (int32, error) { panic("not yet") }

// FormatDate writes a day as an ISO 8601 date.
func FormatDate(day int32) string { panic("not yet") }
