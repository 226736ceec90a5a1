package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"footfall/messages"
)

// MaxBody is the largest body of a record, in bytes.
const MaxBody = 16 << 20

// LogOptions says how to open a [Log]. Only the connection's URL and the topology must be set.
type LogOptions struct {
	// Connection is how each connection of the log is made. Its Name is not used.
	Connection Options
	Topology   Topology
	// Consumers is how many connections read: 0 is 2. The shards are spread over them.
	Consumers int
	// Prefetch is how many messages the broker may send to a reader ahead of what it has
	// taken: 0 is 200. Readers take fewer of large ones.
	Prefetch int
	// ReadAhead is about how many bytes each reader may hold that way: 0 is 4 MiB.
	ReadAhead int
	// Patience is how long a log that seems to have lost its end is asked again before it is
	// called so, since a replica may lag behind: 0 is 10 s.
	Patience time.Duration
}

// Log is the log of every shard on RabbitMQ streams. All methods may be called from any
// goroutine.
//
//	Append ─► channel of the shard ─► default exchange ─► stream of the shard
//	             (a connection)                                │
//	                             (connections of readers)      ▼
//	Next ◄─ proof of each offset ◄────────────────────── consumer at an offset
//
// The broker never says what a stream has lost: it answers a question for an offset with the
// next that it has, and one beyond the end with silence. So:
//
//  1. A reader attaches at the message before its mark and hands out nothing until it has got
//     it, with the checksum of the mark. A later message first is a gap, or another log;
//     silence is never an answer, see [Log.probe].
//  2. What follows must follow: where an offset is left out, the reader proves that the
//     message before it is still there. The broker drops messages from the beginning only, so
//     then the offset held none. It hands out a record that says nothing in its place, so that
//     offsets follow each other. Without the proof it is a gap.
//  3. After a loss of the connection a reader attaches again as in 1, at its own position.
//  4. An append is done once the broker has confirmed each message and has returned none. What
//     was on its way when a connection was lost may be in the log or not.
//  5. Records are from a node where the broker vouches for it: the user of the message is that
//     of the nodes, which nobody else can set.
type Log struct {
	o    LogOptions
	log  *slog.Logger
	name string
	user string

	publish *Conn
	consume []*Conn

	shards []shardState

	// declared is the generation of consume[0] on which everything was found declared; failure
	// is why the last attempt failed.
	declared atomic.Uint64
	failure  atomic.Pointer[error]

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// shardState is what is known of a shard's log here.
type shardState struct {
	// seen is one past the highest offset that was seen.
	seen atomic.Uint64
	// behind is set by a reader that had more to read than it was sent.
	behind atomic.Bool
	// size is the mean size of bodies that its last reader has seen.
	size atomic.Int64

	// publisher is opened with the first append, by whoever has opening. It is the shard's own:
	// brokers before 4.0 may lose what they have confirmed on a channel that publishes to
	// several streams.
	publisher atomic.Pointer[Publisher]
	opening   chan struct{}
}

// maxChannels is how many channels a broker lets a connection have.
const maxChannels = 2000

// window is how many messages of a shard may be on their way.
const window = 256

// OpenLog connects, and declares the topology. Close ends it.
func OpenLog(ctx context.Context, o LogOptions) (_ *Log, err error) {
	if n := o.Topology.Identity.Shards; n > maxChannels {
		return nil, fmt.Errorf("log: %d shards, and a connection may have no more than %d channels", n, maxChannels)
	}
	if o.Consumers == 0 {
		o.Consumers = 2
	}
	if o.Prefetch == 0 {
		o.Prefetch = 200
	}
	if o.ReadAhead == 0 {
		o.ReadAhead = 4 << 20
	}
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	if o.Connection.After == nil {
		o.Connection.After = time.After
	}
	l := &Log{o: o, log: logger(o.Connection.Logger), shards: make([]shardState, max(o.Topology.Identity.Shards, 0))}
	for i := range l.shards {
		l.shards[i].opening = make(chan struct{}, 1)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	for i := range o.Consumers {
		c, err := l.connect(ctx, "consume-"+strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		l.consume = append(l.consume, c)
	}
	gen := l.consume[0].Generation()
	if err := o.Topology.Declare(ctx, l.consume[0]); err != nil {
		return nil, err
	}
	l.declared.Store(gen)
	if l.name, err = o.Topology.LogName(ctx, l.consume[0]); err != nil {
		return nil, err
	}
	if l.publish, err = l.connect(ctx, "publish"); err != nil {
		return nil, err
	}
	l.user = l.publish.User()
	l.work.Go(l.keepDeclared)
	l.work.Go(l.watchEnds)
	return l, nil
}

func (l *Log) connect(ctx context.Context, name string) (*Conn, error) {
	o := l.o.Connection
	o.Name = name
	return Open(ctx, o)
}

// UUID is a random name that the log got when it was created: a store keeps it to notice
// another log.
func (l *Log) UUID() string { return l.name }

// CheckIdentity compares what the log was created for: *messages.IdentityError where it is not
// this. The broker has compared the rest when the log was opened.
func (l *Log) CheckIdentity(want messages.Identity) error {
	other := l.o.Topology
	other.Identity = want
	for i, have := range l.o.Topology.identity() {
		if w := other.identity()[i]; w != have {
			return &messages.IdentityError{Field: have.field, Have: have.value, Want: w.value}
		}
	}
	return nil
}

// User is the name that nodes have on the broker.
func (l *Log) User() string { return l.user }

// Err returns nil while the log works: every connection is there, the broker takes messages,
// and everything was found declared, each stream bound, on the present connection. Else it
// is *messages.BlockedError or *messages.UnavailableError.
func (l *Log) Err() error {
	if err := l.ctx.Err(); err != nil {
		return errLogClosed()
	}
	for _, c := range append([]*Conn{l.publish}, l.consume...) {
		if err := c.Err(); err != nil {
			return &messages.UnavailableError{What: "log", Reason: "no connection", Err: err}
		}
	}
	if err := l.takes(); err != nil {
		return err
	}
	if l.declared.Load() != l.consume[0].Generation() {
		err := &messages.UnavailableError{What: "log", Reason: "its streams have not been checked since the connection came back"}
		if f := l.failure.Load(); f != nil {
			err.Err = *f
		}
		return err
	}
	return nil
}

// takes returns nil where the broker takes messages now.
func (l *Log) takes() error {
	if err := l.publish.Err(); err != nil {
		return &messages.UnavailableError{What: "log", Reason: "no connection to the broker", Err: err}
	}
	if reason, blocked := l.publish.Blocked(); blocked {
		return blockedError(reason)
	}
	return nil
}

// publisher returns that of a shard, and opens it where it is the first time.
func (l *Log) publisher(ctx context.Context, shard int) (*Publisher, error) {
	s := &l.shards[shard]
	if p := s.publisher.Load(); p != nil {
		return p, nil
	}
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if p := s.publisher.Load(); p != nil {
		return p, nil
	}
	if l.ctx.Err() != nil {
		return nil, errLogClosed()
	}
	if err := l.takes(); err != nil {
		return nil, err
	}
	opening, done := l.publish.unblocked(ctx)
	defer done()
	p, err := NewPublisher(opening, l.publish, PublisherOptions{
		Name: "log", Window: window, Logger: l.o.Connection.Logger, Metrics: l.o.Connection.Metrics,
	})
	if _, blocked := errors.AsType[*messages.BlockedError](err); blocked {
		return nil, err
	}
	if err != nil {
		return nil, l.readError(ctx, err)
	}
	s.publisher.Store(p)
	return p, nil
}

// Prepare opens what the first append to a shard needs. It waits for that, or for ctx.
func (l *Log) Prepare(ctx context.Context, shard int) error {
	if err := l.check(ctx, shard); err != nil {
		return err
	}
	_, err := l.publisher(ctx, shard)
	return err
}

// Close ends the log's connections. Appends and readers that wait get *messages.UnavailableError.
// It is idempotent.
func (l *Log) Close() error {
	l.cancel()
	var errs []error
	for _, c := range append([]*Conn{l.publish}, l.consume...) {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	l.work.Wait()
	return errors.Join(errs...)
}

func errLogClosed() error { return &messages.UnavailableError{What: "log", Reason: "it is closed"} }

// check says whether a call may begin.
func (l *Log) check(ctx context.Context, shard int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if shard < 0 || shard >= len(l.shards) {
		return fmt.Errorf("log shard %d: shards are 0 to %d", shard, len(l.shards)-1)
	}
	if l.ctx.Err() != nil {
		return errLogClosed()
	}
	return nil
}

// Append adds records to a shard's log, in order and without a hole, and returns once the broker
// has confirmed all of them. *messages.BlockedError says that it takes nothing for now;
// *messages.UnavailableError that it cannot be reached, or has refused. After an error some
// records may be in the log, and sending them again is right. An append of nothing says
// whether one would be taken.
func (l *Log) Append(ctx context.Context, shard int, records []messages.Record) error {
	if err := l.check(ctx, shard); err != nil {
		return err
	}
	for i := range records {
		if n := len(records[i].Body); n > MaxBody {
			return fmt.Errorf("log shard %d: record %d of the append has %d bytes, more than %d", shard, i, n, MaxBody)
		}
	}
	if len(records) == 0 {
		return l.takes()
	}
	p, err := l.publisher(ctx, shard)
	if err != nil {
		return err
	}
	// One after the other: a broker that begins may send the first back and keep the second. Were
	// both on their way, events would be in the log without those before them, and of a
	// producer that numbers them the ones before could never come again.
	for i := range records {
		if err := l.appendOne(ctx, shard, p, &records[i]); err != nil {
			return appendError(err)
		}
	}
	return nil
}

// appendOne returns once the broker has confirmed a record.
func (l *Log) appendOne(ctx context.Context, shard int, p *Publisher, record *messages.Record) error {
	conf, err := p.Publish(ctx, "", l.o.Topology.StreamName(shard), publishing(record, l.user))
	if err == nil {
		err = conf.Wait(ctx)
	}
	if returned := (*ReturnedError)(nil); errors.As(err, &returned) {
		l.discard(shard, p)
	}
	return err
}

// discard gives up the channel of a shard on which a message came back: the channel has counted
// it and the stream has not, so that from then on their numbers differ (see shardState).
func (l *Log) discard(shard int, p *Publisher) {
	if l.shards[shard].publisher.CompareAndSwap(p, nil) {
		_ = p.Close() // nothing is lost with it that its callers are not told of
	}
}

// appendError makes errors of a publisher those of a log.
func appendError(err error) error {
	var (
		lost     *LostError
		returned *ReturnedError
		nacked   *NackedError
	)
	switch {
	case errors.As(err, &lost) && lost.Sent:
		return &messages.UnavailableError{What: "log", Reason: "the connection to the broker was lost before it confirmed: sending again is right", Err: err}
	case errors.As(err, &lost):
		return &messages.UnavailableError{What: "log", Reason: "no connection to the broker", Err: err}
	case errors.As(err, &returned):
		return &messages.UnavailableError{What: "log", Reason: "the stream is missing on the broker", Err: err}
	case errors.As(err, &nacked):
		return &messages.UnavailableError{What: "log", Reason: "the broker could not store it: sending again is right", Err: err}
	}
	return err
}

// conn is the connection that a shard is read on.
func (l *Log) conn(shard int) *Conn { return l.consume[shard%len(l.consume)] }

// Seen returns the offset to be written next as far as it is known here: what readers have
// got, and where they have more before them, what was asked some seconds ago.
func (l *Log) Seen(shard int) uint64 {
	if shard < 0 || shard >= len(l.shards) {
		return 0
	}
	return l.shards[shard].seen.Load()
}

// saw raises what is known of a shard's end.
func (s *shardState) saw(next uint64) {
	for {
		old := s.seen.Load()
		if next <= old || s.seen.CompareAndSwap(old, next) {
			return
		}
	}
}

// keepDeclared declares everything again on each new connection: whoever has removed something
// meanwhile is noticed, and a broker that lost its disk begins anew.
func (l *Log) keepDeclared() {
	c := l.consume[0]
	for {
		changed := c.Changed()
		gen := c.Generation()
		if c.Err() == nil && l.declared.Load() != gen {
			err := l.o.Topology.Declare(l.ctx, c)
			if err == nil {
				l.failure.Store(nil)
				l.declared.Store(gen)
				continue
			}
			if l.ctx.Err() != nil {
				return
			}
			l.failure.Store(&err)
			l.log.Error("streams cannot be checked", "reason", err)
			select {
			case <-l.o.Connection.After(redeclarePause):
			case <-l.ctx.Done():
				return
			}
			continue
		}
		select {
		case <-changed:
		case <-l.ctx.Done():
			return
		}
	}
}

const (
	redeclarePause = time.Second
	// endsPause is how often readers that lag are told how far.
	endsPause = 2 * time.Second
)

// watchEnds asks for the ends of logs whose readers have more to read than they were sent: what
// the others have read is the end.
func (l *Log) watchEnds() {
	for {
		select {
		case <-l.o.Connection.After(endsPause):
		case <-l.ctx.Done():
			return
		}
		for i := range l.shards {
			if l.shards[i].behind.Swap(false) {
				// Good enough: where the last chunk of messages begins.
				got, err := l.probe(l.ctx, i, "last", 1)
				if err != nil {
					break
				}
				for j := range got {
					l.shards[i].saw(got[j].offset + 1)
				}
			}
		}
	}
}
