package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
	"footfall/node/transfer"
)

// operate measures what an operator waits for: a node to be drained, and a backup to be restored.
func (s *Suite) operate(ctx context.Context) error {
	err := s.withCluster(ctx, "operate", func(f *clusterBench) error { return f.drained(ctx) })
	if err != nil {
		return err
	}
	for _, purchases := range []int{1, 20} {
		if err := s.restore(ctx, purchases); err != nil {
			return err
		}
	}
	return nil
}

// million is how many customers there are; a quick run has a few.
func (s *Suite) million() int {
	if s.Quick {
		return 10_000
	}
	return 1_000_000
}

// drained fills two nodes evenly and drains the second while the first takes events in: right after
// they were filled as fast as it goes, and then some times over under a load that lasts.
func (f *clusterBench) drained(ctx context.Context) error {
	const (
		pair  = 2
		piece = 500_000
		// each is how many events a customer has: a record of some hundred bytes.
		each = 3
		// lasting is how long the load lasts before a drain: two checkpoints of each shard.
		lasting = 20 * time.Second
	)
	one, two := f.nodes[0], f.nodes[1]
	if err := f.team(ctx, pair); err != nil {
		return err
	}
	f.load.customers = pair * f.million()
	events := each * f.load.customers
	m := newMaker(f.load.customers, events, 60)
	through := f.through(one, two)
	for done := 0; done < events; done += piece {
		f.say("  %s of %s events", count(done), count(events))
		if err := fill(ctx, through, m, done, min(events, done+piece)); err != nil {
			return err
		}
	}
	if err := f.idle(ctx); err != nil {
		return err
	}
	if err := f.load.make(f.size(200_000)); err != nil {
		return err
	}
	f.load.client = f.through(one)
	during, cancel := context.WithCancel(ctx)
	loaded := make(chan error, 1)
	go func() {
		_, err := f.load.run(during, float64(f.size(underLoad)), time.Hour)
		loaded <- err
	}()
	var (
		all []time.Duration
		err error
	)
	for round := range 1 + f.times(moves) {
		if err = f.team(ctx, pair); err != nil {
			break
		}
		if round > 0 {
			if err = f.wait(ctx, lasting); err != nil {
				break
			}
		}
		var (
			took      time.Duration
			customers uint64
		)
		if took, customers, err = f.drain(ctx, one, two); err != nil {
			break
		}
		f.say("  %d customers: drained in %.2f s", customers, took.Seconds())
		all = append(all, took)
	}
	cancel()
	if err := errors.Join(err, <-loaded); err != nil {
		return err
	}
	f.add(Row{
		Group: "operate", Value: slices.Max(all[1:]).Seconds(), Unit: "s",
		Name: fmt.Sprintf("drain of a node with %s customers at %s events/s, until every shard is active at the other, slowest of %d",
			count(f.million()), count(f.size(underLoad)), len(all)-1),
	}.atMost(5, "5 s"))
	f.add(Row{
		Group: "operate", Value: all[0].Seconds(), Unit: "s",
		Name: fmt.Sprintf("the same right after %s events came in as fast as they could: what they changed is to be written first", count(events)),
	}.atMost(5, "5 s"))
	return nil
}

// wait returns after a while; a quick run waits a tenth of it.
func (f *clusterBench) wait(ctx context.Context, d time.Duration) error {
	if f.Quick {
		d /= 10
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fill publishes the events from one on until another; every customer gets as many.
func fill(ctx context.Context, to footfallv1.IngestServiceClient, m *maker, from, until int) error {
	var (
		queues [publishers]chan *footfallv1.EventBatch
		open   [publishers]*footfallv1.EventBatch
		errs   [publishers]error
		wg     sync.WaitGroup
	)
	for p := range queues {
		queues[p], open[p] = make(chan *footfallv1.EventBatch, 4), &footfallv1.EventBatch{}
		wg.Go(func() {
			for b := range queues[p] {
				if errs[p] != nil {
					continue
				}
				r, err := to.Publish(ctx, b)
				if err == nil && len(r.GetRejected()) > 0 {
					err = errors.New(r.GetRejected()[0].GetReason())
				}
				errs[p] = err
			}
		})
	}
	for i := from; i < until; i++ {
		ev := m.next()
		ev.CustomerId = "household-" + strconv.Itoa(10_000_000+i%m.customers)
		ev.Producer, ev.Sequence = "", 0
		p := messages.ShardOf(ev.CustomerId, shards) % publishers
		open[p].Events = append(open[p].Events, ev)
		if len(open[p].Events) == 500 {
			queues[p] <- open[p]
			open[p] = &footfallv1.EventBatch{}
		}
	}
	for p, q := range queues {
		if len(open[p].Events) > 0 {
			q <- open[p]
		}
		close(q)
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// drain drains a node, and returns how long it took until the other served everything, and how many customers the node had.
func (f *clusterBench) drain(ctx context.Context, other, node *benchNode) (took time.Duration, customers uint64, err error) {
	list, err := other.admin().ListShards(ctx, &footfallv1.ListShardsRequest{})
	if err != nil {
		return 0, 0, err
	}
	for _, s := range list.GetShards() {
		if s.GetOwner() == node.name {
			customers += s.GetCustomers()
		}
	}
	began := time.Now()
	if _, err := other.admin().DrainMember(ctx, &footfallv1.DrainMemberRequest{Member: node.name}); err != nil {
		return 0, 0, err
	}
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for left := true; left; {
		select {
		case <-look.C:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
		list, err := other.admin().ListShards(ctx, &footfallv1.ListShardsRequest{})
		if err != nil {
			return 0, 0, err
		}
		left = slices.ContainsFunc(list.GetShards(), func(s *footfallv1.Shard) bool {
			return s.GetOwner() != other.name || s.GetState() != "active"
		})
	}
	took = time.Since(began)
	select {
	case <-node.process.Done():
		node.process = nil
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	return took, customers, nil
}

// restore restores a backup into a folder and proves it, as footfall restore does.
func (s *Suite) restore(ctx context.Context, purchases int) (err error) {
	dir, remove, err := s.dir("restore")
	if err != nil {
		return err
	}
	defer remove()
	source := newShoppers(s.million(), purchases)
	path, none := filepath.Join(dir, "backup"), func(int, uint64) {}
	if err := transfer.WriteArchive(ctx, source, path, transfer.Header{By: "bench"}, none); err != nil {
		return err
	}
	began := time.Now()
	folder, err := transfer.OpenFolder(filepath.Join(dir, "restored"), path, source.Identity())
	if err != nil {
		return err
	}
	var got uint64
	for _, pass := range []func(*transfer.Archive) error{
		func(a *transfer.Archive) error { return transfer.Write(ctx, a, folder.Storage, none) },
		func(a *transfer.Archive) (err error) {
			got, err = transfer.Compare(ctx, a, folder.Storage, none)
			return err
		},
	} {
		archive, err := transfer.OpenArchive(path)
		if err == nil {
			err = errors.Join(pass(archive), archive.Close())
		}
		if err != nil {
			return errors.Join(err, folder.Close())
		}
	}
	if err := folder.Done(); err != nil {
		return err
	}
	took := time.Since(began)
	if got != uint64(s.million()) {
		return fmt.Errorf("%d customers were restored, not %d", got, s.million())
	}
	s.add(Row{
		Group: "operate", Value: took.Seconds(), Unit: "s",
		Name: fmt.Sprintf("restore of %s customers with records of %s bytes, written and compared", count(s.million()), count(source.bytes/s.million())),
	}.atMost(60, "60 s"))
	return nil
}

// shoppers is a source of customers in two months of whom each had so many purchases, evenly apart.
type shoppers struct {
	purchases int
	ids       [shards][]string
	cal       *behavior.Calendar
	bytes     int // of the values that were read
}

func newShoppers(customers, purchases int) *shoppers {
	s := &shoppers{purchases: purchases, cal: behavior.NewCalendar(time.UTC)}
	for i := range customers {
		id := "household-" + strconv.Itoa(10_000_000+i)
		shard := messages.ShardOf(id, shards)
		s.ids[shard] = append(s.ids[shard], id) // in order: all are as long
	}
	return s
}

// Identity implements transfer.Source.
func (s *shoppers) Identity() messages.Identity { return storage.Identity(shards, time.UTC, "USD") }

// Read implements transfer.Source.
func (s *shoppers) Read(_ context.Context, shard int, into transfer.Sink) error {
	ids := s.ids[shard]
	err := into.Meta(&footfallv1.CheckpointMeta{
		NextOffset: 1, Clock: footfallv1.ClockMode_CLOCK_MODE_DRIVEN, Customers: uint64(len(ids)), Events: uint64(len(ids) * s.purchases),
	})
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(ids, 1000) {
		records := make([]messages.CustomerRecord, len(chunk))
		for i, id := range chunk {
			records[i] = messages.CustomerRecord{ID: id, Value: s.value(i)}
			s.bytes += len(records[i].Value)
		}
		if err := into.Customers(records); err != nil {
			return err
		}
	}
	return nil
}

// value is what a store holds of a customer: four scores and the record.
func (s *shoppers) value(n int) []byte {
	const (
		scores, scoreBytes = 4, 32
		day                = 86_400_000
	)
	var rec behavior.Record
	for i := range s.purchases {
		rec, _ = behavior.Apply(rec, &behavior.Event{
			ID: uint64(n*s.purchases+i) + 1, Time: begin*1000 + int64(n)*60_000 + int64(i)*60*day/int64(s.purchases), Kind: behavior.Purchase,
			Spend: int64(n%90+1) * 10_000, Items: 3, Departments: []uint32{uint32((n + i) % 7), 9},
		}, s.cal)
	}
	return slices.Concat([]byte{1, scores}, make([]byte, scores*scoreBytes), rec)
}
