package tensorflow

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"footfall/inference"
)

var layout = inference.Layout{
	Features: strings.Fields("recency_days visit_days_7 visit_days_28 visit_days_84 log_spend_28 log_spend_84 gap_ewma overdue departments_28 discount_share_84"),
	Steps:    10,
	Columns:  strings.Fields("age_days gap_days log_spend departments discount_share"),
}

// modelsDir is a directory of models as they are laid out for serving, with the contracts
// that training writes.
func modelsDir(tb testing.TB, names ...string) string {
	tb.Helper()
	dir := tb.TempDir()
	for _, name := range names {
		text, err := os.ReadFile("../testdata/model.yaml")
		require.NoError(tb, err)
		yaml := strings.Replace(string(text), "name: purchase_prediction", "name: "+name, 1)
		if name == "lstm" {
			from, to := strings.Index(yaml, "  - name: features\n"), strings.Index(yaml, "# What it answers")
			yaml = yaml[:from] + "  - name: sequence\n    tensor: sequence\n    shape: [-1, 10, 5]\n    features: [" + strings.Join(layout.Columns, ", ") + "]\n" + yaml[to:]
			yaml = strings.NewReplacer("  recency_days:\n    edges", "  age_days:\n    edges", "  visit_days_7:\n    edges", "  departments:\n    edges").Replace(yaml)
		}
		version := filepath.Join(dir, name, "1")
		require.NoError(tb, os.CopyFS(version, os.DirFS(filepath.Join(models, name))))
		require.NoError(tb, os.WriteFile(filepath.Join(version, "model.yaml"), []byte(yaml), 0o600))
	}
	return dir
}

func startDevice(tb testing.TB, inFlight int, names ...string) *inference.Device {
	tb.Helper()
	registry, err := inference.OpenRegistry(modelsDir(tb, names...), layout)
	require.NoError(tb, err)
	metrics, err := inference.NewMetrics(prometheus.NewRegistry())
	require.NoError(tb, err)
	quiet := slog.New(slog.DiscardHandler)
	d, err := inference.Start(tb.Context(), inference.Config{
		System:   actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return quiet })),
		Registry: registry, Runner: newRunner(tb, Options{}), Metrics: metrics, InFlight: inFlight,
	})
	require.NoError(tb, err)
	for _, m := range d.Models() {
		require.Equal(tb, "serving", m.Versions[0].State, m.Versions[0].Error)
	}
	tb.Cleanup(func() { require.NoError(tb, d.Close()) })
	return d
}

// Many shards ask at once, each for its own customers: everybody gets Keras' scores.
func TestDeviceScoresEqualKeras(t *testing.T) {
	d := startDevice(t, 0, "dense", "lstm")
	want := map[string]*cases{"dense": readCases(t, "dense"), "lstm": readCases(t, "lstm")}
	c := want["dense"]
	require.Equal(t, c.Sequences, want["lstm"].Sequences)
	var wg sync.WaitGroup
	for shard := range 16 {
		wg.Go(func() {
			for from := shard; from < c.Rows; from += 16 {
				to := min(from+1+shard, c.Rows)
				replies := make(chan inference.Reply, 1)
				taken := d.Score(&inference.Request{
					Rows: to - from, Features: c.Features[from*10 : to*10], Sequences: c.Sequences[from*50 : to*50],
					Reply: func(r inference.Reply) { replies <- r },
				})
				if !taken {
					t.Error("refused, though the queue has room for all")
					return
				}
				r := <-replies
				if r.Err != nil || len(r.Models) != 2 {
					t.Errorf("rows %d to %d: %v", from, to, r)
					return
				}
				for _, s := range r.Models {
					for i, v := range s.Values {
						if diff := v - want[s.Model].Want[from+i]; diff > 1e-6 || diff < -1e-6 {
							t.Errorf("%s row %d: %v, not %v", s.Model, from+i, v, want[s.Model].Want[from+i])
						}
					}
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkDevice is what 64 shards get through the actor, with requests of 64 rows; its
// limit is BenchmarkSession of the same model with 1,024 rows. How many batches run at once is
// what it varies.
func BenchmarkDevice(b *testing.B) {
	for i := range 6 {
		model, inFlight := []string{"dense", "lstm"}[i/3], i%3+1
		b.Run(fmt.Sprintf("%s/%d in flight", model, inFlight), func(b *testing.B) {
			d, c := startDevice(b, inFlight, model), readCases(b, model)
			in := repeat(c, 64)
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				replies := make(chan inference.Reply, 1)
				r := &inference.Request{Rows: 64, Features: in.Features[0], Sequences: in.Sequences[0], Reply: func(r inference.Reply) { replies <- r }}
				for p.Next() {
					for !d.Score(r) {
						runtime.Gosched()
					}
					if r := <-replies; r.Err != nil {
						b.Error(fmt.Errorf("reply: %w", r.Err))
						return
					}
				}
			})
			b.ReportMetric(float64(b.N*64)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
