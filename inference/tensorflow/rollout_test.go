package tensorflow

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"footfall/inference"
	"footfall/inference/modelstore"
	"footfall/inference/rollout"
)

// rolledOut is a pool over a directory of versions of dense, with a controller.
type rolledOut struct {
	*inference.Pool
	*rollout.Controller
	models string
	reg    *prometheus.Registry
	rows   *cases
}

// addVersion makes a version of dense out of one of the script's models.
func addVersion(tb testing.TB, dir, version, of string) {
	tb.Helper()
	text, err := os.ReadFile("../testdata/model.yaml")
	require.NoError(tb, err)
	yaml := strings.Replace(string(text), "name: purchase_prediction\nversion: 1\n", "name: dense\nversion: "+version+"\n", 1)
	part := filepath.Join(dir, "dense", "."+version)
	require.NoError(tb, os.CopyFS(part, os.DirFS(filepath.Join(models, of))))
	require.NoError(tb, os.WriteFile(filepath.Join(part, "model.yaml"), []byte(yaml), 0o600))
	require.NoError(tb, os.Rename(part, filepath.Join(dir, "dense", version)))
}

func rollOut(tb testing.TB, enter float64) *rolledOut {
	tb.Helper()
	r := &rolledOut{models: tb.TempDir(), reg: prometheus.NewRegistry(), rows: readCases(tb, "dense")}
	addVersion(tb, r.models, "1", "dense")
	source, err := modelstore.Open(tb.Context(), r.models, modelstore.Options{Layout: layout})
	require.NoError(tb, err)
	metrics, err := rollout.NewMetrics(r.reg)
	require.NoError(tb, err)
	r.Controller, err = rollout.NewController(rollout.Config{Store: new(rollout.Memory), Source: source, Node: "n1", Enter: enter, Metrics: metrics})
	require.NoError(tb, err)
	registry, plan, err := r.Plan(tb.Context())
	require.NoError(tb, err)
	quiet := slog.New(slog.DiscardHandler)
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return quiet }))
	r.Pool, err = inference.StartPool(tb.Context(), inference.PoolConfig{Config: inference.Config{
		System: system, Registry: registry, Plan: plan, Fetch: source.Fetch, Probe: true, Runner: newRunner(tb, Options{}),
	}})
	require.NoError(tb, err)
	tb.Cleanup(func() {
		require.NoError(tb, r.Close())
		system.Shutdown()
	})
	r.Serve(r.Pool)
	require.NoError(tb, r.Look(tb.Context()))
	return r
}

// score has all rows scored once, as those of customers, and returns what they get of dense, with versions.
func (r *rolledOut) score(tb testing.TB) (values []float32, versions []string) {
	tb.Helper()
	replies := make(chan inference.Reply, 1)
	hashes := make([]uint64, r.rows.Rows)
	for i := range hashes {
		hashes[i] = inference.CustomerHash(fmt.Appendf(nil, "c%d", i))
	}
	require.True(tb, r.Score(&inference.Request{
		Rows: r.rows.Rows, Features: r.rows.Features, Sequences: r.rows.Sequences, Customers: hashes,
		Reply: func(a inference.Reply) { replies <- a },
	}))
	a := <-replies
	require.NoError(tb, a.Err)
	values, versions = make([]float32, r.rows.Rows), make([]string, r.rows.Rows)
	for _, m := range a.Models {
		if m.Rows == nil {
			for i, v := range m.Values {
				values[i], versions[i] = v, m.Version
			}
		}
		for i, row := range m.Rows {
			values[row], versions[row] = m.Values[i], m.Version
		}
	}
	return values, versions
}

// A version that is broken only for real customers, that lags, or that says something else than the champion, is taken out by
// itself, and nobody is ever without a score.
func TestABadVersionIsRolledBack(t *testing.T) {
	for how, reason := range map[string]string{
		"odd": rollout.ReasonErrors, "slow": rollout.ReasonLatency, "shifted": rollout.ReasonShift, "wrong": rollout.ReasonLoad, "alike": "",
	} {
		t.Run(how, func(t *testing.T) {
			r := rollOut(t, .3)
			addVersion(t, r.models, "2", "dense_"+how)
			ctx := t.Context()
			require.NoError(t, r.Look(ctx))
			s, _ := r.State("dense")
			if reason != rollout.ReasonLoad {
				require.NotNil(t, s.Challenger, "a new version is tried by itself")
				require.Equal(t, []inference.Scores{{Model: "dense", Version: "1"}, {Model: "dense", Version: "2"}}, r.Shown())
			}
			seen := 0
			for round := 0; round < 200 && s.Challenger != nil; round++ {
				values, versions := r.score(t)
				for i, v := range values {
					require.True(t, v >= 0 && v <= 1, "%v of row %d by %s", v, i, versions[i])
					if versions[i] == "2" {
						seen++
					} else {
						require.InDelta(t, r.rows.Want[i], v, 1e-6)
					}
				}
				require.NoError(t, r.Look(ctx))
				s, _ = r.State("dense")
				if f, _ := r.Figures("dense"); reason == "" && f.Rows > 3_000 {
					break
				}
			}
			if reason == "" {
				require.NotNil(t, s.Challenger, "%+v", s)
				f, _ := r.Figures("dense")
				require.Zero(t, f.Errors)
				require.Less(t, f.Absolute, 1e-3)
				require.NotZero(t, seen)
				s, err := r.Do(ctx, rollout.Change{Action: "promote", Model: "dense"})
				require.NoError(t, err)
				require.Equal(t, []string{"2", "1"}, []string{s.Champion, s.Previous})
				_, versions := r.score(t)
				require.Equal(t, strings.Repeat("2", r.rows.Rows), strings.Join(versions, ""))
				_, err = r.Do(ctx, rollout.Change{Action: "rollback", Model: "dense", Reason: "just so"})
				require.NoError(t, err)
				_, versions = r.score(t)
				require.Equal(t, strings.Repeat("1", r.rows.Rows), strings.Join(versions, ""))
				return
			}
			require.Nil(t, s.Challenger, "%+v", s)
			require.Equal(t, "1", s.Champion)
			require.Equal(t, "2", s.Refused[0].Version)
			t.Log(s.Refused[0].Reason)
			require.Equal(t, []inference.Scores{{Model: "dense", Version: "1"}}, r.Shown())
			require.NoError(t, testutil.GatherAndCompare(r.reg, strings.NewReader(fmt.Sprintf(`
# HELP footfall_model_rollbacks_total Versions that this node took out, by reason; asked is a person's.
# TYPE footfall_model_rollbacks_total counter
footfall_model_rollbacks_total{model="dense",reason=%q} 1
`, reason)), "footfall_model_rollbacks_total"))
			require.NoError(t, r.Look(ctx))
			s, _ = r.State("dense")
			require.Nil(t, s.Challenger, "it does not come back")
		})
	}
}

// Who asks for a version that can't be loaded is told why, whatever is wrong with it, and nothing changes.
func TestABrokenVersionIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string) string{
		"no SavedModel": func(t *testing.T, dir string) string {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "saved_model.pb"), []byte("not a graph"), 0o600))
			return "saved_model.pb"
		},
		"no variables": func(t *testing.T, dir string) string {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "variables")))
			return "variables"
		},
		"half of its variables": func(t *testing.T, dir string) string {
			all, err := filepath.Glob(filepath.Join(dir, "variables", "*.data-*"))
			require.NoError(t, err)
			require.NoError(t, os.Truncate(all[0], 100))
			return "variables"
		},
		"other files than its digest": func(t *testing.T, dir string) string {
			text, err := os.ReadFile(filepath.Join(dir, "model.yaml"))
			require.NoError(t, err)
			text = append(text, []byte("\nfiles: sha256:"+strings.Repeat("0", 64)+"\n")...)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "model.yaml"), text, 0o600))
			return "its files have the digest"
		},
		"another shape": func(t *testing.T, dir string) string {
			text, err := os.ReadFile(filepath.Join(dir, "model.yaml"))
			require.NoError(t, err)
			text = []byte(strings.Replace(string(text), "tensor: features", "tensor: features_of_another", 1))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "model.yaml"), text, 0o600))
			return "features_of_another"
		},
		"NaN": func(t *testing.T, dir string) string {
			require.NoError(t, os.RemoveAll(dir))
			addVersion(t, filepath.Dir(filepath.Dir(dir)), "2", "dense_wrong")
			return "NaN is not finite"
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := rollOut(t, 0)
			addVersion(t, r.models, "2", "dense_alike")
			want := spoil(t, filepath.Join(r.models, "dense", "2"))
			for _, action := range []string{"canary", "shadow", "promote"} {
				_, err := r.Do(t.Context(), rollout.Change{Action: action, Model: "dense", Version: "2", Share: .5})
				var load *inference.LoadError
				require.ErrorAs(t, err, &load, action)
				require.ErrorContains(t, err, want)
			}
			s, _ := r.State("dense")
			require.Equal(t, "1", s.Champion)
			require.Nil(t, s.Challenger)
			_, versions := r.score(t)
			require.Equal(t, strings.Repeat("1", r.rows.Rows), strings.Join(versions, ""))
		})
	}
}

// Loading versions again and again keeps no memory: a heavy test, since each load takes its time.
func TestReloadsKeepNoMemory(t *testing.T) {
	if os.Getenv("FOOTFALL_HEAVY") != "1" {
		t.Skip("FOOTFALL_HEAVY=1 runs it")
	}
	r := rollOut(t, 0)
	addVersion(t, r.models, "2", "dense_alike")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	swap := func(n int) {
		for i := range n {
			change := rollout.Change{Action: "promote", Model: "dense", Version: fmt.Sprint((i+1)%2 + 1)}
			_, err := r.Do(ctx, change)
			require.NoError(t, err)
			_, versions := r.score(t)
			require.Equal(t, change.Version, versions[0])
		}
	}
	swap(40) // what the library keeps once is there then
	before := float64(resident(t))
	swap(200)
	after := float64(resident(t))
	t.Logf("resident: %.0f MiB before, %.0f MiB after 200 loads (%+.1f%%)", before, after, 100*(after/before-1))
	require.LessOrEqual(t, after, 1.05*before)
}
