package rabbitmq

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
)

// PublisherOptions says how to publish. The zero value is right for most.
type PublisherOptions struct {
	// Name tells the publishers of a process apart, in logs and metrics.
	Name string
	// Window is how many messages may be sent and not confirmed yet, and how many may wait
	// to be sent: 0 is 1000.
	Window  int
	Logger  *slog.Logger
	Metrics *Metrics
}

// Publisher publishes on one channel in confirm mode. All methods may be called from any
// goroutine; messages that one goroutine gives for one exchange and key are sent in its order.
//
//	Publish ─► queue ─► writer ─► broker
//	  bounded,           │          │ confirm, refusal, return
//	  gives up           ▼          ▼
//	  with ctx        unsettled ─► settler ─► Wait
//	                  (the window)
//
// Invariants:
//
//  1. Only the writer touches the socket: it may hang there while the broker takes nothing,
//     its callers never do.
//  2. A message is settled once: confirmed, refused, returned, or lost with its channel. What
//     was sent and lost may be stored or not; nobody can know.
//  3. What waits in the queue when a channel is lost fails with it and is not sent on the
//     next: its caller decides, in order.
//  4. Publishers of one connection take turns, with all that waits, what has one key together
//     and all in one piece. A stream is written in chunks, a chunk being what has come by then:
//     where messages of many streams alternate, each becomes a chunk, which costs the broker
//     twice as much to write and to read.
//  5. A returned message is told from the confirmed by itself: the broker sends it back
//     before it confirms it, and returns come in the order of sending.
type Publisher struct {
	conn *Conn
	o    PublisherOptions
	log  *slog.Logger
	m    *publisherSeries

	queue chan *sending
	// refusing is why messages fail at once; nil while there is a channel.
	refusing atomic.Pointer[error]

	stop sync.Once
	stopped,
	done chan struct{}
}

// sending is one message on its way.
type sending struct {
	conf          *Confirmation
	exchange, key string
	msg           amqp.Publishing

	// The writer's, then the settler's.
	confirm *amqp.DeferredConfirmation
	at      time.Time
}

// Confirmation is what becomes of a message.
type Confirmation struct {
	p *Publisher
	// done is closed once the message is settled; failure is good from then on.
	done    chan struct{}
	failure error
}

// settle ends the message with an error, or with none. It is called once.
func (c *Confirmation) settle(err error) {
	c.failure = err
	close(c.done)
}

// Wait returns nil once the broker has taken responsibility for the message and has routed
// it, else *ReturnedError, *NackedError, *LostError or *messages.BlockedError. After the last
// two, and where ctx ends first, the message may be stored or not.
func (c *Confirmation) Wait(ctx context.Context) error {
	for {
		state := c.p.conn.state.Load()
		if state.blocked {
			select {
			case <-c.done:
				return c.failure
			default:
				return blockedError(state.reason)
			}
		}
		select {
		case <-c.done:
			return c.failure
		case <-state.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.p.done:
			// What slipped into the queue after its end is settled by nobody.
			select {
			case <-c.done:
				return c.failure
			default:
				return c.p.refusal(&sending{})
			}
		}
	}
}

// NewPublisher opens the first channel, and others when it is lost, until Close.
func NewPublisher(ctx context.Context, conn *Conn, o PublisherOptions) (*Publisher, error) {
	if o.Window == 0 {
		o.Window = 1000
	}
	p := &Publisher{
		conn: conn, o: o, log: logger(o.Logger).With("publisher", o.Name), m: o.Metrics.publisher(o.Name),
		queue:   make(chan *sending, o.Window),
		stopped: make(chan struct{}),
		done:    make(chan struct{}),
	}
	ch, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	if !conn.spawn(func() { p.run(ch) }) {
		return nil, conn.closedError()
	}
	return p, nil
}

// Publish gives a message to the broker, persistent and mandatory, and returns before it is
// confirmed. Where the broker takes nothing it is *messages.BlockedError, without a connection
// *LostError: the message was not sent. The message must not be changed until it is settled.
func (p *Publisher) Publish(ctx context.Context, exchange, key string, msg amqp.Publishing) (*Confirmation, error) {
	s := &struct {
		Confirmation
		sending
	}{sending: sending{exchange: exchange, key: key, msg: msg}}
	s.p, s.done = p, make(chan struct{})
	s.conf = &s.Confirmation
	if err := p.send(ctx, &s.sending); err != nil {
		return nil, err
	}
	return s.conf, nil
}

// Ready returns nil where a message would be taken now, else the error that it would get.
func (p *Publisher) Ready() error {
	if reason, blocked := p.conn.Blocked(); blocked {
		return blockedError(reason)
	}
	if p.refusing.Load() != nil {
		return p.refusal(&sending{})
	}
	return nil
}

// send puts a message into the queue.
func (p *Publisher) send(ctx context.Context, s *sending) error {
	if err := checkMessage(s.exchange, s.key, &s.msg); err != nil {
		return err
	}
	s.msg.DeliveryMode = amqp.Persistent
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		state := p.conn.state.Load()
		if state.blocked {
			return blockedError(state.reason)
		}
		if p.refusing.Load() != nil {
			return p.refusal(s)
		}
		select {
		case p.queue <- s:
			return nil
		case <-state.changed:
		case <-ctx.Done():
		case <-p.done:
			return p.refusal(s)
		}
	}
}

// refusal is why a message was not sent.
func (p *Publisher) refusal(s *sending) error {
	why := errClosed
	if e := p.refusing.Load(); e != nil {
		why = *e
	}
	return &LostError{Exchange: s.exchange, Key: s.key, Err: why}
}

var errClosed = errors.New("the publisher is closed")

// Close ends the channel. What is not confirmed by then is lost. A writer that hangs in a
// blocked connection is freed by ending that connection, after two seconds. It is idempotent.
func (p *Publisher) Close() error {
	p.stop.Do(func() { close(p.stopped) })
	patience := time.NewTimer(closePatience)
	defer patience.Stop()
	select {
	case <-p.done:
	case <-patience.C:
		p.conn.drop()
		<-p.done
	}
	return nil
}

// open opens a channel in confirm mode.
func (p *Publisher) open(ctx context.Context) (*amqp.Channel, error) {
	ch, err := p.conn.Channel(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.conn.await(ctx, func() error { return ch.Confirm(false) }, nil); err != nil {
		p.discard(ch)
		return nil, err
	}
	return ch, nil
}

// discard closes a channel without waiting for it.
func (p *Publisher) discard(ch *amqp.Channel) { p.conn.spawn(func() { _ = ch.Close() }) }

// run serves one channel after the other.
func (p *Publisher) run(ch *amqp.Channel) {
	defer close(p.done)
	for ch != nil {
		why := p.serve(ch)
		p.refusing.Store(&why)
		p.empty()
		if p.isStopped() {
			return
		}
		if !p.conn.ended() { // else it is the whole connection, which says so itself
			p.log.Warn("publishing channel lost", "reason", why)
		}
		if ch = p.reopen(); ch != nil {
			p.refusing.Store(nil)
		}
	}
}

func (p *Publisher) isStopped() bool {
	select {
	case <-p.stopped:
		return true
	default:
		return false
	}
}

// empty fails what waits in the queue.
func (p *Publisher) empty() {
	for {
		select {
		case s := <-p.queue:
			s.conf.settle(p.refusal(s))
		default:
			return
		}
	}
}

// reopen gets another channel, and fails what comes meanwhile; nil at the end.
func (p *Publisher) reopen() *amqp.Channel {
	ctx, cancel := context.WithCancel(p.conn.ctx)
	opened := make(chan *amqp.Channel, 1)
	var opening sync.WaitGroup
	opening.Go(func() { opened <- p.keepOpening(ctx) })
	defer opening.Wait()
	defer cancel()
	for {
		select {
		case ch := <-opened:
			return ch
		case s := <-p.queue:
			s.conf.settle(p.refusal(s))
		case <-p.stopped:
			cancel()
			opening.Wait()
			select {
			case ch := <-opened:
				if ch != nil {
					p.discard(ch)
				}
			default:
			}
			return nil
		case <-p.conn.ctx.Done():
			return nil
		}
	}
}

// keepOpening tries until it has a channel; nil once ctx ends.
func (p *Publisher) keepOpening(ctx context.Context) *amqp.Channel {
	for pause := p.conn.o.BackoffMin; ; pause = min(2*pause, p.conn.o.BackoffMax) {
		ch, err := p.open(ctx)
		if err == nil {
			return ch
		}
		if ctx.Err() != nil {
			return nil
		}
		p.log.Warn("no channel to publish on", "reason", err)
		select {
		case <-p.conn.o.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// serve publishes on a channel until it is lost, or Close, and says why.
func (p *Publisher) serve(ch *amqp.Channel) error {
	l := &life{
		p: p, ch: ch,
		// amqp091-go drops a return that finds no room: one for each message in the window, and
		// one on either side of it.
		returns:   ch.NotifyReturn(make(chan amqp.Return, p.o.Window+2)),
		closes:    ch.NotifyClose(make(chan *amqp.Error, 1)),
		unsettled: make(chan *sending, p.o.Window),
		room:      make(chan struct{}, p.o.Window),
	}
	var settler sync.WaitGroup
	settler.Go(l.settle)
	why := l.write()
	// Nothing new is taken from here on; closing the channel settles what is on its way.
	p.refusing.Store(&why)
	close(l.unsettled)
	_ = ch.Close()
	settler.Wait()
	return why
}

// life is a publisher on one channel.
type life struct {
	p         *Publisher
	ch        *amqp.Channel
	returns   chan amqp.Return
	closes    chan *amqp.Error
	unsettled chan *sending
	room      chan struct{} // holds one for each message of the window

	run []*sending // the writer's: what is sent in one turn

	// The settler's: returns that no message was found for yet.
	returned []amqp.Return
}

// write sends what comes out of the queue, as far as the window has room.
func (l *life) write() error {
	for {
		select {
		case l.room <- struct{}{}:
		case e := <-l.closes:
			return l.lost(e)
		case <-l.p.stopped:
			return errClosed
		}
		select {
		case s := <-l.p.queue:
			if err := l.sendRun(s); err != nil {
				return err
			}
		case e := <-l.closes:
			return l.lost(e)
		case <-l.p.stopped:
			return errClosed
		}
	}
}

// sendRun sends a message, for which there is room, and those that wait behind it, while the
// other publishers of the connection wait: else their messages would alternate with these.
func (l *life) sendRun(s *sending) (err error) {
	l.p.conn.turn.Lock()
	defer l.p.conn.turn.Unlock()
	run := l.gather(s)
	if link := l.p.conn.state.Load().link; link != nil && len(run) > 1 {
		link.out.cork()
		defer func() { err = errors.Join(err, link.out.uncork()) }()
	}
	for i, s := range run {
		if err := l.send(s); err != nil {
			for _, s := range run[i+1:] {
				s.conf.settle(&LostError{Exchange: s.exchange, Key: s.key, Err: err})
			}
			return err
		}
	}
	return nil
}

// gather takes a run out of the queue, of which s is the first, and sorts it by key.
func (l *life) gather(s *sending) []*sending {
	clear(l.run)
	l.run = append(l.run[:0], s)
	for len(l.run) < maxRun && len(l.p.queue) > 0 { // nobody else takes from it
		select {
		case l.room <- struct{}{}:
			l.run = append(l.run, <-l.p.queue)
			continue
		default:
		}
		break
	}
	slices.SortStableFunc(l.run, func(a, b *sending) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.exchange, b.exchange))
	})
	return l.run
}

// maxRun bounds what is sent in one turn.
const maxRun = 256

// send writes a message.
func (l *life) send(s *sending) (err error) {
	s.at = time.Now()
	s.confirm, err = l.ch.PublishWithDeferredConfirm(s.exchange, s.key, true, false, s.msg)
	if err != nil {
		l.p.m.lost.Inc()
		s.conf.settle(&LostError{Exchange: s.exchange, Key: s.key, Sent: !errors.Is(err, amqp.ErrClosed), Err: err})
		return l.why(err)
	}
	l.p.m.unconfirmed.Inc()
	l.unsettled <- s // has room where the window has
	return nil
}

func (l *life) lost(e *amqp.Error) error {
	if e == nil {
		return amqp.ErrClosed
	}
	return e
}

// why prefers the broker's own words to what the write saw of it.
func (l *life) why(err error) error {
	select {
	case e := <-l.closes:
		if e != nil {
			return e
		}
	default:
	}
	return err
}

func (l *life) fail(s *sending, why error) {
	l.p.m.unconfirmed.Dec()
	l.p.m.lost.Inc()
	s.conf.settle(&LostError{Exchange: s.exchange, Key: s.key, Sent: true, Err: why})
}

// settle says what became of each message, in the order of sending.
func (l *life) settle() {
	for s := range l.unsettled {
		<-s.confirm.Done()
		<-l.room
		var err error
		switch {
		case s.confirm.Acked():
			err = l.wasReturned(s)
		case l.ch.IsClosed():
			// amqp091-go calls this a refusal, too.
			l.fail(s, errChannelLost)
			continue
		default:
			err = &NackedError{Exchange: s.exchange, Key: s.key}
			l.p.m.nacked.Inc()
		}
		if err == nil {
			l.p.m.confirm.Observe(time.Since(s.at).Seconds())
			l.p.m.published.Inc()
		}
		l.p.m.unconfirmed.Dec()
		s.conf.settle(err)
	}
}

var errChannelLost = errors.New("the channel was lost before the broker confirmed")

// wasReturned finds a confirmed message among those that came back: its return is here
// before its confirm is. Where equal messages were sent, it makes no difference which of them
// is said to have come back.
func (l *life) wasReturned(s *sending) error {
	for {
		select {
		case r, ok := <-l.returns:
			if ok {
				l.returned = append(l.returned, r)
				continue
			}
		default:
		}
		break
	}
	for i, r := range l.returned {
		if r.Exchange == s.exchange && r.RoutingKey == s.key && r.MessageId == s.msg.MessageId && bytes.Equal(r.Body, s.msg.Body) {
			l.returned = append(l.returned[:i], l.returned[i+1:]...)
			l.p.m.returned.Inc()
			return &ReturnedError{Exchange: s.exchange, Key: s.key, Text: fmt.Sprintf("%d %s", r.ReplyCode, r.ReplyText)}
		}
	}
	return nil
}

func blockedError(reason string) error { return &messages.BlockedError{What: "log", Reason: reason} }
