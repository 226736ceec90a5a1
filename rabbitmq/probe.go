package rabbitmq

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
)

// probed is one message that a probe has found.
type probed struct {
	offset uint64
	sum    uint32
	size   int
}

// probe returns the first messages at or after an offset ("first", "last" for the beginning of
// the last chunk, or a number), at most n: fewer only where the stream ends. So none is proof
// that there is none, which a time-out would not be.
//
// The proof is in the order of messages between processes of the broker. The channel tells
// the stream that consumer a listens; the stream answers at once where it has something.
// Then the channel asks the stream for a second consumer, b, and waits for that: the answer for a
// is there before it. Whatever the channel is asked once it has done that is answered after
// a's messages were sent. It is sent its first question only after it has begun with b, so
// the second one, the end of a, is such.
func (l *Log) probe(ctx context.Context, shard int, at any, n int) ([]probed, error) {
	c := l.conn(shard)
	ch, err := c.Channel(ctx)
	if err != nil {
		return nil, err
	}
	var got []probed // the call's, until it has answered: it may go on after ctx
	err = c.await(ctx, func() (err error) {
		defer ch.Close() //nolint:errcheck // a channel that the broker has closed is closed
		got, err = probe(ch, l.o.Topology.StreamName(shard), at, n)
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	return got, nil
}

func probe(ch *amqp.Channel, stream string, at any, n int) ([]probed, error) {
	if err := ch.Qos(n, 0, false); err != nil {
		return nil, err
	}
	a, err := ch.Consume(stream, "a", false, false, false, false, amqp.Table{headerOffset: at})
	if err != nil {
		return nil, err
	}
	b, err := ch.Consume(stream, "b", false, false, false, false, amqp.Table{headerOffset: "next"})
	if err != nil {
		return nil, err
	}
	if err := ch.Cancel("b", false); err != nil {
		return nil, err
	}
	if err := ch.Cancel("a", false); err != nil {
		return nil, err
	}
	for range b { // what was written meanwhile
	}
	var got []probed
	for d := range a {
		offset, ok := offsetOf(&d)
		if !ok {
			return nil, fmt.Errorf("stream %s: a message without an offset: is it a queue of another type?", stream)
		}
		var r messages.Record
		parseRecord(&d, "", &r)
		got = append(got, probed{offset: offset, sum: r.Sum, size: len(d.Body)})
	}
	if ch.IsClosed() {
		return nil, amqp.ErrClosed // it may have been cut off
	}
	return got, nil
}

// Bounds returns the oldest offset that the shard's log holds and the one to be written next. It
// asks the broker, which takes some 20 ms. The broker's own count of messages is older by up to
// five seconds.
func (l *Log) Bounds(ctx context.Context, shard int) (first, next uint64, err error) {
	if err := l.check(ctx, shard); err != nil {
		return 0, 0, err
	}
	got, err := l.probe(ctx, shard, "first", 1)
	if err != nil {
		return 0, 0, l.readError(ctx, err)
	}
	if len(got) == 0 {
		return 0, 0, nil
	}
	first = got[0].offset
	if next, err = l.end(ctx, shard); err != nil {
		return 0, 0, l.readError(ctx, err)
	}
	return first, max(next, first+1), nil
}

// end returns the offset after the last message; 0 where there is none.
func (l *Log) end(ctx context.Context, shard int) (uint64, error) {
	const most, small = 1024, 16 << 10
	var (
		at   any = "last"
		n        = 64
		next uint64
	)
	for {
		got, err := l.probe(ctx, shard, at, n)
		if err != nil {
			return 0, err
		}
		bytes := 0
		for _, p := range got {
			next, bytes = p.offset+1, bytes+p.size
		}
		if len(got) < n {
			l.shards[shard].saw(next)
			return next, nil
		}
		if bytes/n < small {
			n = min(2*n, most)
		}
		at = int64(next) // the message after it, or silence
	}
}

// before returns the last message before an offset; false where none is left. There is a
// message at or after the offset.
func (l *Log) before(ctx context.Context, shard int, offset uint64) (probed, bool, error) {
	const most = 256
	// Where there is none so near, look from further back.
	for back := uint64(64); ; back *= 64 {
		var last probed
		found := false
		for from := offset - min(back, offset); from < offset; {
			got, err := l.probe(ctx, shard, int64(from), most)
			if err != nil {
				return last, false, err
			}
			from = offset
			for _, g := range got {
				if g.offset < offset {
					last, found, from = g, true, g.offset+1
				} else {
					from = offset
				}
			}
			if len(got) < most {
				break
			}
		}
		if found || back >= offset {
			return last, found, nil
		}
	}
}

// readError makes errors of connections those of a log.
func (l *Log) readError(ctx context.Context, err error) error {
	var (
		away  *ConnectError
		reply *amqp.Error
	)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case l.ctx.Err() != nil:
		return errLogClosed()
	case errors.As(err, &away):
		return &messages.UnavailableError{What: "log", Reason: "no connection to the broker", Err: err}
	case errors.As(err, &reply) && reply.Code == amqp.NotFound:
		return &messages.UnavailableError{What: "log", Reason: "the stream is missing on the broker", Err: err}
	default:
		return &messages.UnavailableError{What: "log", Reason: "the broker does not let it be read", Err: err}
	}
}
