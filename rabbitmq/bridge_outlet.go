package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// maxOutlets is how many places a bridge publishes to at once. A broker allows some 2,000 channels
// on a connection.
const maxOutlets = 1024

// outlet publishes to one place on a channel of its own, in confirm mode.
//
// It must be one place only. Where the writer of a stream changes, which it does some moments
// after the start of a broker, too, the broker sends what is not confirmed to the new one, and
// numbers it as the channel does. The stream knows duplicates by these numbers: with several
// streams on one channel it takes new messages for old ones, and confirms what it drops.
type outlet struct {
	ch            *amqp.Channel
	exchange, key string
	returns       <-chan amqp.Return
	closes        <-chan *amqp.Error
}

// publish sends a message. What is confirmed, in order, is then asked of settled.
func (o *outlet) publish(msg *amqp.Publishing) (*amqp.DeferredConfirmation, error) {
	c, err := o.ch.PublishWithDeferredConfirm(o.exchange, o.key, true, false, *msg)
	if err != nil {
		return nil, endOf(o.ch, o.closes, err)
	}
	return c, nil
}

// settled says what became of a message that is answered.
func (o *outlet) settled(c *amqp.DeferredConfirmation) error {
	if !c.Acked() {
		return endOf(o.ch, o.closes, &NackedError{Exchange: o.exchange, Key: o.key})
	}
	// One that was returned is confirmed, too, but its return is here before.
	select {
	case r, ok := <-o.returns:
		if ok {
			return &ReturnedError{Exchange: r.Exchange, Key: r.RoutingKey, Text: fmt.Sprintf("%d %s", r.ReplyCode, r.ReplyText)}
		}
	default:
	}
	return nil
}

// endOf prefers what was said of the end of a channel to what was seen of it, where it has ended.
func endOf(ch *amqp.Channel, closes <-chan *amqp.Error, err error) error {
	if !ch.IsClosed() {
		return err
	}
	// This is closed at the latest when the channel is.
	if e := <-closes; e != nil {
		return e
	}
	return err
}

// outlets are those of one connection, opened when they are needed first.
type outlets struct {
	conn *Conn
	// gen is the connection's generation: none is on another connection.
	gen uint64
	// places has one for each shard, and one for the dead behind them; nil where none was needed.
	places []*outlet
	count  int
}

func newOutlets(conn *Conn, shards int) *outlets {
	return &outlets{conn: conn, places: make([]*outlet, shards+1)}
}

// full says that there are as many as there may be.
func (o *outlets) full() bool { return o.count >= maxOutlets }

// open makes the outlet of a place.
func (o *outlets) open(ctx context.Context, place int, exchange, key string) (*outlet, error) {
	ch, err := o.conn.Channel(ctx)
	if err != nil {
		return nil, err
	}
	out := &outlet{
		ch: ch, exchange: exchange, key: key,
		// Never full: amqp091-go drops what finds no room.
		returns: ch.NotifyReturn(make(chan amqp.Return, bridgeConfirms)),
		closes:  ch.NotifyClose(make(chan *amqp.Error, 1)),
	}
	o.places[place] = out
	o.count++
	if o.conn.Generation() != o.gen {
		return nil, amqp.ErrClosed
	}
	return out, o.conn.call(ctx, func() error { return ch.Confirm(false) })
}

// close closes all of them. When it returns nothing that was sent is still on its way.
func (o *outlets) close() {
	var closing sync.WaitGroup
	for i, out := range o.places {
		if out != nil {
			closing.Go(func() { o.conn.endChannel(out.ch) })
			o.places[i] = nil
		}
	}
	closing.Wait()
	o.count = 0
}

// endChannel closes a channel, or its connection where that does not help.
func (c *Conn) endChannel(ch *amqp.Channel) {
	if c.closeChannel(ch) != nil {
		c.drop()
	}
}

// call makes a call of amqp091-go, which would wait for ever: a broker that begins may leave one
// unanswered. Then its connection is ended.
func (c *Conn) call(ctx context.Context, call func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stallPatience, errNoAnswer)
	defer cancel()
	err := c.await(ctx, call, nil)
	if errors.Is(err, errNoAnswer) {
		c.drop()
	}
	return err
}

var errNoAnswer = errors.New("the broker does not answer")
