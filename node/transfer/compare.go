package transfer

import (
	"bytes"
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
)

// DifferentError says how the target differs from what was to be written.
type DifferentError struct {
	Shard    int
	Customer string
	Reason   string
}

func (e *DifferentError) Error() string {
	if e.Customer == "" {
		return fmt.Sprintf("shard %d: %s", e.Shard, e.Reason)
	}
	return fmt.Sprintf("shard %d: customer %q: %s", e.Shard, e.Customer, e.Reason)
}

// Compare reads a source and what Write made of it, and fails with *[DifferentError] at the first
// byte that differs. It returns how many customers there are.
func Compare(ctx context.Context, from Source, to *storage.Storage, progress Progress) (customers uint64, err error) {
	id := from.Identity()
	for shard := range id.Shards {
		n, err := compareShard(ctx, from, to, shard)
		if err != nil {
			return customers, err
		}
		customers += n
		progress(shard+1, customers)
	}
	return customers, nil
}

func compareShard(ctx context.Context, from Source, to *storage.Storage, shard int) (customers uint64, err error) {
	differ := func(customer, format string, args ...any) error {
		return &DifferentError{Shard: shard, Customer: customer, Reason: fmt.Sprintf(format, args...)}
	}
	_, epoch, err := to.Store.Owner(ctx, shard)
	if err != nil {
		return 0, err
	}
	written := scanner{store: to.Store, shard: shard, epoch: epoch}
	var want *footfallv1.CheckpointMeta
	err = from.Read(ctx, shard, Sink{
		Meta: func(m *footfallv1.CheckpointMeta) error { want = m; return nil },
		Customers: func(chunk []messages.CustomerRecord) error {
			for _, c := range chunk {
				expected, err := actors.Rebased(c)
				if err != nil {
					return err
				}
				have, err := written.next(ctx)
				switch {
				case err != nil:
					return err
				case have == nil || have.ID > c.ID:
					return differ(c.ID, "is missing")
				case have.ID < c.ID:
					return differ(have.ID, "is there, and should not be")
				case !bytes.Equal(have.Value, expected.Value):
					return differ(c.ID, "is different")
				}
				customers++
			}
			return nil
		},
		Letters: func([]messages.DeadLetter) error { return nil },
	})
	if err != nil {
		return 0, err
	}
	if more, err := written.next(ctx); err != nil {
		return 0, err
	} else if more != nil {
		return 0, differ(more.ID, "is there, and should not be")
	}
	meta, err := to.Store.Load(ctx, shard, epoch)
	if err != nil {
		return 0, err
	}
	first, err := firstRecord(want)
	if err != nil {
		return 0, err
	}
	if want == nil {
		want = &footfallv1.CheckpointMeta{}
	}
	want = actors.RebasedMeta(want, messages.Mark{Next: 1, Sum: messages.RecordSum(first.Type, first.Body)})
	if !proto.Equal(want, meta) {
		return 0, differ("", "its checkpoint is %v, not %v", meta, want)
	}
	if customers != want.GetCustomers() {
		return 0, differ("", "has %d customers, and its checkpoint tells of %d", customers, want.GetCustomers())
	}
	return customers, nil
}

// scanner reads the customers of a shard one by one.
type scanner struct {
	store *storage.Store
	shard int
	epoch uint64
	chunk []messages.CustomerRecord
	after string
	ended bool
}

func (s *scanner) next(ctx context.Context) (*messages.CustomerRecord, error) {
	if len(s.chunk) == 0 && !s.ended {
		var err error
		if s.chunk, err = s.store.Scan(ctx, s.shard, s.epoch, s.after, scanBytes); err != nil {
			return nil, err
		}
		s.ended = len(s.chunk) == 0
	}
	if len(s.chunk) == 0 {
		return nil, nil
	}
	c := &s.chunk[0]
	s.chunk, s.after = s.chunk[1:], c.ID
	return c, nil
}
