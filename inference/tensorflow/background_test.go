package tensorflow

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/inference"
)

// A model that is loaded aside answers as one that is not, before it serves, while it does, and
// after; what goes wrong is told in the same words, and nothing is left of any of it.
func TestLoadAside(t *testing.T) {
	files := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(open)
	}
	r := newRunner(t, Options{})
	var before int
	for turn := range 3 {
		for _, model := range []string{"dense", "lstm"} {
			cases := readCases(t, model)
			s, serves, err := r.LoadAside(t.Context(), filepath.Join(models, model), contract(model), "CPU:0")
			require.NoError(t, err)
			answer := func() []float32 {
				out := make([]float32, cases.Rows)
				require.NoError(t, s.Run(cases.batch(0, cases.Rows, 3), out))
				require.InDeltaSlice(t, cases.Want, out, 1e-5)
				return out
			}
			aside := answer()
			wrong := s.Run(inference.Batch{Rows: 2, Features: [][]float32{make([]float32, 19)}, Sequences: [][]float32{make([]float32, 99)}}, make([]float32, 2))
			require.ErrorContains(t, wrong, "where 2 rows have")
			serves(true)
			require.Equal(t, aside, answer())
			serves(false)
			require.Equal(t, aside, answer())
			require.NoError(t, s.Close())
			require.NoError(t, s.Close())
			require.ErrorIs(t, s.Run(cases.batch(0, 1, 1), make([]float32, 1)), errClosed)
		}
		if turn == 0 {
			before = files()
		}
	}
	require.Equal(t, before, files())

	broken := filepath.Join(t.TempDir(), "broken")
	require.NoError(t, os.CopyFS(broken, os.DirFS(filepath.Join(models, "dense"))))
	require.NoError(t, os.Truncate(filepath.Join(broken, "variables", "variables.data-00000-of-00001"), 10))
	_, want := r.Load(t.Context(), broken, contract("dense"), "CPU:0")
	require.Error(t, want)
	_, _, err := r.LoadAside(t.Context(), broken, contract("dense"), "CPU:0")
	require.EqualError(t, err, want.Error())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = r.LoadAside(ctx, filepath.Join(models, "dense"), contract("dense"), "CPU:0")
	require.ErrorIs(t, err, context.Canceled)
}

// What serving does not need is not given to the library; what answers and what reads the
// variables is.
func TestPrune(t *testing.T) {
	dir, c := served(t, "purchase_prediction")
	_, g, err := readSavedModel(dir)
	require.NoError(t, err)
	s, err := bind(g, c)
	require.NoError(t, err)
	functions := func() (all []string) {
		for _, f := range g.GetGraphDef().GetLibrary().GetFunction() {
			all = append(all, f.GetSignature().GetName())
		}
		return all
	}
	var nodes []string
	has := func(part string) bool {
		return slices.ContainsFunc(functions(), func(name string) bool { return len(name) > len(part) && name[:len(part)] == part })
	}
	unused := []string{"__inference_train_", "__inference_save_", "__inference__traced_save_"}
	for _, part := range unused {
		require.True(t, has(part), part)
	}
	prune(g, s)
	for _, part := range unused {
		require.False(t, has(part), part)
	}
	for _, part := range []string{"__inference_serve_", "__inference__traced_restore_"} {
		require.True(t, has(part), part)
	}
	for _, n := range g.GetGraphDef().GetNode() {
		nodes = append(nodes, n.GetName())
	}
	require.Contains(t, nodes, s.output.operation)
	require.Contains(t, nodes, s.inputs[0].operation)
	require.Contains(t, nodes, g.GetSaverDef().GetRestoreOpName())
	require.Contains(t, nodes, "hidden/kernel")
	require.NotContains(t, nodes, "save_path")
}
