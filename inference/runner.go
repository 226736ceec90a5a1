package inference

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Runner loads models onto a device. It may be called from any goroutine.
type Runner interface {
	// Load makes a session of the SavedModel in dir, its operations placed on the device
	// ("CPU:0"). An error says in one line what does not fit.
	Load(ctx context.Context, dir string, contract *Contract, device string) (Session, error)
	// Version names the library that runs the models.
	Version() string
}

// Aside is a [Runner] that can load a model beside what serves and leave the processor to that.
type Aside interface {
	// LoadAside is Load, by threads that give way to all others. So do runs of the session and
	// Close, unless serves says that rows of customers are to come.
	LoadAside(ctx context.Context, dir string, contract *Contract, device string) (s Session, serves func(bool), err error)
}

// Lister is a [Runner] that knows what the machine has.
type Lister interface {
	// Accelerators names the devices that are faster than the processor: "GPU:0".
	Accelerators(ctx context.Context) ([]string, error)
}

// Devices returns those to own: the ones named, or where "auto" or nothing is, every
// accelerator that the runner knows of, else one device of the processor.
func Devices(ctx context.Context, runner Runner, names []string) ([]string, error) {
	if len(names) > 0 && !slices.Equal(names, []string{"auto"}) {
		return names, nil
	}
	if l, ok := runner.(Lister); ok {
		found, err := l.Accelerators(ctx)
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	return []string{DefaultDevice}, nil
}

// Session is one loaded version of a model.
type Session interface {
	// Run writes a value for each row of the batch to out, which has room for exactly them.
	// It may be called from several goroutines at once.
	Run(in Batch, out []float32) error
	// Close waits for the runs under way and gives the model's memory back.
	Close() error
}

// Batch is the rows of one run. The matrices are row-major and lie in pieces, one after the
// other, as requests brought them; a piece holds whole rows.
type Batch struct {
	Rows      int
	Features  [][]float32
	Sequences [][]float32
}

// Input returns the pieces that belong to a contract's input.
func (b Batch) Input(name string) [][]float32 {
	if name == Sequence {
		return b.Sequences
	}
	return b.Features
}

// Layout is how requests lay out a row: what whoever makes the rows promises, and what the
// contracts of models are held against.
type Layout struct {
	// Features names the columns of the feature matrix.
	Features []string
	// Steps is the number of days in a sequence, Columns names what is told of each.
	Steps   int
	Columns []string
}

// Validate reports what is missing.
func (l Layout) Validate() error {
	if len(l.Features) == 0 || l.Steps < 1 || len(l.Columns) == 0 {
		return errors.New("layout: names of features, steps and names of columns are all needed")
	}
	return nil
}

// width is the number of values that a row has in a contract's input.
func (l Layout) width(input string) int {
	if input == Sequence {
		return l.Steps * len(l.Columns)
	}
	return len(l.Features)
}

// fits appends a fault for everything in the contract that rows of this layout do not serve.
func (l Layout) fits(c *Contract, faults []Fault) []Fault {
	for i, in := range c.Inputs {
		key := fmt.Sprintf("inputs[%d]", i)
		names, shape := l.Features, []int{-1, len(l.Features)}
		if in.Name == Sequence {
			names, shape = l.Columns, []int{-1, l.Steps, len(l.Columns)}
		}
		if !slices.Equal(in.Shape, shape) {
			faults = append(faults, Fault{Key: key + ".shape", Reason: fmt.Sprintf("is %v, but rows are %v", in.Shape, shape)})
			continue
		}
		for j, name := range in.Features {
			if name != names[j] {
				faults = append(faults, Fault{
					Key:    fmt.Sprintf("%s.features[%d]", key, j),
					Reason: fmt.Sprintf("is %q, but column %d of the rows is %q", name, j, names[j]),
				})
			}
		}
	}
	return faults
}
