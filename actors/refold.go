package actors

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Bases is what a store adds that keeps base snapshots: a copy of an earlier checkpoint,
// from which the log can be folded again once its beginning has been trimmed.
type Bases interface {
	// Base returns the meta of a shard's base snapshot, nil where there is none.
	Base(ctx context.Context, shard int) (*footfallv1.CheckpointMeta, error)
	// ScanBase is Scan over the snapshot.
	ScanBase(ctx context.Context, shard int, after string, limit int) ([]messages.CustomerRecord, error)
}

// refold folds a shard's log again from its base, over a plain map.
type refold struct {
	cfg       *Config
	shard     int
	log       Log
	store     Store
	poison    map[messages.Position]string
	cal       *behavior.Calendar
	fold      *fold
	customers map[string]*behavior.Record

	// only, where set, is the one customer that is folded, and applied is told of its events.
	only    string
	applied func(at messages.Position, out behavior.Outcome, reason string, kind messages.RecordType, body []byte)
	// onTick, where set, is told of each tick.
	onTick func(day int32) error
	failed error
	// first is the offset at which this run began.
	first uint64
}

// begin takes up the base snapshot, or nothing.
func (r *refold) begin(ctx context.Context) error {
	r.cal = behavior.NewCalendar(r.cfg.Location)
	r.fold = newFold(r.shard, r.cfg, r.cal)
	r.fold.poison = r.poison
	r.customers = map[string]*behavior.Record{}
	bases, ok := r.store.(Bases)
	if !ok {
		return nil
	}
	meta, err := bases.Base(ctx, r.shard)
	if err != nil || meta == nil {
		return err
	}
	if err := r.fold.restore(meta); err != nil {
		return err
	}
	for after := ""; ; {
		chunk, err := bases.ScanBase(ctx, r.shard, after, 4*scanBytes)
		if err != nil {
			return err
		}
		if len(chunk) == 0 {
			return nil
		}
		for _, c := range chunk {
			_, rec, err := splitValue(c.ID, c.Value)
			if err != nil {
				return err
			}
			if r.only == "" || r.only == c.ID {
				own := slices.Clone(rec)
				r.customers[c.ID] = &own
			}
		}
		after = chunk[len(chunk)-1].ID
	}
}

// runAll folds up to next, as often as it takes until no event panics any more; before each
// run begin is called.
func (r *refold) runAll(ctx context.Context, next uint64, begin func()) error {
	for {
		begin()
		if again, err := r.run(ctx, next); err != nil || !again {
			return err
		}
	}
}

// run folds up to next. again is true where applying an event panicked, as it did in the
// shard: it is a dead letter in the next run.
func (r *refold) run(ctx context.Context, next uint64) (again bool, err error) {
	if err := r.begin(ctx); err != nil {
		return false, err
	}
	r.first = r.fold.next
	_, end, err := r.log.Bounds(ctx, r.shard)
	if err != nil {
		return false, err
	}
	if end < next {
		return false, &messages.LogRegressedError{Shard: r.shard, Want: next, Next: end, Reason: "the checkpoint is ahead of the log"}
	}
	reader, err := r.log.Open(ctx, r.shard, messages.Mark{Next: r.fold.next, Sum: r.fold.sum})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	defer func() {
		if p := recover(); p != nil {
			r.poison[r.fold.at] = fmt.Sprintf("the fold panicked: %v", p)
			again = true
		}
	}()
	var batch messages.RecordBatch
	for r.fold.next < next {
		if err := reader.Next(ctx, &batch); err != nil {
			return false, err
		}
		for i := range batch.Records {
			if r.fold.next == next {
				break
			}
			if err := errors.Join(r.fold.record(&batch.Records[i], r), r.failed); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

func (r *refold) near([]string) {}

func (r *refold) apply(id string, ev *behavior.Event, at messages.Position, _ int) behavior.Outcome {
	if r.only != "" && r.only != id {
		return behavior.Applied
	}
	rec := r.customers[id]
	if rec == nil {
		rec = new(behavior.Record)
		r.customers[cloneString(id)] = rec
	}
	var out behavior.Outcome
	*rec, out = behavior.Apply(*rec, ev, r.cal)
	if r.applied != nil {
		r.applied(at, out, "", r.fold.kind, r.fold.raw)
	}
	return out
}

func (r *refold) passed(id string) {
	if r.applied != nil && id == r.only {
		r.applied(r.fold.at, behavior.Duplicate, "", r.fold.kind, r.fold.raw)
	}
}

func (r *refold) dead(d messages.DeadLetter) {
	if r.applied != nil && d.CustomerID == r.only {
		fault := messages.Fault{Field: d.Field, Reason: d.Reason}
		r.applied(d.Position, 0, fault.Error(), d.Type, d.Body)
	}
}

func (r *refold) tickedDay(day int32) {
	if r.onTick != nil && r.failed == nil {
		r.failed = r.onTick(day)
	}
}

func (r *refold) epochRead(uint64, uint64) {}

// Refold folds a shard's log again, from its base or its beginning to its end, and calls
// onTick at each tick with the customers as they are then, in no order; a record is good
// until onTick returns. Training sets come from here, so that they hold what is served.
func Refold(ctx context.Context, cfg Config, shard int, log Log, store Store, onTick func(day int32, each iter.Seq2[string, behavior.Record]) error) error {
	cfg = cfg.withDefaults()
	_, next, err := log.Bounds(ctx, shard)
	if err != nil {
		return err
	}
	r := refold{cfg: &cfg, shard: shard, log: log, store: store, poison: map[messages.Position]string{}}
	r.onTick = func(day int32) error {
		return onTick(day, func(yield func(string, behavior.Record) bool) {
			for id, rec := range r.customers {
				if !yield(id, *rec) {
					return
				}
			}
		})
	}
	again, err := r.run(ctx, next)
	if err == nil && again {
		return fmt.Errorf("shard %d: folding %v panicked: %s", shard, r.fold.at, r.poison[r.fold.at])
	}
	return err
}
