package node

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/actors"
	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// testLiars has a publisher lie about all that it can, while the others go on: what it says of
// events of its own is believed, and nothing else. What is refused is a dead letter, counted.
func testLiars(t *testing.T, b *local.Broker, vhost string) {
	const times = 5
	seed := rand.Uint64()
	cfg := brokerConfig(t.TempDir(), b.URLIn(vhost, "node"))
	cfg.Shards = faultShards
	n := launch(t, cfg)
	url := b.URLIn(vhost, publisherUser)
	l := newLoad(t, seed, url, n.GRPCAddr(), cfg.Shards)
	l.start()
	l.after(20)
	liar := newOutsider(t, url)
	epochs := n.host.Status()

	customer := customerOf(3, cfg.Shards)
	key, wrong := "3", "4"
	event := func(id string) *footfallv1.Event { return view(customer, id, monday) }
	good := func(key string, msg amqp.Publishing) {
		liar.publish(t, key, msg)
		l.extra++
	}
	bad := func(key string, msg amqp.Publishing) {
		liar.publish(t, key, msg)
		l.letters++
	}
	control := func(c *footfallv1.Control) amqp.Publishing {
		body, err := c.MarshalVT()
		require.NoError(t, err)
		return amqp.Publishing{ContentType: messages.ContentProtobuf, Type: messages.TypeControl, Body: body}
	}
	with := func(msg amqp.Publishing, header string, value any) amqp.Publishing {
		msg.Headers = amqp.Table{header: value}
		return msg
	}
	for i := range times {
		id := func(what string) string { return fmt.Sprint(what, i) }
		// The shard.
		bad(wrong, protobufTogether([]*footfallv1.Event{event(id("wrong"))})[0])
		// That it is the bridge that says so, and what it has said before: the second of each pair
		// would be a duplicate.
		origin := []byte("0123456789abcdef")
		good(key, with(jsonMessage(eventJSON(event(id("origin")))), "footfall-origin", origin))
		good(key, with(jsonMessage(eventJSON(event(id("origin again")))), "footfall-origin", string(origin)))
		later := protobufTogether([]*footfallv1.Event{event(id("later"))})[0]
		good(key, with(jsonMessage(eventJSON(event(id("sooner")))), "footfall-origin", originOf(later.Body, 3)))
		good("any", later)
		// Where it stands.
		good(key, with(jsonMessage(eventJSON(event(id("offset")))), "x-stream-offset", int64(1<<40)))
		// That it is a node.
		for _, c := range []*footfallv1.Control{
			{Node: id("node"), Kind: &footfallv1.Control_Tick{Tick: &footfallv1.Tick{Date: "2030-01-01"}}},
			{Node: id("node"), Kind: &footfallv1.Control_Epoch{Epoch: &footfallv1.EpochBegin{Epoch: 1 << 40, Token: 7}}},
			{Node: id("node"), Kind: &footfallv1.Control_Clock{Clock: &footfallv1.ClockChange{Mode: footfallv1.ClockMode_CLOCK_MODE_WALL}}},
		} {
			bad(key, control(c))
			bad("any", control(c))
		}
		as := jsonMessage(eventJSON(event(id("as a node"))))
		as.UserId = "node"
		require.Equal(t, amqp.PreconditionFailed, refused(t, url, "footfall.events", key, as))
		require.Equal(t, amqp.AccessRefused, refused(t, url, "", "footfall.events.3", jsonMessage(eventJSON(event(id("by name"))))))
		// What is in it.
		for _, msg := range []amqp.Publishing{
			{ContentType: messages.ContentProtobuf, Type: messages.TypeBatch, Body: []byte(id("\xff\xff no batch"))},
			{ContentType: messages.ContentJSON, ContentEncoding: "gzip", Body: []byte(id("no gzip"))},
			{ContentType: messages.ContentJSON, Body: []byte(strings.Repeat("[", 1000) + id(""))},
			{Body: []byte(id("nothing at all"))},
			// One is called the other, so that what is no ID stands where one should be.
			{ContentType: messages.ContentProtobuf, Type: messages.TypeEvent, Body: protobufTogether([]*footfallv1.Event{event(id("batch"))})[0].Body},
			{ContentType: messages.ContentProtobuf, Type: messages.TypeBatch, Body: encodedEvent(t, event(id("event")))},
			{ContentType: messages.ContentProtobuf, Type: messages.TypeEvent, Body: encodedEvent(t, event(id("\xff\x80")))},
			{ContentType: messages.ContentProtobuf, Type: messages.TypeEvent, Body: encodedEvent(t, event(id(strings.Repeat("\xe9", 200_000))))},
		} {
			bad(key, msg)
			bad("any", msg)
		}
	}
	l.after(20)
	l.finish()
	l.check(n)
	for shard, st := range n.host.Status() {
		require.Equal(t, actors.Active, st.State)
		require.Equal(t, epochs[shard].Epoch, st.Epoch)
		require.Empty(t, st.LastTick)
		require.Equal(t, footfallv1.ClockMode_CLOCK_MODE_DRIVEN, st.Clock)
	}
	c, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer})
	require.NoError(t, err)
	require.EqualValues(t, l.extra+1, c.GetLifetime().GetEvents()) // and that of drain
	t.Logf("%d good messages and %d bad ones", l.extra, l.letters)
}

// encodedEvent does not ask whether its strings are text.
func encodedEvent(t *testing.T, ev *footfallv1.Event) []byte {
	t.Helper()
	b, err := ev.MarshalVT()
	require.NoError(t, err)
	return b
}

// originOf is what the bridge gives to the only piece of a message.
func originOf(body []byte, shard uint32) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(append([]byte(nil), body...), shard), 0))
	return sum[:16]
}

// refused publishes what the broker does not take, and returns its reason.
func refused(t *testing.T, url, exchange, key string, msg amqp.Publishing) int {
	t.Helper()
	ch := newOutsider(t, url).ch
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	require.NoError(t, ch.PublishWithContext(t.Context(), exchange, key, true, false, msg))
	why := <-closed
	require.NotNil(t, why)
	return why.Code
}
