package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

const (
	// faultShards are more than a node has channels to append on.
	faultShards = 8
	// customersEach are those of one publisher.
	customersEach = 8
	// pace is how often a publisher publishes, at most: the load, not the speed, is what counts.
	pace = 40 * time.Millisecond
	// pause is before a publisher tries again.
	pause = 50 * time.Millisecond
)

// load is publishers of every kind at work, each as an honest program does it: what is not
// confirmed is sent again, in order. Their customers keep the rules of docs/guide.md, too: who
// gives no sequence never has more than 32 events of a customer in doubt.
//
//	start ─► moments at which a test does harm ─► finish ─► check
type load struct {
	t          *testing.T
	seed       uint64
	broker     string
	shards     int
	publishers []*source

	enough chan struct{}
	stop   context.CancelFunc
	work   sync.WaitGroup

	// extra are good events that the test has sent itself, letters are dead ones.
	extra, letters int

	// outsider is how a program has ended that is not ours.
	outsider error

	mu sync.Mutex
	// bursts are confirmed; waiting are those who wait for so many.
	bursts  int
	waiting map[int][]chan struct{}
}

// newLoad makes publishers on a broker, and on the node behind api.
func newLoad(t *testing.T, seed uint64, broker, api string, shards int) *load {
	t.Helper()
	t.Logf("seed %d", seed)
	l := &load{t: t, seed: seed, broker: broker, shards: shards, enough: make(chan struct{}), waiting: map[int][]chan struct{}{}}
	conn, err := grpc.NewClient(api,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: pause, Multiplier: 1, MaxDelay: pause}, MinConnectTimeout: time.Second}))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	client := footfallv1.NewIngestServiceClient(conn)

	l.add(source{name: "api", most: 20}, &apiWay{client: client})
	l.add(source{name: "api-numbered", most: 50, numbered: true}, &apiWay{client: client})
	l.add(source{name: "direct-json", most: 12}, l.amqpWay(true, jsonEach))
	l.add(source{name: "direct-array", most: 12}, l.amqpWay(true, jsonTogether))
	l.add(source{name: "direct-batch", most: 60, numbered: true}, l.amqpWay(true, protobufTogether))
	l.add(source{name: "any-json", most: 12}, l.amqpWay(false, jsonEach))
	l.add(source{name: "any-protobuf", most: 12}, l.amqpWay(false, protobufEach))
	l.add(source{name: "any-batch", most: 60, numbered: true}, l.amqpWay(false, protobufTogether))
	// Of these nothing but what the bridge does makes the events once.
	l.add(source{name: "any-once", most: 120, once: true, few: true}, l.amqpWay(false, jsonTogether))
	return l
}

// add makes a publisher; start starts it.
func (l *load) add(s source, w way) *source {
	s.load, s.way = l, w
	s.rng = rand.New(rand.NewPCG(l.seed, uint64(len(l.publishers))))
	s.made, s.doubtful = map[string][]string{}, map[string]bool{}
	l.publishers = append(l.publishers, &s)
	return &s
}

func (l *load) amqpWay(direct bool, encode encoding) *amqpWay {
	return &amqpWay{url: l.broker, shards: l.shards, direct: direct, encode: encode}
}

// start has them publish until finish.
func (l *load) start() {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.t.Cleanup(func() { // where the test has failed before finish
		stop()
		l.work.Wait()
	})
	for _, p := range l.publishers {
		if p.way != nil {
			l.work.Go(func() { p.run(ctx) })
		}
	}
}

// finish returns when everything that was begun is confirmed.
func (l *load) finish() {
	l.t.Helper()
	close(l.enough)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.work.Wait()
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		l.t.Fatal("publishers get no confirm any more")
	}
	require.NoError(l.t, l.outsider)
}

// after returns when so many more bursts are confirmed: a moment under load.
func (l *load) after(n int) {
	l.t.Helper()
	if n == 0 {
		return
	}
	ch := make(chan struct{})
	l.mu.Lock()
	at := l.bursts + n
	l.waiting[at] = append(l.waiting[at], ch)
	l.mu.Unlock()
	select {
	case <-ch:
	case <-time.After(2 * time.Minute):
		l.t.Fatal("the load stands still")
	}
}

func (l *load) confirmed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bursts++
	for _, ch := range l.waiting[l.bursts] {
		close(ch)
	}
	delete(l.waiting, l.bursts)
}

// source is one publisher.
type source struct {
	name string
	// most bounds a burst, in events; few has a burst be of one customer, else of many.
	most int
	few  bool
	// numbered gives producer and sequence; once never sends again, as who would rather lose an
	// event than have it twice.
	numbered, once bool

	load *load
	way  way
	rng  *rand.Rand
	next uint64
	// made are the events of each customer, in order; doubtful those of once that were not
	// confirmed.
	made     map[string][]string
	doubtful map[string]bool
}

// run publishes burst after burst. Nothing that goes wrong with a node or a broker ends it.
func (s *source) run(ctx context.Context) {
	defer s.way.close()
	defer context.AfterFunc(ctx, s.way.close)()
	t := time.NewTicker(pace)
	defer t.Stop()
	for ctx.Err() == nil {
		if s.publish(ctx, s.burst()) {
			s.load.confirmed()
		}
		select {
		case <-s.load.enough:
			return
		default:
		}
		select {
		case <-t.C:
		case <-s.load.enough:
		}
	}
}

// publish returns when the events are confirmed: true, or it is known that they never will be.
func (s *source) publish(ctx context.Context, events []*footfallv1.Event) bool {
	s.way.take(events)
	for ctx.Err() == nil {
		err := s.way.send(ctx)
		if err == nil {
			return true
		}
		if s.once && !errors.Is(err, errNotSent) {
			for _, e := range events {
				s.doubtful[e.GetEventId()] = true
			}
			return false
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return false
}

// errNotSent says that there was nobody to send to.
var errNotSent = errors.New("not sent")

// burst makes events. Those without a sequence are of customers of the publisher's own, so that
// nobody else moves its event IDs out of what is remembered.
func (s *source) burst() []*footfallv1.Event {
	events := make([]*footfallv1.Event, 1+s.rng.IntN(s.most))
	customer := 0
	for i := range events {
		if !s.few || i == 0 {
			customer = s.rng.IntN(customersEach)
		}
		id := fmt.Sprintf("%s-%d", s.name, customer)
		if s.numbered {
			id = sharedCustomer(customer)
		}
		s.next++
		e := view(id, s.name+"/"+strconv.FormatUint(s.next, 10), monday.Add(time.Duration(s.next)*time.Second))
		if s.rng.IntN(4) == 0 {
			e = purchase(id, e.GetEventId(), e.GetTime().AsTime(), "1.25")
		}
		if s.numbered {
			e.Producer, e.Sequence = s.name, s.next
		}
		s.made[id] = append(s.made[id], e.GetEventId())
		events[i] = e
	}
	return events
}

// sharedCustomer is one that all publishers have who number their events.
func sharedCustomer(i int) string { return fmt.Sprintf("shared-%d", i) }

// way is how events get to a node: take has the events of the next burst, and send returns
// nil when all of them are confirmed. After an error it sends what is not, in order.
type way interface {
	take(events []*footfallv1.Event)
	send(ctx context.Context) error
	// close ends what is under way. It may be called from any goroutine.
	close()
}

// apiWay is the API of a node.
type apiWay struct {
	client footfallv1.IngestServiceClient
	batch  *footfallv1.EventBatch
}

func (w *apiWay) take(events []*footfallv1.Event) { w.batch = &footfallv1.EventBatch{Events: events} }

func (w *apiWay) send(ctx context.Context) error {
	answer, err := w.client.Publish(ctx, w.batch)
	if err == nil && int(answer.GetAccepted()) != len(w.batch.GetEvents()) {
		panic(fmt.Sprintf("a good event was refused: %v", answer))
	}
	return err
}

func (w *apiWay) close() {}

// encoding makes messages of events; where a message is of one shard, of those of one shard.
type encoding func([]*footfallv1.Event) []amqp.Publishing

// eventJSON is an event on one line, as the guide writes it.
func eventJSON(e *footfallv1.Event) string {
	text, _ := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e) // it holds nothing that cannot be encoded
	return string(text)
}

func jsonEach(events []*footfallv1.Event) []amqp.Publishing {
	out := make([]amqp.Publishing, len(events))
	for i, e := range events {
		out[i] = jsonMessage(eventJSON(e))
	}
	return out
}

func jsonTogether(events []*footfallv1.Event) []amqp.Publishing {
	texts := make([]string, len(events))
	for i, e := range events {
		texts[i] = eventJSON(e)
	}
	return []amqp.Publishing{jsonArray(texts...)}
}

func protobufEach(events []*footfallv1.Event) []amqp.Publishing {
	out := make([]amqp.Publishing, len(events))
	for i, e := range events {
		body, _ := e.MarshalVT() // the same
		out[i] = amqp.Publishing{ContentType: messages.ContentProtobuf, Type: messages.TypeEvent, Body: body}
	}
	return out
}

func protobufTogether(events []*footfallv1.Event) []amqp.Publishing {
	body, _ := (&footfallv1.EventBatch{Events: events}).MarshalVT() // the same
	return []amqp.Publishing{{ContentType: messages.ContentProtobuf, Type: messages.TypeBatch, Body: body}}
}

// amqpWay is the exchange of the events, with shards for routing keys or without.
type amqpWay struct {
	url    string
	shards int
	direct bool
	encode encoding

	// pending are not confirmed.
	pending []*outgoing

	conn *amqp.Connection
	// lanes have a channel for each routing key: see docs/publishers.md.
	lanes map[string]*lane

	mu     sync.Mutex
	socket net.Conn
	closed bool
}

type outgoing struct {
	key     string
	msg     amqp.Publishing
	from    *lane
	confirm *amqp.DeferredConfirmation
}

type lane struct {
	ch      *amqp.Channel
	returns <-chan amqp.Return
}

func (w *amqpWay) take(events []*footfallv1.Event) {
	w.pending = nil
	if !w.direct {
		w.queue("wherever", events)
		return
	}
	byShard := make([][]*footfallv1.Event, w.shards)
	for _, e := range events {
		shard := messages.ShardOf(e.GetCustomerId(), w.shards)
		byShard[shard] = append(byShard[shard], e)
	}
	for shard, events := range byShard {
		w.queue(strconv.Itoa(shard), events)
	}
}

func (w *amqpWay) queue(key string, events []*footfallv1.Event) {
	if len(events) == 0 {
		return
	}
	for _, msg := range w.encode(events) {
		msg.DeliveryMode = amqp.Persistent
		w.pending = append(w.pending, &outgoing{key: key, msg: msg})
	}
}

// send publishes all that is pending, and then waits for the confirms.
func (w *amqpWay) send(ctx context.Context) error {
	err := w.publish(ctx)
	var left []*outgoing
	for _, o := range w.pending {
		switch {
		case o.confirm == nil:
			left = append(left, o)
		case !o.confirm.Wait():
			left, err = append(left, o), errors.Join(err, errors.New("not confirmed"))
		case len(o.from.returns) > 0:
			left, err = append(left, o), errors.Join(err, errors.New("returned"))
		}
		o.confirm = nil
	}
	w.pending = left
	if err != nil && w.conn != nil {
		w.drop()
		w.conn, w.lanes = nil, nil
	}
	return err
}

func (w *amqpWay) publish(ctx context.Context) error {
	if w.conn == nil {
		if err := w.connect(); err != nil {
			w.conn = nil
			return errors.Join(errNotSent, err)
		}
	}
	for _, o := range w.pending {
		l := w.lanes[o.key]
		if l == nil {
			ch, err := w.conn.Channel()
			if err != nil {
				return err
			}
			if err := ch.Confirm(false); err != nil {
				return err
			}
			l = &lane{ch, ch.NotifyReturn(make(chan amqp.Return, 1024))}
			w.lanes[o.key] = l
		}
		c, err := l.ch.PublishWithDeferredConfirmWithContext(ctx, "footfall.events", o.key, true, false, o.msg)
		if err != nil {
			return err
		}
		o.from, o.confirm = l, c
	}
	return nil
}

func (w *amqpWay) connect() (err error) {
	w.lanes = map[string]*lane{}
	w.conn, err = amqp.DialConfig(w.url, amqp.Config{Dial: func(network, addr string) (net.Conn, error) {
		c, err := net.Dial(network, addr)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.closed {
			return nil, errors.Join(net.ErrClosed, c.Close())
		}
		w.socket = c
		return c, nil
	}})
	if err != nil {
		w.drop()
	}
	return err
}

// drop closes the socket under the connection, which may hang in it.
func (w *amqpWay) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.socket != nil {
		_ = w.socket.Close()
	}
}

func (w *amqpWay) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.drop()
}
