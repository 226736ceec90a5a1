package tensorflow

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	tf "github.com/galeone/tensorflow/tensorflow/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"footfall/inference"
)

// models is the folder of the SavedModels that testdata/models.py makes.
var models string

func TestMain(m *testing.M) {
	var err error
	if models, err = makeModels(); err != nil {
		slog.Error("models for the tests could not be made", "err", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// makeModels runs the script unless its result for this library is there already.
func makeModels() (string, error) {
	const script = "testdata/models.py"
	text, err := os.ReadFile(script)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append(text, tf.Version()...))
	dir, err := filepath.Abs(fmt.Sprintf("../../build/test-models/%x", sum[:8]))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	python := os.Getenv("FOOTFALL_PYTHON")
	if python == "" {
		return "", errors.New(`FOOTFALL_PYTHON names no Python with Keras: run make test, or eval "$(make -s env)" first`)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), "part-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part) //nolint:errcheck // the folder of builds
	if out, err := exec.Command(python, script, part).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", script, err, out)
	}
	if err := os.Rename(part, dir); err != nil {
		// Another run of the tests may have been first.
		if _, there := os.Stat(dir); there == nil {
			return dir, nil
		}
		return "", err
	}
	return dir, nil
}

// cases are rows, and what Keras answers to them.
type cases struct {
	Rows                      int
	Features, Sequences, Want []float32
}

// batch returns the rows from one to another, in pieces of so many.
func (c *cases) batch(from, to, piece int) inference.Batch {
	b := inference.Batch{Rows: to - from}
	for ; from < to; from += piece {
		end := min(from+piece, to)
		b.Features = append(b.Features, c.Features[from*10:end*10])
		b.Sequences = append(b.Sequences, c.Sequences[from*50:end*50])
	}
	return b
}

func readCases(tb testing.TB, model string) *cases {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(models, model, "cases.json"))
	require.NoError(tb, err)
	c := new(cases)
	require.NoError(tb, json.Unmarshal(text, c))
	require.Len(tb, c.Features, c.Rows*10)
	require.Len(tb, c.Sequences, c.Rows*50)
	require.Len(tb, c.Want, c.Rows)
	return c
}

var (
	features = inference.Input{Name: inference.Features, Tensor: "features", Shape: []int{-1, 10}}
	sequence = inference.Input{Name: inference.Sequence, Tensor: "sequence", Shape: []int{-1, 10, 5}}
)

// contract is that of one of the models of the script.
func contract(model string) *inference.Contract {
	c := &inference.Contract{
		Name: model, Version: 1, Signature: "serve",
		Inputs:  []inference.Input{features},
		Outputs: []inference.Output{{Name: "p", Tensor: "output_0", Shape: []int{-1, 1}, Kind: inference.Probability}},
	}
	switch model {
	case "lstm":
		c.Inputs = []inference.Input{sequence}
	case "both":
		c.Inputs = []inference.Input{features, sequence}
	case "segment_int32", "segment_int64", "segment_float32":
		c.Outputs[0].Kind = inference.SegmentID
	}
	return c
}

func newRunner(tb testing.TB, o Options) *Runner {
	tb.Helper()
	r, err := New(o)
	require.NoError(tb, err)
	return r
}

func load(tb testing.TB, model string) inference.Session {
	tb.Helper()
	s, err := newRunner(tb, Options{}).Load(tb.Context(), filepath.Join(models, model), contract(model), "CPU:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.Close()) })
	return s
}
