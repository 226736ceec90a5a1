package tensorflow

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"footfall/inference"
)

const (
	manyModels   = 16
	manyVersions = 5
)

// original is which of the checkout's models a version is a copy of. Those of one model differ
// where they may, so that a version that answers in another's place is noticed: what a challenger
// says is of the champion's kind.
func original(model, version int) string {
	if model%4 == 3 {
		return "customer_segmentation"
	}
	return []string{"purchase_prediction", "churn_risk", "purchase_sequence"}[(model+version)%3]
}

// manyDir is a directory of all of them.
func manyDir(t *testing.T) string {
	dir := t.TempDir()
	for model := range manyModels {
		for version := 1; version <= manyVersions; version++ {
			from := filepath.Join("../../models", original(model, version), "1")
			text, err := os.ReadFile(filepath.Join(from, "model.yaml"))
			require.NoError(t, err)
			was := fmt.Sprintf("\nname: %s\nversion: 1\n", original(model, version))
			require.Contains(t, string(text), was)
			yaml := strings.Replace(string(text), was, fmt.Sprintf("\nname: model_%02d\nversion: %d\n", model, version), 1)
			to := filepath.Join(dir, fmt.Sprintf("model_%02d", model), fmt.Sprint(version))
			require.NoError(t, os.CopyFS(to, os.DirFS(from)))
			require.NoError(t, os.WriteFile(filepath.Join(to, "model.yaml"), []byte(yaml), 0o600))
		}
	}
	return dir
}

// Sixteen models of five versions fit one device. Two versions of a model serve at a time, so they
// take turns, all models at once; who names a version gets that one's scores.
func TestManyModels(t *testing.T) {
	if os.Getenv("FOOTFALL_HEAVY") != "1" {
		t.Skip("it loads some hundred models: FOOTFALL_HEAVY=1 runs it")
	}
	rows := readCases(t, "dense")
	want := map[string][]float32{}
	for _, name := range []string{"purchase_prediction", "churn_risk", "purchase_sequence", "customer_segmentation"} {
		dir := filepath.Join("../../models", name, "1")
		c, err := inference.ReadContract(dir)
		require.NoError(t, err)
		s, err := newRunner(t, Options{}).Load(t.Context(), dir, c, inference.DefaultDevice)
		require.NoError(t, err)
		want[name] = make([]float32, rows.Rows)
		require.NoError(t, s.Run(rows.batch(0, rows.Rows, rows.Rows), want[name]))
		require.NoError(t, s.Close())
	}
	require.NotEqual(t, want["purchase_prediction"], want["churn_risk"])
	require.NotEqual(t, want["purchase_prediction"], want["purchase_sequence"])

	registry, err := inference.OpenRegistry(manyDir(t), layout)
	require.NoError(t, err)
	require.Len(t, registry.Models(), manyModels)
	plan := func(champion, challenger int) inference.Plan {
		p := inference.Plan{}
		for _, m := range registry.Models() {
			require.Len(t, m.Versions, manyVersions)
			p[m.Name] = inference.ModelPlan{Champion: fmt.Sprint(champion), Challenger: &inference.Challenger{
				Version: fmt.Sprint(challenger), Share: .1, Comparison: new(inference.Comparison),
			}}
		}
		return p
	}
	quiet := slog.New(slog.DiscardHandler)
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return quiet }))
	defer system.Shutdown()
	empty := resident(t)
	pool, err := inference.StartPool(t.Context(), inference.PoolConfig{Config: inference.Config{
		System: system, Registry: registry, Plan: plan(1, 2), Runner: newRunner(t, Options{}), Probe: true,
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, pool.Close()) }()

	ask := func(model, version string) []inference.Scores {
		replies := make(chan inference.Reply, 1)
		require.True(t, pool.Score(&inference.Request{
			Rows: rows.Rows, Features: rows.Features, Sequences: rows.Sequences, Model: model, Version: version,
			Reply: func(r inference.Reply) { replies <- r },
		}))
		r := <-replies
		require.NoError(t, r.Err, "%s %s", model, version)
		return r.Models
	}
	answers := func(s inference.Scores, model, version int) {
		require.Equal(t, []string{fmt.Sprintf("model_%02d", model), fmt.Sprint(version)}, []string{s.Model, s.Version})
		require.InDeltaSlice(t, want[original(model, version)], s.Values, 1e-6, "%s %s", s.Model, s.Version)
	}
	for _, turn := range [][2]int{{1, 2}, {3, 4}, {5, 1}} {
		require.NoError(t, pool.Apply(t.Context(), registry, plan(turn[0], turn[1])))
		// The rows are no customers', so that challengers have none of them.
		champions := slices.DeleteFunc(ask("", ""), func(s inference.Scores) bool { return s.Rows != nil && len(s.Rows) == 0 })
		require.Equal(t, manyModels, len(champions)) //nolint:testifylint // thousands of values tell nothing
		for model, s := range champions {
			answers(s, model, turn[0])
			for _, version := range turn {
				one := ask(s.Model, fmt.Sprint(version))
				require.Equal(t, 1, len(one)) //nolint:testifylint // as above
				answers(one[0], model, version)
			}
		}
		t.Logf("%d models, versions %d and %d of each: %d MiB resident, %d before the first was loaded", manyModels, turn[0], turn[1], resident(t), empty)
	}
}
