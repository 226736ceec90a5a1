package datasets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"time"

	"footfall/behavior"
	"footfall/messages/footfallv1"
)

// Options say how to open a data set. The zero value will do.
type Options struct {
	// Cache is the folder for downloads and converted files; empty means $FOOTFALL_CACHE, and
	// without that .cache below the working directory.
	Cache string
	// Python is the interpreter whose pip downloads; empty means $FOOTFALL_PYTHON, the one of
	// .venv below the working directory, or the one on PATH, whichever has pip.
	Python string
	// Progress is given what pip reports while it downloads; nil discards it.
	Progress io.Writer

	// ShiftTo, unless zero, moves the history by whole weeks so that it ends in the seven days
	// before the day of ShiftTo.
	ShiftTo time.Time
	// ShiftDays moves the history by so many days, a multiple of 7, where ShiftTo is zero. Give
	// the Shift of a data set that was read before to go on with it.
	ShiftDays int

	// Location is the time zone of a file or of made-up customers; nil means UTC. The real data
	// sets have their own.
	Location *time.Location
	// Currency is that of a file or of made-up customers; empty means USD.
	Currency string
}

// Dataset is an ordered stream of events. It is immutable: any number of goroutines may read it.
type Dataset struct {
	// Name is completejourney, cdnow, cdnow-sample, synthetic, or the path of a file.
	Name string
	// Digest identifies the data: the SHA-256, in hex, of the file that they come from, or of the
	// parameters that they are made from.
	Digest string
	// Producer is the producer of every event that does not name one itself; the event's sequence
	// is then its place in the stream, from 1.
	Producer string
	// Location is the time zone of the retailer, Currency its currency.
	Location *time.Location
	Currency string
	// FirstDay and LastDay are the calendar days of the first and the last event, as shifted. They
	// count as behavior.Calendar does.
	FirstDay, LastDay int32
	// Shift is by how many days the history is moved.
	//
	// Producer tells apart a history that is moved from one that is not, but not by how much: the
	// same history read again in another week, into a system that has it already, is taken for what
	// it is, duplicates, rather than for a second life of the same customers with the same event IDs.
	// To go on with a reading that was interrupted in another week, give its Shift as ShiftDays.
	Shift int
	// Total is the number of events; Customers that of customers, 0 where it is not known; Kinds
	// counts the events of each kind, nil where that is not known.
	Total     int64
	Customers int64
	Kinds     map[string]int64
	// RejectedTotal is how many rows of a file were no events, and Rejected has the first 1,000.
	RejectedTotal int64
	Rejected      []*RowError

	events func(ctx context.Context) iter.Seq2[*footfallv1.Event, error]
}

// RowError says which row of a file is no event, and why.
type RowError struct {
	// Row counts from 1: the lines of NDJSON, the elements of an array.
	Row    int64  `json:"row"`
	Field  string `json:"field,omitempty"`
	Reason string `json:"reason"`
}

func (e *RowError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("row %d: %s", e.Row, e.Reason)
	}
	return fmt.Sprintf("row %d: %s: %s", e.Row, e.Field, e.Reason)
}

// ErrUnknown says that there is no data set of a name, nor a file.
var ErrUnknown = errors.New("is neither a file nor one of completejourney, cdnow, cdnow-sample, synthetic")

// Open finds a data set by its name, or a file by its path, downloads and converts what is not in
// the cache yet, and returns it. Made-up customers may be given parameters:
// "synthetic?customers=1000&events=100000"; see [Synthetic].
func Open(ctx context.Context, name string, opt Options) (*Dataset, error) {
	if opt.ShiftDays%7 != 0 {
		return nil, fmt.Errorf("a history moves by whole weeks, and %d days are none", opt.ShiftDays)
	}
	var d *Dataset
	var err error
	switch {
	case name == "completejourney":
		d, err = openCompleteJourney(ctx, opt)
	case name == "cdnow" || name == "cdnow-sample":
		d, err = openCDNOW(ctx, name, opt)
	case name == "synthetic" || strings.HasPrefix(name, "synthetic?"):
		d, err = openSynthetic(name, opt)
	default:
		if _, statErr := os.Stat(name); errors.Is(statErr, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s %w", name, ErrUnknown)
		}
		d, err = openFile(ctx, name, opt)
	}
	if err != nil {
		return nil, err
	}
	if d.Total == 0 {
		return nil, fmt.Errorf("%s holds no event%s", name, firstReject(d))
	}
	d.Shift = opt.ShiftDays
	if !opt.ShiftTo.IsZero() {
		d.Shift = shiftDays(d.LastDay, behavior.NewCalendar(d.Location).DayOf(opt.ShiftTo))
	}
	if d.Shift != 0 {
		d.FirstDay += int32(d.Shift)
		d.LastDay += int32(d.Shift)
		d.Producer += "-shifted"
	}
	return d, nil
}

func firstReject(d *Dataset) string {
	if len(d.Rejected) == 0 {
		return ""
	}
	return fmt.Sprintf("; %d rows are faulty: %v", d.RejectedTotal, d.Rejected[0])
}

// ofHistory is the part of a data set that comes from its history file.
func ofHistory(h *history, loc *time.Location) *Dataset {
	cal := behavior.NewCalendar(loc)
	return &Dataset{
		Location:      loc,
		FirstDay:      cal.DayOf(h.meta.First),
		LastDay:       cal.DayOf(h.meta.Last),
		Total:         h.meta.Events,
		Customers:     h.meta.Customers,
		Kinds:         h.meta.Kinds,
		RejectedTotal: h.meta.Rejected,
		Rejected:      h.meta.Rejects,
		events:        h.Events,
	}
}

// Events yields every event in order of time, the same at every reading. Each belongs to whoever
// gets it. An error ends the stream; there is none but for a broken cache, and for ctx.
func (d *Dataset) Events(ctx context.Context) iter.Seq2[*footfallv1.Event, error] {
	return func(yield func(*footfallv1.Event, error) bool) {
		shift := shifter{loc: d.Location, days: d.Shift}
		row := uint64(0)
		for ev, err := range d.events(ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			row++
			if ev.Producer == "" && ev.Sequence == 0 {
				ev.Producer, ev.Sequence = d.Producer, row
			}
			shift.apply(ev)
			if !yield(ev, nil) {
				return
			}
		}
	}
}

// Step is an event, or where Event is nil the end of a day.
type Step struct {
	Event *footfallv1.Event
	// Day is the calendar day of the event, or the one that ends.
	Day int32
}

// Steps yields every event, and after the last event of each calendar day the end of the day; also
// the ends of the days without events between the first and the last.
func (d *Dataset) Steps(ctx context.Context) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		cal := behavior.NewCalendar(d.Location)
		today := d.FirstDay
		for ev, err := range d.Events(ctx) {
			if err != nil {
				yield(Step{}, err)
				return
			}
			day := cal.Day(ev.Time.Seconds*1000 + int64(ev.Time.Nanos)/1e6)
			for ; today < day; today++ {
				if !yield(Step{Day: today}, nil) {
					return
				}
			}
			if !yield(Step{Event: ev, Day: day}, nil) {
				return
			}
		}
		for ; today <= d.LastDay; today++ {
			if !yield(Step{Day: today}, nil) {
				return
			}
		}
	}
}
