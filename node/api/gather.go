package api

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// gather answers for customers of several owners: one call to each, and the answers in the order
// of the request. Where an owner turns out to be another, its shards are asked for one by one.
func (s *Customers) gather(ctx context.Context, r *footfallv1.BatchGetCustomersRequest) (*footfallv1.BatchGetCustomersResponse, error) {
	ids := r.GetCustomerIds()
	byShard := map[int][]string{}
	for _, id := range ids {
		shard := messages.ShardOf(id, s.id.Shards)
		byShard[shard] = append(byShard[shard], id)
	}
	found := &gathered{customers: make(map[string]*footfallv1.Customer, len(ids))}
	var wg sync.WaitGroup
	for owner, shards := range s.byOwner(ctx, byShard) {
		wg.Go(func() {
			if (owner.here || owner.address != "") && s.gatherFrom(ctx, owner, r, shards, byShard, found) {
				return
			}
			for _, shard := range shards {
				wg.Go(func() { found.add(s.gatherShard(ctx, shard, part(r, byShard[shard]))) })
			}
		})
	}
	wg.Wait()
	if found.err != nil {
		return nil, found.err
	}
	out := &footfallv1.BatchGetCustomersResponse{Customers: make([]*footfallv1.Customer, 0, len(found.customers))}
	for _, id := range ids {
		if c := found.customers[id]; c != nil {
			out.Customers = append(out.Customers, c)
		} else {
			out.NotFound = append(out.NotFound, id)
		}
	}
	return out, nil
}

// gathered is what has been found so far.
type gathered struct {
	mu        sync.Mutex
	customers map[string]*footfallv1.Customer
	err       error
}

func (g *gathered) add(r *footfallv1.BatchGetCustomersResponse, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.err = err
		return
	}
	for _, c := range r.GetCustomers() {
		g.customers[c.GetCustomerId()] = c
	}
}

// owner is this node or how to reach another; the zero one has to be looked for.
type owner struct {
	here    bool
	address string
}

// byOwner sorts shards by the node that most probably answers for them.
func (s *Customers) byOwner(ctx context.Context, byShard map[int][]string) map[owner][]int {
	out := map[owner][]int{}
	last := forwarded(ctx)
	for shard := range byShard {
		var o owner
		switch l := s.nodes.Locate(shard); {
		case l.Here || l.Leaving:
			o.here = true
		case !last && !l.Coming && l.Owner != s.id.Name:
			o.address = l.Address
		}
		out[o] = append(out[o], shard)
	}
	return out
}

// gatherFrom asks one node for customers of several shards at once. It reports whether that is
// done: with an answer, or an error that is one.
func (s *Customers) gatherFrom(ctx context.Context, o owner, r *footfallv1.BatchGetCustomersRequest, shards []int, byShard map[int][]string, found *gathered) bool {
	var ids []string
	for _, shard := range shards {
		ids = append(ids, byShard[shard]...)
	}
	if o.here {
		answer, err := s.getMany(ctx, part(r, ids))
		if err != nil && moved(err) {
			return false
		}
		for _, shard := range shards {
			if !s.nodes.answers(shard) {
				return false
			}
		}
		found.add(answer, err)
		return true
	}
	conn, err := s.nodes.Conn(o.address)
	if err != nil {
		return false
	}
	noteForwarded(ctx)
	answer, err := footfallv1.NewCustomerServiceClient(conn).BatchGetCustomers(s.nodes.passOn(ctx), part(r, ids))
	if _, again := notAnswered(ctx, err); again {
		return false
	}
	found.add(answer, err)
	return true
}

// gatherShard asks the owner of one shard for its customers, whoever that is by then.
func (s *Customers) gatherShard(ctx context.Context, shard int, r *footfallv1.BatchGetCustomersRequest) (*footfallv1.BatchGetCustomersResponse, error) {
	return route(ctx, s.nodes, shard,
		func(ctx context.Context) (*footfallv1.BatchGetCustomersResponse, error) { return s.getMany(ctx, r) },
		func(ctx context.Context, conn grpc.ClientConnInterface) (*footfallv1.BatchGetCustomersResponse, error) {
			return footfallv1.NewCustomerServiceClient(conn).BatchGetCustomers(ctx, r)
		})
}

// part is a request for some customers of another.
// What a newer client asks for beside that goes with it.
func part(r *footfallv1.BatchGetCustomersRequest, ids []string) *footfallv1.BatchGetCustomersRequest {
	out := &footfallv1.BatchGetCustomersRequest{CustomerIds: ids, At: r.GetAt()}
	out.ProtoReflect().SetUnknown(r.ProtoReflect().GetUnknown())
	return out
}
