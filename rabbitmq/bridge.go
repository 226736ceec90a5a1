package rabbitmq

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
)

const (
	// bridgePrefetch is how many messages the broker gives before it has an ack for the first. It
	// is that of every bridge of a queue: see the fourth invariant of [Bridge]. More costs the
	// broker less for each message; but where one shard has more than a quarter of them, they are
	// more than may be under way, and the end of a consumer comes ever sooner.
	bridgePrefetch = 4 * maxUnsettled
	// bridgeConfirms is how many messages may be sent and not confirmed yet.
	bridgeConfirms = 1024
	// stallPatience is how long the broker may leave a call unanswered, or all that is published.
	stallPatience = 5 * time.Second
	// leavePatience is how long an end waits for what is on its way.
	leavePatience = 2 * time.Second
)

// BridgeOptions says what a [Bridge] works between.
type BridgeOptions struct {
	// Conn should be the bridge's own: it ends this connection where it cannot get out of a
	// blocked write otherwise. Its user must be that of the nodes.
	Conn *Conn
	// Topology must have been declared. Its identity says how events are sharded and validated.
	Topology Topology
	// Logger gets each interruption; nil for none.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *BridgeMetrics
	// BackoffMin and BackoffMax bound the pauses after a failure: 0 is 100 ms and 5 s. They
	// double, with half of each left to chance.
	BackoffMin, BackoffMax time.Duration
	// After and Now are time.After and time.Now where they are nil.
	After func(time.Duration) <-chan time.Time
	Now   func() time.Time
}

// Bridge takes the messages of publishers that do not know shards to the streams of their
// shards. Every node may run one: the queue gives its messages to one consumer at a time, and
// the next takes over where that one's channel ends.
//
//	        attached               first message
//	away ───────────────► waiting ───────────────► active
//	 ▲ pause                 │                        │
//	 └───────────────────────┴── the channel ends ────┘
//
// A message is split into pieces, a batch of each shard's events, and dead letters, all of
// them are published, and once all are confirmed the message is acked:
//
//	queue ─► split ─► pieces to the streams by name ─► confirms ─► ack, in order
//	              └─► rejected events to dead
//
// Invariants:
//
//  1. A message is acked only when every piece and every dead letter of it is confirmed. So
//     each is stored at least once.
//  2. At most 64 pieces of one shard are republished and not known to be gone from the queue.
//     Readers remember the last 64 origins of a stream, so what comes again after whatever
//     failure counts once. An ack proves nothing: the broker may die before it has written it.
//     That a message is delivered does: the queue counts what is out, and gives no more than
//     the prefetch, so it has written the ack of the message that many before. Where a shard
//     would get too many, all is settled and consumed on another channel: what that gives
//     first proves that all before is gone.
//  3. Per customer, the order of the queue is the order in the stream: each stream is published
//     to in that order, on a channel of its own (see outlet), and all channels are of one
//     connection, those for publishing closed before that for consuming. So nothing of a
//     message reaches a stream any more when it is given to another consumer.
//  4. Nothing is given back by nack or requeue, which would change the order. Hand-over, and
//     the answer to every failure, is to close the channels: messages return to the head of the
//     queue, in order. (They go behind others that have returned before: there are none, since
//     each consumer's prefetch takes all that the one before could give back.) A broker that
//     leaves something unanswered has failed, too.
//  5. Streams are reached by name through the default exchange, mandatory. Through the events
//     exchange a message of a shard that is not bound would come back to the queue, confirmed.
//  6. What is wrong with a message never stops the ones behind it. What is wrong with the
//     broker, such as a stream that is missing, does: no message is given up for that.
type Bridge struct {
	o     BridgeOptions
	log   *slog.Logger
	split *splitter // the goroutine's of Run

	channel                            atomic.Pointer[amqp.Channel] // nil while away
	state                              atomic.Int32
	failure                            atomic.Pointer[error]
	messages, events, dead, interrupts atomic.Uint64
}

// BridgeState is where a bridge is.
type BridgeState int32

// The states.
const (
	// BridgeAway has no channel.
	BridgeAway BridgeState = iota
	// BridgeWaiting has got no message since it attached: another node's bridge is active, or
	// the queue is empty.
	BridgeWaiting
	// BridgeActive gets the messages of the queue.
	BridgeActive
)

func (s BridgeState) String() string {
	switch s {
	case BridgeWaiting:
		return "waiting"
	case BridgeActive:
		return "active"
	case BridgeAway:
	}
	return "away"
}

// BridgeStatus is what a bridge is doing. The figures count from its start, what was settled
// only.
type BridgeStatus struct {
	State BridgeState
	// Err is why it was interrupted last; nil once messages are settled again.
	Err error
	// Messages were taken out of the queue. Of them came Events and Rejected dead letters.
	Messages, Events, Rejected uint64
	// Restarts counts interruptions.
	Restarts uint64
}

// NewBridge makes a bridge; Run starts it.
func NewBridge(o BridgeOptions) (*Bridge, error) {
	if n := o.Topology.Identity.Shards; n < 1 || n > messages.MaxShards {
		return nil, fmt.Errorf("bridge: %d shards: 1 to %d are possible", n, messages.MaxShards)
	}
	if o.BackoffMin == 0 {
		o.BackoffMin = 100 * time.Millisecond
	}
	if o.BackoffMax == 0 {
		o.BackoffMax = 5 * time.Second
	}
	if o.After == nil {
		o.After = time.After
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	rules := messages.Validator{Shards: o.Topology.Identity.Shards, Currency: o.Topology.Identity.Currency}
	return &Bridge{
		o:     o,
		log:   logger(o.Logger).With("queue", o.Topology.UnshardedName()),
		split: newSplitter(rules, o.Topology.UnshardedName()),
	}, nil
}

// Status tells what the bridge is doing.
func (b *Bridge) Status() BridgeStatus {
	st := BridgeStatus{
		State: BridgeState(b.state.Load()), Restarts: b.interrupts.Load(),
		Messages: b.messages.Load(), Events: b.events.Load(), Rejected: b.dead.Load(),
	}
	if err := b.failure.Load(); err != nil {
		st.Err = *err
	}
	return st
}

// Run bridges until ctx ends, and then returns nil, at the latest after two seconds. No failure
// ends it but that the connection was closed. It is to be called once.
func (b *Bridge) Run(ctx context.Context) error {
	pause := b.o.BackoffMin
	for {
		before := b.messages.Load()
		err := b.serve(ctx)
		b.enter(BridgeAway)
		switch {
		case ctx.Err() != nil:
			return nil
		case b.o.Conn.ctx.Err() != nil:
			return b.o.Conn.closedError()
		}
		b.failure.Store(&err)
		b.interrupts.Add(1)
		b.o.Metrics.restarted()
		b.log.Warn("bridge interrupted", "reason", err)
		if b.messages.Load() != before {
			pause = b.o.BackoffMin
		}
		select {
		case <-b.o.After(pause/2 + rand.N(pause/2+1)):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, b.o.BackoffMax)
	}
}

func (b *Bridge) enter(s BridgeState) {
	if b.state.Swap(int32(s)) != int32(s) {
		b.o.Metrics.active(s == BridgeActive)
	}
}

// serve bridges on one connection, until something fails or ctx ends; that is nil.
func (b *Bridge) serve(ctx context.Context) error {
	defer b.guard(ctx)()
	o := newOutlets(b.o.Conn, b.o.Topology.Identity.Shards)
	for first := true; ; first = false {
		again, err := b.consume(ctx, o, first)
		if err != nil || !again {
			return err
		}
	}
}

// consume bridges on one channel of the connection. It answers whether there is to be another.
func (b *Bridge) consume(ctx context.Context, o *outlets, first bool) (again bool, err error) {
	ch, err := b.o.Conn.Channel(ctx)
	if err != nil {
		return false, err
	}
	// What was delivered and is not acked returns to the queue with the end of this channel: what
	// was sent of it must be there before.
	defer b.o.Conn.endChannel(ch)
	defer func() {
		if !again || err != nil || o.full() {
			o.close()
		}
	}()
	// Read after the channel was opened: one that is lost since fails by itself.
	switch gen := b.o.Conn.Generation(); {
	case first:
		o.gen = gen
		if err := b.checkStreams(ctx, ch); err != nil {
			return false, err
		}
	case o.gen != gen:
		return false, amqp.ErrClosed
	}
	s, err := b.attach(ctx, ch, o)
	if err != nil {
		return false, err
	}
	b.channel.Store(ch)
	defer b.channel.Store(nil)
	b.enter(BridgeWaiting)
	err = s.run(ctx)
	return s.leaving == renewing, err
}

// guard ends the connection under a channel that has not ended in time after ctx: amqp091-go is
// deaf to contexts. What it returns is to be called when the channel has ended.
func (b *Bridge) guard(ctx context.Context) (ended func()) {
	done := make(chan struct{})
	var g sync.WaitGroup
	g.Go(func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		if _, blocked := b.o.Conn.Blocked(); !blocked {
			select {
			case <-done:
				return
			case <-b.o.After(leavePatience + leavePatience/4):
			}
		}
		b.o.Conn.drop()
	})
	return func() {
		close(done)
		g.Wait()
	}
}
