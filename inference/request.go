package inference

import (
	"errors"
	"fmt"
)

// Request asks for the scores of a matrix of customers by every serving model. Neither
// matrix may be written between the call of [Device.Score] and the reply.
type Request struct {
	Rows int
	// Features has Rows × len(Layout.Features) values, row by row.
	Features []float32
	// Sequences has Rows × Layout.Steps × len(Layout.Columns) values.
	Sequences []float32
	// Reply is called exactly once, from any goroutine, and must not block.
	Reply func(Reply)
}

// Reply is what the models said. Models that failed for this request are not in it; where
// all of them failed, Err says why.
type Reply struct {
	Models []Scores
	Err    error
}

// Scores is one model's answer: a value for each row of the request, in its order.
type Scores struct {
	Model, Version string
	Values         []float32
}

var (
	// ErrClosed answers requests that a closing device did not run any more.
	ErrClosed = errors.New("inference: the device is closed")
	// ErrNoModel answers requests to a device on which no model serves.
	ErrNoModel = errors.New("inference: no model serves on this device")
)

// RequestError says what is wrong with a request.
type RequestError struct {
	Field  string
	Reason string
}

func (e *RequestError) Error() string {
	return fmt.Sprintf("inference: request.%s %s", e.Field, e.Reason)
}

// ScoreError says that a model gave no usable values.
type ScoreError struct {
	Model, Version, Device string
	// Row is the one that the reason is about; -1 where it is about all.
	Row int
	// Reason is one of "run" (the session failed) and "value" (see Err).
	Reason string
	Err    error
}

func (e *ScoreError) Error() string {
	where := ""
	if e.Row >= 0 {
		where = fmt.Sprintf(", row %d", e.Row)
	}
	return fmt.Sprintf("inference: %s %s on %s%s: %v", e.Model, e.Version, e.Device, where, e.Err)
}

func (e *ScoreError) Unwrap() error { return e.Err }

// check reports what is wrong with the request's form.
func (r *Request) check(l Layout, maxRows int) error {
	switch {
	case r.Rows < 1:
		return &RequestError{Field: "rows", Reason: fmt.Sprintf("is %d: at least 1 is needed", r.Rows)}
	case r.Rows > maxRows:
		return &RequestError{Field: "rows", Reason: fmt.Sprintf("is %d, more than the queue ever holds (%d)", r.Rows, maxRows)}
	}
	if want := r.Rows * l.width(Features); len(r.Features) != want {
		return &RequestError{Field: "features", Reason: fmt.Sprintf("has %d values, where %d rows have %d", len(r.Features), r.Rows, want)}
	}
	if want := r.Rows * l.width(Sequence); len(r.Sequences) != want {
		return &RequestError{Field: "sequences", Reason: fmt.Sprintf("has %d values, where %d rows have %d", len(r.Sequences), r.Rows, want)}
	}
	return nil
}
