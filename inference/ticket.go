package inference

import (
	"errors"
	"fmt"
	"time"
)

const (
	// roomPause is how long a request that failed somewhere waits for room elsewhere.
	roomPause = 5 * time.Millisecond
	// fruitlessPause is how long single models are not tried elsewhere once that did not help.
	fruitlessPause = 10 * time.Second
)

// What becomes of an offer.
type offered int

const (
	// offerNone: no device that has not failed the request is in service.
	offerNone offered = iota
	// offerFull: there are some, all without room.
	offerFull
	offerTaken
)

// ticket is a request on its way through a pool.
//
//	offer ──► a device ──good reply──► answered
//	  ▲          │ the device failed, was taken out, or could not run some models
//	  │          ▼
//	  └──── another device, within the deadline ──none left, or too late──► the best so far
//
// It belongs to whoever offers it, then to the device that took it, until that replies.
type ticket struct {
	pool    *Pool
	request *Request
	// copy is what devices get: the request with a reply of the ticket's.
	copy     Request
	deadline time.Time

	// at is where the request is now, tried where it failed.
	at    *life
	tried []*life
	// best is the reply with the most models, of those that lack some.
	best Reply
	// short are the tried ones that lacked models which other devices may have.
	short []shortfall
}

// shortfall is a device that ran only so many models of a request.
type shortfall struct {
	life   *life
	models int
	fault  *DeviceError
}

func newTicket(p *Pool, r *Request) *ticket {
	t := &ticket{pool: p, request: r, copy: *r, deadline: r.Deadline}
	if t.deadline.IsZero() {
		t.deadline = p.Clock.Now().Add(p.Deadline)
	}
	t.copy.Reply = t.answered
	return t
}

// offer gives the request to the least loaded device that has room and has not failed it.
func (t *ticket) offer() offered {
	var space [8]*life
	refused := space[:0]
	for {
		l := t.pool.least(t.request.Local, t.tried, refused)
		switch {
		case l != nil:
		case len(refused) > 0:
			return offerFull
		default:
			return offerNone
		}
		t.at = l
		if l.target.Score(&t.copy) {
			return offerTaken
		}
		refused = append(refused, l)
	}
}

// answered takes a device's reply.
func (t *ticket) answered(r Reply) {
	l := t.at
	closed := errors.Is(r.Err, ErrClosed)
	if r.Fault == nil && !closed {
		if len(r.Models) > 0 {
			l.worked()
		}
		for _, s := range t.short {
			if len(r.Models) > s.models {
				s.life.strike(s.fault)
			}
		}
		t.request.Reply(r)
		return
	}
	t.tried = append(t.tried, l)
	t.keep(r)
	if r.Fault != nil && r.Fault.Reason != FaultHang {
		if r.Fault.Whole {
			l.strike(r.Fault)
		} else {
			t.short = append(t.short, shortfall{l, len(r.Models), r.Fault})
			if t.pool.Clock.Now().UnixNano() < t.pool.fruitless.Load() {
				t.request.Reply(t.best)
				return
			}
		}
	}
	t.again()
}

// keep remembers a reply for the case that no better one comes.
func (t *ticket) keep(r Reply) {
	first := t.best.Err == nil && t.best.Models == nil
	if first || len(r.Models) > len(t.best.Models) || errors.Is(t.best.Err, ErrClosed) {
		t.best = r
	}
}

// again offers the request to another device.
func (t *ticket) again() {
	p := t.pool
	from := t.tried[len(t.tried)-1]
	if p.closed.Load() || !p.Clock.Now().Before(t.deadline) {
		t.giveUp(false)
		return
	}
	switch t.offer() {
	case offerTaken:
		if from.seat != nil {
			from.seat.series.retried.Add(float64(t.request.Rows))
		} else if counts, ok := from.target.(interface{ Retried(rows int) }); ok {
			counts.Retried(t.request.Rows)
		}
	case offerFull:
		p.pausing.Add(1)
		p.Clock.AfterFunc(roomPause, func() {
			defer p.pausing.Done()
			t.again()
		})
	case offerNone:
		t.giveUp(true)
	}
}

// giveUp answers with the best reply that there was.
func (t *ticket) giveUp(exhausted bool) {
	r := t.best
	if exhausted && len(t.short) > 1 {
		t.pool.fruitless.Store(t.pool.Clock.Now().Add(fruitlessPause).UnixNano())
	}
	if errors.Is(r.Err, ErrClosed) && !t.pool.closed.Load() {
		r.Err = fmt.Errorf("%w: %w", ErrNoDevice, r.Err)
	}
	t.request.Reply(r)
}
