package inference

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The inputs that a contract may name.
const (
	// Features is the matrix of features, one row per customer.
	Features = "features"
	// Sequence is the matrix of the last shopping days, oldest first.
	Sequence = "sequence"
)

// Kind says what the value of an output means.
type Kind string

// The kinds of outputs.
const (
	// Probability is a value from 0 to 1.
	Probability Kind = "probability"
	// SegmentID is the ID of one of the contract's segments.
	SegmentID Kind = "segment"
)

// Contract is what a version of a model promises: model.yaml.
type Contract struct {
	Name        string
	Version     int
	Description string
	// Signature is the one of the SavedModel to run.
	Signature string
	Inputs    []Input
	// Outputs has one element.
	Outputs []Output
	// Segments is set where the output is a segment.
	Segments []Segment
	// Bins tell how training's rows were spread, for some or all features.
	Bins []Bins
	// Baseline has values that explanations compare with, where they are not the medians of
	// Bins: see [Contract.BaselineOf].
	Baseline    map[string]float32
	Data        Data
	Evaluation  map[string]float64
	TrainedWith TrainedWith
	Created     time.Time
	// Parent is the version that this one was fine-tuned from; 0 where it was trained from nothing.
	Parent int
	// Files is the digest of the version's other files, "sha256:…"; empty where it is not told.
	Files string
}

// Input is a matrix that the model is fed.
type Input struct {
	// Name is [Features] or [Sequence].
	Name string
	// Tensor is the key among the signature's inputs.
	Tensor string
	// Shape begins with -1, for the rows.
	Shape []int
	// Features names the last dimension, in order.
	Features []string
}

// Output is what the model answers for each row.
type Output struct {
	Name string
	// Tensor is the key among the signature's outputs.
	Tensor string
	// Shape is [-1] or [-1, 1].
	Shape []int
	Kind  Kind
}

// Segment is one of the groups that a segmentation tells apart.
type Segment struct {
	ID          int
	Name        string
	Description string
}

// Bins tells how one feature was spread over training's rows. Bin i holds the values v with
// Edges[i-1] < v ≤ Edges[i]; the first has no lower bound and the last no upper.
type Bins struct {
	Feature string
	// Edges grow strictly.
	Edges []float32
	// Shares are those of training's rows, one for each bin; they add up to 1.
	Shares []float64
}

// Data is the fingerprint of what a model was trained from.
type Data struct {
	Source string
	// Digest is of the training rows: "sha256:…".
	Digest string
	Rows   int
	// Days are the first and last day of the snapshots that were trained on.
	Days [2]int
}

// TrainedWith names what made a model.
type TrainedWith struct {
	Keras, TensorFlow string
	Seed              int
}

// Segment returns the segment that a score of this contract means.
func (c *Contract) Segment(value float32) (Segment, bool) {
	for _, s := range c.Segments {
		if float32(s.ID) == value {
			return s, true
		}
	}
	return Segment{}, false
}

// VersionString is the version as scores and labels carry it.
func (c *Contract) VersionString() string { return strconv.Itoa(c.Version) }

// Fault is one thing that is wrong in a contract.
type Fault struct {
	// Key is the path: "inputs[0].shape". It is empty where the whole document is at fault.
	Key string
	// Line is where it stands, 0 where it stands nowhere.
	Line   int
	Reason string
}

func (f Fault) String() string {
	s := f.Reason
	if f.Key != "" {
		s = f.Key + ": " + s
	}
	if f.Line > 0 {
		s = fmt.Sprintf("line %d: %s", f.Line, s)
	}
	return s
}

// ContractError lists everything that is wrong in a contract.
type ContractError struct{ Faults []Fault }

func (e *ContractError) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return "model.yaml: " + strings.Join(lines, "; ")
}
