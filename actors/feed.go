package actors

import (
	"context"

	"footfall/behavior"
	"footfall/messages"
)

// FeedEvent is a purchase that comes from no log: for measuring the shards alone.
type FeedEvent struct {
	Customer        [8]byte
	ID              uint64
	Time            int64
	Spend, Discount int64
	Items           uint32
	Departments     [3]uint32
}

// Feed folds events that come from no log into a shard of customers and sends the batch back
// through done once it is folded. Since the events are in no log, nothing of the shard may be
// checkpointed.
func (h *Host) Feed(shard int, events []FeedEvent, done chan<- []FeedEvent) {
	h.shards[shard].send(&feed{events, done})
}

type feed struct {
	events []FeedEvent
	done   chan<- []FeedEvent
}

func (s *shard) feed(m *feed) {
	ev := &s.fold.event
	*ev = behavior.Event{Kind: behavior.Purchase, Departments: ev.Departments}
	for i := range m.events {
		e := &m.events[i]
		if i%ahead == 0 {
			ids := s.fold.ids[:min(ahead, len(m.events)-i)]
			for j := range ids {
				ids[j] = bytesString(m.events[i+j].Customer[:])
			}
			s.near(ids)
		}
		ev.ID, ev.Time, ev.Spend, ev.Discount, ev.Items = e.ID, e.Time, e.Spend, e.Discount, e.Items
		ev.Departments = append(ev.Departments[:0], e.Departments[:]...)
		s.fold.count(s.apply(bytesString(e.Customer[:]), ev, messages.Position{}, i%ahead))
	}
	s.residents.compactBusy()
	m.done <- m.events
}

// Visit calls do with every resident customer of a shard, in the shard's goroutine: neither
// argument may be kept.
func (h *Host) Visit(ctx context.Context, shard int, do func(id []byte, rec behavior.Record)) error {
	done := make(chan struct{})
	h.shards[shard].send(&visit{do, done})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type visit struct {
	do   func([]byte, behavior.Record)
	done chan<- struct{}
}

func (s *shard) visit(m *visit) {
	defer close(m.done)
	for slot := range s.residents.slots {
		if s.residents.inUse(uint32(slot)) {
			c := s.residents.at(uint32(slot))
			m.do(c.id(), c.record())
		}
	}
}
