package actors

import (
	"context"
	"errors"
	"math"
	"time"

	"footfall/behavior"
	"footfall/messages"
)

// inbox is what the reader of the log has delivered and the shard has not folded yet. Two
// batches go round between them: the reader fills one while the shard folds the other, and
// waits when it has none. That is the credit that bounds the mailbox.
type inbox struct {
	queue []*messages.RecordBatch
	// next is the first record of queue[0] that is not folded.
	next int
	// checked: the customers of that record are resident, or known to be new.
	checked bool
	// waiting: they are being loaded.
	waiting bool
	// resuming: a resume message is on its way.
	resuming bool
	// folding: a record is being folded right now.
	folding bool

	free chan *messages.RecordBatch
	stop context.CancelFunc
}

type delivery struct {
	life  uint64
	batch *messages.RecordBatch
}

const (
	readAhead = 2
	// foldSlice is how long a shard folds before it looks at its mailbox again, and
	// foldEvents after how many events it looks at the time.
	foldSlice  = 500 * time.Microsecond
	foldEvents = 64
)

// begin starts the reader of this life.
func (b *inbox) begin(s *shard, r Reader) {
	*b = inbox{free: make(chan *messages.RecordBatch, readAhead)}
	for range readAhead {
		b.free <- &messages.RecordBatch{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	free, life := b.free, s.life
	s.readers.Go(func() { s.pull(ctx, r, life, free) })
}

// pull reads the log and delivers, as long as there is credit.
func (s *shard) pull(ctx context.Context, r Reader, life uint64, free <-chan *messages.RecordBatch) {
	defer func() { _ = r.Close() }() // it has only been read
	for {
		select {
		case batch := <-free:
			if err := r.Next(ctx, batch); err != nil {
				if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
					s.send(&failed{life, err})
				}
				return
			}
			s.send(&delivery{life, batch})
		case <-ctx.Done():
			return
		}
	}
}

func (b *inbox) stopReading() {
	if b.stop != nil {
		b.stop()
		b.stop = nil
	}
	b.queue, b.next, b.checked, b.waiting = nil, 0, false, false
}

func (b *inbox) end() {
	b.stopReading()
	*b = inbox{}
}

func (s *shard) deliver(m *delivery) {
	if m.life == s.life && s.state != Draining {
		s.inbox.queue = append(s.inbox.queue, m.batch)
	}
}

// foldSome folds until the queue is empty, the slice is over, or customers are missing.
func (s *shard) foldSome() {
	b := &s.inbox
	if len(b.queue) == 0 || b.waiting || b.resuming {
		return
	}
	began := s.cfg.Now()
	before := s.fold.events + s.fold.duplicates
	for len(b.queue) > 0 && !s.mustSave() {
		batch := b.queue[0]
		if b.next == len(batch.Records) {
			b.queue = b.queue[:copy(b.queue, b.queue[1:])]
			b.next = 0
			batch.Reset()
			b.free <- batch
			continue
		}
		rec := &batch.Records[b.next]
		if !s.complete && !b.checked && s.missing(rec) {
			b.waiting = true
			break
		}
		b.checked = false
		b.folding = true
		err := s.foldRecord(rec)
		b.folding = false
		if err != nil {
			s.fail(err)
			return
		}
		if s.state == Failed {
			return
		}
		b.next++
		s.heat.bytes += uint64(len(rec.Body))
		if seen := s.fold.events + s.fold.duplicates; seen-before >= foldEvents {
			before = seen
			if s.cfg.Now().Sub(began) > foldSlice {
				b.resuming = true
				s.send(&resume{})
				break
			}
		}
	}
	s.residents.compactBusy()
	if s.cfg.Metrics != nil {
		took := s.cfg.Now().Sub(began)
		s.heat.busy += took
		observeTraced(s.cfg.Metrics.apply, took.Seconds(), s.exemplar)
		s.exemplar = ""
	}
}

// missing asks for the customers of a record that are not resident, and reports whether
// there are any.
func (s *shard) missing(rec *messages.Record) bool {
	n := 0
	s.fold.needs(rec, func(id string) {
		if _, ok := s.residents.find(id); !ok {
			s.reads.want(id, nil)
			n++
		}
	})
	if n > 0 {
		s.reads.then = append(s.reads.then, func() { s.inbox.waiting, s.inbox.checked = false, true })
	}
	return n > 0
}

// near brings the memory of customers near that will be folded next.
func (s *shard) near(ids []string) {
	s.touched += s.residents.touch(ids, s.hints[:len(ids)])
}

// apply folds an event into a customer that is resident or new.
func (s *shard) apply(id string, ev *behavior.Event, _ messages.Position, place int) behavior.Outcome {
	slot, known := s.residents.findAt(s.hints[place], id)
	var rec behavior.Record
	var out behavior.Outcome
	if known {
		rec, out = behavior.Apply(s.residents.at(slot).record(), ev, s.cal)
		if out == behavior.Duplicate {
			s.computeAlways(slot, ev.Time)
			return out
		}
		s.residents.store(slot, rec)
	} else {
		rec, out = behavior.Apply(s.scratch[:0], ev, s.cal)
		s.scratch = rec[:0]
		slot = s.residents.add(id, nil, rec)
		s.customers++
	}
	c := s.residents.at(slot)
	c.set(flagHot)
	s.dirty(slot, c)
	s.unscored(slot, c)
	if len(s.waits.events) > 0 {
		s.waits.applied(id, ev.ID)
	}
	s.computeAlways(slot, ev.Time)
	return out
}

// computeAlways computes the features where the configuration wants them after every event.
func (s *shard) computeAlways(slot uint32, at int64) {
	if s.cfg.FeaturesAlways {
		var out behavior.Features
		s.residents.at(slot).record().Features(at, s.cal, &out)
		s.touched += math.Float64bits(out[6]) ^ math.Float64bits(out[9])
	}
}

// passed has nothing to do: the customer stays as it is.
func (s *shard) passed(string) {}

// dead keeps what could not be folded for the next checkpoint.
func (s *shard) dead(d messages.DeadLetter) {
	s.checkpoint.letters = append(s.checkpoint.letters, d)
	s.waits.rejected(d.CustomerID, d.EventID, messages.Fault{Field: d.Field, Reason: d.Reason})
}

// tickedDay is called as a tick is folded.
func (s *shard) tickedDay(day int32) {
	s.noteTick(day, true)
	if s.scorer != nil {
		s.scoring.beginSweep()
	}
}

// epochRead is called as the record of an owner is folded. Its own, known by the token,
// makes the shard active: it has caught up. One behind that with a higher epoch is a newer
// owner's. Those before are of former owners, whatever their epochs: a store that was lost
// counts from one again.
func (s *shard) epochRead(epoch, token uint64) {
	switch {
	case s.state == Recovering && epoch == s.epoch && token == s.token:
		s.state = Active
		s.tookOver = s.cfg.Now().Sub(s.began)
		s.tell(Change{State: Active, Epoch: s.epoch})
		if s.cfg.Metrics != nil {
			s.cfg.Metrics.handoff.Observe(s.tookOver.Seconds())
		}
	case s.state != Recovering && epoch > s.epoch:
		s.fail(&messages.StaleEpochError{Shard: s.id, Epoch: s.epoch, Stored: epoch})
	}
}
