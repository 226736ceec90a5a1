package actors

import (
	"slices"
	"strings"

	"footfall/behavior"
	"footfall/messages"
)

// ask wants the state of customers of the shard; reply has room for its one answer.
type (
	ask struct {
		ids   []string
		reply chan<- answers
	}
	answers struct {
		found []*Answer
		err   error
	}
)

// ask answers for customers, loading those that are not resident.
func (s *shard) ask(m *ask) { s.askOnce(m, map[string]bool{}) }

// askOnce answers if every customer is resident or known to be absent. Else it asks the
// store for those that are not, and looks again: meanwhile others may have been evicted.
func (s *shard) askOnce(m *ask, absent map[string]bool) {
	if s.state != Active {
		m.reply <- answers{err: &NotActiveError{Shard: s.id, State: s.state, Err: s.err}}
		return
	}
	missing := 0
	for _, id := range m.ids {
		if _, ok := s.residents.find(id); ok || s.complete || absent[id] {
			continue
		}
		missing++
		s.reads.want(id, func() {
			if _, ok := s.residents.find(id); !ok {
				absent[id] = true
			}
			if missing--; missing == 0 {
				s.askOnce(m, absent)
			}
		})
	}
	if missing == 0 {
		s.answer(m)
	}
}

func (s *shard) answer(m *ask) {
	s.heat.queries++
	now := s.cfg.Now().UnixMilli()
	out := make([]*Answer, len(m.ids))
	for i, id := range m.ids {
		slot, ok := s.residents.find(id)
		if !ok {
			continue
		}
		cell := s.residents.at(slot)
		cell.set(flagHot)
		if !cell.record().Exists() {
			continue
		}
		scores := s.models.decode(cell.scores())
		slices.SortFunc(scores, func(a, b Score) int { return strings.Compare(a.Model, b.Model) })
		rec := behavior.Record(slices.Clone(cell.record()))
		out[i] = &Answer{
			CustomerID: id, Shard: s.id, Epoch: s.epoch, Record: rec, Scores: scores,
			AsOf: s.asOf(rec.Lifetime().LastEvent, now), Next: s.fold.next,
		}
	}
	m.reply <- answers{found: out}
}

// waits are callers who wait for an event to be applied, or for the shard to be idle.
type waits struct {
	events map[string][]*waitFor
	idle   []*waitIdle
	// active are told once the shard serves, or cannot.
	active []chan<- error
	// refused are the newest events that were rejected, so that a late caller is told, too.
	refused    []refusal
	refusedPos int
}

type (
	waitFor struct {
		customer, event string
		id              uint64
		reply           chan<- error
	}
	forgetWait struct{ wait *waitFor }
	// rejected tells of an event that never reached the log.
	rejected struct {
		customer, event string
		fault           messages.Fault
	}
	waitIdle struct {
		next   uint64
		scored bool
		reply  chan<- error
	}
	refusal struct {
		customer, event string
		fault           messages.Fault
	}
)

// maxRefused bounds how many rejected events a shard remembers.
const maxRefused = 1024

func (s *shard) waitFor(m *waitFor) {
	if s.state != Active {
		m.reply <- &NotActiveError{Shard: s.id, State: s.state, Err: s.err}
		return
	}
	look := func() {
		if slot, ok := s.residents.find(m.customer); ok && s.residents.at(slot).record().HasEvent(m.id) {
			m.reply <- nil
			return
		}
		for _, r := range s.waits.refused {
			if r.customer == m.customer && r.event == m.event {
				m.reply <- &RejectedError{EventID: r.event, Fault: r.fault}
				return
			}
		}
		if s.waits.events == nil {
			s.waits.events = map[string][]*waitFor{}
		}
		s.waits.events[m.customer] = append(s.waits.events[m.customer], m)
	}
	if _, ok := s.residents.find(m.customer); ok || s.complete {
		look()
		return
	}
	s.reads.want(m.customer, look)
}

// applied tells those who waited for the event.
func (w *waits) applied(customer string, id uint64) {
	waiting, ok := w.events[customer]
	if !ok {
		return
	}
	own := waiting[0].customer // the argument's bytes are the message's
	w.keep(own, slices.DeleteFunc(waiting, func(m *waitFor) bool {
		if m.id == id {
			m.reply <- nil
		}
		return m.id == id
	}))
}

func (w *waits) rejected(customer, event string, fault messages.Fault) {
	// Nobody can ask for an event whose name is none; one of megabytes is not to be kept.
	if event == "" || len(event) > messages.MaxID || len(customer) > messages.MaxID {
		return
	}
	r := refusal{customer, event, fault}
	if len(w.refused) < maxRefused {
		w.refused = append(w.refused, r)
	} else {
		w.refused[w.refusedPos] = r
		w.refusedPos = (w.refusedPos + 1) % maxRefused
	}
	waiting := w.events[customer]
	if len(waiting) == 0 {
		return
	}
	own := waiting[0].customer
	w.keep(own, slices.DeleteFunc(waiting, func(m *waitFor) bool {
		if m.event == event {
			m.reply <- &RejectedError{EventID: event, Fault: fault}
		}
		return m.event == event
	}))
}

func (w *waits) forget(m *waitFor) {
	w.keep(m.customer, slices.DeleteFunc(w.events[m.customer], func(o *waitFor) bool { return o == m }))
}

func (w *waits) keep(customer string, waiting []*waitFor) {
	if len(waiting) == 0 {
		delete(w.events, customer)
		return
	}
	w.events[customer] = waiting
}

// fail sends everybody away.
func (w *waits) fail(err error) {
	for _, waiting := range w.events {
		for _, m := range waiting {
			m.reply <- err
		}
	}
	for _, m := range w.idle {
		m.reply <- err
	}
	w.events, w.idle = nil, nil
}

// resolveIdle tells those who wait for the shard to have folded, and scored, all there was.
func (s *shard) resolveIdle() {
	if len(s.waits.idle) == 0 {
		return
	}
	scored := s.scorer == nil || s.scoring.idle()
	s.waits.idle = slices.DeleteFunc(s.waits.idle, func(m *waitIdle) bool {
		done := s.fold.next >= m.next && (scored || !m.scored)
		if done {
			m.reply <- nil
		}
		return done
	})
}
