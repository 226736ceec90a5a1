package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/actors"
	"footfall/behavior"
	"footfall/datasets"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// flink is what Flink 2.3.0 with heap state made of the peer stream on two cores of such a
// machine, in events a second, by the number of customers.
var flink = map[int]float64{2_500: 1.66e6, 100_000: 1.25e6, 1_000_000: 1.07e6}

// peerChecks are the known checks by number of events.
var peerChecks = map[[2]uint64]uint64{
	{1_000_000, 100_000}:    0xb2e8122606b84eea,
	{2_000_000, 100_000}:    0xbb48231b7ea6bdd0,
	{20_000_000, 1_000_000}: 0x39a631667295156f,
}

func (s *Suite) peerStream(ctx context.Context) error {
	for _, c := range []struct {
		customers, events int
		target            float64
		text              string
	}{
		{2_500, 2_000_000, 0, ""},
		{100_000, 2_000_000, 3e6, "3M"},
		{1_000_000, 20_000_000, 2e6, "2M"},
	} {
		p := datasets.PeerStream{N: uint64(c.events), C: uint64(c.customers)}
		if s.Quick {
			p.N = min(p.N, 1_000_000)
		}
		runs := 3
		if c.events > 10_000_000 || s.Quick {
			runs = 1
		}
		rate, err := median(runs, func() (float64, error) { return s.peerOnce(ctx, p) })
		if err != nil {
			return err
		}
		row := Row{
			Group: "peer stream", Name: fmt.Sprintf("C = %s, ten features after every event", count(c.customers)), Value: rate, Unit: "events/s",
			Limit: flink[c.customers], Against: "Flink 2.3.0, heap state",
		}
		if c.target > 0 {
			row = row.atLeast(c.target, c.text)
		}
		s.add(row)
	}
	rate, err := s.peerDurable(ctx, datasets.PeerStream{N: uint64(s.size(2_000_000)), C: 100_000})
	if err != nil {
		return err
	}
	s.add(Row{
		Group: "peer stream", Name: "C = 100k, the same through the durable log", Value: rate, Unit: "events/s",
		Limit: flink[100_000], Against: "Flink 2.3.0, heap state, no log",
	}.atLeast(1e6, "1M"))
	return nil
}

// feedEvents is how many events go to a shard at once, feedAhead how many batches each has.
const (
	feedEvents = 128
	feedAhead  = 2
)

// forgetful is a store that keeps no checkpoints: events that are fed are in no log, so there
// is nothing that they could be a checkpoint of.
type forgetful struct{ actors.Store }

func (forgetful) Checkpoint(context.Context, *messages.Checkpoint) error { return nil }

// memoryHost is a host whose shards are fed, without a log and without checkpoints.
func (s *Suite) memoryHost(ctx context.Context) (*actors.Host, func() error, error) {
	dir, remove, err := s.dir("fed")
	if err != nil {
		return nil, nil, err
	}
	st, err := s.openStorage(dir)
	if err != nil {
		remove()
		return nil, nil, err
	}
	cfg := s.hostConfig()
	cfg.CheckpointEvery, cfg.CheckpointBytes = 24*time.Hour, 1<<40
	cfg.FeaturesAlways = true
	h, err := actors.NewHost(cfg, st.Log, forgetful{st.Store}, nil)
	if err == nil {
		err = h.Start(ctx)
	}
	return h, func() error {
		defer remove()
		return errors.Join(h.Stop(ctx), st.Close())
	}, err
}

// feedPeer sends the stream to the shards and returns when all is folded.
func feedPeer(h *actors.Host, p datasets.PeerStream) {
	free := make([]chan []actors.FeedEvent, shards)
	open := make([][]actors.FeedEvent, shards)
	for i := range free {
		free[i] = make(chan []actors.FeedEvent, feedAhead)
		for range feedAhead - 1 {
			free[i] <- make([]actors.FeedEvent, 0, feedEvents)
		}
		open[i] = make([]actors.FeedEvent, 0, feedEvents)
	}
	hashes := peerDepartments()
	var e datasets.PeerEvent
	for i := range p.N {
		p.At(i, &e)
		id := e.CustomerID()
		shard := messages.ShardOf(id, shards)
		batch := append(open[shard], actors.FeedEvent{
			ID: e.ID, Time: e.Time, Spend: int64(e.Cents) * 100, Discount: int64(e.Discount) * 100, Items: uint32(e.Items),
			Departments: [3]uint32{hashes[e.Departments[0]], hashes[e.Departments[1]], hashes[e.Departments[2]]},
		})
		copy(batch[len(batch)-1].Customer[:], id)
		open[shard] = batch
		if len(batch) == feedEvents {
			h.Feed(shard, batch, free[shard])
			open[shard] = (<-free[shard])[:0]
		}
	}
	for shard := range shards {
		h.Feed(shard, open[shard], free[shard])
		for range feedAhead {
			<-free[shard]
		}
	}
}

func peerDepartments() (hashes [32]uint32) {
	for i := range hashes {
		hashes[i] = behavior.Department("D" + strconv.Itoa(i))
	}
	return hashes
}

func (s *Suite) peerOnce(ctx context.Context, p datasets.PeerStream) (rate float64, err error) {
	h, done, err := s.memoryHost(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, done()) }()
	u := measure()
	feedPeer(h, p)
	wall, _ := u.since()
	return perSecond(int(p.N), wall), checkPeer(ctx, h, p)
}

// checkPeer compares the customers' counts with the known check.
func checkPeer(ctx context.Context, h *actors.Host, p datasets.PeerStream) error {
	counts := make([]uint64, p.C)
	for shard := range shards {
		err := h.Visit(ctx, shard, func(id []byte, rec behavior.Record) {
			if c, err := strconv.Atoi(string(id[1:])); err == nil && c < len(counts) {
				counts[c] = rec.Lifetime().Events
			}
		})
		if err != nil {
			return err
		}
	}
	got := p.Check(func(c uint32) uint64 { return counts[c] })
	if want, known := peerChecks[[2]uint64{p.N, p.C}]; known && got != want {
		return fmt.Errorf("the counts of N = %d, C = %d have the check %016x, not %016x", p.N, p.C, got, want)
	}
	return nil
}

// peerDurable sends the stream as protobuf through the durable log.
func (s *Suite) peerDurable(ctx context.Context, p datasets.PeerStream) (rate float64, err error) {
	dir, remove, err := s.dir("durable")
	if err != nil {
		return 0, err
	}
	defer remove()
	cfg := s.hostConfig()
	cfg.FeaturesAlways = true
	r, err := s.openWith(ctx, dir, cfg, nil)
	if err != nil {
		return 0, err
	}
	u := measure()
	if err := appendPeer(ctx, r, p); err != nil {
		return 0, err
	}
	if err := r.host.WaitIdle(ctx, false); err != nil {
		return 0, err
	}
	if err := r.host.Checkpoint(ctx); err != nil {
		return 0, err
	}
	wall, _ := u.since()
	if err := checkPeer(ctx, r.host, p); err != nil {
		return 0, err
	}
	return perSecond(int(p.N), wall), r.close(ctx)
}

// peerBatchEvents is how many events a message of the peer stream has.
const peerBatchEvents = 500

// appendPeer encodes the stream and appends it.
func appendPeer(ctx context.Context, r *rig, p datasets.PeerStream) error {
	var failed error
	err := publish(ctx, r.storage.Log, func(yield func(shardMessage) bool) {
		failed = encodePeer(p, func(m shardMessage) bool { return yield(m) })
	})
	return errors.Join(failed, err)
}

// encodePeer makes messages of the stream's events; emit answers false to end it early. Each
// event is encoded into its shard's message at once, so that one event is all there ever is.
func encodePeer(p datasets.PeerStream, emit func(shardMessage) bool) error {
	var names [32]string
	for i := range names {
		names[i] = "D" + strconv.Itoa(i)
	}
	var (
		open  [shards]shardMessage
		e     datasets.PeerEvent
		at    timestamppb.Timestamp
		lines [3]footfallv1.Line
		text  [64]byte
	)
	purchase := &footfallv1.Purchase{Lines: []*footfallv1.Line{&lines[0], &lines[1], &lines[2]}}
	ev := &footfallv1.Event{Time: &at, Kind: &footfallv1.Event_Purchase{Purchase: purchase}}
	for i := range p.N {
		p.At(i, &e)
		used := text[:0]
		// str makes a string that is good until the next event.
		str := func(put func([]byte) []byte) string {
			n := len(used)
			used = put(used)
			return unsafe.String(&used[n], len(used)-n)
		}
		ev.EventId = str(func(t []byte) []byte { return strconv.AppendUint(t, e.ID, 36) })
		ev.CustomerId = e.CustomerID()
		at.Seconds, at.Nanos = e.Time/1000, int32(e.Time%1000)*1e6
		for j := range lines {
			lines[j].Department, lines[j].Amount = names[e.Departments[j]], "0"
		}
		// The three lines share the spend: it stands on the first.
		lines[0].Amount = str(func(t []byte) []byte { return messages.AppendMoney(t, int64(e.Cents)*100) })
		lines[0].Discount = str(func(t []byte) []byte { return messages.AppendMoney(t, int64(e.Discount)*100) })
		lines[0].Quantity = uint32(e.Items)

		m := &open[messages.ShardOf(ev.CustomerId, shards)]
		if m.body == nil {
			m.shard, m.body = messages.ShardOf(ev.CustomerId, shards), make([]byte, 0, peerBatchEvents*96)
		}
		if err := m.add(ev); err != nil {
			return err
		}
		if m.events == peerBatchEvents {
			if !emit(*m) {
				return context.Canceled
			}
			*m = shardMessage{}
		}
	}
	for _, m := range open {
		if m.events > 0 && !emit(m) {
			return context.Canceled
		}
	}
	return nil
}

// add encodes an event behind the others: a footfall.v1.EventBatch is its events, each with
// its field's tag and length before it.
func (m *shardMessage) add(ev *footfallv1.Event) error {
	size := ev.SizeVT()
	m.body = protowire.AppendVarint(protowire.AppendTag(m.body, 1, protowire.BytesType), uint64(size))
	at := len(m.body)
	m.body = slices.Grow(m.body, size)[:at+size]
	m.events++
	_, err := ev.MarshalToSizedBufferVT(m.body[at:])
	return err
}
