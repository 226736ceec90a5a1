package bench

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
)

// rig is the inside of a node over a real log and a real store.
type rig struct {
	storage *storage.Storage
	host    *actors.Host
}

func (s *Suite) hostConfig() actors.Config {
	return actors.Config{
		Node: "bench", Shards: shards, Location: time.UTC, Currency: "USD",
		Clock: footfallv1.ClockMode_CLOCK_MODE_DRIVEN, MemoryBudget: 8 << 30, Now: time.Now, Logger: s.Logger,
	}
}

func (s *Suite) openStorage(dir string) (*storage.Storage, error) {
	return storage.Open(storage.Options{
		LogDir: filepath.Join(dir, "log"), StoreDir: filepath.Join(dir, "store"),
		Identity: storage.Identity(shards, time.UTC, "USD"), Logger: s.Logger,
	})
}

func (s *Suite) open(ctx context.Context, dir string, scorer actors.Scorer) (*rig, error) {
	return s.openWith(ctx, dir, s.hostConfig(), scorer)
}

func (s *Suite) openWith(ctx context.Context, dir string, cfg actors.Config, scorer actors.Scorer) (_ *rig, err error) {
	r := &rig{}
	if r.storage, err = s.openStorage(dir); err != nil {
		return nil, err
	}
	if r.host, err = actors.NewHost(cfg, r.storage.Log, r.storage.Store, scorer); err != nil {
		return nil, errors.Join(err, r.storage.Close())
	}
	return r, r.host.Start(ctx)
}

func (r *rig) close(ctx context.Context) error {
	return errors.Join(r.host.Stop(ctx), r.storage.Close())
}

// applied is how many events are in customers.
func applied(h *actors.Host) (events uint64) {
	for _, st := range h.Status() {
		events += st.Events
	}
	return events
}

// appenders is how many publishers append at once.
const appenders = 32

// publish appends messages with many publishers, each of which has some of the shards, so
// that every shard's messages keep their order.
func publish(ctx context.Context, log actors.Log, msgs iter.Seq[shardMessage]) error {
	queues := make([]chan shardMessage, appenders)
	var (
		wg     sync.WaitGroup
		failed atomic.Pointer[error]
	)
	for i := range queues {
		queues[i] = make(chan shardMessage, 8)
		wg.Go(func() {
			for m := range queues[i] {
				if failed.Load() != nil {
					continue
				}
				err := log.Append(ctx, m.shard, []messages.Record{{
					Type: messages.BatchRecord, FromNode: true, Time: time.Now().UnixMilli(), Body: m.body,
				}})
				if err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	for m := range msgs {
		queues[m.shard%appenders] <- m
	}
	for _, q := range queues {
		close(q)
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return ctx.Err()
}

// ingest measures events from the log's door to their checkpoint.
func (s *Suite) ingest(ctx context.Context) error {
	customers, n := s.size(100_000), s.size(3_000_000)
	limit, err := s.limit(customers)
	if err != nil {
		return err
	}
	plain, err := s.ingestOnce(ctx, customers, n, nil)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("durable log, shards, dedupe, checkpoints, %s customers", count(customers))
	s.add(Row{
		Group: "ingest", Name: name + ", per core", Value: plain.perCore, Unit: "events/s", Limit: limit, Against: "plain loop on one core",
	}.ratioAtLeast(.5))
	s.add(Row{
		Group: "ingest", Name: name + ", whole machine", Value: plain.rate, Unit: "events/s", Limit: limit * 2, Against: "plain loop on two cores",
	}.atLeast(400_000, "400k"))
	if s.Scorer == nil {
		return nil
	}
	scorer, closeScorer, err := s.Scorer(ctx, "purchase_prediction")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeScorer()) }()
	scoredRun, err := s.ingestOnce(ctx, customers, n, scorer)
	if err != nil {
		return err
	}
	s.add(Row{
		Group: "ingest", Name: "the same, every changed customer scored by the dense model", Value: scoredRun.rate, Unit: "events/s",
		Limit: plain.rate, Against: "without scoring",
	}.ratioAtLeast(.5))
	return nil
}

type ingested struct{ rate, perCore float64 }

func (s *Suite) ingestOnce(ctx context.Context, customers, n int, scorer actors.Scorer) (out ingested, err error) {
	msgs, err := batched(newMaker(customers, n, 365), n)
	if err != nil {
		return out, err
	}
	dir, remove, err := s.dir("ingest")
	if err != nil {
		return out, err
	}
	defer remove()
	r, err := s.open(ctx, dir, scorer)
	if err != nil {
		return out, err
	}
	runtime.GC() // what making the events has left is not theirs to pay
	u := measure()
	if err := publish(ctx, r.storage.Log, slices.Values(msgs)); err != nil {
		return out, err
	}
	if err := r.host.WaitIdle(ctx, scorer != nil); err != nil {
		return out, err
	}
	if err := r.host.Checkpoint(ctx); err != nil {
		return out, err
	}
	wall, cpu := u.since()
	events := applied(r.host)
	if err := r.close(ctx); err != nil {
		return out, err
	}
	if events != uint64(n) {
		return out, fmt.Errorf("%d events were applied, not %d", events, n)
	}
	return ingested{perSecond(n, wall), perSecond(n, cpu)}, nil
}
