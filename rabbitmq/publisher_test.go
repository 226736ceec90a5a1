package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// publisherRig is a publisher, and a quorum queue to publish to.
type publisherRig struct {
	conn  *Conn
	p     *Publisher
	queue string
	reg   *prometheus.Registry
}

func newPublisherRig(t *testing.T, url string, o PublisherOptions) *publisherRig {
	t.Helper()
	r := &publisherRig{queue: newTopology(1).name(".queue"), reg: prometheus.NewRegistry()}
	metrics, err := NewMetrics(r.reg)
	require.NoError(t, err)
	o.Name, o.Metrics, o.Logger = "p", metrics, testLogger(t)
	r.conn = openConn(t, Options{URL: url, Name: "c", Metrics: metrics})
	ch, err := r.conn.Channel(t.Context())
	require.NoError(t, err)
	_, err = ch.QueueDeclare(r.queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	require.NoError(t, err)
	r.p, err = NewPublisher(t.Context(), r.conn, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.p.Close()) })
	return r
}

func (r *publisherRig) publish(t *testing.T, exchange, key, body string) *Confirmation {
	t.Helper()
	c, err := r.p.Publish(t.Context(), exchange, key, amqp.Publishing{Body: []byte(body)})
	require.NoError(t, err)
	return c
}

// bodies takes n messages out of the queue.
func (r *publisherRig) bodies(t *testing.T, n int) []string {
	t.Helper()
	ch, err := r.conn.Channel(t.Context())
	require.NoError(t, err)
	deliveries, err := ch.Consume(r.queue, "", true, false, false, false, nil)
	require.NoError(t, err)
	var out []string
	for range n {
		select {
		case d := <-deliveries:
			require.Equal(t, amqp.Persistent, d.DeliveryMode)
			out = append(out, string(d.Body))
		case <-t.Context().Done():
			require.FailNow(t, "too few")
		}
	}
	return out
}

func TestPublisherKeepsOrder(t *testing.T) {
	for _, window := range []int{1, 10, 1000} {
		t.Run(fmt.Sprint("window ", window), func(t *testing.T) {
			r := newPublisherRig(t, sharedBroker(t).URL(), PublisherOptions{Window: window})
			const n = 500
			var want []string
			var waits []*Confirmation
			for i := range n {
				want = append(want, fmt.Sprint(i))
				waits = append(waits, r.publish(t, "", r.queue, want[i]))
			}
			for _, c := range waits {
				require.NoError(t, c.Wait(t.Context()))
				require.NoError(t, c.Wait(t.Context()), "again")
			}
			require.Equal(t, want, r.bodies(t, n))
			require.Equal(t, map[string]float64{
				`footfall_rabbitmq_published_total{publisher="p"}`: n, `footfall_rabbitmq_unconfirmed{publisher="p"}`: 0,
			}, series(t, r.reg, "published", "unconfirmed"))
		})
	}
}

// Some keys lead nowhere: exactly those messages come back, each from its own Wait.
func TestPublisherTellsReturned(t *testing.T) {
	for _, window := range []int{1, 50} {
		r := newPublisherRig(t, sharedBroker(t).URL(), PublisherOptions{Window: window})
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 200 {
					key, lost := r.queue, (i+g)%3 == 0
					if lost {
						key += ".nowhere"
					}
					c, err := r.p.Publish(t.Context(), "", key, amqp.Publishing{Body: []byte("always the same")})
					if err == nil {
						err = c.Wait(t.Context())
					}
					var returned *ReturnedError
					if errors.As(err, &returned) != lost || !lost && err != nil {
						t.Errorf("message to %q: %v", key, err)
						return
					}
					if lost && (returned.Key != key || !strings.Contains(returned.Text, "NO_ROUTE")) {
						t.Errorf("message to %q: %v", key, returned)
					}
				}
			})
		}
		wg.Wait()
		require.InDelta(t, 4*200/3, series(t, r.reg, "returned")[`footfall_rabbitmq_returned_total{publisher="p"}`], 4)
	}
}

// A missing exchange costs the channel: what was sent behind is lost, and the publisher goes on.
func TestPublisherOpensAnotherChannel(t *testing.T) {
	r := newPublisherRig(t, sharedBroker(t).URL(), PublisherOptions{})
	require.NoError(t, r.publish(t, "", r.queue, "before").Wait(t.Context()))
	var lost *LostError
	require.ErrorAs(t, r.publish(t, r.queue+".no-exchange", "", "x").Wait(t.Context()), &lost)
	require.True(t, lost.Sent)
	for {
		c, err := r.p.Publish(t.Context(), "", r.queue, amqp.Publishing{Body: []byte("after")})
		if err == nil && c.Wait(t.Context()) == nil {
			break
		}
		require.NoError(t, t.Context().Err())
	}
	require.Equal(t, []string{"before", "after"}, r.bodies(t, 2))
}

func TestPublisherGivesUp(t *testing.T) {
	broker := sharedBroker(t)
	way := newProxy(t, broker.Address())
	r := newPublisherRig(t, way.url(broker), PublisherOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.p.Publish(ctx, "", r.queue, amqp.Publishing{})
	require.ErrorIs(t, err, context.Canceled)
	way.refuse(true)
	way.cut()
	until(t, r.conn, func() bool { return r.conn.Err() != nil })
	var lost *LostError
	for err = nil; err == nil; _, err = r.p.Publish(t.Context(), "", r.queue, amqp.Publishing{}) {
		require.NoError(t, t.Context().Err())
	}
	require.ErrorAs(t, err, &lost, "without a connection nothing waits")
	require.NoError(t, r.p.Close())
	_, err = r.p.Publish(t.Context(), "", r.queue, amqp.Publishing{})
	require.ErrorAs(t, err, &lost)
	require.NoError(t, r.p.Close())
}

// What AMQP cannot carry must not reach amqp091-go, which ends the connection over it.
func TestCheckMessage(t *testing.T) {
	long := strings.Repeat("x", 256)
	for says, c := range map[string]struct {
		key string
		m   amqp.Publishing
	}{
		"routing key has 256 bytes":         {long, amqp.Publishing{}},
		"message_id has 256 bytes":          {"k", amqp.Publishing{MessageId: long}},
		"type has 256 bytes":                {"k", amqp.Publishing{Type: long}},
		"user_id has 256 bytes":             {"k", amqp.Publishing{UserId: long}},
		"the name of a header has 256":      {"k", amqp.Publishing{Headers: amqp.Table{long: "x"}}},
		"headers: table field":              {"k", amqp.Publishing{Headers: amqp.Table{"h": struct{}{}}}},
		"is a table or a list":              {"k", amqp.Publishing{Headers: amqp.Table{"h": amqp.Table{}}}},
		"headers have about 70022 bytes, m": {"k", amqp.Publishing{Headers: amqp.Table{"header": strings.Repeat("x", 70_000)}}},
	} {
		require.ErrorContains(t, checkMessage("e", c.key, &c.m), says)
	}
	require.NoError(t, checkMessage("e", "k", &amqp.Publishing{Headers: amqp.Table{"a": "b", "c": []byte("d"), "e": int64(1)}, Body: make([]byte, 1<<20)}))
	r := newPublisherRig(t, sharedBroker(t).URL(), PublisherOptions{})
	_, err := r.p.Publish(t.Context(), "", long, amqp.Publishing{})
	require.Error(t, err)
	require.NoError(t, r.publish(t, "", r.queue, "still there").Wait(t.Context()))
	require.Equal(t, uint64(1), r.conn.Generation())
}

func TestAppendErrors(t *testing.T) {
	var unavailable *messages.UnavailableError
	for _, err := range []error{&LostError{Sent: true}, &LostError{}, &ReturnedError{}, &NackedError{}} {
		require.ErrorAs(t, appendError(err), &unavailable)
		require.ErrorIs(t, appendError(err), err)
		require.Equal(t, "log", unavailable.What)
	}
	require.Same(t, context.Canceled, appendError(context.Canceled))
	require.NoError(t, appendError(nil))
}
