package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/actors"
	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
	"footfall/rabbitmq"
)

// The raw client does as the log's readers do by default: so many connections, messages ahead
// of the acks, and an ack for so many. See rabbitmq.LogOptions.
const (
	rawConnections = 2
	rawPrefetch    = 200
	rawAckEvery    = rawPrefetch / 2
	// rawWindow is how many messages a publisher has on their way, rawPublishers how many there are.
	rawWindow     = 1000
	rawPublishers = 4
	// brokerRounds is how often each side of a comparison runs, in turn.
	brokerRounds = 3
)

// rabbitMQ measures the log on streams against the raw client on the same broker, streams and
// messages, in turn.
func (s *Suite) rabbitMQ(ctx context.Context) (err error) {
	dir, remove, err := s.dir("rabbitmq")
	if err != nil {
		return err
	}
	defer remove()
	b, err := local.StartBroker(ctx, local.BrokerOptions{Dir: filepath.Join(dir, "broker")})
	if errors.Is(err, local.ErrNoRabbitMQ) {
		s.say("left out: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Stop(context.WithoutCancel(ctx))) }()

	for _, c := range []struct{ streams, events, each int }{
		{16, 200_000, 1}, {64, 200_000, 1}, {64, 4_000_000, batchEvents},
	} {
		f := &brokerBench{Suite: s, url: b.URL(), streams: c.streams, each: c.each, name: fmt.Sprintf("drain.%d.%d", c.streams, c.each)}
		if err := f.drain(ctx, s.size(c.events)); err != nil {
			return err
		}
	}
	for _, streams := range []int{16, 64} {
		f := &brokerBench{Suite: s, url: b.URL(), streams: streams, each: 1}
		if err := f.both(ctx, s.size(200_000)); err != nil {
			return err
		}
	}
	return nil
}

// brokerBench is one comparison.
type brokerBench struct {
	*Suite
	url     string
	name    string
	streams int
	// each is how many events a message carries.
	each int
}

func (f *brokerBench) topology() rabbitmq.Topology {
	return rabbitmq.Topology{Prefix: "bench." + f.name, Identity: storage.Identity(f.streams, time.UTC, "USD")}
}

func (f *brokerBench) openLog(ctx context.Context) (*rabbitmq.Log, error) {
	return rabbitmq.OpenLog(ctx, rabbitmq.LogOptions{Connection: rabbitmq.Options{URL: f.url, Logger: f.Logger}, Topology: f.topology()})
}

// messages makes n events as messages of one shard each.
func (f *brokerBench) messages(n int) ([]shardMessage, error) {
	m := newMaker(f.size(100_000), n, 365)
	var out []shardMessage
	open := make([]shardMessage, f.streams)
	for range n {
		ev := m.next()
		shard := messages.ShardOf(ev.CustomerId, f.streams)
		b := &open[shard]
		b.shard = shard
		if err := b.add(ev); err != nil {
			return nil, err
		}
		if b.events == f.each {
			out = append(out, *b)
			*b = shardMessage{}
		}
	}
	for _, b := range open {
		if b.events > 0 {
			out = append(out, b)
		}
	}
	return out, nil
}

// drain compares reading streams that are full.
func (f *brokerBench) drain(ctx context.Context, n int) error {
	msgs, err := f.messages(n)
	if err != nil {
		return err
	}
	log, err := f.openLog(ctx)
	if err != nil {
		return err
	}
	err = f.publish(ctx, msgs)
	if err = errors.Join(err, log.Close()); err != nil {
		return err
	}
	raw, ours, err := f.inTurn(
		func() (time.Duration, error) { return f.rawDrain(ctx, len(msgs), rawConnections) },
		func() (time.Duration, error) { return f.nodeDrain(ctx, n) },
	)
	if err != nil {
		return err
	}
	row := Row{
		Group: "rabbitmq", Value: perSecond(n, ours), Unit: "events/s", Limit: perSecond(n, raw), Against: "raw client, empty handler",
		Name: fmt.Sprintf("%d streams drained to the checkpoint, %s a message", f.streams, plural(f.each, "event")),
	}
	if f.each == 1 {
		f.add(row.ratioAtLeast(.9))
	} else {
		f.add(row.ratioAtLeast(.5).atLeast(400_000, "400k"))
	}
	return nil
}

// both compares publishing and reading at once.
func (f *brokerBench) both(ctx context.Context, n int) error {
	msgs, err := f.messages(n)
	if err != nil {
		return err
	}
	round := 0
	fresh := func(kind string) error {
		round++
		f.name = fmt.Sprintf("both.%d.%s.%d", f.streams, kind, round)
		log, err := f.openLog(ctx) // declares
		if err != nil {
			return err
		}
		return log.Close()
	}
	raw, ours, err := f.inTurn(
		func() (time.Duration, error) {
			if err := fresh("raw"); err != nil {
				return 0, err
			}
			return f.while(func() error { return f.rawPublish(ctx, msgs) }, func() error {
				_, err := f.rawDrain(ctx, len(msgs), 1)
				return err
			})
		},
		func() (time.Duration, error) {
			if err := fresh("node"); err != nil {
				return 0, err
			}
			return f.nodeBoth(ctx, msgs, n)
		},
	)
	if err != nil {
		return err
	}
	row := Row{
		Group: "rabbitmq", Value: perSecond(n, ours), Unit: "events/s", Limit: perSecond(n, raw), Against: "raw client, one connection for all readers",
		Name: fmt.Sprintf("%d streams, published and folded at once, 1 event a message", f.streams),
	}
	if f.streams == 16 {
		f.add(row.ratioAtLeast(.9))
		return f.latency(ctx, msgs, perSecond(n, ours)/2)
	}
	f.add(row.ratioAtLeast(1))
	return nil
}

// inTurn runs two sides in turn and returns the median of each.
func (f *brokerBench) inTurn(a, b func() (time.Duration, error)) (raw, ours time.Duration, err error) {
	var times [2][]time.Duration
	for range brokerRounds {
		for i, side := range []func() (time.Duration, error){a, b} {
			runtime.GC()
			d, err := side()
			if err != nil {
				return 0, 0, err
			}
			times[i] = append(times[i], d)
		}
	}
	for _, t := range times {
		slices.Sort(t)
	}
	return times[0][brokerRounds/2], times[1][brokerRounds/2], nil
}

// while measures how long two things take that go on at once.
func (f *brokerBench) while(a, b func() error) (time.Duration, error) {
	began := time.Now()
	failed := make(chan error, 1)
	go func() { failed <- a() }()
	err := b()
	return time.Since(began), errors.Join(err, <-failed)
}

// publish appends messages with the publishers of rabbitmq.
func (f *brokerBench) publish(ctx context.Context, msgs []shardMessage) (err error) {
	conn, err := rabbitmq.Open(ctx, rabbitmq.Options{URL: f.url})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	topology := f.topology()
	return f.spread(msgs, func(msgs []shardMessage) error {
		p, err := rabbitmq.NewPublisher(ctx, conn, rabbitmq.PublisherOptions{Window: rawWindow})
		if err != nil {
			return err
		}
		confirms := make([]*rabbitmq.Confirmation, 0, len(msgs))
		for _, m := range msgs {
			c, err := p.Publish(ctx, "", topology.StreamName(m.shard), publishing(&m))
			if err != nil {
				return errors.Join(err, p.Close())
			}
			confirms = append(confirms, c)
		}
		for _, c := range confirms {
			err = errors.Join(err, c.Wait(ctx))
		}
		return errors.Join(err, p.Close())
	})
}

// rawPublish is the same with the bare client.
func (f *brokerBench) rawPublish(ctx context.Context, msgs []shardMessage) (err error) {
	conn, err := amqp.Dial(f.url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	topology := f.topology()
	return f.spread(msgs, func(msgs []shardMessage) error {
		ch, err := conn.Channel()
		if err != nil {
			return err
		}
		if err := ch.Confirm(false); err != nil {
			return err
		}
		window := make([]*amqp.DeferredConfirmation, 0, rawWindow)
		settle := func() error {
			for _, c := range window {
				if ok, err := c.WaitContext(ctx); err != nil || !ok {
					return fmt.Errorf("not confirmed: %w", err)
				}
			}
			window = window[:0]
			return nil
		}
		for i := range msgs {
			if len(window) == cap(window) {
				if err := settle(); err != nil {
					return err
				}
			}
			c, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", topology.StreamName(msgs[i].shard), true, false, publishing(&msgs[i]))
			if err != nil {
				return err
			}
			window = append(window, c)
		}
		return settle()
	})
}

func publishing(m *shardMessage) amqp.Publishing {
	return amqp.Publishing{ContentType: messages.ContentProtobuf, Type: messages.TypeBatch, DeliveryMode: amqp.Persistent, Body: m.body}
}

// spread gives each of the publishers its shards' messages.
func (f *brokerBench) spread(msgs []shardMessage, do func([]shardMessage) error) error {
	var (
		wg    sync.WaitGroup
		parts [rawPublishers][]shardMessage
		errs  [rawPublishers]error
	)
	for _, m := range msgs {
		parts[m.shard%rawPublishers] = append(parts[m.shard%rawPublishers], m)
	}
	for i, part := range parts {
		wg.Go(func() { errs[i] = do(part) })
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// rawDrain reads n messages with the bare client and does nothing with them.
func (f *brokerBench) rawDrain(ctx context.Context, n, connections int) (_ time.Duration, err error) {
	began := time.Now()
	var (
		conns []*amqp.Connection
		wg    sync.WaitGroup
		got   atomic.Int64
		all   = make(chan struct{})
	)
	defer func() {
		for _, c := range conns {
			err = errors.Join(err, c.Close())
		}
		wg.Wait()
	}()
	for range connections {
		c, err := amqp.Dial(f.url)
		if err != nil {
			return 0, err
		}
		conns = append(conns, c)
	}
	for shard := range f.streams {
		ch, err := conns[shard%connections].Channel()
		if err != nil {
			return 0, err
		}
		if err := ch.Qos(rawPrefetch, 0, false); err != nil {
			return 0, err
		}
		deliveries, err := ch.Consume(f.topology().StreamName(shard), "", false, false, false, false, amqp.Table{"x-stream-offset": "first"})
		if err != nil {
			return 0, err
		}
		wg.Go(func() {
			unacked := 0
			for d := range deliveries {
				if unacked++; unacked == rawAckEvery {
					unacked = 0
					_ = ch.Ack(d.DeliveryTag, true) // a lost channel ends the deliveries
				}
				if got.Add(1) == int64(n) {
					close(all)
				}
			}
		})
	}
	select {
	case <-all:
		return time.Since(began), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// nodeHost opens shards over the streams and a new store.
func (f *brokerBench) nodeHost(ctx context.Context) (r *rig, closeAll func() error, err error) {
	dir, remove, err := f.dir("streams")
	if err != nil {
		return nil, nil, err
	}
	log, err := f.openLog(ctx)
	if err != nil {
		return nil, nil, err
	}
	r = &rig{}
	if r.storage, err = storage.Open(storage.Options{Log: log, StoreDir: filepath.Join(dir, "store"), Identity: f.topology().Identity, Logger: f.Logger}); err != nil {
		return nil, nil, err
	}
	cfg := f.hostConfig()
	cfg.Shards = f.streams
	if r.host, err = actors.NewHost(cfg, r.storage.Log, r.storage.Store, nil); err != nil {
		return nil, nil, errors.Join(err, r.storage.Close())
	}
	return r, func() error {
		err := r.close(context.WithoutCancel(ctx))
		remove()
		return err
	}, nil
}

// nodeDrain folds n events that the streams hold, to their checkpoint.
func (f *brokerBench) nodeDrain(ctx context.Context, n int) (d time.Duration, err error) {
	r, closeAll, err := f.nodeHost(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	began := time.Now()
	if err := errors.Join(r.host.Start(ctx), r.settle(ctx, n)); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// settle waits until all is folded and in a checkpoint, and counts.
func (r *rig) settle(ctx context.Context, n int) error {
	if err := r.host.WaitIdle(ctx, false); err != nil {
		return err
	}
	if err := r.host.Checkpoint(ctx); err != nil {
		return err
	}
	if events := applied(r.host); events != uint64(n) {
		return fmt.Errorf("%d events were applied, not %d", events, n)
	}
	return nil
}

// nodeBoth folds while messages are published.
func (f *brokerBench) nodeBoth(ctx context.Context, msgs []shardMessage, n int) (d time.Duration, err error) {
	r, closeAll, err := f.nodeHost(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	if err := r.host.Start(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := errors.Join(f.publish(ctx, msgs), r.settle(ctx, n)); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// latency measures from an event's confirm until its customer can be asked, at a rate of
// messages that others publish.
func (f *brokerBench) latency(ctx context.Context, msgs []shardMessage, rate float64) (err error) {
	f.name = "latency"
	r, closeAll, err := f.nodeHost(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	if err := r.host.Start(ctx); err != nil {
		return err
	}
	during, stop := context.WithCancel(ctx)
	defer stop()
	loaded := make(chan error, 1)
	go func() { loaded <- f.paced(during, msgs, rate) }()
	var (
		took []time.Duration
		pace = time.NewTicker(5 * time.Millisecond)
	)
	defer pace.Stop()
	for i := range f.size(2_000) {
		<-pace.C
		id := "probe-" + strconv.Itoa(i)
		ev := newMaker(1, 1, 1).next()
		ev.EventId, ev.CustomerId, ev.Producer, ev.Sequence = id, "probe-"+strconv.Itoa(i%64), "", 0
		if err := r.host.Append(ctx, messages.ShardOf(ev.CustomerId, f.streams), []*footfallv1.Event{ev}); err != nil {
			return err
		}
		began := time.Now()
		if err := r.host.WaitFor(ctx, ev.CustomerId, id); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	stop()
	if err := <-loaded; err != nil {
		return err
	}
	slices.Sort(took)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", .5}, {"p99", .99}} {
		row := Row{
			Group: "rabbitmq", Value: took[int(q.at*float64(len(took)-1))].Seconds() * 1e3, Unit: "ms",
			Name: fmt.Sprintf("from an event's confirm until its customer can be asked, at %.0f events/s, %s", rate, q.name),
		}
		if q.at > .5 {
			row = row.atMost(50, "50 ms")
		}
		f.add(row)
	}
	return nil
}

// paced publishes messages again and again at a rate, until ctx ends.
func (f *brokerBench) paced(ctx context.Context, msgs []shardMessage, rate float64) error {
	const slices = 100 // a second
	part := max(int(rate)/slices, 1)
	pace := time.NewTicker(time.Second / slices)
	defer pace.Stop()
	conn, err := rabbitmq.Open(ctx, rabbitmq.Options{URL: f.url})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // cut off in the end
	p, err := rabbitmq.NewPublisher(ctx, conn, rabbitmq.PublisherOptions{Window: rawWindow})
	if err != nil {
		return err
	}
	topology := f.topology()
	for i := 0; ; {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return p.Close()
		}
		for range part {
			m := &msgs[i%len(msgs)]
			i++
			if _, err := p.Publish(ctx, "", topology.StreamName(m.shard), publishing(m)); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
