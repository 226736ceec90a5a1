package rabbitmq

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// bridgeRig is a topology of a test's own on a broker.
type bridgeRig struct {
	t      testing.TB
	broker *local.Broker
	Topology
}

var rigs struct {
	sync.Mutex
	count int
}

func newBridgeRig(t testing.TB, broker *local.Broker, shards int) *bridgeRig {
	rigs.Lock()
	defer rigs.Unlock()
	rigs.count++
	r := &bridgeRig{t: t, broker: broker, Topology: Topology{
		Prefix:   fmt.Sprintf("bridge%d", rigs.count),
		Identity: messages.Identity{Shards: shards, Timezone: "UTC", TimezoneSum: "x", Currency: "USD"},
	}}
	require.NoError(t, r.Declare(t.Context(), r.conn("declare")))
	return r
}

// conn is a connection that ends with the test.
func (r *bridgeRig) conn(name string) *Conn {
	c, err := Open(r.t.Context(), Options{URL: r.broker.URL(), Name: name, BackoffMax: 200 * time.Millisecond, Logger: testLogger(r.t)})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, c.Close()) })
	return c
}

func (r *bridgeRig) channel(name string) *amqp.Channel {
	ch, err := r.conn(name).Channel(r.t.Context())
	require.NoError(r.t, err)
	return ch
}

func testLogger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

func (r *bridgeRig) bridge(name string) *Bridge {
	b, err := NewBridge(BridgeOptions{Conn: r.conn(name), Topology: r.Topology, Logger: testLogger(r.t).With("bridge", name), BackoffMax: 100 * time.Millisecond})
	require.NoError(r.t, err)
	return b
}

// run runs a bridge until stop, which waits for its end.
func (r *bridgeRig) run(b *Bridge) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		require.NoError(r.t, <-ended)
	})
}

// await polls for what a broker does not tell.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	require.Eventually(t, done, 2*time.Minute, 5*time.Millisecond, what)
}

// sending is what a test has published, and what must become of it.
type published struct {
	// customers has the IDs of each customer's events, in order.
	customers map[string][]string
	// dead has the bodies of what must be rejected, by ID.
	dead     map[string]string
	messages int
}

func newPublished() *published {
	return &published{customers: map[string][]string{}, dead: map[string]string{}}
}

func (p *published) add(m source, events []*footfallv1.Event) {
	p.messages++
	for _, ev := range events {
		if !strings.HasPrefix(ev.EventId, "bad-") {
			p.customers[ev.CustomerId] = append(p.customers[ev.CustomerId], ev.EventId)
		}
	}
}

// next makes a message out of a mix: of one event and of many, good, faulty and such that lie
// about what they are.
func (p *published) next(gen *traffic, splitter *splitter) source {
	var events []*footfallv1.Event
	n := 1
	if gen.rng.IntN(8) == 0 {
		n += gen.rng.IntN(40)
	}
	for range n {
		events = append(events, gen.event(gen.rng.IntN(50) == 0))
	}
	m := gen.message(events)
	if gen.rng.IntN(60) == 0 {
		events = nil
		switch gen.rng.IntN(5) {
		case 0:
			m.contentType, m.name = messages.ContentProtobuf, ""
		case 1:
			m.contentType = "text/html"
		case 2:
			m.encoding = "gzip"
		case 3:
			m = source{contentType: "application/json", body: fmt.Appendf(nil, "[%d", gen.seen)}
		case 4:
			m = source{contentType: messages.ContentProtobuf, name: messages.TypeEvent, body: fmt.Appendf(nil, "{%d", gen.seen)}
		}
	}
	p.add(m, events)
	for _, r := range splitter.split(m).rejects {
		p.dead[r.letter.Id] = string(r.letter.Body)
	}
	return m
}

// fill publishes n messages with whatever key, and waits until all are stored.
func (r *bridgeRig) fill(p *published, gen *traffic, n int) {
	ch := r.channel("fill")
	defer ch.Close()
	require.NoError(r.t, ch.Confirm(false))
	splitter := newSplitter(messages.Validator{Shards: r.Identity.Shards, Currency: "USD"}, r.UnshardedName())
	var all []*amqp.DeferredConfirmation
	for i := range n {
		m := p.next(gen, splitter)
		key := []string{"", "any", "-1", "07", strconv.Itoa(r.Identity.Shards), strings.Repeat("k", 255)}[i%6]
		c, err := ch.PublishWithDeferredConfirm(r.EventsExchange(), key, true, false, amqp.Publishing{
			ContentType: m.contentType, ContentEncoding: m.encoding, Type: m.name, DeliveryMode: amqp.Persistent, Body: m.body,
		})
		require.NoError(r.t, err)
		all = append(all, c)
	}
	for _, c := range all {
		require.True(r.t, c.Wait())
	}
}

// finish waits until all that was published before has been taken over: a message that must be
// rejected is among the dead. What is not acked then is acked as bridges end.
func (r *bridgeRig) finish(p *published) {
	ch := r.channel("finish")
	defer ch.Close()
	require.NoError(r.t, ch.Confirm(false))
	last := source{contentType: "end", body: []byte("end")}
	c, err := ch.PublishWithDeferredConfirm(r.EventsExchange(), "", true, false, amqp.Publishing{ContentType: last.contentType, DeliveryMode: amqp.Persistent, Body: last.body})
	require.NoError(r.t, err)
	require.True(r.t, c.Wait())
	id := testSplitter().split(last).rejects[0].letter.Id
	p.messages++
	p.dead[id] = string(last.body)
	q := NewDeadQueue(DeadQueueOptions{Topology: r.Topology, Conn: r.conn("visit")})
	await(r.t, "all is taken over", func() bool {
		found := false
		require.NoError(r.t, q.Visit(r.t.Context(), func(l *footfallv1.DeadLetter) (messages.Decision, error) {
			found = found || l.Id == id
			return messages.KeepLetter, nil
		}))
		return found
	})
}

// check reads everything and requires that each customer's events are there once, in order, as
// readers count them, and that the dead are those that must be.
func (r *bridgeRig) check(p *published) {
	r.t.Helper()
	again := 0
	got := map[string][]string{}
	for shard := range r.Identity.Shards {
		var last []messages.Origin
		for _, d := range r.read(r.StreamName(shard)) {
			require.Equal(r.t, messages.ContentProtobuf, d.ContentType)
			require.Equal(r.t, messages.TypeBatch, d.Type)
			require.Equal(r.t, "footfall", d.UserId)
			require.Equal(r.t, amqp.Persistent, d.DeliveryMode)
			origin := messages.Origin(d.Headers[HeaderOrigin].([]byte))
			if slices.Contains(last, origin) {
				again++
				continue
			}
			last = append(last[max(0, len(last)-maxUnsettled+1):], origin)
			var batch footfallv1.EventBatch
			require.NoError(r.t, proto.Unmarshal(d.Body, &batch))
			for _, ev := range batch.Events {
				require.Equal(r.t, shard, messages.ShardOf(ev.CustomerId, r.Identity.Shards))
				got[ev.CustomerId] = append(got[ev.CustomerId], ev.EventId)
			}
		}
	}
	require.Len(r.t, got, len(p.customers))
	for customer, events := range p.customers {
		require.Empty(r.t, difference(events, got[customer]), "customer %s", customer)
	}
	dead := map[string]string{}
	letters := 0
	q := NewDeadQueue(DeadQueueOptions{Topology: r.Topology, Conn: r.conn("visit")})
	require.NoError(r.t, q.Visit(r.t.Context(), func(l *footfallv1.DeadLetter) (messages.Decision, error) {
		letters++
		dead[l.Id] = string(l.Body)
		return messages.KeepLetter, nil
	}))
	require.Equal(r.t, p.dead, dead)
	require.Len(r.t, dead, letters, "one was shown twice")
	require.Zero(r.t, r.depth(r.UnshardedName()))
	r.t.Logf("%d messages, %d customers, %d dead letters, %d pieces came again", p.messages, len(p.customers), len(dead), again)
}

// difference says where two lists begin to differ.
func difference(want, got []string) string {
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			return fmt.Sprintf("after %d: want %q, got %q", i, want[min(i, len(want)):min(i+5, len(want))], got[min(i, len(got)):min(i+5, len(got))])
		}
	}
	return ""
}

// depth is how many messages of a queue wait for a consumer.
func (r *bridgeRig) depth(name string) int {
	ch := r.channel("depth")
	defer ch.Close()
	q, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
	require.NoError(r.t, err)
	return q.Messages
}

// read returns what a stream holds. It finds the end by a message of its own.
func (r *bridgeRig) read(name string) []amqp.Delivery {
	ch := r.channel("read")
	defer ch.Close()
	require.NoError(r.t, ch.Confirm(false))
	c, err := ch.PublishWithDeferredConfirm("", name, true, false, amqp.Publishing{Type: "end"})
	require.NoError(r.t, err)
	require.True(r.t, c.Wait())
	require.NoError(r.t, ch.Qos(500, 0, false))
	deliveries, err := ch.Consume(name, "", false, false, false, false, amqp.Table{"x-stream-offset": "first"})
	require.NoError(r.t, err)
	var all []amqp.Delivery
	for d := range deliveries {
		if d.Type == "end" {
			return all
		}
		if len(all)%200 == 199 {
			require.NoError(r.t, d.Ack(true))
		}
		all = append(all, d)
	}
	require.Fail(r.t, "the channel ended")
	return nil
}

func TestBridge(t *testing.T) {
	r := newBridgeRig(t, sharedBroker(t), 16)
	reg := prometheus.NewRegistry()
	b := r.bridge("bridge")
	var err error
	b.o.Metrics, err = NewBridgeMetrics(reg)
	require.NoError(t, err)
	gen, p := &traffic{rng: rand.New(rand.NewPCG(1, 1)), customers: 100}, newPublished()
	r.fill(p, gen, 1500)
	require.Equal(t, BridgeAway, b.Status().State)
	stop := r.run(b)
	r.fill(p, gen, 1500)
	await(t, "all is settled", func() bool { return b.Status().Messages == uint64(p.messages) })
	st := b.Status()
	events := 0
	for _, ids := range p.customers {
		events += len(ids)
	}
	require.Equal(t, BridgeStatus{State: BridgeActive, Messages: uint64(p.messages), Events: uint64(events), Rejected: uint64(len(p.dead))}, st)
	require.Equal(t, 1., testutil.ToFloat64(b.o.Metrics.isActive))
	require.Equal(t, float64(p.messages), testutil.ToFloat64(b.o.Metrics.messages))
	require.Equal(t, float64(events), testutil.ToFloat64(b.o.Metrics.events))
	rejected := 0.
	for _, c := range b.o.Metrics.rejected {
		rejected += testutil.ToFloat64(c)
	}
	require.Equal(t, float64(len(p.dead)), rejected)
	stop()
	require.Equal(t, BridgeAway, b.Status().State)
	require.Zero(t, testutil.ToFloat64(b.o.Metrics.isActive))
	r.check(p)
}

// TestBridgeHandOver has three bridges while publishers publish: each in turn stops in order,
// loses its channel or its connection, at any moment.
func TestBridgeHandOver(t *testing.T) {
	r := newBridgeRig(t, sharedBroker(t), 4)
	rng := rand.New(rand.NewPCG(2, 2))
	bridges := make([]*Bridge, 3)
	stops := make([]func(), len(bridges))
	for i := range bridges {
		bridges[i] = r.bridge(fmt.Sprint("bridge", i))
		stops[i] = r.run(bridges[i])
		defer func() { stops[i]() }()
	}
	p, gen := newPublished(), &traffic{rng: rng, customers: 30}
	for round := range 24 {
		before := settled(bridges)
		r.fill(p, gen, 400)
		await(t, "a bridge is at work", func() bool { return settled(bridges) > before+uint64(rng.IntN(300)) })
		for i, b := range bridges {
			if b.Status().State != BridgeActive {
				continue
			}
			switch round % 3 {
			case 0:
				stops[i]()
				stops[i] = r.run(b)
			case 1:
				b.o.Conn.drop()
			case 2:
				// What a broker does that finds a mistake: it ends the channel, and says so.
				if ch := b.channel.Load(); ch != nil {
					_ = ch.Publish("no such exchange", "", false, false, amqp.Publishing{})
				}
			}
		}
	}
	r.fill(p, gen, 100)
	r.finish(p)
	for _, stop := range stops {
		stop()
	}
	r.check(p)
}

// TestBridgeLargeMessages has messages of so many pieces of one shard that few of them may be
// under way at once.
func TestBridgeLargeMessages(t *testing.T) {
	r := newBridgeRig(t, sharedBroker(t), 2)
	p, ch := newPublished(), r.channel("large")
	defer ch.Close()
	require.NoError(t, ch.Confirm(false))
	put := func(pieces int) {
		var events [][]byte
		for range pieces * maxPieceEvents {
			id := fmt.Sprintf("%d-%d", p.messages, len(events))
			events = append(events, view(id, "900", 0))
			p.customers["900"] = append(p.customers["900"], id)
		}
		p.messages++
		c, err := ch.PublishWithDeferredConfirm(r.EventsExchange(), "", true, false, amqp.Publishing{
			ContentType: messages.ContentProtobuf, Type: messages.TypeBatch, DeliveryMode: amqp.Persistent, Body: batchOf(events...),
		})
		require.NoError(t, err)
		require.True(t, c.Wait())
	}
	for _, pieces := range []int{1, 63, 1, 40, 40, 1, 64, 1, 1} {
		put(pieces)
	}
	b := r.bridge("bridge")
	stop := r.run(b)
	await(t, "all is settled", func() bool { return b.Status().Messages == uint64(p.messages) })
	require.Zero(t, b.Status().Restarts)
	stop()
	r.check(p)
}

// TestBridgeWithoutStream has a stream missing: nothing is given up for that, it is told, and all
// goes on when the stream is there.
func TestBridgeWithoutStream(t *testing.T) {
	r := newBridgeRig(t, sharedBroker(t), 2)
	p, ch := newPublished(), r.channel("delete")
	defer ch.Close()
	_, err := ch.QueueDelete(r.StreamName(1), false, false, false)
	require.NoError(t, err)
	r.fill(p, &traffic{rng: rand.New(rand.NewPCG(5, 5)), customers: 10}, 100)
	b := r.bridge("bridge")
	stop := r.run(b)
	defer stop()
	await(t, "it is told", func() bool { return b.Status().Restarts > 2 })
	require.ErrorContains(t, b.Status().Err, "stream "+r.StreamName(1)+": NOT_FOUND")
	require.Zero(t, b.Status().Messages)
	require.NoError(t, r.Declare(t.Context(), r.conn("declare")))
	await(t, "all is settled", func() bool { return b.Status().Messages == uint64(p.messages) })
	require.NoError(t, b.Status().Err)
	stop()
	r.check(p)
}

// TestBridgeBlocked has the broker take nothing: the bridge waits, and ends when it is told to.
func TestBridgeBlocked(t *testing.T) {
	r := newBridgeRig(t, sharedBroker(t), 2)
	p, gen := newPublished(), &traffic{rng: rand.New(rand.NewPCG(6, 6)), customers: 10}
	b := r.bridge("bridge")
	r.fill(p, gen, 1000)
	control := func(watermark string) {
		_, err := r.broker.Control(context.WithoutCancel(t.Context()), "set_vm_memory_high_watermark", watermark)
		require.NoError(t, err)
	}
	defer control("0.6")
	control("0")
	stop := r.run(b)
	await(t, "it is blocked", func() bool { _, blocked := b.o.Conn.Blocked(); return blocked })
	require.Equal(t, BridgeActive, b.Status().State)
	stop()
	require.Equal(t, BridgeAway, b.Status().State)
	await(t, "the connection is another", func() bool { _, blocked := b.o.Conn.Blocked(); return !blocked && b.o.Conn.Err() == nil })
	require.Zero(t, b.Status().Messages)
	stop = r.run(b)
	await(t, "it is blocked", func() bool { _, blocked := b.o.Conn.Blocked(); return blocked })
	control("0.6")
	await(t, "the queue is empty", func() bool { return b.Status().Messages >= uint64(p.messages) })
	stop()
	r.check(p)
}

// settled is how many messages bridges have settled together.
func settled(bridges []*Bridge) (n uint64) {
	for _, b := range bridges {
		n += b.Status().Messages
	}
	return n
}

// BenchmarkBridge takes messages of one event over, against moving them as they are with nothing
// but amqp091-go.
func BenchmarkBridge(b *testing.B) {
	if os.Getenv("FOOTFALL_HEAVY") != "1" {
		b.Skip("takes minutes: FOOTFALL_HEAVY=1")
	}
	for _, shards := range []int{16, 64} {
		r := newBridgeRig(b, sharedBroker(b), shards)
		fill := func(b *testing.B) {
			ch := r.channel("fill")
			defer ch.Close()
			require.NoError(b, ch.Confirm(false))
			var last *amqp.DeferredConfirmation
			for i := range b.N {
				var err error
				body := fmt.Appendf(nil, `{"event_id":"b-%d","customer_id":"%d","time":"2017-01-01T11:53:26Z","purchase":{"basket_id":"31198459610","currency":"USD","lines":[{"product_id":"1095275","department":"PASTRY","quantity":1,"amount":"0.50","discount":"0.00"}]}}`, i, i%5000)
				last, err = ch.PublishWithDeferredConfirm(r.EventsExchange(), "any", true, false, amqp.Publishing{ContentType: "application/json", DeliveryMode: 2, Body: body})
				require.NoError(b, err)
			}
			require.True(b, last.Wait())
		}
		b.Run(fmt.Sprintf("shards=%d/bridge", shards), func(b *testing.B) {
			fill(b)
			br := r.bridge("bridge")
			b.ResetTimer()
			stop := r.run(br)
			await(b, "all is settled", func() bool { return br.Status().Messages == uint64(b.N) })
			b.StopTimer()
			stop()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
		for _, prefetch := range []int{64, 1000} {
			b.Run(fmt.Sprintf("shards=%d/raw/prefetch=%d", shards, prefetch), func(b *testing.B) {
				fill(b)
				b.ResetTimer()
				rawBridge(b, r, prefetch)
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}

// rawBridge publishes all on the channel that it consumes on.
func rawBridge(b *testing.B, r *bridgeRig, prefetch int) {
	ch := r.channel("raw")
	defer ch.Close()
	require.NoError(b, ch.Confirm(false))
	require.NoError(b, ch.Qos(prefetch, 0, false))
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 2*prefetch))
	deliveries, err := ch.Consume(r.UnshardedName(), "", false, false, false, false, nil)
	require.NoError(b, err)
	for done, n := 0, 0; done < b.N; {
		select {
		case d := <-deliveries:
			require.NoError(b, ch.Publish("", r.StreamName(n%r.Identity.Shards), true, false, amqp.Publishing{ContentType: d.ContentType, DeliveryMode: 2, Body: d.Body}))
			n++
		case c := <-confirms:
			for more := true; more; {
				select {
				case c = <-confirms:
				default:
					more = false
				}
			}
			require.NoError(b, ch.Ack(c.DeliveryTag, true))
			done = int(c.DeliveryTag)
		}
	}
}
