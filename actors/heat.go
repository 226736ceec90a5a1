package actors

import (
	"context"
	"slices"
	"time"
)

// heat is how much a shard has had to do in this life.
type heat struct {
	busy           time.Duration
	bytes, queries uint64
}

// halveEvery is how long what a customer did counts fully among the hot ones.
const halveEvery = time.Minute

// beginNotes begins anew what is noted, where somebody looks.
func (s *shard) beginNotes() {
	s.heat, s.census = heat{}, census{}
	if s.cfg.Metrics == nil {
		return
	}
	if s.notes == nil {
		s.notes = &notes{}
	}
	s.notes.hot = hot{}
	s.halved, s.window = s.cfg.Now(), 0
	s.fold.notes = s.notes
}

// endNotes hands over what is left; nothing of the life's customers stays.
func (s *shard) endNotes() {
	if s.notes == nil {
		return
	}
	s.handOver(s.cfg.Now())
	s.notes = nil
	s.census = census{}
}

func (s *shard) handOver(now time.Time) {
	s.notes.handOver(func(n *notes) { s.cfg.Metrics.business.take(n, now) })
}

// observe is called a few times a second.
func (s *shard) observe(now time.Time) {
	if s.notes == nil {
		return
	}
	s.handOver(now)
	if since := now.Sub(s.halved); since >= halveEvery {
		s.notes.hot.halve()
		s.halved, s.window = now, (s.window+since)/2
	}
	if s.state == Active {
		s.takeCensus(now)
	}
}

// Hot are the customers of a shard that most events come from.
type Hot struct {
	Shard int
	// Customers are in order, the one of most events first.
	Customers []HotCustomer
	// Window is the time over which the events came.
	Window time.Duration
}

// Hot returns up to limit of the customers that most events of a shard come from. Errors:
// *NotActiveError, or that of ctx.
func (h *Host) Hot(ctx context.Context, shard, limit int) (Hot, error) {
	reply := make(chan hotAnswer, 1)
	h.shards[shard].send(&askHot{limit, reply})
	select {
	case a := <-reply:
		return a.hot, a.err
	case <-ctx.Done():
		return Hot{}, ctx.Err()
	}
}

type (
	askHot struct {
		limit int
		reply chan<- hotAnswer
	}
	hotAnswer struct {
		hot Hot
		err error
	}
)

func (s *shard) askHot(m *askHot) {
	if s.state != Active {
		m.reply <- hotAnswer{err: &NotActiveError{Shard: s.id, State: s.state, Err: s.err}}
		return
	}
	out := Hot{Shard: s.id}
	if s.notes != nil {
		out.Customers = slices.Clone(s.notes.hot.top(m.limit))
		for i := range out.Customers {
			out.Customers[i].Events *= hotSample
			out.Customers[i].Error *= hotSample
		}
		out.Window = s.window + s.cfg.Now().Sub(s.halved)
	}
	m.reply <- hotAnswer{hot: out}
}
