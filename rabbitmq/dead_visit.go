package rabbitmq

import (
	"context"
	"errors"
	"math"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

const (
	// firstWindow is how many letters a window holds at first, of whatever size. Later it is as
	// many as fit into windowBytes, as letters are on average, and at most lastWindow.
	firstWindow, lastWindow = 32, 4096
	windowBytes             = 8 << 20
	// deadConsumer names the consumer of a channel.
	deadConsumer = "visit"
	// deadIdle is how long no letter came when a visit looks whether there are any.
	deadIdle = 20 * time.Millisecond
	// deadPoll is how often it looks whether what it has given back is there, returnPatience how long.
	deadPoll       = 2 * time.Millisecond
	returnPatience = 30 * time.Second
)

// Visit calls do with the letters that are there now, oldest first, until do says
// messages.StopVisit or is an error, which is then that of Visit. Those for which it says
// messages.RemoveLetter are removed. Letters with the same ID are shown once, and removed
// together.
//
// It passes over all letters, even where do stops early: those with an ID that has been removed
// may stand anywhere, and only letters that are given back all at once keep their order. While it
// lasts nobody else sees them. The broker ends a visit after half an hour; then all that was not
// removed stays.
func (q *DeadQueue) Visit(ctx context.Context, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error {
	select {
	case q.visiting <- struct{}{}:
		defer func() { <-q.visiting }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	v := deadVisit{q: q, do: do, decided: map[string]messages.Decision{}}
	defer v.close()
	return errors.Join(v.run(ctx), v.err)
}

// deadVisit is one visit.
//
// The broker keeps what was given back in a line of its own, which goes before all that was never
// given out, and what is given back later goes to its end. So everything is taken, and given
// back in order: what a consumer holds returns in order when its channel ends (what was
// taken with basic.get does not).
//
// To hold few letters in memory the visit consumes through one window after the other, each a
// channel. The next is opened when the last holds all that it may, so that it gets no more.
type deadVisit struct {
	q  *DeadQueue
	do func(*footfallv1.DeadLetter) (messages.Decision, error)

	windows      []*deadWindow // all that were opened, oldest first
	count, bytes int           // of letters that were seen

	decided map[string]messages.Decision
	stopped bool
	err     error // of do
}

// deadWindow is a consumer of up to size letters.
type deadWindow struct {
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	size       int
	// held were delivered and not removed. So many others were ready when it was opened.
	held, ready int
}

// run visits the letters that are there when it begins: what comes later is left for the next
// visit, or it might never end.
func (v *deadVisit) run(ctx context.Context) error {
	for left := unknown; left > 0; {
		w, err := v.open(ctx)
		if err != nil {
			return err
		}
		if left == unknown && w.ready > 0 {
			left = w.size + w.ready
		}
		for w.held < w.size && left > 0 {
			d, err := v.next(ctx, w)
			if err != nil || d == nil {
				return err
			}
			left--
			v.count, v.bytes = v.count+1, v.bytes+len(d.Body)
			if v.decide(deadLetter(d, v.q.o.Conn.User())) != messages.RemoveLetter {
				w.held++
				continue
			}
			if err := w.ch.Ack(d.DeliveryTag, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// unknown is how many letters are left where all may be in the first window.
const unknown = math.MaxInt

// size of the next window, in letters.
func (v *deadVisit) size() int {
	if v.bytes == 0 {
		return firstWindow
	}
	return min(lastWindow, max(firstWindow, windowBytes/(v.bytes/v.count+1)))
}

// open begins a window.
func (v *deadVisit) open(ctx context.Context) (*deadWindow, error) {
	conn, name := v.q.o.Conn, v.q.o.Topology.DeadName()
	ch, err := conn.Channel(ctx)
	if err != nil {
		return nil, err
	}
	w := &deadWindow{ch: ch, size: v.size()}
	v.windows = append(v.windows, w)
	consuming := make(chan (<-chan amqp.Delivery), 1)
	if err := conn.call(ctx, func() error {
		if err := ch.Qos(w.size, 0, false); err != nil {
			return err
		}
		deliveries, err := ch.Consume(name, deadConsumer, false, false, false, false, nil)
		consuming <- deliveries
		return err
	}); err != nil {
		return nil, declareError("queue", name, err)
	}
	w.deliveries = <-consuming
	// Only now: a queue that is not up yet says that it is empty.
	now, err := v.state(ctx, ch)
	w.ready = now.Messages
	return w, err
}

// next returns the next letter, or nil where there is none.
func (v *deadVisit) next(ctx context.Context, w *deadWindow) (*amqp.Delivery, error) {
	for empty := 0; empty < 3; {
		select {
		case d, ok := <-w.deliveries:
			if !ok {
				return nil, amqp.ErrClosed
			}
			return &d, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-v.q.o.After(deadIdle):
		}
		// What is not ready has been delivered before this is answered, and may only be on its
		// way within this process.
		now, err := v.state(ctx, w.ch)
		if err != nil {
			return nil, err
		}
		if empty++; now.Messages > 0 {
			empty = 0
		}
	}
	return nil, nil
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

// close gives back what the visit holds, oldest first: it returns in this order. The broker
// does that some moments after a channel has ended, and neither the next window nor the next
// visit may be quicker.
func (v *deadVisit) close() {
	ctx, cancel := context.WithTimeout(v.q.o.Conn.ctx, returnPatience)
	defer cancel()
	held := v.cancel(ctx)
	var ready int
	for i, w := range v.windows {
		before, err := v.state(ctx, w.ch)
		if i == 0 {
			ready = before.Messages
		}
		v.q.o.Conn.endChannel(w.ch)
		if err != nil || held == 0 {
			continue
		}
		v.await(ctx, func(now amqp.Queue) bool {
			if i == len(v.windows)-1 {
				return now.Messages >= ready+held
			}
			return now.Consumers < before.Consumers
		})
	}
}

// cancel ends the last consumer, which would get what the others give back. It returns how many
// letters the visit holds.
func (v *deadVisit) cancel(ctx context.Context) (held int) {
	for i, w := range v.windows {
		if i == len(v.windows)-1 && w.deliveries != nil {
			if v.q.o.Conn.call(ctx, func() error { return w.ch.Cancel(deadConsumer, false) }) == nil {
				for range w.deliveries {
					w.held++
				}
			}
		}
		held += w.held
	}
	return held
}

// await waits until the queue is as it should be, or ctx ends: another visitor was quicker.
func (v *deadVisit) await(ctx context.Context, done func(amqp.Queue) bool) {
	ch, err := v.q.o.Conn.Channel(ctx)
	if err != nil {
		return
	}
	defer v.q.o.Conn.endChannel(ch)
	for {
		if now, err := v.state(ctx, ch); err != nil || done(now) {
			return
		}
		select {
		case <-v.q.o.After(deadPoll):
		case <-ctx.Done():
			return
		}
	}
}

// state is how many letters are ready, and how many consumers there are.
func (v *deadVisit) state(ctx context.Context, ch *amqp.Channel) (amqp.Queue, error) {
	state := make(chan amqp.Queue, 1)
	err := v.q.o.Conn.call(ctx, func() error {
		queue, err := ch.QueueDeclarePassive(v.q.o.Topology.DeadName(), true, false, false, false, nil)
		state <- queue
		return err
	})
	if err != nil {
		return amqp.Queue{}, declareError("queue", v.q.o.Topology.DeadName(), err)
	}
	return <-state, nil
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
