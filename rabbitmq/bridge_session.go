package rabbitmq

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
)

// bridgeSession is a bridge while it consumes on one channel. It belongs to one goroutine,
// which waits nowhere but in run and in calls of amqp091-go.
type bridgeSession struct {
	b          *Bridge
	outlets    *outlets
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	closes     <-chan *amqp.Error

	// out is what the message at work became; pieces and rejects count what of it was sent.
	out             *split
	pieces, rejects int
	// sent and confirmed count what was published and what is known to be stored, in the order
	// of publishing. waiting is what lies between.
	sent, confirmed uint64
	waiting         []awaited
	// flights are the messages that are not acked, oldest first; the last may still be at work.
	flights []flight
	recent  recentPieces

	// parent is the trace of the message at work: what it becomes goes on with it.
	parent string

	// leaving is why no more messages are taken.
	leaving leaving
}

type leaving int

const (
	staying leaving = iota
	// renewing is for another channel to consume on.
	renewing
	// ending is for good.
	ending
)

// awaited is a confirm to come.
type awaited struct {
	confirm *amqp.DeferredConfirmation
	from    *outlet
}

// flight is a message that has been split and is not settled.
type flight struct {
	tag uint64
	// last is what counts as confirmed once all of the message is.
	last    uint64
	events  int
	rejects rejectCounts
}

// attach makes a channel the bridge's: from here on it may get messages.
func (b *Bridge) attach(ctx context.Context, ch *amqp.Channel, o *outlets) (*bridgeSession, error) {
	t := b.o.Topology
	s := &bridgeSession{b: b, outlets: o, ch: ch, out: &split{}, recent: newRecentPieces(t.Identity.Shards, bridgePrefetch)}
	s.closes = ch.NotifyClose(make(chan *amqp.Error, 1))
	consuming := make(chan (<-chan amqp.Delivery), 1)
	if err := b.o.Conn.call(ctx, func() error {
		if err := ch.Qos(bridgePrefetch, 0, false); err != nil {
			return err
		}
		deliveries, err := ch.Consume(t.UnshardedName(), "", false, false, false, false, nil)
		consuming <- deliveries
		return err
	}); err != nil {
		return nil, declareError("queue", t.UnshardedName(), err)
	}
	s.deliveries = <-consuming
	return s, nil
}

// checkStreams finds a stream that is missing before any message is taken for it. Else, declared
// between two messages, it would get the second without the first.
func (b *Bridge) checkStreams(ctx context.Context, ch *amqp.Channel) error {
	for shard := range b.o.Topology.Identity.Shards {
		name := b.o.Topology.StreamName(shard)
		if err := b.o.Conn.call(ctx, func() error {
			_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
			return err
		}); err != nil {
			return declareError("stream", name, err)
		}
	}
	return nil
}

// run bridges until ctx ends, another channel is to be consumed on, or something fails.
func (s *bridgeSession) run(ctx context.Context) error {
	var (
		done  = ctx.Done()
		late  <-chan time.Time
		check = s.b.o.After(stallPatience)
		// before is what was confirmed at the last check, if something was waiting then.
		before = notYet
	)
	for {
		changed := s.b.o.Conn.Changed()
		_, blocked := s.b.o.Conn.Blocked()
		if !blocked {
			if err := s.send(ctx); err != nil {
				return err
			}
		} else if ctx.Err() != nil {
			return nil
		}
		if s.leaving != staying && len(s.flights) == 0 {
			return nil
		}
		deliveries := s.deliveries
		if blocked || s.leaving != staying || s.working() {
			deliveries = nil
		}
		var oldest <-chan struct{}
		if len(s.waiting) > 0 {
			oldest = s.waiting[0].confirm.Done()
		}
		select {
		case d, ok := <-deliveries:
			if !ok {
				return endOf(s.ch, s.closes, errConsumerLost)
			}
			s.take(&d)
		case <-oldest:
			if err := s.settle(); err != nil {
				return err
			}
		case e := <-s.closes:
			if e == nil {
				e = amqp.ErrClosed
			}
			return e
		case <-changed:
		case <-check:
			now := notYet
			if !blocked && len(s.waiting) > 0 {
				if now = s.confirmed; now == before {
					return errStalled
				}
			}
			before, check = now, s.b.o.After(stallPatience)
		case <-done:
			done, late, s.leaving = nil, s.b.o.After(leavePatience), ending
		case <-late:
			return nil
		}
	}
}

// notYet is no number of confirms.
const notYet = ^uint64(0)

var (
	errConsumerLost = errors.New("the broker ended the consumer: the queue was deleted, or its node went away")
	errStalled      = errors.New("the broker does not confirm what is published")
)

// working says that something of the message at work is still to be sent.
func (s *bridgeSession) working() bool {
	return s.pieces < len(s.out.pieces) || s.rejects < len(s.out.rejects)
}

// take splits a message.
func (s *bridgeSession) take(d *amqp.Delivery) {
	s.b.enter(BridgeActive)
	s.out = s.b.split.split(source{contentType: d.ContentType, encoding: d.ContentEncoding, name: d.Type, body: d.Body})
	s.pieces, s.rejects = 0, 0
	s.parent, _ = d.Headers[messages.HeaderTraceParent].(string)
	if !s.recent.add(d.DeliveryTag, s.out.pieces) {
		// That those before it are gone from the queue is known when another channel gets it first.
		s.out, s.leaving = &split{}, renewing
		return
	}
	f := flight{
		tag:    d.DeliveryTag,
		last:   s.sent + uint64(len(s.out.pieces)+len(s.out.rejects)),
		events: s.out.events,
	}
	for i := range s.out.rejects {
		f.rejects[s.out.rejects[i].why]++
	}
	s.flights = append(s.flights, f)
}

// send publishes what the message at work became, as far as confirms keep up.
func (s *bridgeSession) send(ctx context.Context) error {
	for s.working() && len(s.waiting) < bridgeConfirms {
		if s.pieces < len(s.out.pieces) {
			if err := s.sendPiece(ctx, &s.out.pieces[s.pieces]); err != nil {
				return err
			}
			s.pieces++
			continue
		}
		t := s.b.o.Topology
		msg := deadMessage(s.out.rejects[s.rejects].letter, s.b.o.Conn.User(), s.b.o.Now())
		if err := s.publish(ctx, t.Identity.Shards, t.DeadName(), "", &msg); err != nil {
			return err
		}
		s.rejects++
	}
	return nil
}

func (s *bridgeSession) sendPiece(ctx context.Context, p *piece) error {
	r := messages.Record{
		Type: messages.BatchRecord, FromNode: true, Origin: p.origin, Time: s.b.o.Now().UnixMilli(), TraceParent: s.parent, Body: p.body,
	}
	msg := publishing(&r, s.b.o.Conn.User())
	return s.publish(ctx, p.shard, "", s.b.o.Topology.StreamName(p.shard), &msg)
}

func (s *bridgeSession) publish(ctx context.Context, place int, exchange, key string, msg *amqp.Publishing) error {
	out := s.outlets.places[place]
	if out == nil {
		var err error
		if out, err = s.outlets.open(ctx, place, exchange, key); err != nil {
			return err
		}
	}
	confirm, err := out.publish(msg)
	if err != nil {
		return err
	}
	s.waiting = append(s.waiting, awaited{confirm, out})
	s.sent++
	return nil
}

// settle takes the confirms that are there, as far as none is missing before, and acks what is
// complete.
func (s *bridgeSession) settle() error {
	n := 0
	for n < len(s.waiting) && isDone(s.waiting[n].confirm) {
		if err := s.waiting[n].from.settled(s.waiting[n].confirm); err != nil {
			return err
		}
		n++
	}
	s.waiting = shift(s.waiting, n)
	s.confirmed += uint64(n)
	n = 0
	for n < len(s.flights) && s.flights[n].last <= s.confirmed {
		n++
	}
	if n == 0 {
		return nil
	}
	if err := s.ch.Ack(s.flights[n-1].tag, true); err != nil {
		return endOf(s.ch, s.closes, err)
	}
	s.b.settled(s.flights[:n])
	s.flights = shift(s.flights, n)
	return nil
}

func isDone(c *amqp.DeferredConfirmation) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// shift removes the first n, and keeps the memory.
func shift[T any](s []T, n int) []T {
	rest := copy(s, s[n:])
	clear(s[rest:])
	return s[:rest]
}

// settled counts messages that are done.
func (b *Bridge) settled(flights []flight) {
	events := 0
	var rejects rejectCounts
	for i := range flights {
		events += flights[i].events
		for why, n := range flights[i].rejects {
			rejects[why] += n
		}
	}
	b.messages.Add(uint64(len(flights)))
	b.events.Add(uint64(events))
	b.dead.Add(uint64(rejects.total()))
	b.failure.Store(nil)
	b.o.Metrics.settled(len(flights), events, &rejects)
}
