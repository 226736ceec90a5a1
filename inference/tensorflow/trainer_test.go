package tensorflow

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/inference"
)

// served is the folder of a model that a fresh clone serves.
func served(tb testing.TB, model string) (dir string, c *inference.Contract) {
	tb.Helper()
	dir = filepath.Join("..", "..", "models", model, "1")
	c, err := inference.ReadContract(dir)
	require.NoError(tb, err)
	return dir, c
}

// made are rows of which the first feature tells the outcome.
func made(rows int) (inference.Batch, []float32) {
	rng := rand.New(rand.NewPCG(1, 2))
	values, labels := make([]float32, 10*rows), make([]float32, rows)
	for i := range rows {
		for j := range 10 {
			values[10*i+j] = 30 * rng.Float32()
		}
		if values[10*i] > 15 {
			labels[i] = 1
		}
	}
	return inference.Batch{Rows: rows, Features: [][]float32{values}}, labels
}

func TestTrainer(t *testing.T) {
	dir, c := served(t, "purchase_prediction")
	r := newRunner(t, Options{})
	serving, err := r.Load(t.Context(), dir, c, "CPU:0")
	require.NoError(t, err)
	trainer, err := r.Trainer(t.Context(), dir, c, "CPU:0")
	require.NoError(t, err)
	rows, labels := made(512)
	answer := func(s inference.Session) []float32 {
		out := make([]float32, rows.Rows)
		require.NoError(t, s.Run(rows, out))
		return out
	}
	before := answer(serving)
	require.Equal(t, before, answer(trainer))

	first, err := trainer.Step(rows, labels, 1e-2)
	require.NoError(t, err)
	least := first
	for range 200 {
		loss, err := trainer.Step(rows, labels, 1e-2)
		require.NoError(t, err)
		least = min(least, loss)
	}
	require.Less(t, least, first/2)
	require.Equal(t, before, answer(serving), "what serves has not moved")

	// What is saved is a version like any other, and can itself be trained on.
	saved := t.TempDir()
	require.NoError(t, trainer.Save(saved))
	after := answer(trainer)
	want, err := trainer.Step(rows, labels, 1e-2)
	require.NoError(t, err)
	require.NoError(t, trainer.Close())
	_, err = trainer.Step(rows, labels, 1e-2)
	require.ErrorIs(t, err, errClosed)
	require.NoFileExists(t, filepath.Join(saved, "model.yaml"))
	again, err := r.Load(t.Context(), saved, c, "CPU:0")
	require.NoError(t, err)
	require.Equal(t, after, answer(again))
	further, err := r.Trainer(t.Context(), saved, c, "CPU:0")
	require.NoError(t, err)
	next, err := further.Step(rows, labels, 1e-2)
	require.NoError(t, err)
	require.InDelta(t, want, next, 1e-4)
	for _, s := range []inference.Session{serving, again, further} {
		require.NoError(t, s.Close())
	}
}

func TestTrainerFaults(t *testing.T) {
	r := newRunner(t, Options{})
	dir, c := served(t, "purchase_sequence")
	_, err := r.Trainer(t.Context(), dir, c, "CPU:0")
	var not *inference.NotTrainableError
	require.ErrorAs(t, err, &not)
	require.EqualError(t, err, "purchase_sequence 1 can't be trained on: its SavedModel has no signatures train and save, but serve, serving_default")

	dir, c = served(t, "churn_risk")
	trainer, err := r.Trainer(t.Context(), dir, c, "CPU:0")
	require.NoError(t, err)
	rows, labels := made(4)
	_, err = trainer.Step(rows, labels[:3], 1e-2)
	require.ErrorContains(t, err, "3 labels for a step of 4 rows")
	labels[0] = float32(math.NaN())
	_, err = trainer.Step(rows, labels, 1e-2)
	require.ErrorContains(t, err, "no finite number")
	require.NoError(t, trainer.Save(filepath.Join(t.TempDir(), "a", "b")))
	full := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "saved_model.pb"), nil, 0o600))
	require.Error(t, trainer.Save(full), "it writes over nothing")
	require.NoError(t, trainer.Close())
}
