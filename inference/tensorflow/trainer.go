package tensorflow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"

	tf "github.com/galeone/tensorflow/tensorflow/go"
	"github.com/galeone/tensorflow/tensorflow/go/core/framework/types_go_proto"
	pb "github.com/galeone/tensorflow/tensorflow/go/core/protobuf/for_core_protos_go_proto"

	"footfall/inference"
)

// The signatures of a model that can be trained on, and the keys of their tensors; see
// training/trainable.py, which makes such models.
const (
	trainSignature = "train"
	saveSignature  = "save"

	labelsKey = "labels"
	rateKey   = "learning_rate"
	lossKey   = "loss"
	pathKey   = "path"
)

// trainer is a session whose variables are changed. The library holds them in memory: the files
// of the version that it was opened from stay as they are.
type trainer struct {
	*session
	// dir is the version's.
	dir string
	// fed are the inputs of train, as the session's are those of its own signature.
	fed                  []input
	labels, rate, saveTo tf.Output
	loss, saved          tf.Output
	places               trainerPlaces
}

// trainerPlaces are where the tensors of the two signatures are, before the graph is loaded.
type trainerPlaces struct{ labels, rate, loss, path, saved place }

var _ inference.TrainerRunner = (*Runner)(nil)

// Trainer implements [inference.TrainerRunner].
func (r *Runner) Trainer(ctx context.Context, dir string, c *inference.Contract, device string) (inference.Trainer, error) {
	t := &trainer{dir: dir}
	s, err := r.load(ctx, dir, c, device, false, t.bind)
	if err != nil {
		if not, ok := errors.AsType[*inference.NotTrainableError](err); ok {
			return nil, not
		}
		return nil, fmt.Errorf("tensorflow: %w", err)
	}
	t.session = s
	err = caught(func() {
		for i, in := range t.fed {
			t.fed[i].tensor = s.model.Op(in.operation, in.index)
		}
		op := func(p place) tf.Output { return s.model.Op(p.operation, p.index) }
		t.labels, t.rate, t.loss = op(t.places.labels), op(t.places.rate), op(t.places.loss)
		t.saveTo, t.saved = op(t.places.path), op(t.places.saved)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tensorflow: %w", err), s.Close())
	}
	return t, nil
}

// bind finds the tensors of train and save in the graph.
func (t *trainer) bind(g *pb.MetaGraphDef, c *inference.Contract, s *session) error {
	not := func(format string, args ...any) error {
		return &inference.NotTrainableError{Model: c.Name, Version: c.VersionString(), Reason: fmt.Sprintf(format, args...)}
	}
	train, save := g.GetSignatureDef()[trainSignature], g.GetSignatureDef()[saveSignature]
	if train == nil || save == nil {
		has := maps.Clone(g.GetSignatureDef())
		maps.DeleteFunc(has, func(name string, _ *pb.SignatureDef) bool { return strings.HasPrefix(name, "__") }) // the library's own
		return not("its SavedModel has no signatures %s and %s, but %s", trainSignature, saveSignature, names(has))
	}
	tensor := func(of string, tensors map[string]*pb.TensorInfo, key string, want types_go_proto.DataType, shape ...int) (place, error) {
		info := tensors[key]
		if info == nil {
			return place{}, not("signature %s has no %s, but %s", of, key, names(tensors))
		}
		if info.GetDtype() != want {
			return place{}, not("%s of signature %s is %s, not %s", key, of, typeName(info.GetDtype()), typeName(want))
		}
		p, err := find(of+"."+key, info, shape)
		if err != nil {
			return place{}, not("%v", err)
		}
		return p, nil
	}
	const number, text = types_go_proto.DataType_DT_FLOAT, types_go_proto.DataType_DT_STRING
	var errs [5]error
	t.places.labels, errs[0] = tensor(trainSignature, train.GetInputs(), labelsKey, number, -1)
	t.places.rate, errs[1] = tensor(trainSignature, train.GetInputs(), rateKey, number)
	t.places.loss, errs[2] = tensor(trainSignature, train.GetOutputs(), lossKey, number)
	t.places.path, errs[3] = tensor(saveSignature, save.GetInputs(), pathKey, text)
	t.places.saved, errs[4] = tensor(saveSignature, save.GetOutputs(), pathKey, text)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	for i, in := range c.Inputs {
		p, err := tensor(trainSignature, train.GetInputs(), in.Tensor, number, in.Shape...)
		if err != nil {
			return err
		}
		own := s.inputs[i]
		own.place = p
		t.fed = append(t.fed, own)
	}
	if len(train.GetInputs()) != len(c.Inputs)+2 {
		return not("signature %s takes %s, which are not the contract's inputs, %s and %s", trainSignature, names(train.GetInputs()), labelsKey, rateKey)
	}
	return nil
}

// Step implements [inference.Trainer].
func (t *trainer) Step(in inference.Batch, labels []float32, rate float32) (loss float32, err error) {
	if in.Rows < 1 || len(labels) != in.Rows {
		return 0, fmt.Errorf("tensorflow: %d labels for a step of %d rows", len(labels), in.Rows)
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.model == nil {
		return 0, errClosed
	}
	feeds := make(map[tf.Output]*tf.Tensor, len(t.fed)+2)
	defer func() {
		for _, x := range feeds {
			free(x)
		}
	}()
	for _, p := range t.fed {
		x, err := p.read(in)
		if err != nil {
			return 0, fmt.Errorf("tensorflow: %w", err)
		}
		feeds[p.tensor] = x
	}
	for out, values := range map[tf.Output][]float32{t.labels: labels, t.rate: {rate}} {
		var shape []int64
		if out == t.labels {
			shape = []int64{int64(len(labels))}
		}
		x, err := tf.ReadTensor(tf.Float, shape, &pieceReader{pieces: [][]float32{values}})
		if err != nil {
			return 0, fmt.Errorf("tensorflow: %w", err)
		}
		feeds[out] = x
	}
	value, err := t.exec(t.loss, feeds)
	if err != nil {
		return 0, err
	}
	got, ok := value.(float32)
	if !ok || math.IsNaN(float64(got)) || math.IsInf(float64(got), 0) {
		return 0, fmt.Errorf("tensorflow: a step answered the loss %v, which is no finite number", value)
	}
	return got, nil
}

// exec fetches one scalar.
func (t *trainer) exec(fetch tf.Output, feeds map[tf.Output]*tf.Tensor) (value any, err error) {
	var results []*tf.Tensor
	if err := caught(func() { results = t.model.Exec([]tf.Output{fetch}, feeds) }); err != nil {
		return nil, fmt.Errorf("tensorflow: %w", err)
	}
	defer free(results[0])
	return results[0].Value(), nil
}

// Save implements [inference.Trainer].
func (t *trainer) Save(dir string) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.model == nil {
		return errClosed
	}
	if err := os.CopyFS(dir, os.DirFS(t.dir)); err != nil {
		return fmt.Errorf("tensorflow: %w", err)
	}
	variables := filepath.Join(dir, "variables")
	if err := errors.Join(os.Remove(filepath.Join(dir, "model.yaml")), os.RemoveAll(variables), os.Mkdir(variables, 0o755)); err != nil {
		return fmt.Errorf("tensorflow: %w", err)
	}
	path, err := tf.NewTensor(filepath.Join(variables, "variables"))
	if err != nil {
		return fmt.Errorf("tensorflow: %w", err)
	}
	if _, err := t.exec(t.saved, map[tf.Output]*tf.Tensor{t.saveTo: path}); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(variables, "variables.index")); err != nil {
		return fmt.Errorf("tensorflow: signature %s wrote no variables: %w", saveSignature, err)
	}
	return nil
}
