package datasets

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages/footfallv1"
)

// shiftDays is by how many days, a multiple of seven, a history whose last day is last must move so
// that it ends in the seven days before the day of now: yesterday at the latest, since a day that is
// not over could hold events of the future.
func shiftDays(last, today int32) int {
	days := int(today) - 1 - int(last)
	if days < 0 {
		return (days - 6) / 7 * 7
	}
	return days / 7 * 7
}

// shifter moves times by whole days in local time. A time that does not exist on its new day, in the
// hour that daylight saving skips, moves on by that hour; and where an hour that came twice would
// fall back on itself, times stand still, so that the order of events stays.
type shifter struct {
	loc    *time.Location
	days   int
	latest time.Time
}

func (s *shifter) move(t *timestamppb.Timestamp) time.Time {
	l := t.AsTime().In(s.loc)
	return time.Date(l.Year(), l.Month(), l.Day()+s.days, l.Hour(), l.Minute(), l.Second(), l.Nanosecond(), s.loc)
}

func (s *shifter) apply(ev *footfallv1.Event) {
	if s.days == 0 {
		return
	}
	if t := s.move(ev.Time); t.After(s.latest) {
		s.latest = t
	}
	ev.Time = timestamppb.New(s.latest)
	if c := ev.GetCampaignReceived(); c.GetEnds() != nil {
		c.Ends = timestamppb.New(s.move(c.Ends))
	}
}
