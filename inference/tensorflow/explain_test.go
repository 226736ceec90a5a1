package tensorflow

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"footfall/inference"
	"footfall/inference/oip"
	"footfall/messages/inferencev2"
)

// checkout is the models of a fresh clone on a device, and the way for callers to ask them.
type checkout struct {
	inference.Queries
	*inference.Device
}

// Score implements oip.Backend.
func (c *checkout) Score(ctx context.Context, r inference.Request) (inference.Scores, error) {
	return c.Queries.Score(ctx, r)
}

// Ready implements oip.Backend.
func (c *checkout) Ready() bool { return true }

// MaxRows implements oip.Backend.
func (c *checkout) MaxRows() int { return c.Queries.MaxRows }

func startCheckout(tb testing.TB) *checkout {
	tb.Helper()
	registry, err := inference.OpenRegistry("../../models", layout)
	require.NoError(tb, err)
	metrics, err := inference.NewMetrics(prometheus.NewRegistry())
	require.NoError(tb, err)
	quiet := slog.New(slog.DiscardHandler)
	d, err := inference.Start(tb.Context(), inference.Config{
		System:   actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return quiet })),
		Registry: registry, Runner: newRunner(tb, Options{}), Metrics: metrics,
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, d.Close()) })
	c := &checkout{Device: d}
	c.Offer, c.Limit, c.Queries.MaxRows = d.Score, d.QueueRows/2, d.QueueRows/4
	return c
}

func (c *checkout) contract(tb testing.TB, model string) *inference.Contract {
	tb.Helper()
	for _, contract := range c.Serving() {
		if contract.Name == model {
			return contract
		}
	}
	tb.Fatalf("%s does not serve", model)
	return nil
}

// aCustomer comes often and is two weeks late, so that it differs from the baseline in all.
func aCustomer() (features, sequence []float32) {
	features = []float32{14.5, 0, 3, 15, 4.6, 6.1, 4.7, 3.085, 7, .21}
	for day := range 10 {
		sequence = append(sequence, float32(14+4*(9-day)), float32(3+day%3), 2+float32(day)/5, float32(1+day%4), float32(day)/25)
	}
	return features, sequence
}

// Of the models of a fresh clone contributions add up, and point where they must: who is late
// is likelier to be lost.
func TestExplainRealModels(t *testing.T) {
	c := startCheckout(t)
	features, sequence := aCustomer()
	explain := func(model string) (*inference.Explanation, map[string]float64) {
		e, err := inference.Explain(t.Context(), c.contract(t, model), layout, features, sequence, c.Score)
		require.NoError(t, err)
		of, sum := map[string]float64{}, 0.0
		for _, p := range e.Contributions {
			of[p.Feature] = p.Value
			sum += p.Value
		}
		require.InDelta(t, e.Value-e.Baseline, sum, 1e-6)
		own, err := c.Score(t.Context(), inference.Request{Rows: 1, Features: features, Sequences: sequence, Model: model})
		require.NoError(t, err)
		require.InDelta(t, own.Values[0], e.Value, 1e-6, "what the model says of the customer by itself")
		return e, of
	}
	churn, of := explain("churn_risk")
	require.Len(t, of, 10)
	require.Positive(t, of["recency_days"]+of["overdue"])
	require.Less(t, churn.Baseline, .2, "a typical customer is not at risk")
	_, of = explain("purchase_prediction")
	require.Negative(t, of["recency_days"]+of["overdue"])
	_, of = explain("purchase_sequence")
	require.Len(t, of, 5)
	require.Negative(t, of["age_days"])
}

// BenchmarkExplain is one explanation after the other; p99 is what a caller waits for at most in
// 99 of 100.
func BenchmarkExplain(b *testing.B) {
	c := startCheckout(b)
	features, sequence := aCustomer()
	for _, model := range []string{"churn_risk", "purchase_prediction", "purchase_sequence"} {
		b.Run(model, func(b *testing.B) {
			contract := c.contract(b, model)
			waits := make([]time.Duration, 0, b.N)
			for b.Loop() {
				start := time.Now()
				_, err := inference.Explain(b.Context(), contract, layout, features, sequence, c.Score)
				require.NoError(b, err)
				waits = append(waits, time.Since(start))
			}
			report(b, waits)
		})
	}
	// Beside shards that have all models score 512 rows after the other.
	b.Run("churn_risk beside shards", func(b *testing.B) {
		contract := c.contract(b, "churn_risk")
		shards := inference.Request{Rows: 512, Features: slices.Repeat(features, 512), Sequences: slices.Repeat(sequence, 512)}
		ended := make(chan struct{})
		shards.Reply = func(inference.Reply) {
			if b.Context().Err() != nil || !c.Device.Score(&shards) {
				close(ended)
			}
		}
		require.True(b, c.Device.Score(&shards))
		waits := make([]time.Duration, 0, b.N)
		for b.Loop() {
			start := time.Now()
			_, err := inference.Explain(b.Context(), contract, layout, features, sequence, c.Score)
			require.NoError(b, err)
			waits = append(waits, time.Since(start))
		}
		report(b, waits)
		b.Cleanup(func() { <-ended })
	})
	// What the days of a sequence would cost, each one player: as many rows as of ten features.
	b.Run("purchase_sequence by days", func(b *testing.B) {
		rows := slices.Repeat(sequence, 1<<10)
		waits := make([]time.Duration, 0, b.N)
		for b.Loop() {
			start := time.Now()
			_, err := c.Score(b.Context(), inference.Request{Rows: 1 << 10, Sequences: rows, Model: "purchase_sequence", Synthetic: true})
			require.NoError(b, err)
			waits = append(waits, time.Since(start))
		}
		report(b, waits)
	})
}

func report(b *testing.B, waits []time.Duration) {
	b.Helper()
	slices.Sort(waits)
	at := func(share float64) float64 {
		i := min(int(math.Ceil(share*float64(len(waits))))-1, len(waits)-1)
		return waits[max(i, 0)].Seconds() * 1e3
	}
	b.ReportMetric(at(.5), "p50-ms")
	b.ReportMetric(at(.99), "p99-ms")
}

// BenchmarkProtocol is what the protocol costs: the same rows asked of the device at once, and by
// gRPC over loopback from a client.
func BenchmarkProtocol(b *testing.B) {
	c := startCheckout(b)
	metrics, err := oip.NewMetrics(nil)
	require.NoError(b, err)
	server := grpc.NewServer()
	inferencev2.RegisterGRPCInferenceServiceServer(server, &oip.Server{Backend: c, Metrics: metrics})
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // listens at once
	require.NoError(b, err)
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(b, err)
	b.Cleanup(func() {
		require.NoError(b, conn.Close())
		server.Stop()
		require.NoError(b, <-stopped)
	})
	client := oip.NewClient(conn, layout)
	features, sequence := aCustomer()
	for _, rows := range []int{1, 64, 1024} {
		for _, model := range []string{"purchase_prediction", "purchase_sequence"} {
			r := inference.Request{Rows: rows, Features: slices.Repeat(features, rows), Sequences: slices.Repeat(sequence, rows), Model: model}
			for way, score := range map[string]func(context.Context, inference.Request) (inference.Scores, error){"device": c.Score, "grpc": client.Score} {
				b.Run(fmt.Sprintf("%s/%d/%s", model, rows, way), func(b *testing.B) {
					waits := make([]time.Duration, 0, b.N)
					for b.Loop() {
						start := time.Now()
						_, err := score(b.Context(), r)
						require.NoError(b, err)
						waits = append(waits, time.Since(start))
					}
					report(b, waits)
				})
			}
		}
	}
}
