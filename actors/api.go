package actors

import (
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Config is what a [Host] needs to know. The zero value of each duration and size means
// its default.
type Config struct {
	// Node is the name under which shards are acquired.
	Node string
	// Shards is the number of shards of the cluster, fixed at creation.
	Shards   int
	Location *time.Location
	Currency string
	// Clock is the mode of a cluster that has not written one to its log yet.
	Clock footfallv1.ClockMode
	// MemoryBudget bounds the resident customers of all shards together, in bytes (2 GiB).
	MemoryBudget int64
	// CheckpointEvery is how long changed customers wait for the next checkpoint (10 s).
	CheckpointEvery time.Duration
	// Databases is how many the store has (1): shard s is in s mod Databases.
	Databases int
	// CheckpointBytes starts a checkpoint early once so much has changed in a shard (32 MiB).
	CheckpointBytes int64
	// MaxQueries bounds the queries in flight per shard (256).
	MaxQueries int
	// ScoreRows is the most rows that a shard hands to the scorer at once (512).
	ScoreRows int

	// FeaturesAlways computes the ten features after every event and drops them: for measuring.
	FeaturesAlways bool

	// Meaning says what the values of a model version are; nil where nobody knows.
	Meaning func(model, version string) Meaning

	Now    func() time.Time
	Logger *slog.Logger
	// Tracer makes the spans of calls and messages that are traced; nil means that there are none.
	Tracer trace.Tracer
	// Metrics observes the shards; nil means nobody does.
	Metrics *Metrics
}

// State is where a shard is in its life: see Shard.
type State uint8

// The states, in the order of a shard's life.
const (
	Idle State = iota
	Acquiring
	Recovering
	Active
	Draining
	// Failed is a shard that stopped loudly: its log has a gap, a checksum is wrong, or the
	// store refused it. It answers nothing until the node is started again.
	Failed
)

var stateNames = [...]string{"idle", "acquiring", "recovering", "active", "draining", "failed"}

func (s State) String() string { return stateNames[s] }

// Answer is the state of one customer at a position of its shard's log. It is a copy: it
// stays as it is while the shard goes on.
type Answer struct {
	CustomerID string
	Shard      int
	Epoch      uint64
	// Record is the folded part.
	Record behavior.Record
	// Scores are the derived part, in order of model name.
	Scores []Score
	// AsOf is the instant for which features are to be computed, Unix milliseconds.
	AsOf int64
	// Next is the first offset that is not in the answer.
	Next uint64
}

// Score is what a version of a model said about a customer at a position.
type Score struct {
	Model, Version string
	Value          float32
	Epoch          uint64
	Position       messages.Position
	// Time is the as_of of the features that were scored, Unix milliseconds.
	Time int64
}

// Status is what a shard tells of itself.
type Status struct {
	Shard int
	State State
	Epoch uint64
	Next  uint64
	// Checkpointed is the first offset that is not in the last checkpoint: from there on the
	// shard needs its log.
	Checkpointed   uint64
	saved          messages.Mark
	Lag            uint64
	Customers      uint64
	Resident       uint64
	ResidentBytes  int64
	Events         uint64
	Duplicates     uint64
	Rejected       uint64
	TooLate        uint64
	Unscored       uint64
	Sweeping       bool
	LastTick       string
	Clock          footfallv1.ClockMode
	LastCheckpoint time.Time
	// TookOver is how long it took from beginning to acquire the shard until it was active.
	TookOver time.Duration
	Err      error

	// Busy is how long the shard has folded, Bytes what of messages, and Queries how many it has
	// answered, each since it was acquired; where Config.Metrics is set.
	Busy    time.Duration
	Bytes   uint64
	Queries uint64

	census *count
	// did is what this process has done, whatever the shard's own sums are.
	did tally

	// The day is written as LastTick only for those who ask.
	lastTick int32
	ticked   bool
}

// NotFoundError says that no event of the customer was ever folded.
type NotFoundError struct{ CustomerID string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("customer %q: no event was ever seen", e.CustomerID)
}

// BusyError says that a shard has as many queries in flight as it takes.
type BusyError struct{ Shard int }

func (e *BusyError) Error() string {
	return fmt.Sprintf("shard %d has too many queries in flight: try again", e.Shard)
}

// NotActiveError says that the shard is not served here now.
type NotActiveError struct {
	Shard int
	State State
	// Err is why it failed, where it did.
	Err error
}

func (e *NotActiveError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("shard %d is %s: %v", e.Shard, e.State, e.Err)
	}
	return fmt.Sprintf("shard %d is %s", e.Shard, e.State)
}

func (e *NotActiveError) Unwrap() error { return e.Err }

// RejectedError says that the event that a query waits for was refused.
type RejectedError struct {
	EventID string
	Fault   messages.Fault
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("event %q was rejected: %s", e.EventID, e.Fault.Error())
}

// Difference is where a checkpoint and the fold of its log disagree.
type Difference struct {
	CustomerID string
	What       string
}

// Verified is the outcome of folding one shard's log again.
type Verified struct {
	Shard       int
	Events      uint64
	Customers   uint64
	Next        uint64
	Differences []Difference
}
