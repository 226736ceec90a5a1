package api

import (
	"context"
	"time"

	"footfall/actors"
	"footfall/behavior"
	"footfall/inference"
	"footfall/inference/oip"
	"footfall/inference/rollout"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Host is what the services need of the shards: *actors.Host is one.
type Host interface {
	Append(ctx context.Context, shard int, events []*footfallv1.Event) error
	CheckTime(shard int, timeMS int64) *messages.Fault
	NoteRejected(customerID, eventID string, f messages.Fault)
	// LastTick is the newest day whose end was appended to a shard's log or read in it, empty
	// for none. LearnTick is told of a day that has ended in all shards, for CheckTime to know.
	LastTick(shard int) string
	LearnTick(date string)

	Ask(ctx context.Context, customerID string) (*actors.Answer, error)
	AskMany(ctx context.Context, ids []string) ([]*actors.Answer, error)
	WaitFor(ctx context.Context, customerID, eventID string) error
	History(ctx context.Context, customerID string, limit int, each func(actors.HistoryEntry) error) (truncated bool, err error)

	Tick(ctx context.Context, date string) (appended bool, err error)
	SetClock(ctx context.Context, mode footfallv1.ClockMode) error
	Clock() footfallv1.ClockMode
	WaitIdle(ctx context.Context, scored bool) error
	WaitShardIdle(ctx context.Context, shard int, scored bool) error
	Status() []actors.Status
	Hot(ctx context.Context, shard, limit int) (actors.Hot, error)
	Verify(ctx context.Context, shard int) (*actors.Verified, error)
}

// Models tells of the models that a node runs. A node without any has none.
type Models interface {
	// List returns the models in order of name.
	List() []*footfallv1.Model
	// Segment names the segment that a version's score stands for; empty where it is none.
	Segment(model, version string, value float32) string
	// Devices are where they run: "CPU:0".
	Devices() []string
	// Queries is how calls ask them.
	Queries() Queries
}

// Rollouts are [Models] whose versions can be changed while they serve.
type Rollouts interface {
	// Change decides about a model's versions, for all nodes.
	Change(ctx context.Context, c rollout.Change) (*footfallv1.Model, error)
}

// Queries lets calls ask the models that serve on a node.
type Queries interface {
	oip.Backend
	// Explain says what each feature of a customer contributed to a model's score of it.
	Explain(ctx context.Context, model string, features, sequence []float32) (*inference.Explanation, error)
}

// Identity is what the answers of a node say of it.
type Identity struct {
	Name     string
	Version  string
	Roles    []string
	Shards   int
	Currency string
	Calendar *behavior.Calendar
	Started  time.Time
	// Zone is where it runs, in its operator's words.
	Zone string
	// HTTPAddress and GRPCAddress are where others reach it.
	HTTPAddress, GRPCAddress string
}

// Limits bound what one client can ask for.
type Limits struct {
	// Message is the largest request in bytes.
	Message int64
	// Ingest bounds the bytes of events being taken in by all calls together.
	Ingest int64
	// Query ends a call that has no deadline of its own.
	Query time.Duration
	// Streams are the calls under way on one connection of gRPC; 0 is 1024.
	Streams uint32
	// Headers ends a handshake, or a request whose headers are not there by then; 0 is 10 s.
	Headers time.Duration
}

// maxHeaders bounds the headers of a request, in bytes.
const maxHeaders = 64 << 10

func (l Limits) withDefaults() Limits {
	if l.Streams == 0 {
		l.Streams = 1024
	}
	if l.Headers == 0 {
		l.Headers = 10 * time.Second
	}
	return l
}
