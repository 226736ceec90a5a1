package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// moveEvery is how often the mover looks for letters of shards that have refused something.
const moveEvery = time.Second

// Letters is where the shards of this node keep their dead letters.
type Letters interface {
	// VisitShard calls do with the letters of a shard, and removes those for which it says so.
	VisitShard(ctx context.Context, shard int, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error
}

// Queue is where they go.
type Queue interface {
	// Put returns once the letters are there.
	Put(ctx context.Context, letters ...*footfallv1.DeadLetter) error
}

// Mover takes what the shards have refused out of the store, where it stands since the
// checkpoint that has it, to the queue of dead letters, where everybody looks. A letter is
// removed from the store only once the broker has confirmed it, so a crash may bring it twice,
// with the same ID, and never not at all.
type Mover struct {
	// From, To and Status, the shards of this node, must be set.
	From   Letters
	To     Queue
	Status func() []actors.Status
	Logger *slog.Logger
	// Moved counts; it may be nil.
	Moved prometheus.Counter

	shards map[int]*moving
}

// moving is what the mover knows of a shard.
type moving struct {
	epoch, rejected uint64
	// until is an offset behind what was refused; clear tells that all up to it is moved.
	until uint64
	clear bool
}

// Run moves until ctx ends.
func (m *Mover) Run(ctx context.Context) error {
	t := time.NewTicker(moveEvery)
	defer t.Stop()
	for {
		m.pass(ctx)
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// pass goes through the shards once. One that has refused nothing since costs nothing.
func (m *Mover) pass(ctx context.Context) {
	if m.shards == nil {
		m.shards = map[int]*moving{}
	}
	for _, st := range m.Status() {
		if st.State != actors.Active {
			delete(m.shards, st.Shard)
			continue
		}
		s := m.shards[st.Shard]
		if s == nil || s.epoch != st.Epoch || s.rejected != st.Rejected {
			s = &moving{epoch: st.Epoch, rejected: st.Rejected, until: st.Next}
			m.shards[st.Shard] = s
		}
		if s.clear {
			continue
		}
		if err := m.From.VisitShard(ctx, st.Shard, func(l *footfallv1.DeadLetter) (messages.Decision, error) {
			if err := m.To.Put(ctx, l); err != nil {
				return messages.StopVisit, err
			}
			if m.Moved != nil {
				m.Moved.Inc()
			}
			return messages.RemoveLetter, nil
		}); err != nil {
			if ctx.Err() == nil {
				m.Logger.Warn("dead letters stay in the store for now", "shard", st.Shard, "error", err)
			}
			return // the broker or the store is away: for the next shard, too
		}
		s.clear = st.Checkpointed >= s.until
	}
}
