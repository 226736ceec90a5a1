package rabbitmq

import (
	"context"
	"errors"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Visit calls do with the letters that are there now, oldest first, until do says
// messages.StopVisit or is an error, which is then that of Visit. Those for which it says
// messages.RemoveLetter are removed. Letters with the same ID are shown once, and removed
// together.
//
// While it lasts nobody else sees the letters that do has kept: a visit of another node sees
// the rest. The broker ends a visit after half an hour; then all that was not removed stays.
func (q *DeadQueue) Visit(ctx context.Context, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error {
	select {
	case q.visiting <- struct{}{}:
		defer func() { <-q.visiting }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	ch, err := q.o.Conn.Channel(ctx)
	if err != nil {
		return err
	}
	v := deadVisit{q: q, ch: ch, decided: map[string]messages.Decision{}, do: do}
	return errors.Join(v.run(ctx), q.o.Conn.closeChannel(ch))
}

// deadVisit is one visit. Where it ends early it looks at the rest without showing it, for
// letters that have been removed under the same ID.
type deadVisit struct {
	q  *DeadQueue
	ch *amqp.Channel
	do func(*footfallv1.DeadLetter) (messages.Decision, error)

	decided map[string]messages.Decision
	removed bool
	stopped bool
	err     error
}

func (v *deadVisit) run(ctx context.Context) error {
	// What comes during the visit is left for the next, or it might never end.
	for left := uint32(1); left > 0; left-- {
		d, ok, err := v.get(ctx)
		if err != nil {
			return errors.Join(v.err, err)
		}
		if !ok {
			break
		}
		if d.DeliveryTag == 1 {
			left += d.MessageCount
		}
		if v.decide(deadLetter(&d, v.q.o.Conn.User())) == messages.RemoveLetter {
			if err := v.ch.Ack(d.DeliveryTag, false); err != nil {
				return errors.Join(v.err, err)
			}
			v.removed = true
		}
		if v.stopped && !v.removed {
			break
		}
	}
	return v.err
}

// get takes the next letter, which returns to its place with the end of the channel.
func (v *deadVisit) get(ctx context.Context) (d amqp.Delivery, ok bool, err error) {
	type answer struct {
		d  amqp.Delivery
		ok bool
	}
	answers := make(chan answer, 1)
	err = v.q.o.Conn.await(ctx, func() error {
		d, ok, err := v.ch.Get(v.q.o.Topology.DeadName(), false)
		answers <- answer{d, ok}
		return err
	}, nil)
	if err != nil {
		return d, false, err
	}
	a := <-answers
	return a.d, a.ok, nil
}

func (v *deadVisit) decide(l *footfallv1.DeadLetter) messages.Decision {
	if decision, ok := v.decided[l.GetId()]; ok {
		return decision
	}
	if v.stopped {
		return messages.KeepLetter
	}
	decision, err := v.do(l)
	if err != nil {
		v.err, decision = err, messages.StopVisit
	}
	if decision == messages.StopVisit {
		v.stopped = true
	}
	v.decided[l.GetId()] = decision
	return decision
}

// closeChannel closes a channel, and waits for that a while. It is closed with its connection at
// the latest.
func (c *Conn) closeChannel(ch *amqp.Channel) error {
	ctx, cancel := context.WithTimeout(c.ctx, closePatience)
	defer cancel()
	err := c.await(ctx, ch.Close, nil)
	if errors.Is(err, amqp.ErrClosed) {
		return nil
	}
	return err
}
