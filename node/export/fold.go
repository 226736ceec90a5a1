package export

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Source is a history to fold.
type Source struct {
	// Name and Digest say what it is: "completejourney", and a digest of its content.
	Name, Digest string
	Location     *time.Location
	Currency     string
	// Events are in order of time; an error ends them.
	Events iter.Seq2[*footfallv1.Event, error]
}

// Fold folds a history in one thread and without shards. It holds one record per customer.
type Fold struct {
	cal       *behavior.Calendar
	validator messages.Validator
	records   map[string]*behavior.Record
	event     behavior.Event
	rows      uint64
}

// NewFold begins with nothing known of anyone.
func NewFold(loc *time.Location, currency string) *Fold {
	return &Fold{
		cal:       behavior.NewCalendar(loc),
		validator: messages.Validator{Currency: currency},
		records:   make(map[string]*behavior.Record),
	}
}

// Calendar is the one that the fold counts days by.
func (f *Fold) Calendar() *behavior.Calendar { return f.cal }

// Apply folds one event. An event that breaks a rule is an error that names its row: training
// data must not silently lack what serving would refuse.
func (f *Fold) Apply(ev *footfallv1.Event) error {
	f.rows++
	if fault := f.validator.Validate(ev); fault != nil {
		return fmt.Errorf("event %d (%s of customer %s): %w", f.rows, ev.GetEventId(), ev.GetCustomerId(), fault)
	}
	if err := behavior.Flatten(ev, &f.event); err != nil {
		return fmt.Errorf("event %d (%s of customer %s): %w", f.rows, ev.GetEventId(), ev.GetCustomerId(), err)
	}
	rec := f.records[ev.CustomerId]
	if rec == nil {
		rec = new(behavior.Record)
		// The event's strings may share the memory of many others.
		f.records[strings.Clone(ev.CustomerId)] = rec
	}
	*rec, _ = behavior.Apply(*rec, &f.event, f.cal)
	return nil
}

// Customers yields every customer of whom something is known, in order of ID.
func (f *Fold) Customers() iter.Seq2[string, behavior.Record] {
	return func(yield func(string, behavior.Record) bool) {
		for _, id := range slices.Sorted(maps.Keys(f.records)) {
			if rec := *f.records[id]; rec.Exists() && !yield(id, rec) {
				return
			}
		}
	}
}

// Days says at the end of which days a history is looked at.
type Days struct {
	// Every is Daily or Weekly.
	Every Every
	// From and To bound the days, both included, days since 1970-01-01; 0 means the first and
	// the last day of the history.
	From, To int32
}

// Every is how often a history is looked at.
type Every uint8

// How often.
const (
	// Weekly is the end of each Sunday.
	Weekly Every = iota
	Daily
)

func (d Days) wants(day int32) bool {
	return (d.From == 0 || day >= d.From) && (d.To == 0 || day <= d.To) && (d.Every == Daily || isSunday(day))
}

// isSunday counts from 1970-01-01, a Thursday.
func isSunday(day int32) bool { return day%7 == 3 }

// Run folds all events of src and calls at for each wanted day, once all events of the day
// and none of a later one are folded. first is the day of the first event. A history that goes
// back to a day that has ended is an error.
func Run(ctx context.Context, src Source, days Days, at func(f *Fold, first, day int32) error) (*Fold, error) {
	f := NewFold(src.Location, src.Currency)
	var first, day int32
	end := func() error {
		if !days.wants(day) {
			return nil
		}
		return at(f, first, day)
	}
	for ev, err := range src.Events {
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d := f.cal.Day(ev.GetTime().AsTime().UnixMilli())
		switch {
		case f.rows == 0:
			first, day = d, d
		case d < day:
			return nil, fmt.Errorf("event %d (%s) is of %s, but that day has ended: sort the events by time",
				f.rows+1, ev.GetEventId(), behavior.FormatDate(d))
		}
		for ; day < d; day++ {
			if err := end(); err != nil {
				return nil, err
			}
		}
		if days.To != 0 && day > days.To {
			return f, nil
		}
		if err := f.Apply(ev); err != nil {
			return nil, err
		}
	}
	if f.rows == 0 {
		return nil, fmt.Errorf("%s holds no event", src.Name)
	}
	return f, end()
}
