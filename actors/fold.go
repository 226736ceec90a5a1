package actors

import (
	"fmt"
	"time"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// fold is the deterministic part of a shard: it takes the records of the log one by one and
// applies their events to customers. The shard runs it over its residents; verify runs it
// over a plain map; both get the same bytes, for nothing enters but the records.
//
// What it keeps is stored with each checkpoint (see meta and restore). It belongs to one
// goroutine.
type fold struct {
	shard     int
	validator messages.Validator
	cal       *behavior.Calendar
	// poison are positions at which applying an event panicked: they are dead letters.
	poison map[messages.Position]string

	// at is the event being folded, raw its bytes, kind and again what its record says:
	// again, that the same message was folded before, from an earlier record.
	at        messages.Position
	raw       []byte
	kind      messages.RecordType
	again     bool
	place     int
	next      uint64
	sum       uint32
	clock     footfallv1.ClockMode
	lastTick  int32
	ticked    bool
	epochRead uint64
	producers producers
	origins   origins

	events, duplicates, rejected, tooLate uint64
	// newer counts control records of kinds that only newer nodes know, since this fold began.
	newer uint64

	// ended is the last instant, Unix milliseconds, of the last day that has ended, limit the
	// first that is too far past it.
	ended, limit int64

	// notes, where set, are taken of every event.
	notes *notes

	decoder decoder
	event   behavior.Event
	// raws are the events that come next, ids their customers.
	raws [ahead][]byte
	ids  [ahead]string
}

// customers is where a fold finds and keeps the state of customers.
type customers interface {
	// near is told of the customers that come next, at most ahead; "" is none.
	near(ids []string)
	// apply folds an event into a customer, whose place that was among those told of last.
	apply(id string, ev *behavior.Event, at messages.Position, place int) behavior.Outcome
	// passed is told of an event that its producer had sent before.
	passed(id string)
	// dead keeps what could not be folded.
	dead(d messages.DeadLetter)
	// tickedDay is told that a day ended, epochRead that an owner began, who has drawn token.
	tickedDay(day int32)
	epochRead(epoch, token uint64)
}

func newFold(shard int, cfg *Config, cal *behavior.Calendar) *fold {
	f := &fold{
		shard:     shard,
		validator: messages.Validator{Shards: cfg.Shards, Currency: cfg.Currency},
		cal:       cal,
		clock:     cfg.Clock,
		producers: newProducers(),
	}
	return f
}

// needs calls want with the customer of each event in the record, without decoding the rest.
// What cannot be read is passed over: record will find it.
func (f *fold) needs(rec *messages.Record, want func(id string)) {
	peek := func(raws [][]byte) {
		for _, raw := range raws {
			if id, ok := customerOf(rec.Type, raw, false); ok {
				want(id)
			}
		}
	}
	_ = eachEvent(rec, &f.raws, peek, func(uint32, int, []byte) {}) // an error there is record's to report
}

// record folds one record. It never fails: what cannot be folded goes to dead. An offset
// that does not follow the one before is the log's fault and stops the shard.
func (f *fold) record(rec *messages.Record, to customers) error {
	if rec.Offset != f.next {
		return &messages.LogGapError{Shard: f.shard, Want: f.next, First: rec.Offset}
	}
	if rec.Type == messages.ControlRecord {
		f.control(rec, to)
	} else {
		f.kind, f.again = rec.Type, rec.FromNode && f.origins.seen(rec.Origin)
		peek := func(raws [][]byte) {
			for i, raw := range raws {
				f.ids[i], _ = customerOf(rec.Type, raw, true)
			}
			to.near(f.ids[:len(raws)])
		}
		err := eachEvent(rec, &f.raws, peek, func(index uint32, place int, raw []byte) {
			f.place = place
			f.one(messages.Position{Offset: rec.Offset, Index: index}, raw, to)
		})
		if err != nil {
			f.reject(rec.Type, messages.Position{Offset: rec.Offset}, envelope{}, &messages.Fault{Reason: err.Error()}, rec.Body, to)
		}
	}
	f.next, f.sum = rec.Offset+1, rec.Sum
	return nil
}

// one folds one encoded event.
func (f *fold) one(at messages.Position, raw []byte, to customers) {
	f.at, f.raw = at, raw
	if reason, ok := f.poison[at]; ok {
		f.reject(f.eventKind(), at, envelope{}, &messages.Fault{Reason: reason}, raw, to)
		return
	}
	ev, fault := f.decoder.decode(f.kind, raw, f.shard, &f.validator, &f.event)
	if fault == nil && f.ticked {
		fault = checkTime(f.event.Time, f.limit, f.lastTick)
	}
	if fault != nil {
		f.reject(f.eventKind(), at, ev, fault, raw, to)
		return
	}
	if f.again || ev.producer != "" && !f.producers.advance(ev.producer, ev.sequence) {
		f.duplicates++
		to.passed(ev.customer)
		return
	}
	out := to.apply(ev.customer, &f.event, at, f.place)
	f.count(out)
	if f.notes != nil && out != behavior.Duplicate {
		late := int64(-1)
		if f.ticked {
			late = f.ended - f.event.Time
		}
		f.notes.folded(ev.customer, &f.event, late)
	}
}

func (f *fold) count(o behavior.Outcome) {
	switch o {
	case behavior.Duplicate:
		f.duplicates++
	case behavior.TooLate:
		f.events++
		f.tooLate++
	default:
		f.events++
	}
}

// checkTime refuses an instant that is not before limit.
func checkTime(ms, limit int64, lastTick int32) *messages.Fault {
	if ms < limit {
		return nil
	}
	return &messages.Fault{Field: "time", Reason: fmt.Sprintf("%s is more than 24 h past the end of the last day, %s",
		time.UnixMilli(ms).UTC().Format(time.RFC3339), behavior.FormatDate(lastTick))}
}

// timeLimit is the first instant that is too far ahead once a day has ended: 24 h past its
// end, or the end of the day after where that one is longer (as clocks are set back).
func timeLimit(cal *behavior.Calendar, lastTick int32) int64 {
	return max(cal.EndOfDay(lastTick).UnixMilli()+24*3600*1000+1, cal.EndOfDay(lastTick+1).UnixMilli())
}

// eventKind is how a single event of the record being folded is encoded.
func (f *fold) eventKind() messages.RecordType {
	if f.kind == messages.JSONRecord {
		return messages.JSONRecord
	}
	return messages.EventRecord
}

func (f *fold) reject(kind messages.RecordType, at messages.Position, ev envelope, fault *messages.Fault, body []byte, to customers) {
	f.rejected++
	to.dead(messages.DeadLetter{
		Position: at, Field: fault.Field, Reason: fault.Reason,
		EventID: cloneString(ev.event), CustomerID: cloneString(ev.customer), Type: kind, Body: append([]byte(nil), body...),
	})
}

// control folds a control record. One that is not from a node is a dead letter.
func (f *fold) control(rec *messages.Record, to customers) {
	at := messages.Position{Offset: rec.Offset}
	var c footfallv1.Control
	fault := func() *messages.Fault {
		if !rec.FromNode {
			return &messages.Fault{Reason: "a control record that is not from a node"}
		}
		if err := c.UnmarshalVT(rec.Body); err != nil {
			return &messages.Fault{Reason: "unreadable control record: " + err.Error()}
		}
		return nil
	}()
	if fault != nil {
		f.reject(rec.Type, at, envelope{}, fault, rec.Body, to)
		return
	}
	switch k := c.GetKind().(type) {
	case *footfallv1.Control_Epoch:
		f.epochRead = max(f.epochRead, k.Epoch.GetEpoch())
		to.epochRead(k.Epoch.GetEpoch(), k.Epoch.GetToken())
	case *footfallv1.Control_Tick:
		day, err := behavior.ParseDate(k.Tick.GetDate())
		if err != nil {
			f.reject(rec.Type, at, envelope{}, &messages.Fault{Field: "tick.date", Reason: err.Error()}, rec.Body, to)
			return
		}
		if f.ticked && day <= f.lastTick {
			return
		}
		f.tick(day)
		to.tickedDay(day)
	case *footfallv1.Control_Clock:
		f.clock = k.Clock.GetMode()
	default:
		f.newer++ // not for this version, and no fault: the log keeps it
	}
}

func (f *fold) tick(day int32) {
	f.lastTick, f.ticked = day, true
	f.ended, f.limit = f.cal.LastMilli(day), timeLimit(f.cal, day)
}

// tickTime is the last instant of the last day that ended, Unix milliseconds.
func (f *fold) tickTime() (ms int64, ok bool) {
	if !f.ticked {
		return 0, false
	}
	return f.cal.LastMilli(f.lastTick), true
}

// tally is what the fold has counted so far.
func (f *fold) tally() tally {
	return tally{events: f.events, duplicates: f.duplicates, rejected: f.rejected, tooLate: f.tooLate, newer: f.newer}
}

// meta adds to m what the fold keeps.
func (f *fold) meta(m *footfallv1.CheckpointMeta) {
	m.NextOffset, m.Sum = f.next, f.sum
	m.Clock, m.EpochRead = f.clock, f.epochRead
	if f.ticked {
		m.LastTick = behavior.FormatDate(f.lastTick)
	}
	m.Producers, m.Origins = f.producers.marks(), f.origins.bytes()
	m.Events, m.Duplicates, m.Rejected, m.TooLate = f.events, f.duplicates, f.rejected, f.tooLate
}

// restore takes up what meta kept.
func (f *fold) restore(m *footfallv1.CheckpointMeta) error {
	f.next, f.sum = m.GetNextOffset(), m.GetSum()
	f.clock, f.epochRead = m.GetClock(), m.GetEpochRead()
	if m.GetLastTick() != "" {
		day, err := behavior.ParseDate(m.GetLastTick())
		if err != nil {
			return &messages.CorruptError{What: fmt.Sprintf("checkpoint of shard %d", f.shard), Reason: err.Error()}
		}
		f.tick(day)
	}
	f.producers = restoreProducers(m.GetProducers())
	if err := f.origins.restore(m.GetOrigins()); err != nil {
		return &messages.CorruptError{What: fmt.Sprintf("checkpoint of shard %d", f.shard), Reason: err.Error()}
	}
	f.events, f.duplicates, f.rejected, f.tooLate = m.GetEvents(), m.GetDuplicates(), m.GetRejected(), m.GetTooLate()
	return nil
}
