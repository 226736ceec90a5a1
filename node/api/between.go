package api

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// between is what the nodes of a cluster tell and ask each other beside what they pass on.
type between struct {
	footfallv1.UnimplementedNodeServiceServer
	host  Host
	nodes Cluster
}

// NoteRejected implements the gRPC service.
func (b *between) NoteRejected(_ context.Context, r *footfallv1.NoteRejectedRequest) (*footfallv1.NoteRejectedResponse, error) {
	for _, ev := range r.GetEvents()[:min(len(r.GetEvents()), maxTold)] {
		b.host.NoteRejected(ev.GetCustomerId(), ev.GetEventId(), messages.Fault{Field: ev.GetField(), Reason: ev.GetReason()})
	}
	return &footfallv1.NoteRejectedResponse{}, nil
}

// GetLastTick implements the gRPC service.
func (b *between) GetLastTick(context.Context, *footfallv1.GetLastTickRequest) (*footfallv1.GetLastTickResponse, error) {
	return &footfallv1.GetLastTickResponse{Date: b.host.LastTick(clockShard)}, nil
}

// PrepareShard implements the gRPC service.
func (b *between) PrepareShard(ctx context.Context, r *footfallv1.PrepareShardRequest) (*footfallv1.PrepareShardResponse, error) {
	if n := uint32(len(b.nodes.Owners())); r.GetShard() >= n {
		return nil, status.Errorf(codes.InvalidArgument, "shard: there are shards 0 to %d, not %d", n-1, r.GetShard())
	}
	err := b.nodes.Prepare(ctx, int(r.GetShard()), messages.Mark{Next: r.GetNextOffset(), Sum: r.GetSum()})
	return &footfallv1.PrepareShardResponse{}, err
}

const (
	// maxTold is the most refused events of one request that their owners are told of: as many as a shard remembers.
	maxTold = 1024
	// tellWithin bounds for how long an answer waits for the owners to know what it says. They are told as well as that
	// goes: one that does not hear of a refusal lets whoever waits for the event wait in vain, and nothing worse.
	tellWithin = 500 * time.Millisecond
	// askWithin bounds how long the one who drives the clock is waited for. Where it does not answer an event is taken in,
	// and the owner's fold decides.
	askWithin = 500 * time.Millisecond
)

// refusals are the refused events of a request that others own.
type refusals struct {
	byAddress map[string][]*footfallv1.RejectedEvent
	count     int
}

// note keeps a refused event of a shard for its owner, and reports whether it may be another node.
func (r *refusals) note(nodes *router, shard int, customerID, eventID string, f messages.Fault) (elsewhere bool) {
	if nodes == nil || nodes.answers(shard) {
		return false
	}
	l := nodes.Locate(shard)
	if l.Owner == nodes.name || l.Address == "" {
		return false
	}
	if r.byAddress == nil {
		r.byAddress = map[string][]*footfallv1.RejectedEvent{}
	}
	if r.count++; r.count <= maxTold {
		r.byAddress[l.Address] = append(r.byAddress[l.Address], &footfallv1.RejectedEvent{
			CustomerId: customerID, EventId: eventID, Field: f.Field, Reason: f.Reason,
		})
	}
	return true
}

// tell tells the owners, all at once, and counts what they were not told.
func (r *refusals) tell(ctx context.Context, nodes *router, m *Metrics) {
	if r.count == 0 {
		return
	}
	m.untold.Add(float64(max(0, r.count-maxTold)))
	ctx, cancel := context.WithTimeout(nodes.passOn(ctx), tellWithin)
	defer cancel()
	var wg sync.WaitGroup
	for address, events := range r.byAddress {
		wg.Go(func() {
			conn, err := nodes.Conn(address)
			if err == nil {
				_, err = footfallv1.NewNodeServiceClient(conn).NoteRejected(ctx, &footfallv1.NoteRejectedRequest{Events: events})
			}
			if err != nil {
				m.untold.Add(float64(len(events)))
			}
		})
	}
	wg.Wait()
}

// catchUp learns of days that have ended and that this node has not heard of. It reports whether it
// was told: by a node of an older version it is not. A day is over for all shards once the tick was answered, and then the owner of
// the clock's shard knows; others read it in their own shards, a little later.
func catchUp(ctx context.Context, nodes *router, host Host) bool {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	r, err := route(ctx, nodes, clockShard,
		func(context.Context) (*footfallv1.GetLastTickResponse, error) {
			return &footfallv1.GetLastTickResponse{Date: host.LastTick(clockShard)}, nil
		},
		func(ctx context.Context, conn grpc.ClientConnInterface) (*footfallv1.GetLastTickResponse, error) {
			return footfallv1.NewNodeServiceClient(conn).GetLastTick(ctx, &footfallv1.GetLastTickRequest{})
		})
	if err == nil {
		host.LearnTick(r.GetDate())
	}
	return err == nil
}
