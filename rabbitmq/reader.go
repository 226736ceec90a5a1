package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
)

const (
	// fillBytes and fillRecords bound what one Next returns: it stops after the record
	// that reaches either.
	fillBytes   = 256 << 10
	fillRecords = 8192
	// silence is how long an attached reader waits for the message that it must get before it
	// asks whether it is there. It decides nothing.
	silence = 100 * time.Millisecond
	// firstPrefetch is a reader's prefetch while it does not know how large messages are, and
	// leastPrefetch where they are large.
	firstPrefetch = 16
	leastPrefetch = 4
	// idleAck is how long messages may be read and not acked. The broker closes a channel
	// after half an hour of that.
	idleAck = time.Minute
)

// Reader reads one shard's log in order. It belongs to one goroutine. It is an alias, so
// that whoever declares the same methods may take it for its own.
type Reader = interface {
	// Next resets into and fills it with the records that follow: at least one, about
	// 256 KiB at most. It waits for them, or for ctx.
	Next(ctx context.Context, into *messages.RecordBatch) error
	Close() error
}

// reader is a consumer of one stream that attaches again and again.
//
//	          attach: proof of the message before next
//	away ──────────────────────────────────────────────► attached
//	 ▲                                                       │
//	 └──────────── connection or channel lost ───────────────┘
//
// Every message that it hands out follows the one before, by proof (see Log). The bodies are the
// memory of the deliveries: they are not copied.
type reader struct {
	log    *Log
	shard  int
	stream string
	conn   *Conn
	state  *shardState

	// at is where the next record must be, with the checksum of the record before: what
	// attaching again has to prove. last is the last message, which may stand before a filler.
	at   messages.Mark
	last probed

	// prefetch is how many messages the broker sends ahead. It is fixed with the consumer, so a
	// change attaches again. mean is the recent mean size of a body; 0 before the first.
	prefetch int
	mean     int

	// While attached.
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	unacked    int
	tag        uint64 // of the last message taken

	// held is a delivery that was taken and not handed out: an offset before it is missing.
	d    amqp.Delivery
	held bool

	idle *time.Timer
}

// Open attaches a reader at a mark, as [Log] says: *messages.LogGapError where the log begins
// later, *messages.LogRegressedError where it ends before or holds another message. A log
// that seems shorter is asked again for some seconds before it is called so.
func (l *Log) Open(ctx context.Context, shard int, at messages.Mark) (Reader, error) {
	if err := l.check(ctx, shard); err != nil {
		return nil, err
	}
	r := &reader{log: l, shard: shard, stream: l.o.Topology.StreamName(shard), conn: l.conn(shard), state: &l.shards[shard], at: at, prefetch: min(firstPrefetch, l.o.Prefetch)}
	if r.mean = int(r.state.size.Load()); r.mean > 0 {
		r.prefetch = r.fitting()
	}
	if err := r.attach(ctx); err != nil {
		return nil, err
	}
	r.state.saw(at.Next)
	return r, nil
}

// attach tries until it is attached at its position, or that is proven to be impossible, or the
// broker has refused for as long as the log's patience. A connection that is lost is no answer:
// while it comes and goes, the reader tries on.
func (r *reader) attach(ctx context.Context) error {
	after := r.log.o.Connection.After
	patience := after(r.log.o.Patience)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		gen := r.conn.Generation()
		err := r.tryAttach(ctx)
		if err == nil {
			r.conn.m.attached.Inc()
			return nil
		}
		r.detach()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, gap := errors.AsType[*messages.LogGapError](err); gap || r.log.ctx.Err() != nil {
			return err
		}
		if e, ok := errors.AsType[*messages.LogRegressedError](err); ok && e.Next >= r.at.Next {
			return err // another log, and not one that lags
		}
		select {
		case <-after(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.log.ctx.Done():
			return errLogClosed()
		}
		// By now a loss has been seen.
		if r.conn.Err() != nil || r.conn.Generation() != gen {
			patience = after(r.log.o.Patience)
			continue
		}
		select {
		case <-patience:
			return err
		default:
		}
	}
}

// tryAttach makes one attempt.
func (r *reader) tryAttach(ctx context.Context) error {
	if err := r.consume(ctx); err != nil {
		return r.log.readError(ctx, err)
	}
	got, err := r.first(ctx)
	if err != nil {
		return err
	}
	want := r.at.Next - 1
	switch {
	case r.at.Next == 0 && !got:
		return nil // an empty log
	case r.at.Next == 0:
		return r.beginning()
	case !got:
		return r.absent(ctx)
	}
	offset, err := r.offset()
	if err != nil {
		return err
	}
	if offset != want {
		return r.proveFiller(ctx, want, offset)
	}
	var m messages.Record
	parseRecord(&r.d, r.log.user, &m)
	if m.Sum != r.at.Sum {
		end, err := r.log.end(ctx, r.shard)
		if err != nil {
			return r.log.readError(ctx, err)
		}
		return r.regressed(max(end, r.at.Next), fmt.Sprintf("message %d has checksum %08x, was checkpointed with %08x: the log has been replaced", want, m.Sum, r.at.Sum))
	}
	r.take()
	r.last = probed{offset: want, sum: m.Sum}
	return nil
}

// consume opens a consumer at the message before the position.
func (r *reader) consume(ctx context.Context) error {
	ch, err := r.conn.Channel(ctx)
	if err != nil {
		return err
	}
	r.ch = ch
	// The call may go on after ctx: it has nothing of the reader's.
	var (
		deliveries <-chan amqp.Delivery
		prefetch   = r.prefetch
		stream, at = r.stream, int64(max(r.at.Next, 1) - 1)
	)
	err = r.conn.await(ctx, func() (err error) {
		if err := ch.Qos(prefetch, 0, false); err != nil {
			return err
		}
		deliveries, err = ch.Consume(stream, "", false, false, false, false, amqp.Table{headerOffset: at})
		return err
	}, nil)
	if err == nil {
		r.deliveries = deliveries
	}
	return err
}

// first waits for the first delivery, which it holds; false where there is proof that there is
// none.
func (r *reader) first(ctx context.Context) (bool, error) {
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case d, ok := <-r.deliveries:
			if !ok {
				return false, r.log.readError(ctx, amqp.ErrClosed)
			}
			r.d, r.held = d, true
			return true, nil
		case <-timer.C:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		got, err := r.log.probe(ctx, r.shard, int64(max(r.at.Next, 1)-1), 1)
		if err != nil {
			return false, r.log.readError(ctx, err)
		}
		if len(got) == 0 {
			return false, nil
		}
		timer.Reset(silence) // it must come, then
	}
}

// beginning proves that the first message that a reader from the beginning has got is that of
// the log.
func (r *reader) beginning() error {
	offset, err := r.offset()
	if err != nil {
		return err
	}
	if offset > 0 {
		return &messages.LogGapError{Shard: r.shard, Want: 0, First: offset}
	}
	return nil
}

// absent says that the log ends before the position.
func (r *reader) absent(ctx context.Context) error {
	end, err := r.log.end(ctx, r.shard)
	if err != nil {
		return r.log.readError(ctx, err)
	}
	if end >= r.at.Next {
		// It grew meanwhile.
		return &messages.UnavailableError{What: "log", Reason: "the broker does not send what it has"}
	}
	return r.regressed(end, "the log is shorter: it has been replaced or has lost its end")
}

// proveFiller proves a position that comes after a filler: the message before it is in its
// checksum.
func (r *reader) proveFiller(ctx context.Context, want, found uint64) error {
	p, ok, err := r.log.before(ctx, r.shard, want)
	if err != nil {
		return r.log.readError(ctx, err)
	}
	if !ok {
		return &messages.LogGapError{Shard: r.shard, Want: r.at.Next, First: found}
	}
	if filler(want, p.offset, p.sum).Sum != r.at.Sum {
		return r.regressed(max(found, r.at.Next), fmt.Sprintf("there is no message %d, which was checkpointed with %08x: the log has been replaced", want, r.at.Sum))
	}
	r.last = p
	return nil
}

func (r *reader) regressed(next uint64, reason string) error {
	return &messages.LogRegressedError{Shard: r.shard, Want: r.at.Next, Next: next, Reason: reason}
}

// offset returns that of the held delivery.
func (r *reader) offset() (uint64, error) {
	offset, ok := offsetOf(&r.d)
	if !ok {
		return 0, &messages.CorruptError{What: r.what(), Reason: "the broker sent a message without an offset: is " + r.stream + " a queue of another type?"}
	}
	return offset, nil
}

func (r *reader) what() string { return fmt.Sprintf("log shard %d offset %d", r.shard, r.at.Next) }

// Next fills into. Errors but those of ctx and *messages.UnavailableError are final.
func (r *reader) Next(ctx context.Context, into *messages.RecordBatch) error {
	into.Reset()
	var bytes int
	err := r.fill(ctx, into, &bytes)
	if n := len(into.Records); n > 0 {
		r.conn.m.deliveries.Add(float64(n))
		r.conn.m.bytes.Add(float64(bytes))
		r.state.saw(r.at.Next)
		behind := n >= max(r.prefetch/2, 2)
		if behind {
			r.state.behind.Store(true)
		}
		r.adapt(bytes/n, behind)
		return nil // an error comes again
	}
	return err
}

// adapt keeps what the broker sends ahead within bounds: fewer messages where they are
// large, more where they are small and there are more to read.
func (r *reader) adapt(size int, behind bool) {
	if r.mean == 0 {
		r.mean = size
	}
	r.mean = (3*r.mean + size) / 4
	r.state.size.Store(int64(r.mean))
	want := r.fitting()
	if want < r.prefetch/2 || behind && want > r.prefetch {
		r.detach()
		r.prefetch = want
	}
}

// fill takes what is there, and waits only for the first.
func (r *reader) fill(ctx context.Context, into *messages.RecordBatch, bytes *int) error {
	for len(into.Records) < fillRecords && *bytes < fillBytes {
		if !r.held {
			if got, err := r.receive(ctx, len(into.Records) == 0); err != nil || !got {
				return err
			}
		}
		offset, err := r.offset()
		if err != nil {
			return err
		}
		switch {
		case offset > r.at.Next:
			if len(into.Records) > 0 {
				return nil // first what is proven
			}
			if err := r.left(ctx, offset, into); err != nil {
				return err
			}
			continue
		case offset < r.at.Next:
			return &messages.CorruptError{What: r.what(), Reason: fmt.Sprintf("the broker sent message %d again", offset)}
		}
		into.Records = append(into.Records, messages.Record{})
		m := &into.Records[len(into.Records)-1]
		parseRecord(&r.d, r.log.user, m)
		m.Offset = offset
		*bytes += len(m.Body)
		r.at = messages.Mark{Next: offset + 1, Sum: m.Sum}
		r.last = probed{offset: offset, sum: m.Sum}
		r.take()
		r.ack(false)
	}
	return nil
}

// left hands out records that say nothing for the offsets up to found, which the broker left
// out, once it is proven that they hold no message: the message before them is still there.
func (r *reader) left(ctx context.Context, found uint64, into *messages.RecordBatch) error {
	if r.at.Next == 0 {
		return &messages.LogGapError{Shard: r.shard, Want: 0, First: found}
	}
	got, err := r.log.probe(ctx, r.shard, int64(r.last.offset), 1)
	if err != nil {
		if ctx.Err() != nil || r.log.ctx.Err() != nil {
			return r.log.readError(ctx, err)
		}
		r.detach() // and attach again
		return nil
	}
	if len(got) == 0 || got[0].offset != r.last.offset {
		first := found
		if len(got) > 0 {
			first = got[0].offset
		}
		return &messages.LogGapError{Shard: r.shard, Want: r.at.Next, First: first}
	}
	if got[0].sum != r.last.sum {
		return r.regressed(found, fmt.Sprintf("message %d has another checksum than when it was read", r.last.offset))
	}
	for r.at.Next < found && len(into.Records) < fillRecords {
		f := filler(r.at.Next, r.last.offset, r.last.sum)
		into.Records = append(into.Records, f)
		r.at = messages.Mark{Next: f.Offset + 1, Sum: f.Sum}
	}
	return nil
}

// fitting is how many messages of the recent size may be sent ahead.
func (r *reader) fitting() int {
	most := r.log.o.Prefetch
	return max(min(r.log.o.ReadAhead/max(r.mean, 1), most), min(leastPrefetch, most))
}

// receive holds the next delivery. It attaches where it is away, and waits where it may.
func (r *reader) receive(ctx context.Context, wait bool) (bool, error) {
	for {
		if r.ch == nil {
			if !wait {
				return false, nil
			}
			if err := r.attach(ctx); err != nil {
				return false, err
			}
			if r.held {
				return true, nil
			}
		}
		d, ok, got := r.poll()
		if !got {
			if !wait {
				return false, nil
			}
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			timer := r.idleTimer()
			select {
			case d, ok = <-r.deliveries:
			case <-timer:
				r.ack(true)
				continue
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
		}
		if ok {
			r.d, r.held = d, true
			return true, nil
		}
		r.detach()
	}
}

// poll takes a delivery that is there. amqp091-go hands them over one by one, and needs to
// be let run for it.
func (r *reader) poll() (d amqp.Delivery, ok, got bool) {
	for range 2 {
		select {
		case d, ok = <-r.deliveries:
			return d, ok, true
		default:
			runtime.Gosched()
		}
	}
	return d, false, false
}

// take has the held delivery handed out.
func (r *reader) take() {
	r.unacked++
	r.tag = r.d.DeliveryTag
	r.d, r.held = amqp.Delivery{}, false
}

// ack lets the broker send more: at half of what it may send ahead, or whatever there is.
// Readers keep no place on the broker: acks are only about credit.
func (r *reader) ack(all bool) {
	if r.ch == nil || r.unacked == 0 || !all && r.unacked < max(r.prefetch/2, 1) {
		return
	}
	r.unacked = 0
	// Where it fails the channel is lost, and that is found by reading on.
	_ = r.ch.Ack(r.tag, true)
}

func (r *reader) idleTimer() <-chan time.Time {
	if r.unacked == 0 {
		return nil
	}
	if r.idle == nil {
		r.idle = time.NewTimer(idleAck)
	} else {
		r.idle.Reset(idleAck)
	}
	return r.idle.C
}

// detach gives the channel up.
func (r *reader) detach() {
	if r.ch != nil {
		ch := r.ch
		r.conn.spawn(func() { _ = ch.Close() })
	}
	r.ch, r.deliveries, r.unacked = nil, nil, 0
	r.d, r.held = amqp.Delivery{}, false
}

// Close ends the consumer.
func (r *reader) Close() error {
	r.detach()
	if r.idle != nil {
		r.idle.Stop()
	}
	return nil
}
