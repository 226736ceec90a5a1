package inference

import (
	"errors"
	"fmt"
	"time"
)

// Request asks for the scores of a matrix of customers by every serving model, or by the one
// that it names. Neither matrix may be written any more once it was taken, not even after the
// reply: a run that hung and was given up may still read them.
type Request struct {
	Rows int
	// Features has Rows × len(Layout.Features) values, row by row.
	Features []float32
	// Sequences has Rows × Layout.Steps × len(Layout.Columns) values.
	Sequences []float32
	// Customers has a [CustomerHash] for each row; without it no challenger scores them.
	Customers []uint64
	// Model, where it is set, is the only one to run; a matrix that it is not fed may then be
	// empty. Version is the one that must serve; any may where it is empty.
	Model, Version string
	// Synthetic rows stand for no customer: they are not counted as inputs, which tell of drift.
	Synthetic bool
	// Local keeps the rows on this process's devices: somebody else's have come here already.
	Local bool
	// Deadline is until when a [Pool] tries other devices where one fails; the zero time
	// leaves that to the pool.
	Deadline time.Time
	// Reply is called exactly once, from any goroutine, and must not block.
	Reply func(Reply)
}

// Reply is what the models said. Models that failed for this request are not in it; where
// all of them failed, Err says why.
type Reply struct {
	Models []Scores
	Err    error
	// Whole is set where Models names every version whose scores customers see, of those models
	// that it names at all.
	Whole bool
	// Fault is set where models failed that would have failed with any rows: another device
	// may do better.
	Fault *DeviceError
}

// Scores is one version's answer: a value for each row of the request, in its order. A second
// one of the same model is a canary's: its values stand in place of those before, for its Rows.
type Scores struct {
	Model, Version string
	Values         []float32
	// Rows are the numbers of the rows that Values are of, in order; nil means all.
	Rows []uint32
}

var (
	// ErrClosed answers requests that a closing device did not run any more.
	ErrClosed = errors.New("inference: the device is closed")
	// ErrNoModel answers requests to a device on which no model serves.
	ErrNoModel = errors.New("inference: no model serves on this device")
	// ErrNoDevice answers requests while no device is in service.
	ErrNoDevice = errors.New("inference: no device is in service")
)

// Reasons for which a device fails.
const (
	// FaultRun: sessions fail, whatever they are fed.
	FaultRun = "run"
	// FaultHang: a run takes longer than it may.
	FaultHang = "hang"
	// FaultLoad: models that other devices serve can't be loaded here.
	FaultLoad = "load"
)

// DeviceError says that a device does not do its work, whatever the rows.
type DeviceError struct {
	Device string
	// Reason is one of [FaultRun], [FaultHang] and [FaultLoad].
	Reason string
	// Whole is set where no model runs at all.
	Whole bool
	Err   error
}

func (e *DeviceError) Error() string {
	return fmt.Sprintf("inference: device %s fails: %v", e.Device, e.Err)
}

func (e *DeviceError) Unwrap() error { return e.Err }

// NotServingError says that a model, or the version of it, that a request names does not serve
// on the device.
type NotServingError struct{ Model, Version string }

func (e *NotServingError) Error() string {
	if e.Version == "" {
		return fmt.Sprintf("inference: no model %q serves", e.Model)
	}
	return fmt.Sprintf("inference: no version %q of a model %q serves", e.Version, e.Model)
}

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
	for _, input := range []string{Features, Sequence} {
		name, have := r.matrix(input)
		if len(r.Customers) != 0 && len(r.Customers) != r.Rows {
			return &RequestError{Field: "customers", Reason: fmt.Sprintf("has %d values for %d rows", len(r.Customers), r.Rows)}
		}
		if want := r.Rows * l.width(input); len(have) != want && (len(have) > 0 || r.Model == "") {
			return &RequestError{Field: name, Reason: fmt.Sprintf("has %d values, where %d rows have %d", len(have), r.Rows, want)}
		}
	}
	return nil
}

// matrix returns the one that belongs to a contract's input, and what it is called here.
func (r *Request) matrix(input string) (name string, values []float32) {
	if input == Sequence {
		return "sequences", r.Sequences
	}
	return "features", r.Features
}

// wants reports whether the request is for a version: the champions where it names none. A
// challenger that is tried on the request's customers is not meant.
func (r *Request) wants(set *servingSet, s *serving) bool {
	if r.Version == "" && set.challenges(s) {
		return false
	}
	return r.Model == "" || r.Model == s.contract.Name && (r.Version == "" || r.Version == s.version)
}

// lacks reports a matrix that a version is fed and the request came without.
func (r *Request) lacks(s *serving) error {
	for _, in := range s.contract.Inputs {
		if name, have := r.matrix(in.Name); len(have) == 0 {
			return &RequestError{Field: name, Reason: fmt.Sprintf("is empty, and %s %s is fed it", s.contract.Name, s.version)}
		}
	}
	return nil
}
