package transfer

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
)

// scanBytes is about how much of a store is read, and written, at once.
const scanBytes = 4 << 20

// Source is where shards come from.
type Source interface {
	// Identity is what they were folded with.
	Identity() messages.Identity
	// Read reads a shard into what is given. Shards are read in order, each once or not at all, unless
	// the source says more.
	Read(ctx context.Context, shard int, into Sink) error
}

// Sink takes what is read of a shard: first the meta, nil where nobody has ever had the shard, and
// then nothing follows; then customers in order of ID, in chunks; then dead letters in order of
// position. Chunks may not be kept.
type Sink struct {
	Meta      func(*footfallv1.CheckpointMeta) error
	Customers func([]messages.CustomerRecord) error
	Letters   func([]messages.DeadLetter) error
}

// Stored is a store at rest. Its shards may be read in any order, as often as needed.
type Stored struct {
	// Log is the store's log, or nil where there is none any more: then the state is that of the last
	// checkpoints.
	Log   storage.Log
	Store *storage.Store
	ID    messages.Identity
}

// BehindError says that messages of the log are in no checkpoint yet.
type BehindError struct {
	Shard    int
	Messages uint64
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("shard %d: %d messages of the log are in no checkpoint yet: start the node, wait until it is ready, and stop it in order", e.Shard, e.Messages)
}

// Identity implements Source.
func (s *Stored) Identity() messages.Identity { return s.ID }

// Read implements Source. A shard that changes while it is read is an error.
func (s *Stored) Read(ctx context.Context, shard int, into Sink) error {
	_, epoch, err := s.Store.Owner(ctx, shard)
	if err != nil {
		return err
	}
	var meta *footfallv1.CheckpointMeta
	if epoch > 0 {
		if meta, err = s.Store.Load(ctx, shard, epoch); err != nil {
			return err
		}
	}
	if err := s.caughtUp(ctx, shard, meta); err != nil {
		return err
	}
	if err := into.Meta(meta); err != nil || meta == nil {
		return err
	}
	for after := ""; ; {
		chunk, err := s.Store.Scan(ctx, shard, epoch, after, scanBytes)
		if err != nil {
			return err
		}
		if len(chunk) == 0 {
			break
		}
		after = chunk[len(chunk)-1].ID
		if err := into.Customers(chunk); err != nil {
			return err
		}
	}
	if err := s.letters(ctx, shard, into); err != nil {
		return err
	}
	now, err := s.Store.Load(ctx, shard, epoch)
	if err != nil {
		return err
	}
	if now.GetNextOffset() != meta.GetNextOffset() {
		return fmt.Errorf("shard %d changed while it was read: stop every node that has it", shard)
	}
	return nil
}

func (s *Stored) caughtUp(ctx context.Context, shard int, meta *footfallv1.CheckpointMeta) error {
	if s.Log == nil {
		return nil
	}
	_, next, err := s.Log.Bounds(ctx, shard)
	if err != nil {
		return err
	}
	if next > meta.GetNextOffset() {
		return &BehindError{Shard: shard, Messages: next - meta.GetNextOffset()}
	}
	return nil
}

func (s *Stored) letters(ctx context.Context, shard int, into Sink) error {
	const page = 256
	var from messages.Position
	for {
		letters, err := s.Store.DeadLetters(ctx, shard, from, page)
		if err != nil || len(letters) == 0 {
			return err
		}
		from = letters[len(letters)-1].Position
		from.Index++
		if err := into.Letters(letters); err != nil {
			return err
		}
	}
}

// Split makes two shards of each: s becomes s and s + n. Its source must read shards in any order.
type Split struct{ From Source }

// Identity implements Source.
func (s Split) Identity() messages.Identity {
	id := s.From.Identity()
	id.Shards *= 2
	return id
}

// Read implements Source. Counts of events cannot be split: they stay with the lower half.
func (s Split) Read(ctx context.Context, shard int, into Sink) error {
	before := s.From.Identity().Shards
	here := func(customer string) bool { return messages.ShardOf(customer, 2*before) == shard }
	// How many customers there are has to be known first.
	var count uint64
	counting := Sink{
		Meta: func(*footfallv1.CheckpointMeta) error { return nil },
		Customers: func(chunk []messages.CustomerRecord) error {
			for _, c := range chunk {
				if here(c.ID) {
					count++
				}
			}
			return nil
		},
		Letters: func([]messages.DeadLetter) error { return nil },
	}
	if err := s.From.Read(ctx, shard%before, counting); err != nil {
		return err
	}
	return s.From.Read(ctx, shard%before, Sink{
		Meta: func(m *footfallv1.CheckpointMeta) error {
			if m == nil {
				return into.Meta(nil)
			}
			m = proto.CloneOf(m)
			m.Customers = count
			unscored := m.GetUnscored()
			m.Unscored = nil
			for _, id := range unscored {
				if here(id) {
					m.Unscored = append(m.Unscored, id)
				}
			}
			if shard >= before {
				m.Events, m.Duplicates, m.Rejected, m.TooLate = 0, 0, 0, 0
			}
			return into.Meta(m)
		},
		Customers: func(chunk []messages.CustomerRecord) error {
			kept := make([]messages.CustomerRecord, 0, len(chunk))
			for _, c := range chunk {
				if here(c.ID) {
					kept = append(kept, c)
				}
			}
			return into.Customers(kept)
		},
		Letters: func(chunk []messages.DeadLetter) error {
			var kept []messages.DeadLetter
			for _, l := range chunk {
				// One without a customer, or of another shard's, stays with the lower half.
				at := shard % before
				if l.CustomerID != "" && messages.ShardOf(l.CustomerID, before) == at {
					at = messages.ShardOf(l.CustomerID, 2*before)
				}
				if at == shard {
					kept = append(kept, l)
				}
			}
			return into.Letters(kept)
		},
	})
}
