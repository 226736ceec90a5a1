package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/deploy/local"
	"footfall/messages/footfallv1"
)

// testAlarms has the broker run short of memory, and of disk, under load: whoever publishes is
// told to come again, whoever asks is answered, and nothing is lost. A node starts meanwhile.
func testAlarms(t *testing.T, b *local.Broker, vhost string) {
	seed := rand.Uint64()
	ports, err := local.ReservePorts(2)
	require.NoError(t, err)
	defer ports.Release()
	cfg := brokerConfig(t.TempDir(), b.URLIn(vhost, "node"))
	cfg.GRPCListen, cfg.HTTPListen = local.Address(ports.Next()), local.Address(ports.Next())
	n := launch(t, cfg)
	l := newLoad(t, seed, b.URLIn(vhost, publisherUser), cfg.GRPCListen, cfg.Shards)
	l.outside()
	l.start()
	way := &httpWay{addr: cfg.HTTPListen}
	mine := l.add(source{name: "http", most: 5}, way)
	require.Equal(t, http.StatusOK, n.get(t, "/readyz", nil))

	for _, alarm := range []struct {
		name    string
		on, off []string
		restart bool
	}{
		{"memory", []string{"set_vm_memory_high_watermark", "0"}, []string{"set_vm_memory_high_watermark", "0.6"}, false},
		{"disk", []string{"set_disk_free_limit", "1000000000000000"}, []string{"set_disk_free_limit", "100MB"}, true},
	} {
		t.Log(alarm.name)
		l.after(20)
		_, err := b.Control(t.Context(), alarm.on...)
		require.NoError(t, err)

		// Until the broker has noticed, all is well.
		var told *httpError
		until(t, func(ctx context.Context) error {
			way.take(mine.burst())
			if err := way.send(ctx); !errors.As(err, &told) {
				return errors.Join(err, errors.New("accepted"))
			}
			return nil
		})
		require.Equal(t, &httpError{http.StatusTooManyRequests, "1"}, told)
		_, err = n.Publish(t.Context(), &footfallv1.EventBatch{Events: way.events})
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
		require.InDelta(t, 1, n.metric(t, "footfall_rabbitmq_blocked", "publish"), 0)
		require.Equal(t, http.StatusServiceUnavailable, n.get(t, "/readyz", nil))
		l.answers(n)

		if alarm.restart {
			n.halt(t)
			n = begin(t, cfg)
			n.wait(t)
			require.Equal(t, http.StatusServiceUnavailable, n.get(t, "/readyz", nil))
		}
		_, err = b.Control(t.Context(), alarm.off...)
		require.NoError(t, err)
		until(t, way.send)
		until(t, func(context.Context) error {
			if code := n.get(t, "/readyz", nil); code != http.StatusOK {
				return &httpError{code: code}
			}
			return nil
		})
		require.InDelta(t, 0, n.metric(t, "footfall_rabbitmq_blocked", "publish"), 0)
	}
	l.after(20)
	l.finish()
	l.check(n)
}

// answers asks a node about customers while their publishers cannot publish: what it says stays
// the same.
func (l *load) answers(n *running) {
	l.t.Helper()
	n.idle(l.t)
	for range 2 {
		for customer := range customersEach {
			id := sharedCustomer(customer)
			c, err := n.GetCustomer(l.t.Context(), &footfallv1.GetCustomerRequest{CustomerId: id})
			require.NoError(l.t, err)
			require.NotZero(l.t, c.GetLifetime().GetEvents())
		}
	}
}

// until tries until it succeeds, which must be within a minute.
func until(t *testing.T, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, local.Await(ctx, try))
}

// metric reads a gauge or a counter of one label, 0 where there is none.
func (r *running) metric(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
