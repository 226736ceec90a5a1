package node

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/config"
)

// brokerConfig is testConfig with the log on a broker.
func brokerConfig(dir, url string) *config.Config {
	c := testConfig(dir)
	c.LogDir, c.LogBroker = "", url
	return c
}

// outsider is a publisher that is not a node, with a user of its own.
type outsider struct {
	ch *amqp.Channel
}

func newOutsider(t *testing.T, url string) *outsider {
	t.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // a test may have cut it
	ch, err := conn.Channel()
	require.NoError(t, err)
	require.NoError(t, ch.Confirm(false))
	return &outsider{ch}
}

// publish waits for the broker's confirm.
func (o *outsider) publish(t *testing.T, key string, msg amqp.Publishing) {
	t.Helper()
	msg.DeliveryMode = amqp.Persistent
	c, err := o.ch.PublishWithDeferredConfirmWithContext(t.Context(), "footfall.events", key, true, false, msg)
	require.NoError(t, err)
	ok, err := c.WaitContext(t.Context())
	require.NoError(t, err)
	require.True(t, ok)
}

func jsonMessage(body string) amqp.Publishing {
	return amqp.Publishing{ContentType: messages.ContentJSON, Body: []byte(body)}
}

func jsonArray(events ...string) amqp.Publishing {
	return jsonMessage("[" + strings.Join(events, ",") + "]")
}

func viewJSON(customer, id string) string {
	return fmt.Sprintf(`{"event_id":%q,"customer_id":%q,"time":"2017-01-02T12:00:00Z","page_view":{}}`, id, customer)
}

const publisherUser = "shop"

func testBroker(t *testing.T) *local.Broker {
	t.Helper()
	return local.TestBroker(t, brokerOptions())
}

// brokerOptions are those of a broker with a user for nodes and one for publishers.
func brokerOptions(vhosts ...string) local.BrokerOptions {
	return local.BrokerOptions{VHosts: vhosts, Users: []local.User{
		{Name: "node", Password: "n0de", Configure: ".*", Write: ".*", Read: ".*"},
		{Name: publisherUser, Password: "sh0p", Write: `^footfall\.events$`, Configure: "^$", Read: "^$"},
	}}
}

// TestAnyPublisher feeds a node through its API, through the streams and through the queue of
// those that know no shards, with good events and bad ones.
func TestAnyPublisher(t *testing.T) {
	b := testBroker(t)
	dir := t.TempDir()
	n := launch(t, brokerConfig(dir, b.URL()))
	require.Equal(t, http.StatusOK, n.get(t, "/readyz", nil))
	shop := newOutsider(t, b.URLOf(publisherUser))
	shard := messages.ShardOf("900", 4)
	key, wrong := strconv.Itoa(shard), strconv.Itoa((shard+1)%4)

	n.publish(t, view("900", "api-1", monday), view("901", "api-2", monday))
	shop.publish(t, key, jsonMessage(viewJSON("900", "direct-1")))
	shop.publish(t, key, jsonArray(viewJSON("900", "direct-2"), viewJSON("900", "direct-1")))
	shop.publish(t, "any key", jsonArray(viewJSON("900", "any-1"), viewJSON("901", "any-2"), viewJSON("902", "any-3")))
	body, err := (&footfallv1.EventBatch{Events: []*footfallv1.Event{view("900", "any-4", monday)}}).MarshalVT()
	require.NoError(t, err)
	shop.publish(t, "", amqp.Publishing{ContentType: messages.ContentProtobuf, Type: messages.TypeBatch, Body: body})

	// Refused by the shard: another's customer, a bad event beside a good one, a tick that is
	// no node's, and what nobody can read.
	tick, err := (&footfallv1.Control{Node: "liar", Kind: &footfallv1.Control_Tick{Tick: &footfallv1.Tick{Date: "2030-01-01"}}}).MarshalVT()
	require.NoError(t, err)
	shop.publish(t, wrong, jsonMessage(viewJSON("900", "wrong-shard")))
	shop.publish(t, key, jsonArray(viewJSON("900", "direct-3"), `{"event_id":"no-kind","customer_id":"900","time":"2017-01-02T12:00:00Z"}`))
	shop.publish(t, key, amqp.Publishing{ContentType: messages.ContentProtobuf, Type: messages.TypeControl, Body: tick})
	shop.publish(t, key, amqp.Publishing{ContentType: "text/plain", Body: []byte("hello")})
	// Refused by the bridge.
	shop.publish(t, "any key", jsonArray(viewJSON("902", "any-5"), `{"event_id":"no-customer","time":"2017-01-02T12:00:00Z","page_view":{}}`))
	shop.publish(t, "any key", jsonMessage("not JSON"))

	wait := func(customer, event string) *footfallv1.Customer {
		c, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: event})
		require.NoError(t, err)
		return c
	}
	require.EqualValues(t, 2, wait("902", "any-5").GetLifetime().GetPageViews())
	wait("900", "any-4")
	n.idle(t)
	require.EqualValues(t, 6, wait("900", "direct-3").GetLifetime().GetPageViews())
	require.EqualValues(t, 2, wait("901", "any-2").GetLifetime().GetPageViews())
	require.EqualValues(t, 10, n.verified(t))

	// Those of the shards move from the store to the queue, and can be seen all the while.
	reasons := map[string]string{}
	for _, l := range n.letters(t) {
		reasons[l.GetId()] = l.GetSource() + " " + l.GetEventId() + " " + l.GetReason()
	}
	require.Len(t, reasons, 6)
	for _, want := range []string{
		"footfall.events." + wrong + " wrong-shard belongs to shard " + key,
		"footfall.events." + key + " no-kind one kind of event is required",
		"footfall.events." + key + "  a control record that is not from a node",
		"footfall.events." + key + "  the message is neither application/x-protobuf",
		"footfall.unsharded no-customer is required",
		"footfall.unsharded  line 1, byte 0: an event is a JSON object",
	} {
		require.True(t, slices.ContainsFunc(slices.Collect(maps.Values(reasons)), func(have string) bool { return strings.HasPrefix(have, want) }), "%s: %v", want, reasons)
	}
	require.Eventually(t, func() bool {
		q, err := newOutsider(t, b.URL()).ch.QueueDeclarePassive("footfall.dead", true, false, false, false, nil)
		return err == nil && q.Messages == 6
	}, time.Minute, 100*time.Millisecond)
	require.Len(t, n.letters(t), 6)

	// A restart goes on where it was.
	n.halt(t)
	shop.publish(t, key, jsonMessage(viewJSON("900", "while-away")))
	n = launch(t, brokerConfig(dir, b.URL()))
	n.idle(t)
	require.EqualValues(t, 7, wait("900", "while-away").GetLifetime().GetPageViews())
	require.EqualValues(t, 11, n.verified(t))
}
