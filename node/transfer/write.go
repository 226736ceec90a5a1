package transfer

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
)

// owner has the shards while they are written.
const owner = "transfer"

// Progress is told of how many shards are done, and of their customers. It is called by one goroutine at a time.
type Progress func(shards int, customers uint64)

// Write puts every shard of a source into a new log and store, or those that an earlier Write did
// not finish. Where the target has anything else, it fails.
//
// The source is read in order; what has been read is written by as many goroutines as there are cores, so that so many chunks are
// in memory at most. A shard becomes whole once all of its chunks are written.
func Write(ctx context.Context, from Source, to *storage.Storage, progress Progress) error {
	id := from.Identity()
	writes, ctx := errgroup.WithContext(ctx)
	writes.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	w := writer{to: to, writes: writes, progress: progress}
	// None of them can be served from here on, until it is whole.
	for shard := range id.Shards {
		if err := w.begin(ctx, shard); err != nil {
			return fmt.Errorf("shard %d: %w", shard, err)
		}
	}
	var err error
	for shard := 0; shard < id.Shards && err == nil; shard++ {
		if err = w.shard(ctx, from, shard); err != nil {
			err = fmt.Errorf("shard %d: %w", shard, err)
		}
	}
	if failed := writes.Wait(); failed != nil {
		return failed // what was read since is but a consequence
	}
	return err
}

type writer struct {
	to       *storage.Storage
	writes   *errgroup.Group
	progress Progress

	mu        sync.Mutex // guards what follows
	shards    int
	customers uint64
}

// done notes a shard that is whole.
func (w *writer) done(customers uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shards++
	w.customers += customers
	w.progress(w.shards, w.customers)
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

// shard reads one, unless it is whole, and leaves it to others to write.
func (w *writer) shard(ctx context.Context, from Source, shard int) error {
	whole, err := w.whole(ctx, shard)
	if err != nil {
		return err
	}
	if whole {
		var customers uint64
		err := from.Read(ctx, shard, Sink{
			Meta:      func(m *footfallv1.CheckpointMeta) error { customers = m.GetCustomers(); return nil },
			Customers: func([]messages.CustomerRecord) error { return nil },
			Letters:   func([]messages.DeadLetter) error { return nil },
		})
		if err == nil {
			w.done(customers)
		}
		return err
	}
	epoch, err := w.to.Store.Acquire(ctx, shard, owner)
	if err != nil {
		return err
	}
	var (
		meta      *footfallv1.CheckpointMeta
		customers uint64
		letters   uint32
		parts     sync.WaitGroup // chunks that are being written
		broken    atomic.Bool    // one of them was not
		cp        = func(c *messages.Checkpoint) error {
			c.Shard, c.Epoch = shard, epoch
			return w.to.Store.Checkpoint(ctx, c)
		}
		background = func(do func() error) {
			w.writes.Go(func() error {
				if err := do(); err != nil {
					return fmt.Errorf("shard %d: %w", shard, err)
				}
				return nil
			})
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
				var err error
				if c.Customers[i], err = actors.Rebased(chunk[i]); err != nil {
					return err
				}
			}
			customers += uint64(len(chunk))
			parts.Add(1)
			background(func() error {
				defer parts.Done()
				err := cp(c)
				if err != nil {
					broken.Store(true)
				}
				return err
			})
			return ctx.Err()
		},
		Letters: func(chunk []messages.DeadLetter) error {
			parts.Wait() // their order counts, and they are few
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
	// This one waits for parts that have been begun, so that they need no place of its own.
	background(func() error {
		if parts.Wait(); broken.Load() {
			return ctx.Err() // the part has said why
		}
		if err := cp(&messages.Checkpoint{Meta: meta}); err != nil {
			return err
		}
		if err := w.to.Store.SnapshotBase(ctx, shard, epoch); err != nil {
			return err
		}
		if err := w.to.Store.Release(ctx, shard, epoch); err != nil {
			return err
		}
		w.done(customers)
		return nil
	})
	return nil
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
