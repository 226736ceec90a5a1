package replay

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"footfall/behavior"
	"footfall/messages/footfallv1"
)

// Source is a history to replay.
type Source struct {
	// Location is the time zone by which days end.
	Location *time.Location
	// Events are in order of day; an error ends them. Each names a producer, and a sequence that
	// grows, the same at every reading: what a shard has seen is not applied again.
	Events iter.Seq2[*footfallv1.Event, error]
}

// Node is what Run needs of a node's gRPC API.
type Node interface {
	footfallv1.IngestServiceClient
	footfallv1.AdminServiceClient
}

// Options of [Run]. The zero value replays everything as fast as possible and leaves the
// clock as it is.
type Options struct {
	// Speed is how much faster than it happened; 0 is as fast as possible.
	Speed float64
	// Until is the last day that is replayed, days since 1970-01-01; 0 is the last there is.
	Until int32
	// Then is the clock's mode once the history has ended; unspecified leaves it.
	Then footfallv1.ClockMode
	// Patience is how long the node may be away; 0 is DefaultPatience.
	Patience time.Duration

	// Progress is told now and then how far the replay is, from Run's own goroutine.
	Progress func(Progress)
	// DayEnded is called once a day's events are acknowledged and its tick is in the log.
	DayEnded func(ctx context.Context, day int32) error
}

// Progress is how far a replay is.
type Progress struct {
	// Rows counts the events read, Day is the day they have reached.
	Rows uint64
	Day  int32
	Counts
}

// Report is what a replay did. It is also given beside an error.
type Report struct {
	Counts
	// First and Last are the first and last day replayed, days since 1970-01-01.
	First, Last int32
	// Ticks counts the days that this replay has ended; days that had ended before are not in it.
	Ticks int
	// Clock is the node's mode when the replay began. Under a wall clock no tick is sent.
	Clock   footfallv1.ClockMode
	Elapsed time.Duration
	// Reasons counts rejected events by field and reason, the rarer ones of very many together
	// as "other". FirstRejected is the first of them.
	Reasons       map[string]uint64
	FirstRejected *Rejection
}

// maxReasons bounds Report.Reasons.
const maxReasons = 20

// progressEvery is how many events pass between two calls of Progress.
const progressEvery = 256

// Run replays a history into a node.
func Run(ctx context.Context, node Node, src Source, o Options) (*Report, error) {
	r := &run{node: node, src: src, o: o, report: &Report{Reasons: make(map[string]uint64)}}
	if r.o.Patience <= 0 {
		r.o.Patience = DefaultPatience
	}
	began := time.Now()
	err := r.all(ctx)
	r.report.Elapsed = time.Since(began)
	if r.publisher != nil {
		r.publisher.Close()
		r.report.Counts = r.publisher.Counts()
	}
	return r.report, err
}

type run struct {
	node      Node
	src       Source
	o         Options
	report    *Report
	publisher *Publisher
	cal       *behavior.Calendar
	driven    bool
	// ticked is the last day that has ended in the node; any is false before the first.
	ticked int32
	any    bool
}

func (r *run) all(ctx context.Context) error {
	shards, err := r.begin(ctx)
	if err != nil {
		return err
	}
	r.publisher = NewPublisher(ctx, r.node, PublisherOptions{Shards: shards, Patience: r.o.Patience, Rejected: r.rejected})

	// day is the one being replayed, last the one to end after the events.
	var day, last int32
	var pace pacer
	for ev, err := range r.src.Events {
		if err != nil {
			return err
		}
		at := ev.GetTime().AsTime()
		d := r.cal.Day(at.UnixMilli())
		if r.o.Until != 0 && d > r.o.Until {
			last = r.o.Until
			break
		}
		switch {
		case r.publisher.Rows() == 0:
			r.report.First, r.report.Last, day = d, d, d
			pace = newPacer(r.o.Speed, at)
			if err := r.catchUp(ctx, d-1); err != nil {
				return err
			}
		case d < day:
			return fmt.Errorf("event %d (%s) is of %s, but that day has ended: sort the events by time",
				r.publisher.Rows()+1, ev.GetEventId(), behavior.FormatDate(d))
		}
		for ; day < d; day++ {
			if err := r.endDay(ctx, day); err != nil {
				return err
			}
		}
		if err := pace.wait(ctx, at, r.publisher.Send); err != nil {
			return err
		}
		if err := r.publisher.Add(ev); err != nil {
			return err
		}
		last, r.report.Last = d, d
		if r.publisher.Rows()%progressEvery == 0 {
			r.progress(d)
		}
	}
	if r.publisher.Rows() == 0 {
		return errors.New("the history holds no event to replay")
	}
	for ; day <= last; day++ {
		if err := r.endDay(ctx, day); err != nil {
			return err
		}
	}
	return r.then(ctx)
}

// begin waits until the node answers and learns what its days are.
func (r *run) begin(ctx context.Context) (shards int, err error) {
	var cluster *footfallv1.Cluster
	err = Retry(ctx, r.o.Patience, func(ctx context.Context) (err error) {
		cluster, err = r.node.GetCluster(ctx, &footfallv1.GetClusterRequest{})
		return err
	})
	if err != nil {
		return 0, err
	}
	r.report.Clock = cluster.GetClock()
	r.driven = cluster.GetClock() == footfallv1.ClockMode_CLOCK_MODE_DRIVEN
	if cluster.GetLastTick() != "" {
		if r.ticked, err = behavior.ParseDate(cluster.GetLastTick()); err != nil {
			return 0, fmt.Errorf("the node's last tick %q is no date: is it of another version?", cluster.GetLastTick())
		}
		r.any = true
	}
	// Days are the cluster's: its ticks end them.
	loc := r.src.Location
	if name := cluster.GetTimezone(); name != "" && name != loc.String() {
		if loc, err = time.LoadLocation(name); err != nil {
			return 0, fmt.Errorf("the node's time zone %q is not known here: %w", name, err)
		}
	}
	r.cal = behavior.NewCalendar(loc)
	return int(cluster.GetShards()), nil
}

// catchUp ends the days up to the one before the history begins, at once, where the node has
// ended days before: it would take the history's events for events of the future.
func (r *run) catchUp(ctx context.Context, day int32) error {
	if !r.driven || !r.any || r.ticked >= day {
		return nil
	}
	return r.tick(ctx, day)
}

func (r *run) endDay(ctx context.Context, day int32) error {
	if err := r.publisher.Flush(); err != nil {
		return err
	}
	if r.driven && (!r.any || r.ticked < day) {
		if err := r.tick(ctx, day); err != nil {
			return err
		}
		r.report.Ticks++
	}
	r.progress(day)
	if r.o.DayEnded == nil {
		return nil
	}
	return r.o.DayEnded(ctx, day)
}

func (r *run) tick(ctx context.Context, day int32) error {
	date := behavior.FormatDate(day)
	err := Retry(ctx, r.o.Patience, func(ctx context.Context) error {
		_, err := r.node.Tick(ctx, &footfallv1.TickRequest{Date: date})
		return err
	})
	if err != nil {
		return fmt.Errorf("end %s: %w", date, err)
	}
	r.ticked, r.any = day, true
	return nil
}

func (r *run) then(ctx context.Context) error {
	if r.o.Then == footfallv1.ClockMode_CLOCK_MODE_UNSPECIFIED {
		return nil
	}
	return Retry(ctx, r.o.Patience, func(ctx context.Context) error {
		_, err := r.node.SetClock(ctx, &footfallv1.SetClockRequest{Mode: r.o.Then})
		return err
	})
}

func (r *run) progress(day int32) {
	if r.o.Progress != nil {
		r.o.Progress(Progress{Rows: r.publisher.Rows(), Day: day, Counts: r.publisher.Counts()})
	}
}

func (r *run) rejected(x Rejection) {
	if r.report.FirstRejected == nil || x.Row < r.report.FirstRejected.Row {
		r.report.FirstRejected = &x
	}
	key := x.Field + ": " + x.Reason
	if _, known := r.report.Reasons[key]; !known && len(r.report.Reasons) >= maxReasons {
		key = "other"
	}
	r.report.Reasons[key]++
}

// pacer holds events back until their time has come.
type pacer struct {
	speed float64
	began time.Time
	first time.Time
}

func newPacer(speed float64, first time.Time) pacer { return pacer{speed, time.Now(), first} }

// wait returns once an event of the time at is due. before is called where it has to wait.
func (p pacer) wait(ctx context.Context, at time.Time, before func()) error {
	if p.speed <= 0 {
		return nil
	}
	due := p.began.Add(time.Duration(float64(at.Sub(p.first)) / p.speed))
	d := time.Until(due)
	if d <= 0 {
		return nil
	}
	before()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
