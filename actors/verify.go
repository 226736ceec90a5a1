package actors

import (
	"bytes"
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

// maxDifferences bounds how many are told.
const maxDifferences = 10

// Verify checkpoints a shard, folds its log again in one thread and compares every folded
// byte (invariant 2). The shard goes on meanwhile.
func (h *Host) Verify(ctx context.Context, shard int) (*Verified, error) {
	reply := make(chan held, 1)
	h.shards[shard].send(&hold{reply})
	select {
	case at := <-reply:
		if at.err != nil {
			return nil, at.err
		}
		defer at.release()
		return VerifyShard(ctx, h.cfg, shard, at.epoch, h.log, h.store)
	case <-ctx.Done():
		go func() {
			if at := <-reply; at.release != nil {
				at.release()
			}
		}()
		return nil, ctx.Err()
	}
}

// VerifyShard compares the checkpoint of a shard, which nobody may write meanwhile, with the
// fold of its log. epoch is that of the store.
func VerifyShard(ctx context.Context, cfg Config, shard int, epoch uint64, log Log, store Store) (*Verified, error) {
	cfg = cfg.withDefaults()
	meta, err := store.Load(ctx, shard, epoch)
	if err != nil {
		return nil, err
	}
	v := &Verified{Shard: shard, Next: meta.GetNextOffset()}
	if meta == nil {
		return v, nil
	}
	re := refold{cfg: &cfg, shard: shard, log: log, store: store, poison: map[messages.Position]string{}}
	for {
		again, err := re.run(ctx, meta.GetNextOffset())
		if err != nil {
			return nil, err
		}
		if !again {
			break
		}
	}
	v.Events = re.fold.events
	v.compareMeta(&re, meta)
	return v, v.compareCustomers(ctx, &re, store, epoch)
}

func (v *Verified) differ(customer, format string, args ...any) {
	if len(v.Differences) < maxDifferences {
		v.Differences = append(v.Differences, Difference{customer, fmt.Sprintf(format, args...)})
	}
}

func (v *Verified) compareMeta(re *refold, meta *footfallv1.CheckpointMeta) {
	want := &footfallv1.CheckpointMeta{}
	re.fold.meta(want)
	for _, c := range []struct {
		what       string
		have, want any
	}{
		{"checksum of the last message", meta.GetSum(), want.GetSum()},
		{"last tick", meta.GetLastTick(), want.GetLastTick()},
		{"clock", meta.GetClock(), want.GetClock()},
		{"events", meta.GetEvents(), want.GetEvents()},
		{"duplicates", meta.GetDuplicates(), want.GetDuplicates()},
		{"rejected", meta.GetRejected(), want.GetRejected()},
		{"too late", meta.GetTooLate(), want.GetTooLate()},
		{"customers", meta.GetCustomers(), uint64(len(re.customers))},
	} {
		if c.have != c.want {
			v.differ("", "%s: checkpoint %v, log %v", c.what, c.have, c.want)
		}
	}
	same := slices.EqualFunc(meta.GetProducers(), want.GetProducers(), func(a, b *footfallv1.ProducerMark) bool {
		return a.GetProducer() == b.GetProducer() && a.GetSequence() == b.GetSequence()
	})
	if !same {
		v.differ("", "producers: checkpoint %v, log %v", meta.GetProducers(), want.GetProducers())
	}
}

func (v *Verified) compareCustomers(ctx context.Context, re *refold, store Store, epoch uint64) error {
	for after := ""; ; {
		chunk, err := store.Scan(ctx, v.Shard, epoch, after, 4*scanBytes)
		if err != nil {
			return err
		}
		if len(chunk) == 0 {
			break
		}
		for _, c := range chunk {
			_, rec, err := splitValue(c.ID, c.Value)
			if err != nil {
				return err
			}
			v.Customers++
			switch want, ok := re.customers[c.ID]; {
			case !ok:
				v.differ(c.ID, "is in the checkpoint, but not in the log")
			case !bytes.Equal(rec, *want):
				v.differ(c.ID, "checkpoint %d bytes, log %d bytes, first difference at byte %d", len(rec), len(*want), firstDifference(rec, *want))
			}
			delete(re.customers, c.ID)
		}
		after = chunk[len(chunk)-1].ID
	}
	for id := range re.customers {
		v.differ(id, "is in the log, but not in the checkpoint")
	}
	return nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
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
	applied func(at messages.Position, out behavior.Outcome, reason string, body []byte)
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

func (r *refold) near(int, string) {}

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
		r.applied(at, out, "", r.fold.raw)
	}
	return out
}

func (r *refold) passed(id string) {
	if r.applied != nil && id == r.only {
		r.applied(r.fold.at, behavior.Duplicate, "", r.fold.raw)
	}
}

func (r *refold) dead(d messages.DeadLetter) {
	if r.applied != nil && d.CustomerID == r.only {
		fault := messages.Fault{Field: d.Field, Reason: d.Reason}
		r.applied(d.Position, 0, fault.Error(), d.Body)
	}
}

func (r *refold) tickedDay(day int32) {
	if r.onTick != nil && r.failed == nil {
		r.failed = r.onTick(day)
	}
}

func (r *refold) epochRead(uint64) {}

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

// HistoryEntry is one event of a customer and the state right after it.
type HistoryEntry struct {
	Position messages.Position
	Event    *footfallv1.Event
	// Outcome is applied, duplicate, too_late or rejected; Reason tells why it was rejected.
	Outcome string
	Reason  string
	// Record is the folded state after the event; AsOf the time of its latest event.
	Record behavior.Record
	AsOf   int64
}

// History folds a customer's events from the log again and calls each with the newest
// limit of them, oldest first. truncated tells that there are older ones.
func (h *Host) History(ctx context.Context, customerID string, limit int, each func(HistoryEntry) error) (truncated bool, err error) {
	s := h.shardOf(customerID)
	var kept []HistoryEntry
	re := refold{cfg: &h.cfg, shard: s.id, log: h.log, store: h.store, only: customerID, poison: map[messages.Position]string{}}
	re.applied = func(at messages.Position, out behavior.Outcome, reason string, body []byte) {
		e := HistoryEntry{Position: at, Outcome: "rejected", Reason: reason, Event: &footfallv1.Event{}}
		if reason == "" {
			e.Outcome = out.String()
		}
		if err := e.Event.UnmarshalVT(body); err != nil {
			e.Event = nil
		}
		if rec := re.customers[customerID]; rec != nil {
			e.Record = slices.Clone(*rec)
		}
		e.AsOf = e.Record.Lifetime().LastEvent
		if len(kept) == limit {
			kept = kept[:copy(kept, kept[1:])]
			truncated = true
		}
		kept = append(kept, e)
	}
	next := s.seen().Next
	for {
		kept, truncated = nil, false
		again, err := re.run(ctx, next)
		if err != nil {
			return false, err
		}
		if !again {
			break
		}
	}
	for _, e := range kept {
		if err := each(e); err != nil {
			return false, err
		}
	}
	return truncated || re.first > 0, nil
}
