package node

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"footfall/messages/footfallv1"
)

// A query beside the emptiest call that this server can answer.
func BenchmarkCalls(b *testing.B) {
	n := launch(b, testConfig(b.TempDir()))
	var events []*footfallv1.Event
	for i := range 200 {
		events = append(events, purchase("1", fmt.Sprint(i), monday.AddDate(0, 0, i/4), "1.50"))
	}
	_, err := n.Publish(b.Context(), &footfallv1.EventBatch{Events: events})
	require.NoError(b, err)
	_, err = n.WaitIdle(b.Context(), &footfallv1.WaitIdleRequest{})
	require.NoError(b, err)
	b.Run("empty", func(b *testing.B) {
		h := healthpb.NewHealthClient(n.conn)
		for b.Loop() {
			if _, err := h.Check(b.Context(), &healthpb.HealthCheckRequest{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("customer", func(b *testing.B) {
		for b.Loop() {
			if _, err := n.GetCustomer(b.Context(), &footfallv1.GetCustomerRequest{CustomerId: "1"}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("publish 1000", func(b *testing.B) {
		batch := &footfallv1.EventBatch{}
		for i := range 1000 {
			batch.Events = append(batch.Events, purchase(fmt.Sprint(i%100), fmt.Sprint(i), monday, "1.50"))
		}
		for b.Loop() {
			if _, err := n.Publish(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
		}
	})
}
