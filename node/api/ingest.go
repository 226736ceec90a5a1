package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Ingest takes events in: it validates each, appends the good ones to the logs of their
// shards, and says of each other what is wrong with it.
//
// Invariants:
//  1. What it counts as accepted is durable.
//  2. accepted + rejected = the events of the request, or the call fails as a whole; then
//     some may be in the log, and sending all again changes nothing: they are duplicates.
//  3. The bytes of events in its hands are bounded.
type Ingest struct {
	footfallv1.UnimplementedIngestServiceServer

	host      Host
	nodes     *router // nil on a node on its own
	validator messages.Validator
	metrics   *Metrics
	gate      gate
}

func newIngest(host Host, id Identity, limits Limits, m *Metrics) *Ingest {
	return &Ingest{
		host:      host,
		validator: messages.Validator{Shards: id.Shards, Currency: id.Currency},
		metrics:   m,
		gate:      gate{limit: limits.Ingest},
	}
}

// item is an event of a request, or why there is none. Of a faulty one the names may be
// known nevertheless.
type item struct {
	event               *footfallv1.Event
	fault               *messages.Fault
	eventID, customerID string
	shard               int
	// ahead: the only fault is that it lies too far ahead of the last day that this node knows to have ended.
	ahead bool
}

// Publish implements the gRPC service.
func (g *Ingest) Publish(ctx context.Context, batch *footfallv1.EventBatch) (*footfallv1.PublishResponse, error) {
	if n := len(batch.GetEvents()); n == 0 || n > messages.MaxJSONEvents {
		return nil, &messages.Fault{Field: "events", Reason: fmt.Sprintf("must hold 1 to %d events, not %d", messages.MaxJSONEvents, n)}
	}
	size := int64(batch.SizeVT())
	if err := g.gate.enter(size); err != nil {
		return nil, err
	}
	defer g.gate.leave(size)
	items := make([]item, len(batch.GetEvents()))
	for i, ev := range batch.GetEvents() {
		items[i].event = ev
	}
	return g.publish(ctx, items)
}

// publish takes in the items of one request.
func (g *Ingest) publish(ctx context.Context, items []item) (*footfallv1.PublishResponse, error) {
	answer := &footfallv1.PublishResponse{}
	byShard := make(map[int][]*footfallv1.Event)
	var elsewhere refusals
	g.check(ctx, items)
	for i := range items {
		it := &items[i]
		if it.fault != nil {
			g.reject(answer, i, it, &elsewhere)
			continue
		}
		byShard[it.shard] = append(byShard[it.shard], it.event)
		answer.Accepted++
	}
	elsewhere.tell(ctx, g.nodes, g.metrics)
	if err := g.append(ctx, byShard); err != nil {
		return nil, err
	}
	return answer, nil
}

// check finds the faults of items, and the shards of their customers. Before it refuses one that
// lies too far ahead, it makes sure that no day has ended of which this node has not heard.
func (g *Ingest) check(ctx context.Context, items []item) {
	ahead := false
	for i := range items {
		it := &items[i]
		if it.fault == nil {
			it.eventID, it.customerID = it.event.GetEventId(), it.event.GetCustomerId()
			it.fault = g.validator.Validate(it.event)
		}
		it.shard = messages.ShardOf(it.customerID, g.validator.Shards)
		if it.fault == nil {
			it.fault = g.checkTime(it)
			it.ahead = it.fault != nil
			ahead = ahead || it.ahead
		}
	}
	if !ahead || g.nodes == nil {
		return
	}
	sure := catchUp(ctx, g.nodes, g.host)
	for i := range items {
		switch it := &items[i]; {
		case !it.ahead:
		case sure:
			it.fault = g.checkTime(it)
		default:
			it.fault = nil
		}
	}
}

func (g *Ingest) checkTime(it *item) *messages.Fault {
	return g.host.CheckTime(it.shard, it.event.GetTime().AsTime().UnixMilli())
}

// publishAgain takes in events that were refused before: all of them, or, where one has a fault,
// none; then bad is its index, else -1.
//
// They lose the producer's number. Events with higher ones may be folded since, and beside those
// it would make them duplicates: what a letter held would be lost without a word. Their IDs still
// tell them from duplicates.
func (g *Ingest) publishAgain(ctx context.Context, items []item) (bad int, err error) {
	var size int64
	for i := range items {
		it := &items[i]
		if it.fault == nil {
			it.event.Producer, it.event.Sequence = "", 0
			size += int64(it.event.SizeVT())
		}
	}
	g.check(ctx, items)
	if i := slices.IndexFunc(items, func(it item) bool { return it.fault != nil }); i >= 0 {
		return i, nil
	}
	if err := g.gate.enter(size); err != nil {
		return -1, err
	}
	defer g.gate.leave(size)
	answer, err := g.publish(ctx, items)
	if err == nil && len(answer.GetRejected()) > 0 {
		return int(answer.GetRejected()[0].GetIndex()), nil
	}
	return -1, err
}

func (g *Ingest) reject(answer *footfallv1.PublishResponse, index int, it *item, elsewhere *refusals) {
	g.metrics.rejected(it.fault)
	answer.Rejected = append(answer.Rejected, &footfallv1.Rejection{
		Index:   uint32(index),
		EventId: clip(it.eventID),
		Field:   it.fault.Field,
		Reason:  it.fault.Reason,
	})
	// Whoever waits for the event is to hear of it, where its names could be a real event's.
	probe := footfallv1.Event{EventId: it.eventID, CustomerId: it.customerID}
	if f := g.validator.Validate(&probe); f.Field == "event_id" || f.Field == "customer_id" {
		return
	}
	if !elsewhere.note(g.nodes, it.shard, it.customerID, it.eventID, *it.fault) {
		g.host.NoteRejected(it.customerID, it.eventID, *it.fault)
	}
}

// clip keeps an answer from being as long as the fault that it tells of, and valid as text.
func clip(id string) string {
	return strings.ToValidUTF8(id[:min(len(id), messages.MaxID)], "\ufffd")
}

// append writes every shard's events to its log, all at the same time.
func (g *Ingest) append(ctx context.Context, byShard map[int][]*footfallv1.Event) error {
	if len(byShard) == 1 {
		for shard, events := range byShard {
			return g.appendOne(ctx, shard, events)
		}
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for shard, events := range byShard {
		wg.Go(func() {
			if err := g.appendOne(ctx, shard, events); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if len(errs) == 0 {
		return nil
	}
	// One cause is enough to know; the same for every retry, not the one that was first.
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if len(errs) == len(byShard) {
		return errs[0]
	}
	return &PartialError{Shards: len(byShard), Failed: len(errs), Err: errs[0]}
}

func (g *Ingest) appendOne(ctx context.Context, shard int, events []*footfallv1.Event) error {
	if err := g.host.Append(ctx, shard, events); err != nil {
		if _, ok := errors.AsType[*actors.NotActiveError](err); ok {
			return err
		}
		return fmt.Errorf("the log of shard %d: %w", shard, err)
	}
	return nil
}

// PartialError says that some shards took their events and others could not.
type PartialError struct {
	Shards, Failed int
	Err            error
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("%d of %d shards could not take their events (send all again: what is in a log already is recognised): %v", e.Failed, e.Shards, e.Err)
}

func (e *PartialError) Unwrap() error { return e.Err }
