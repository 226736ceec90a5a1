package actors

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// maxDifferences bounds how many are told.
const maxDifferences = 10

// Verify checkpoints a shard, folds its log again in one thread and compares every folded
// byte (invariant 2). The shard goes on meanwhile.
func (h *Host) Verify(ctx context.Context, shard int) (*Verified, error) {
	reply := make(chan held, 1)
	h.shards[shard].send(&hold{reply})
	select {
	case at := <-reply:
		if at.err != nil {
			return nil, at.err
		}
		defer at.release()
		return VerifyShard(ctx, h.cfg, shard, at.epoch, h.log, h.store)
	case <-ctx.Done():
		go func() {
			if at := <-reply; at.release != nil {
				at.release()
			}
		}()
		return nil, ctx.Err()
	}
}

// VerifyShard compares the checkpoint of a shard, which nobody may write meanwhile, with the
// fold of its log. epoch is that of the store.
func VerifyShard(ctx context.Context, cfg Config, shard int, epoch uint64, log Log, store Store) (*Verified, error) {
	cfg = cfg.withDefaults()
	meta, err := store.Load(ctx, shard, epoch)
	if err != nil {
		return nil, err
	}
	v := &Verified{Shard: shard, Next: meta.GetNextOffset()}
	if meta == nil {
		return v, nil
	}
	re := refold{cfg: &cfg, shard: shard, log: log, store: store, poison: map[messages.Position]string{}}
	if err := re.runAll(ctx, meta.GetNextOffset(), func() {}); err != nil {
		return nil, err
	}
	v.Events = re.fold.events
	v.compareMeta(&re, meta)
	return v, v.compareCustomers(ctx, &re, store, epoch)
}

func (v *Verified) differ(customer, format string, args ...any) {
	if len(v.Differences) < maxDifferences {
		v.Differences = append(v.Differences, Difference{customer, fmt.Sprintf(format, args...)})
	}
}

func (v *Verified) compareMeta(re *refold, meta *footfallv1.CheckpointMeta) {
	want := &footfallv1.CheckpointMeta{}
	re.fold.meta(want)
	for _, c := range []struct {
		what       string
		have, want any
	}{
		{"checksum of the last message", meta.GetSum(), want.GetSum()},
		{"last tick", meta.GetLastTick(), want.GetLastTick()},
		{"origins", string(meta.GetOrigins()), string(want.GetOrigins())},
		{"clock", meta.GetClock(), want.GetClock()},
		{"events", meta.GetEvents(), want.GetEvents()},
		{"duplicates", meta.GetDuplicates(), want.GetDuplicates()},
		{"rejected", meta.GetRejected(), want.GetRejected()},
		{"too late", meta.GetTooLate(), want.GetTooLate()},
		{"customers", meta.GetCustomers(), uint64(len(re.customers))},
	} {
		if c.have != c.want {
			v.differ("", "%s: checkpoint %v, log %v", c.what, c.have, c.want)
		}
	}
	same := slices.EqualFunc(meta.GetProducers(), want.GetProducers(), func(a, b *footfallv1.ProducerMark) bool {
		return a.GetProducer() == b.GetProducer() && a.GetSequence() == b.GetSequence()
	})
	if !same {
		v.differ("", "producers: checkpoint %v, log %v", meta.GetProducers(), want.GetProducers())
	}
}

func (v *Verified) compareCustomers(ctx context.Context, re *refold, store Store, epoch uint64) error {
	for after := ""; ; {
		chunk, err := store.Scan(ctx, v.Shard, epoch, after, 4*scanBytes)
		if err != nil {
			return err
		}
		if len(chunk) == 0 {
			break
		}
		for _, c := range chunk {
			_, rec, err := splitValue(c.ID, c.Value)
			if err != nil {
				return err
			}
			v.Customers++
			switch want, ok := re.customers[c.ID]; {
			case !ok:
				v.differ(c.ID, "is in the checkpoint, but not in the log")
			case !bytes.Equal(rec, *want):
				v.differ(c.ID, "checkpoint %d bytes, log %d bytes, first difference at byte %d", len(rec), len(*want), firstDifference(rec, *want))
			}
			delete(re.customers, c.ID)
		}
		after = chunk[len(chunk)-1].ID
	}
	for id := range re.customers {
		v.differ(id, "is in the log, but not in the checkpoint")
	}
	return nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
