package tensorflow

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	tf "github.com/galeone/tensorflow/tensorflow/go"
	tg "github.com/galeone/tfgo"

	"footfall/inference"
)

// errClosed answers runs of a session that was closed.
var errClosed = errors.New("tensorflow: the session is closed")

// input is a tensor that is fed.
type input struct {
	name string
	place
	tensor tf.Output
	// shape is that of a row, width the number of its values.
	shape []int
	width int
}

// session is a loaded model. The library runs several runs of it at once.
type session struct {
	name    string
	inputs  []input
	output  place
	fetches []tf.Output

	// aside is set while what it does is done in the background.
	aside atomic.Bool

	// mu is held for reading by runs.
	mu    sync.RWMutex
	model *tg.Model
}

// Run implements [inference.Session].
func (s *session) Run(in inference.Batch, out []float32) error {
	if err := s.run(in, out); err != nil {
		return fmt.Errorf("tensorflow: %w", err)
	}
	return nil
}

func (s *session) run(in inference.Batch, out []float32) error {
	if in.Rows < 1 || len(out) != in.Rows {
		return fmt.Errorf("a batch of %d rows for %d values", in.Rows, len(out))
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.model == nil {
		return errClosed
	}
	if s.aside.Load() {
		return s.runAside(in, out)
	}
	feeds := make(map[tf.Output]*tf.Tensor, len(s.inputs))
	defer func() {
		for _, t := range feeds {
			free(t)
		}
	}()
	for _, p := range s.inputs {
		t, err := p.read(in)
		if err != nil {
			return err
		}
		feeds[p.tensor] = t
	}
	var results []*tf.Tensor
	if err := caught(func() { results = s.model.Exec(s.fetches, feeds) }); err != nil {
		return err
	}
	defer free(results[0])
	return write(tensorHandle.of(unsafe.Pointer(results[0])), out)
}

// read makes a tensor of the batch's pieces.
func (p *input) read(in inference.Batch) (*tf.Tensor, error) {
	pieces := in.Input(p.name)
	values := 0
	for _, piece := range pieces {
		values += len(piece)
	}
	if values != in.Rows*p.width {
		return nil, fmt.Errorf("%s: %d values, where %d rows have %d", p.name, values, in.Rows, in.Rows*p.width)
	}
	shape := make([]int64, 1, 1+len(p.shape))
	shape[0] = int64(in.Rows)
	for _, n := range p.shape {
		shape = append(shape, int64(n))
	}
	return tf.ReadTensor(tf.Float, shape, &pieceReader{pieces: pieces})
}

// Close implements [inference.Session].
func (s *session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.model == nil {
		return nil
	}
	m := s.model
	s.model, s.inputs, s.fetches = nil, nil, nil
	if err := closeModel(m, s.aside.Load()); err != nil {
		return fmt.Errorf("tensorflow: %w", err)
	}
	return nil
}
