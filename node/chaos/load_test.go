package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// load is callers of every kind at work on customers that they share: none waits for another, none
// knows which node lives, and what fails is tried again or not, at random.
//
// A customer is born when one before it has all its events, and is read for a while after.
type load struct {
	w    *world
	past *history
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex // guards what follows
	alive   []*target
	old     []string
	born    int
	clients int

	answered, unanswered, published, unpublished atomic.Int64
	wrong                                        chan string // what can never be right
	bridging                                     int         // events of bridged
}

// target is a customer that gets events.
type target struct {
	id   string
	next int
}

const (
	// together is how many customers get events at a time.
	together = 48
	// pace is the least time between two calls of a caller.
	pace = 15 * time.Millisecond
	// within bounds a call.
	within = 4 * time.Second
)

func (w *world) load() *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{w: w, past: newHistory(), stop: stop, wrong: make(chan string, 1)}
	w.t.Cleanup(l.end)
	for range together {
		l.alive = append(l.alive, l.birth())
	}
	for range 4 {
		l.caller(ctx, l.publisher)
	}
	for range 3 {
		l.caller(ctx, l.reader)
	}
	l.caller(ctx, l.manyReader)
	l.caller(ctx, l.outsider(true))
	l.caller(ctx, l.outsider(false))
	return l
}

// end stops all callers, and waits for them.
func (l *load) end() {
	l.stop()
	l.done.Wait()
}

// caller runs calls one after the other, each with what is random about it.
func (l *load) caller(ctx context.Context, call func(context.Context, int, *rand.Rand)) {
	l.clients++
	client := l.clients
	rng := rand.New(rand.NewPCG(l.w.seed, uint64(client)))
	l.done.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				call(ctx, client, rng)
			case <-ctx.Done():
				return
			}
		}
	})
}

func (l *load) birth() *target {
	l.born++
	return &target{id: fmt.Sprintf("c-%d", l.born)}
}

// next is an event that nobody has sent yet.
func (l *load) next(rng *rand.Rand) (customer string, i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := rng.IntN(len(l.alive))
	c := l.alive[at]
	customer, i = c.id, c.next
	c.next++
	if c.next == perCustomer {
		l.old = append(l.old, c.id)
		l.alive[at] = l.birth()
	}
	return customer, i
}

// customer is one that may have events.
func (l *load) customer(rng *rand.Rand) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	const recent = 16
	if n := len(l.old); n > 0 && rng.IntN(4) == 0 {
		return l.old[n-1-rng.IntN(min(n, recent))]
	}
	return l.alive[rng.IntN(len(l.alive))].id
}

var monday = time.Date(2017, 1, 2, 12, 0, 0, 0, time.UTC)

func eventID(i int) string { return "e-" + strconv.Itoa(i) }

// event is the i-th of a customer.
func event(customer string, i int) *footfallv1.Event {
	amount := fmt.Sprintf("%d.%04d", (1<<i)/messages.MoneyScale, (1<<i)%messages.MoneyScale)
	return &footfallv1.Event{
		EventId: eventID(i), CustomerId: customer, Time: timestamppb.New(monday),
		Kind: &footfallv1.Event_Purchase{Purchase: &footfallv1.Purchase{
			BasketId: eventID(i), Lines: []*footfallv1.Line{{ProductId: "p", Department: "PASTRY", Quantity: 1, Amount: amount}},
		}},
	}
}

// seen is which events an answer has.
func seen(c *footfallv1.Customer) (set, error) {
	spend, err := messages.ParseMoney(c.GetLifetime().GetSpend())
	if err != nil {
		return 0, err
	}
	if n := bits.OnesCount64(uint64(spend)); n != int(c.GetLifetime().GetPurchases()) {
		return 0, fmt.Errorf("%s, offset %d: %d purchases sum up to %b: one was applied twice", c.GetCustomerId(), c.GetAsOf().GetOffset(), c.GetLifetime().GetPurchases(), spend)
	}
	return set(spend), nil
}

func (l *load) node(rng *rand.Rand) *member {
	// Also one that does not run: callers do not know.
	all := l.w.running()
	if len(all) == 0 || rng.IntN(10) == 0 {
		return l.w.nodes[rng.IntN(3)]
	}
	return all[rng.IntN(len(all))]
}

// fail notes what can never be right.
func (l *load) fail(format string, args ...any) {
	select {
	case l.wrong <- fmt.Sprintf(format, args...):
	default:
	}
}

// publisher sends an event through a node, again and again or only once, and may wait for it through another.
func (l *load) publisher(ctx context.Context, client int, rng *rand.Rand) {
	customer, i := l.next(rng)
	tries := 1 + rng.IntN(4)
	l.past.write(customer, client, i)
	for range tries {
		if l.publish(ctx, l.node(rng), customer, i) {
			l.past.confirm(customer, i)
			if rng.IntN(3) > 0 {
				l.get(ctx, client, l.node(rng), &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: eventID(i)}, 1<<i)
			}
			return
		}
		pause(ctx, rng)
		if ctx.Err() != nil {
			return
		}
	}
}

func (l *load) publish(ctx context.Context, m *member, customer string, i int) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	answer, err := m.Publish(ctx, &footfallv1.EventBatch{Events: []*footfallv1.Event{event(customer, i)}})
	switch {
	case err != nil:
		l.unpublished.Add(1)
		return false
	case answer.GetAccepted() != 1:
		l.fail("a good event was refused: %v", answer)
	}
	l.published.Add(1)
	return true
}

// reader asks for a customer.
func (l *load) reader(ctx context.Context, client int, rng *rand.Rand) {
	l.get(ctx, client, l.node(rng), &footfallv1.GetCustomerRequest{CustomerId: l.customer(rng)}, 0)
}

// get asks a node, and notes what an owner answers. must are events that have to be in the answer.
func (l *load) get(ctx context.Context, client int, m *member, r *footfallv1.GetCustomerRequest, must set) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	called := l.past.now()
	c, err := m.GetCustomer(ctx, r)
	switch status.Code(err) {
	case codes.OK:
	case codes.NotFound:
		if must != 0 {
			l.fail("%s waited for %s at %s: %v", r.GetCustomerId(), r.GetWaitFor(), m.name, err)
			return
		}
		l.past.read(r.GetCustomerId(), client, called, 0)
		l.answered.Add(1)
		return
	case codes.InvalidArgument, codes.Internal, codes.FailedPrecondition, codes.Aborted:
		l.fail("%s at %s: %v", r, m.name, err)
		return
	default:
		l.unanswered.Add(1)
		return
	}
	l.note(client, called, m, c, must)
}

// note takes an answer for what it says.
func (l *load) note(client int, called int64, m *member, c *footfallv1.Customer, must set) {
	s, err := seen(c)
	switch {
	case err != nil:
		l.fail("at %s: %v", m.name, err)
	case c.GetAsOf().GetStaleMs() != 0:
		l.fail("%s at %s: an answer of %d ms ago that nobody has asked for", c.GetCustomerId(), m.name, c.GetAsOf().GetStaleMs())
	case s&must != must:
		l.fail("%s at %s, answered by %s: %b was waited for, and is not in %b", c.GetCustomerId(), m.name, c.GetOwner(), must, s)
	default:
		l.past.read(c.GetCustomerId(), client, called, s)
		l.answered.Add(1)
	}
}

// manyReader asks for customers of several owners at once.
func (l *load) manyReader(ctx context.Context, client int, rng *rand.Rand) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ids := map[string]bool{}
	for range 8 {
		ids[l.customer(rng)] = true
	}
	r := &footfallv1.BatchGetCustomersRequest{}
	for id := range ids {
		r.CustomerIds = append(r.CustomerIds, id)
	}
	m := l.node(rng)
	called := l.past.now()
	all, err := m.BatchGetCustomers(ctx, r)
	if err != nil {
		l.unanswered.Add(1)
		return
	}
	for _, c := range all.GetCustomers() {
		l.note(client, called, m, c, 0)
	}
	for _, id := range all.GetNotFound() {
		l.past.read(id, client, called, 0)
	}
}

// outsider publishes to the broker itself, as docs/publishers.md has it: to the shard's stream, on
// a channel of its own, or to where the nodes fetch what is of no shard yet. It sends each event once.
func (l *load) outsider(sharded bool) func(context.Context, int, *rand.Rand) {
	o := &outsider{url: l.w.broker.URL()}
	return func(ctx context.Context, client int, rng *rand.Rand) {
		customer, i := l.next(rng)
		key := "anywhere"
		if sharded {
			key = strconv.Itoa(messages.ShardOf(customer, shards))
		}
		call, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		l.past.write(customer, client, i)
		if err := o.publish(call, ctx, key, event(customer, i)); err != nil {
			l.unpublished.Add(1)
			pause(ctx, rng)
			return
		}
		l.past.confirm(customer, i)
		l.published.Add(1)
		if rng.IntN(3) == 0 {
			l.get(ctx, client, l.node(rng), &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: eventID(i)}, 1<<i)
		}
	}
}

// outsider is a program that knows the broker alone.
type outsider struct {
	url   string
	conn  *amqp.Connection
	lanes map[string]*lane
}

// lane is a channel for one routing key.
type lane struct {
	*amqp.Channel
	returns chan amqp.Return
}

var errUnconfirmed = errors.New("not confirmed, or returned")

// publish returns nil once the event is confirmed. The connection ends with life at the latest.
func (o *outsider) publish(ctx, life context.Context, key string, e *footfallv1.Event) error {
	if o.conn == nil || o.conn.IsClosed() {
		var err error
		o.lanes = map[string]*lane{}
		o.conn, err = amqp.DialConfig(o.url, amqp.Config{Dial: func(network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err == nil {
				context.AfterFunc(life, func() { _ = c.Close() })
			}
			return c, err
		}})
		if err != nil {
			o.conn = nil
			return err
		}
	}
	err := o.send(ctx, key, e)
	if err != nil {
		_ = o.conn.CloseDeadline(time.Now()) // it may hang
		o.conn = nil
	}
	return err
}

func (o *outsider) send(ctx context.Context, key string, e *footfallv1.Event) error {
	l := o.lanes[key]
	if l == nil {
		ch, err := o.conn.Channel()
		if err != nil {
			return err
		}
		l = &lane{ch, ch.NotifyReturn(make(chan amqp.Return, 1))}
		o.lanes[key] = l
		if err := ch.Confirm(false); err != nil {
			return err
		}
	}
	body, err := e.MarshalVT()
	if err != nil {
		return err
	}
	sent, err := l.PublishWithDeferredConfirmWithContext(ctx, "footfall.events", key, true, false, amqp.Publishing{
		ContentType: messages.ContentProtobuf, Type: messages.TypeEvent, DeliveryMode: amqp.Persistent, Body: body,
	})
	if err != nil {
		return err
	}
	if acked, err := sent.WaitContext(ctx); err != nil || !acked || len(l.returns) > 0 {
		return errors.Join(errUnconfirmed, err)
	}
	return nil
}

// pause is what a caller does before it tries again.
func pause(ctx context.Context, rng *rand.Rand) {
	timer := time.NewTimer(time.Duration(20+rng.IntN(200)) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// ok fails the test where an answer was wrong.
func (l *load) ok() {
	l.w.t.Helper()
	select {
	case what := <-l.wrong:
		require.Fail(l.w.t, "a wrong answer", what)
	default:
	}
}

// during waits, unless something has gone wrong.
func (l *load) during(d time.Duration) {
	l.w.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case what := <-l.wrong:
		require.Fail(l.w.t, "a wrong answer", what)
	}
}

// probes are customers that nobody has ever heard of, one of each shard.
var probes = sync.OnceValue(func() []string {
	out := make([]string, 0, shards)
	for shard := range shards {
		for i := 0; ; i++ {
			if id := fmt.Sprintf("nobody-%d-%d", shard, i); messages.ShardOf(id, shards) == shard {
				out = append(out, id)
				break
			}
		}
	}
	return out
})

// bridged waits until what the nodes had to fetch is fetched: what is sent last is there.
func (l *load) bridged(m *member) {
	t := l.w.t
	t.Helper()
	o := &outsider{url: l.w.broker.URL()}
	for _, customer := range probes() {
		require.NoError(t, o.publish(t.Context(), context.WithoutCancel(t.Context()), "anywhere", event(customer, 0)))
	}
	require.NoError(t, o.conn.Close())
	l.bridging = len(probes())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, customer := range probes() {
		_, err := m.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: eventID(0)})
		require.NoError(t, err)
	}
}
