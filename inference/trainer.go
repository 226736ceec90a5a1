package inference

import (
	"context"
	"fmt"
)

// Trainer is a version that is trained on: a session of its own, apart from the one that serves,
// whose variables steps change. It belongs to one goroutine.
type Trainer interface {
	// Session's Run answers with the variables as they are by then.
	Session
	// Step takes one step on rows whose outcomes, 0 or 1, are the labels, and returns the mean
	// log-loss of the rows before it.
	Step(in Batch, labels []float32, rate float32) (loss float32, err error)
	// Save writes the version's files with the variables as they are into a directory, which is
	// there and empty: all but model.yaml.
	Save(dir string) error
}

// TrainerRunner is a [Runner] that can train models on.
type TrainerRunner interface {
	// Trainer opens a version to be trained on a device. The error is [*NotTrainableError] where
	// the model does not say how.
	Trainer(ctx context.Context, dir string, contract *Contract, device string) (Trainer, error)
}

// NotTrainableError says that a model can't be trained on by itself.
type NotTrainableError struct {
	Model, Version string
	// Reason says what is missing, or does not fit.
	Reason string
}

func (e *NotTrainableError) Error() string {
	return fmt.Sprintf("%s %s can't be trained on: %s", e.Model, e.Version, e.Reason)
}
