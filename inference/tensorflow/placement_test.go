package tensorflow

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/inference"
)

// Of four devices, every operation of a model runs on the one that it is pinned to: the
// library itself says so of a run. Only what the caller feeds and fetches stays on the first
// one, in every session.
func TestEveryOperationRunsWhereItIsPinned(t *testing.T) {
	r := newRunner(t, Options{})
	for _, model := range []string{"dense", "lstm", "both", "segment_int32"} {
		c := readCases(t, model)
		var want []string
		for _, device := range []string{"CPU:0", "CPU:1", "CPU:2", "CPU:3"} {
			s, err := r.Load(t.Context(), filepath.Join(models, model), contract(model), device)
			require.NoError(t, err)
			ran, err := Trace(s, c.batch(0, 10, 10))
			require.NoError(t, err)
			var own []string
			for d, operations := range ran {
				for _, o := range operations {
					if isEdge(o) {
						continue
					}
					require.Equal(t, device, d, o)
					own = append(own, o)
				}
			}
			slices.Sort(own)
			own = slices.Compact(own) // bodies of loops run often
			require.Greater(t, len(own), 10)
			if want == nil {
				want = own
			}
			require.Equal(t, want, own, "the same operations, on another device")
			require.NoError(t, s.Close())
			_, err = Trace(s, c.batch(0, 10, 10))
			require.ErrorIs(t, err, errClosed)
		}
	}
	_, err := Trace(inference.Session(nil), inference.Batch{})
	require.ErrorContains(t, err, "can't be traced")
}

// isEdge reports whether an operation is none of the model's, but the library's own at the
// edges of the graph.
func isEdge(operation string) bool {
	return operation == "_SOURCE" || strings.HasPrefix(operation, "_arg_") || strings.HasPrefix(operation, "_retval_")
}
