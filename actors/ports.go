package actors

import (
	"context"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Log is the ordered, durable log of every shard. All methods may be called from any
// goroutine.
type Log interface {
	// Append adds records to a shard's log, in order, and returns once all of them are
	// durable. Others may append between them. After an error some may be in the log
	// nevertheless. Only Type, FromNode, Time and Body of each are read, and Origin where the
	// log is one that others write to; the log may keep the bodies, so they must not be
	// changed any more.
	Append(ctx context.Context, shard int, records []messages.Record) error
	// Open attaches a reader at a mark. Where at.Next is above 0, message at.Next-1 must be
	// in the log with at.Sum, else *messages.LogGapError or *messages.LogRegressedError.
	Open(ctx context.Context, shard int, at messages.Mark) (Reader, error)
	// Bounds returns the oldest offset that the log holds and the one to be written next. It
	// may have to ask the log's servers.
	Bounds(ctx context.Context, shard int) (first, next uint64, err error)
	// Seen returns the offset to be written next as far as is known here without asking
	// anyone: never above the truth, and below it for some seconds at most.
	Seen(shard int) (next uint64)
}

// Reader reads one shard's log in order. It belongs to one goroutine. It is an alias, so
// that a log may declare it, too, without importing this package.
type Reader = interface {
	// Next resets into and fills it with the records that follow: at least one. It waits for
	// them, or for ctx. A gap or a wrong checksum is an error, never passed over.
	Next(ctx context.Context, into *messages.RecordBatch) error
	Close() error
}

// Store keeps checkpoints under the fence of an epoch. Every method but Acquire answers
// *messages.StaleEpochError where the shard has been acquired under a higher epoch.
type Store interface {
	// Acquire takes the shard for owner and returns its new epoch, higher than all before.
	Acquire(ctx context.Context, shard int, owner string) (epoch uint64, err error)
	// Load returns what the last checkpoint kept of the shard; nil before the first.
	Load(ctx context.Context, shard int, epoch uint64) (*footfallv1.CheckpointMeta, error)
	// Get returns the values of customers, nil for each that the store does not have.
	Get(ctx context.Context, shard int, epoch uint64, ids []string) ([][]byte, error)
	// Scan returns customers in order of ID, beginning after the one named, until their
	// values exceed limit bytes or none is left (then fewer, at last none).
	Scan(ctx context.Context, shard int, epoch uint64, after string, limit int) ([]messages.CustomerRecord, error)
	// Checkpoint writes all of it durably, or nothing.
	Checkpoint(ctx context.Context, c *messages.Checkpoint) error
	// Release gives the shard up.
	Release(ctx context.Context, shard int, epoch uint64) error
}

// Scorer runs models over rows. It must not block: where its queue is full it answers
// false, and the shard offers the rows again later.
type Scorer interface {
	Score(r *ScoreRequest) bool
}

// ScoreRequest is a matrix of customers for every serving model. Neither slice may be
// written after the call.
type ScoreRequest struct {
	Rows int
	// Features has Rows × 10 values, in the order of behavior.FeatureNames.
	Features []float32
	// Sequences has Rows × 10 × 5 values, as behavior.Sequence orders them.
	Sequences []float32
	// Customers has for each row a hash of its customer's ID, by which shares of customers are cut.
	Customers []uint64
	// Context holds the span under which the rows are scored; nil where they are not traced.
	Context context.Context //nolint:containedctx // it is the request's, which waits in queues
	// Reply is called once, from any goroutine, and must not block.
	Reply func(ScoreReply)
}

// ScoreReply carries what the models said, or why none could.
type ScoreReply struct {
	Models []ModelScores
	Err    error
	// Whole is set where Models names every version whose scores customers are to have, of those
	// models that it names at all.
	Whole bool
}

// ModelScores is one version's answer: a value for each row, in their order. A second one of the
// same model stands in place of the one before, for its Rows.
type ModelScores struct {
	Model, Version string
	Values         []float32
	// Rows are the numbers of the rows that Values are of; nil means all.
	Rows []uint32
}
