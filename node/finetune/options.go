package finetune

import (
	"cmp"
	"fmt"
	"math"

	"footfall/messages/footfallv1"
)

// The defaults and bounds of a fine-tuning.
const (
	DefaultEpochs  = 5
	DefaultRate    = 1e-3
	DefaultBatch   = 256
	DefaultHoldout = .2

	mostEpochs = 1000
	mostBatch  = 1 << 16

	// LeastTrained and LeastJudging are the fewest rows to train on and to judge by.
	LeastTrained = 200
	LeastJudging = 100
)

// options are how rows are trained on.
type options struct {
	epochs  int
	rate    float64
	batch   int
	holdout float64
	source  string
	seed    uint64
}

// FieldError says what is wrong with what a caller sent.
type FieldError struct {
	// Row is the number of the row, from 0, -1 where it is about none.
	Row           int64
	Field, Reason string
}

func (e *FieldError) Error() string {
	if e.Row < 0 {
		return e.Field + ": " + e.Reason
	}
	return fmt.Sprintf("row %d: %s: %s", e.Row, e.Field, e.Reason)
}

func field(name, format string, args ...any) error {
	return &FieldError{Row: -1, Field: name, Reason: fmt.Sprintf(format, args...)}
}

func optionsOf(s *footfallv1.FineTuneStart) (options, error) {
	o := options{
		epochs:  int(cmp.Or(s.GetEpochs(), DefaultEpochs)),
		rate:    cmp.Or(s.GetLearningRate(), DefaultRate),
		batch:   int(cmp.Or(s.GetBatch(), DefaultBatch)),
		holdout: cmp.Or(s.GetHoldout(), DefaultHoldout),
		source:  cmp.Or(s.GetSource(), "rows"),
		seed:    7,
	}
	switch {
	case s.GetModel() == "":
		return o, field("model", "is missing")
	case o.epochs > mostEpochs:
		return o, field("epochs", "is %d: 1 to %d are possible", o.epochs, mostEpochs)
	case !(o.rate > 0 && o.rate <= 1):
		return o, field("learning_rate", "is %v: above 0 and up to 1 are possible", o.rate)
	case o.batch > mostBatch:
		return o, field("batch", "is %d: 1 to %d are possible", o.batch, mostBatch)
	case !(o.holdout >= .01 && o.holdout <= .9) || math.IsNaN(o.holdout):
		return o, field("holdout", "is %v: a share from 0.01 to 0.9 is possible", o.holdout)
	case len(o.source) > 200:
		return o, field("source", "has %d bytes, at most 200 are possible", len(o.source))
	}
	return o, nil
}
