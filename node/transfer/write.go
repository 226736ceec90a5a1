package transfer

import (
	"context"
	"fmt"
	"math"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
)

// owner has the shards while they are written.
const owner = "transfer"

// Progress is told of each shard that is done, and of the customers so far.
type Progress func(shards int, customers uint64)

// Write puts every shard of a source into a new log and store, or those that an earlier Write did
// not finish. Where the target has anything else, it fails.
func Write(ctx context.Context, from Source, to *storage.Storage, progress Progress) error {
	id := from.Identity()
	w := writer{to: to}
	// None of them can be served from here on, until it is whole.
	for shard := range id.Shards {
		if err := w.begin(ctx, shard); err != nil {
			return fmt.Errorf("shard %d: %w", shard, err)
		}
	}
	for shard := range id.Shards {
		if err := w.shard(ctx, from, shard); err != nil {
			return fmt.Errorf("shard %d: %w", shard, err)
		}
		progress(shard+1, w.customers)
	}
	return nil
}

type writer struct {
	to        *storage.Storage
	customers uint64
}

// unfinished is the meta of a shard that is not whole: ahead of every log.
func unfinished() *footfallv1.CheckpointMeta {
	return &footfallv1.CheckpointMeta{NextOffset: math.MaxInt64 - 1}
}

// whole reports whether a shard has been finished: the base snapshot comes last.
func (w *writer) whole(ctx context.Context, shard int) (bool, error) {
	base, err := w.to.Store.Base(ctx, shard)
	return base != nil, err
}

// begin makes a shard one that cannot be served, unless it is whole.
func (w *writer) begin(ctx context.Context, shard int) error {
	done, err := w.whole(ctx, shard)
	if err != nil {
		return err
	}
	_, epoch, err := w.to.Store.Owner(ctx, shard)
	if err != nil {
		return err
	}
	if epoch > 0 {
		meta, err := w.to.Store.Load(ctx, shard, epoch)
		if err != nil {
			return err
		}
		if meta != nil && meta.GetNextOffset() > 1 && meta.GetNextOffset() != unfinished().GetNextOffset() {
			return fmt.Errorf("there are data already, up to message %d: give an empty log and store", meta.GetNextOffset()-1)
		}
	}
	if done {
		return nil
	}
	if epoch, err = w.to.Store.Acquire(ctx, shard, owner); err != nil {
		return err
	}
	return w.to.Store.Checkpoint(ctx, &messages.Checkpoint{Shard: shard, Epoch: epoch, Meta: unfinished()})
}

// shard writes one, unless it is whole.
func (w *writer) shard(ctx context.Context, from Source, shard int) error {
	done, err := w.whole(ctx, shard)
	if err != nil {
		return err
	}
	if done {
		count := func(m *footfallv1.CheckpointMeta) error { w.customers += m.GetCustomers(); return nil }
		return from.Read(ctx, shard, Sink{
			Meta: count, Customers: func([]messages.CustomerRecord) error { return nil }, Letters: func([]messages.DeadLetter) error { return nil },
		})
	}
	epoch, err := w.to.Store.Acquire(ctx, shard, owner)
	if err != nil {
		return err
	}
	var (
		meta    *footfallv1.CheckpointMeta
		letters uint32
		cp      = func(c *messages.Checkpoint) error {
			c.Shard, c.Epoch = shard, epoch
			return w.to.Store.Checkpoint(ctx, c)
		}
	)
	err = from.Read(ctx, shard, Sink{
		Meta: func(m *footfallv1.CheckpointMeta) error {
			at, err := w.seed(ctx, shard, m)
			if m == nil {
				m = &footfallv1.CheckpointMeta{}
			}
			meta = actors.RebasedMeta(m, at)
			return err
		},
		Customers: func(chunk []messages.CustomerRecord) error {
			c := &messages.Checkpoint{Meta: unfinished(), Customers: make([]messages.CustomerRecord, len(chunk))}
			for i := range chunk {
				if c.Customers[i], err = actors.Rebased(chunk[i]); err != nil {
					return err
				}
			}
			w.customers += uint64(len(chunk))
			return cp(c)
		},
		Letters: func(chunk []messages.DeadLetter) error {
			c := &messages.Checkpoint{Meta: unfinished(), Dead: make([]messages.DeadLetter, len(chunk))}
			for i := range chunk {
				c.Dead[i] = chunk[i]
				c.Dead[i].Position = messages.Position{Index: letters}
				letters++
			}
			return cp(c)
		},
	})
	if err != nil {
		return err
	}
	if err := cp(&messages.Checkpoint{Meta: meta}); err != nil {
		return err
	}
	if err := w.to.Store.SnapshotBase(ctx, shard, epoch); err != nil {
		return err
	}
	return w.to.Store.Release(ctx, shard, epoch)
}

// seed sees to it that the shard's log has its first message and no other, and returns the mark behind it.
func (w *writer) seed(ctx context.Context, shard int, meta *footfallv1.CheckpointMeta) (messages.Mark, error) {
	first, err := firstRecord(meta)
	if err != nil {
		return messages.Mark{}, err
	}
	at := messages.Mark{Next: 1, Sum: messages.RecordSum(first.Type, first.Body)}
	_, next, err := w.to.Log.Bounds(ctx, shard)
	if err != nil {
		return at, err
	}
	switch next {
	case 0:
		if err := w.to.Log.Append(ctx, shard, []messages.Record{first}); err != nil {
			return at, err
		}
	case 1: // of an earlier try, or of somebody else: the sum tells
	default:
		return at, fmt.Errorf("its log has %d messages already: give an empty one", next)
	}
	r, err := w.to.Log.Open(ctx, shard, at)
	if err != nil {
		return at, err
	}
	return at, r.Close()
}

// firstRecord is a message that changes nothing in a shard of this meta.
func firstRecord(meta *footfallv1.CheckpointMeta) (messages.Record, error) {
	mode := meta.GetClock()
	if mode == footfallv1.ClockMode_CLOCK_MODE_UNSPECIFIED {
		mode = footfallv1.ClockMode_CLOCK_MODE_WALL
	}
	body, err := (&footfallv1.Control{Node: owner, Kind: &footfallv1.Control_Clock{Clock: &footfallv1.ClockChange{Mode: mode}}}).MarshalVT()
	return messages.Record{Type: messages.ControlRecord, FromNode: true, Body: body}, err
}
