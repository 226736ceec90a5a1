package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// Roller is what a store keeps about the versions of models.
type Roller interface {
	// Rollouts returns all, in order of model.
	Rollouts(ctx context.Context) ([]messages.Rollout, error)
	// PutRollout replaces what a generation has, 0 for nothing, by what the next one has; else
	// *messages.GenerationError.
	PutRollout(ctx context.Context, model string, generation uint64, body []byte) error
}

func roller(t *testing.T, s Store) Roller {
	t.Helper()
	r, ok := s.(Roller)
	require.True(t, ok, "every store keeps roll-outs")
	return r
}

func testRollouts(t *testing.T, h Harness) {
	ctx, r := t.Context(), roller(t, h.Store)
	all := func() []messages.Rollout {
		t.Helper()
		have, err := r.Rollouts(ctx)
		require.NoError(t, err)
		return have
	}
	refused := func(model string, generation, have uint64) {
		t.Helper()
		var g *messages.GenerationError
		require.ErrorAs(t, r.PutRollout(ctx, model, generation, []byte("no")), &g)
		require.Equal(t, [2]uint64{generation, have}, [2]uint64{g.Want, g.Have})
	}
	require.Empty(t, all())
	refused("b", 1, 0)
	require.NoError(t, r.PutRollout(ctx, "b", 0, []byte("first")))
	refused("b", 0, 1)
	require.NoError(t, r.PutRollout(ctx, "b", 1, []byte(strings.Repeat("second\x00", 1000))))
	refused("b", 1, 2)
	refused("b", 3, 2)
	require.NoError(t, r.PutRollout(ctx, "a_b", 0, nil))
	want := []messages.Rollout{{Model: "a_b", Generation: 1, Body: []byte{}}, {Model: "b", Generation: 2, Body: []byte(strings.Repeat("second\x00", 1000))}}
	check := func() {
		t.Helper()
		have := all()
		require.Len(t, have, 2)
		for i := range want {
			require.Equal(t, want[i].Model, have[i].Model)
			require.Equal(t, want[i].Generation, have[i].Generation)
			require.Equal(t, string(want[i].Body), string(have[i].Body))
		}
	}
	check()
	if h.Another != nil {
		have, err := roller(t, h.Another(t)).Rollouts(ctx)
		require.NoError(t, err)
		require.Len(t, have, 2)
	}
	if h.Reopen != nil {
		r = roller(t, h.Reopen(t))
		check()
		refused("b", 1, 2)
	}
}

// Of those who replace a generation at once, one does.
func testRolloutRace(t *testing.T, h Harness) {
	ctx := t.Context()
	stores := []Roller{roller(t, h.Store)}
	if h.Another != nil {
		stores = append(stores, roller(t, h.Another(t)))
	}
	for generation := range uint64(5) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var won []string
		for i := range 6 {
			wg.Go(func() {
				body := fmt.Sprintf("%d of %d", i, generation)
				err := stores[i%len(stores)].PutRollout(ctx, "m", generation, []byte(body))
				mu.Lock()
				defer mu.Unlock()
				var g *messages.GenerationError
				switch {
				case err == nil:
					won = append(won, body)
				case !errors.As(err, &g):
					t.Errorf("writer %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		require.Len(t, won, 1)
		have, err := stores[0].Rollouts(ctx)
		require.NoError(t, err)
		require.Len(t, have, 1)
		require.Equal(t, generation+1, have[0].Generation)
		require.Equal(t, won[0], string(have[0].Body))
	}
}
