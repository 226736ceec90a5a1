package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
)

// bridgeSession is a bridge on one channel. It belongs to one goroutine, which never waits
// anywhere but in run and in writes to the socket.
type bridgeSession struct {
	b          *Bridge
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	confirms   <-chan amqp.Confirmation
	returns    <-chan amqp.Return
	closes     <-chan *amqp.Error

	// out is what the message at work became; pieces and rejects count what of it was sent.
	out             *split
	pieces, rejects int
	// sent and confirmed count what was published on the channel: they are delivery tags.
	sent, confirmed uint64
	// flights are the messages that are not acked, oldest first; the last may still be at work.
	flights []flight
	recent  recentPieces

	// leaving says that no more messages are taken.
	leaving bool
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
func (b *Bridge) attach(ch *amqp.Channel, check bool) (*bridgeSession, error) {
	t := b.o.Topology
	s := &bridgeSession{b: b, ch: ch, out: &split{}, recent: newRecentPieces(t.Identity.Shards, b.width.prefetch())}
	// A stream that is missing is found before any message is taken for it. Else, declared
	// between two messages, it would get the second without the first.
	for shard := range t.Identity.Shards {
		if !check {
			break
		}
		if _, err := ch.QueueDeclarePassive(t.StreamName(shard), true, false, false, false, nil); err != nil {
			return nil, declareError("stream", t.StreamName(shard), err)
		}
	}
	if err := ch.Confirm(false); err != nil {
		return nil, err
	}
	// None of these is ever full: amqp091-go would hold up the connection, or drop what it holds.
	s.confirms = ch.NotifyPublish(make(chan amqp.Confirmation, bridgeConfirms))
	s.returns = ch.NotifyReturn(make(chan amqp.Return, bridgeConfirms))
	s.closes = ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := ch.Qos(len(s.recent.messages), 0, false); err != nil {
		return nil, err
	}
	var err error
	if s.deliveries, err = ch.Consume(t.UnshardedName(), "", false, false, false, false, nil); err != nil {
		return nil, declareError("queue", t.UnshardedName(), err)
	}
	return s, nil
}

// run bridges until ctx ends, the channel is to be renewed, or something fails.
func (s *bridgeSession) run(ctx context.Context) error {
	done := ctx.Done()
	var late <-chan time.Time
	for {
		changed := s.b.o.Conn.Changed()
		_, blocked := s.b.o.Conn.Blocked()
		if !blocked {
			if err := s.send(); err != nil {
				return s.why(err)
			}
		} else if ctx.Err() != nil {
			return nil
		}
		if s.leaving && len(s.flights) == 0 {
			return nil
		}
		deliveries := s.deliveries
		if blocked || s.leaving || s.working() {
			deliveries = nil
		}
		select {
		case d, ok := <-deliveries:
			if !ok {
				return s.why(errConsumerLost)
			}
			s.take(&d)
		case c, ok := <-s.confirms:
			if !ok {
				return s.why(amqp.ErrClosed)
			}
			if err := s.settle(c); err != nil {
				return s.why(err)
			}
		case r := <-s.returns:
			return returnedError(r)
		case e := <-s.closes:
			if e == nil {
				e = amqp.ErrClosed
			}
			return e
		case <-changed:
		case <-done:
			done, late, s.leaving = nil, s.b.o.After(leavePatience), true
		case <-late:
			return nil
		}
	}
}

var errConsumerLost = errors.New("the broker ended the consumer: the queue was deleted, or its node went away")

// why prefers what is said of the end of a channel to what was seen of it, where it has ended.
func (s *bridgeSession) why(err error) error {
	if !s.ch.IsClosed() {
		return err
	}
	// Closed without a word is said by closing this.
	if e := <-s.closes; e != nil {
		return e
	}
	return err
}

func returnedError(r amqp.Return) error {
	return &ReturnedError{Exchange: r.Exchange, Key: r.RoutingKey, Text: fmt.Sprintf("%d %s", r.ReplyCode, r.ReplyText)}
}

// working says that something of the message at work is still to be sent.
func (s *bridgeSession) working() bool {
	return s.pieces < len(s.out.pieces) || s.rejects < len(s.out.rejects)
}

// take splits a message.
func (s *bridgeSession) take(d *amqp.Delivery) {
	s.b.enter(BridgeActive)
	s.out = s.b.split.split(source{contentType: d.ContentType, encoding: d.ContentEncoding, name: d.Type, body: d.Body})
	s.pieces, s.rejects = 0, 0
	if !s.recent.add(d.DeliveryTag, s.out.pieces) {
		// That those before it are gone from the queue is known when a new channel gets it first.
		s.out, s.leaving = &split{}, true
		s.b.width.trouble()
		return
	}
	s.leaving = s.b.width.took(len(d.Body))
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
func (s *bridgeSession) send() error {
	for s.working() && s.sent-s.confirmed < bridgeConfirms {
		var err error
		if s.pieces < len(s.out.pieces) {
			err = s.sendPiece(&s.out.pieces[s.pieces])
			s.pieces++
		} else {
			t := s.b.o.Topology
			err = s.ch.Publish(t.DeadName(), "", true, false, deadMessage(s.out.rejects[s.rejects].letter, s.b.o.Conn.User(), s.b.o.Now()))
			s.rejects++
		}
		if err != nil {
			return err
		}
		s.sent++
	}
	return nil
}

func (s *bridgeSession) sendPiece(p *piece) error {
	r := messages.Record{Type: messages.BatchRecord, FromNode: true, Origin: p.origin, Time: s.b.o.Now().UnixMilli(), Body: p.body}
	return s.ch.Publish("", s.b.o.Topology.StreamName(p.shard), true, false, publishing(&r, s.b.o.Conn.User()))
}

// settle takes a confirm, and those that are there already, and acks what is complete.
func (s *bridgeSession) settle(c amqp.Confirmation) error {
	for more := true; more; {
		if !c.Ack {
			return errRefused
		}
		s.confirmed = c.DeliveryTag
		select {
		case c, more = <-s.confirms:
		default:
			more = false
		}
	}
	// A message that was returned is confirmed, too, but its return is here before.
	select {
	case r := <-s.returns:
		return returnedError(r)
	default:
	}
	n := 0
	for n < len(s.flights) && s.flights[n].last <= s.confirmed {
		n++
	}
	if n == 0 {
		return nil
	}
	if err := s.ch.Ack(s.flights[n-1].tag, true); err != nil {
		return err
	}
	s.b.settled(s.flights[:n])
	s.flights = s.flights[:copy(s.flights, s.flights[n:])]
	return nil
}

var errRefused = errors.New("the broker did not store a message")

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
