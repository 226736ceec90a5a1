package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
)

// DefaultPrefix begins the names of everything that is declared.
const DefaultPrefix = "footfall"

// Headers of messages.
const (
	// HeaderOrigin carries messages.Record.Origin, as bytes.
	HeaderOrigin = "footfall-origin"
	// HeaderReason, HeaderSource and HeaderPosition tell of a dead letter why it is one and
	// where it stood.
	HeaderReason   = "footfall-reason"
	HeaderSource   = "footfall-source"
	HeaderPosition = "footfall-position"
	// HeaderField, HeaderEventID and HeaderCustomerID tell more, where it is known.
	HeaderField      = "footfall-field"
	HeaderEventID    = "footfall-event-id"
	HeaderCustomerID = "footfall-customer-id"
)

// deliveryLimit of the quorum queues: as good as none, but set. Without one, or with the 20
// of newer brokers, what is given back by closing a channel moves to the tail or is dropped.
const deliveryLimit = 1_000_000_000

// Retention bounds what a stream keeps. The broker drops whole segments, oldest first, when it
// begins a new one; it always keeps the last.
type Retention struct {
	// MaxAge is the age of the oldest segment: 0 is 35 days, below 0 is for ever.
	MaxAge time.Duration
	// MaxBytes bounds each stream: 0 is no bound.
	MaxBytes int64
	// SegmentBytes is the size of a segment, at most 3 GB: 0 is 64 MiB, or an eighth of
	// MaxBytes where that is less.
	SegmentBytes int64
}

const (
	defaultMaxAge       = 35 * 24 * time.Hour
	defaultSegmentBytes = 64 << 20
	minSegmentBytes     = 64 << 10
)

func (r Retention) withDefaults() Retention {
	if r.MaxAge == 0 {
		r.MaxAge = defaultMaxAge
	}
	if r.SegmentBytes == 0 {
		r.SegmentBytes = defaultSegmentBytes
		if r.MaxBytes > 0 {
			r.SegmentBytes = max(minSegmentBytes, min(r.SegmentBytes, r.MaxBytes/8))
		}
	}
	return r
}

// arguments of a stream's declaration. They are fixed with it.
func (r Retention) arguments() amqp.Table {
	r = r.withDefaults()
	t := amqp.Table{
		amqp.QueueTypeArg:                 amqp.QueueTypeStream,
		amqp.StreamMaxSegmentSizeBytesArg: r.SegmentBytes,
	}
	if r.MaxAge > 0 {
		t[amqp.StreamMaxAgeArg] = brokerAge(r.MaxAge)
	}
	if r.MaxBytes > 0 {
		t[amqp.StreamMaxLenBytesArg] = r.MaxBytes
	}
	return t
}

// brokerAge writes an age as the broker reads it, in days where it is whole ones.
func brokerAge(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "D"
	}
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10) + "s"
}

// Topology is everything that Footfall has on a broker: names, and what they are declared as.
//
//	publisher ─► events ──── by shard number ──► events.0 …  (streams, the log)
//	               │ any other key
//	               ▼
//	            unsharded (exchange, quorum queue) ─► the bridge ─► events.0 … by name
//
//	dead (exchange, quorum queue)    insights, models (topic exchanges)    identity.…
type Topology struct {
	// Prefix begins all names: "" is [DefaultPrefix]. Clusters that share a virtual host
	// need one each.
	Prefix string
	// Identity is what the log is created for. Its fold version is left to the store.
	Identity  messages.Identity
	Retention Retention
}

func (t Topology) name(s string) string {
	if t.Prefix == "" {
		return DefaultPrefix + s
	}
	return t.Prefix + s
}

// EventsExchange takes events to the stream of the shard that the routing key names, and any
// other to the unsharded queue.
func (t Topology) EventsExchange() string { return t.name(".events") }

// StreamName is the stream of a shard.
func (t Topology) StreamName(shard int) string { return t.name(".events." + strconv.Itoa(shard)) }

// UnshardedName is the exchange and the queue of messages without a shard.
func (t Topology) UnshardedName() string { return t.name(".unsharded") }

// DeadName is the exchange and the queue of what could not be accepted.
func (t Topology) DeadName() string { return t.name(".dead") }

// InsightsExchange is where insights are published.
func (t Topology) InsightsExchange() string { return t.name(".insights") }

// ModelsExchange is where news of models are published.
func (t Topology) ModelsExchange() string { return t.name(".models") }

// Declare makes everything that is missing and changes nothing that is there. Where the log
// was created for other settings it is *messages.IdentityError, and nothing is made; where
// something has other arguments, *TopologyError.
func (t Topology) Declare(ctx context.Context, c *Conn) error {
	if err := t.check(); err != nil {
		return err
	}
	ch, err := c.Channel(ctx)
	if err != nil {
		return err
	}
	return c.await(ctx, func() error {
		defer ch.Close() //nolint:errcheck // a channel that the broker has closed is closed
		return t.identityError(t.declare(ctx, ch))
	}, nil)
}

// check finds what the broker would refuse, or take for something else.
func (t Topology) check() error {
	if n := t.Identity.Shards; n < 1 || n > messages.MaxShards {
		return fmt.Errorf("topology: %d shards: 1 to %d are possible", n, messages.MaxShards)
	}
	if p := t.name(""); len(p) > maxPrefix || strings.ContainsFunc(p, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}) {
		return fmt.Errorf("topology: prefix %q: at most %d letters, digits, '.', '_' and '-' are possible", p, maxPrefix)
	}
	return nil
}

// maxPrefix leaves room for what the broker says of two values, in 255 bytes.
const maxPrefix = 32

func (t Topology) declare(ctx context.Context, ch *amqp.Channel) error {
	quorum := amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-delivery-limit": int64(deliveryLimit)}
	single := amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-delivery-limit": int64(deliveryLimit), amqp.SingleActiveConsumerArg: true}
	d := declarer{ctx: ctx, ch: ch}
	for _, f := range t.identity() {
		d.exchange(t.identityName(f.field), amqp.ExchangeFanout, true, amqp.Table{alternateArg: t.identityValue(f.value)})
	}
	d.exchange(t.UnshardedName(), amqp.ExchangeFanout, false, nil)
	d.queue(t.UnshardedName(), single)
	d.bind(t.UnshardedName(), "", t.UnshardedName())
	d.exchange(t.DeadName(), amqp.ExchangeFanout, false, nil)
	d.queue(t.DeadName(), quorum)
	d.bind(t.DeadName(), "", t.DeadName())
	d.exchange(t.InsightsExchange(), amqp.ExchangeTopic, false, nil)
	d.exchange(t.ModelsExchange(), amqp.ExchangeTopic, false, nil)
	stream := t.Retention.arguments()
	for shard := range t.Identity.Shards {
		d.queue(t.StreamName(shard), stream)
	}
	d.exchange(t.EventsExchange(), amqp.ExchangeDirect, false, amqp.Table{alternateArg: t.UnshardedName()})
	for shard := range t.Identity.Shards {
		d.bind(t.StreamName(shard), strconv.Itoa(shard), t.EventsExchange())
	}
	return d.err
}

// declarer declares one thing after the other, until an error.
type declarer struct {
	ctx context.Context
	ch  *amqp.Channel
	err error
}

func (d *declarer) do(kind, name string, declare func() error) {
	if d.err != nil {
		return
	}
	if d.err = context.Cause(d.ctx); d.err != nil {
		return
	}
	if err := declare(); err != nil {
		d.err = declareError(kind, name, err)
	}
}

const alternateArg = "alternate-exchange"

func (d *declarer) exchange(name, kind string, internal bool, args amqp.Table) {
	d.do("exchange", name, func() error { return d.ch.ExchangeDeclare(name, kind, true, false, internal, false, args) })
}

func (d *declarer) queue(name string, args amqp.Table) {
	kind := "queue"
	if args[amqp.QueueTypeArg] == amqp.QueueTypeStream {
		kind = "stream"
	}
	d.do(kind, name, func() error {
		_, err := d.ch.QueueDeclare(name, true, false, false, false, args)
		return err
	})
}

func (d *declarer) bind(queue, key, exchange string) {
	d.do("binding", queue, func() error { return d.ch.QueueBind(queue, key, exchange, false, nil) })
}

// declareError puts the broker's answer to a declaration into words.
func declareError(kind, name string, err error) error {
	var reply *amqp.Error
	if !errors.As(err, &reply) || !reply.Server {
		return fmt.Errorf("declaring %s %s: %w", kind, name, err)
	}
	argument, have, want := parseInequivalent(reply.Reason)
	return &TopologyError{Kind: kind, Name: name, Argument: argument, Have: have, Want: want, Err: reply}
}
