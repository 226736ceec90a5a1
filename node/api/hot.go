package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// How many hot customers are listed: unless more are asked for, and at most.
const (
	usualHot = 20
	mostHot  = 1000
)

// ListHotCustomers implements the gRPC service.
func (s *Admin) ListHotCustomers(ctx context.Context, r *footfallv1.ListHotCustomersRequest) (*footfallv1.ListHotCustomersResponse, error) {
	if r.GetLimit() > mostHot {
		return nil, &messages.Fault{Field: "limit", Reason: fmt.Sprintf("must be at most %d, not %d", mostHot, r.GetLimit())}
	}
	shards, err := s.chosen(r.GetShards())
	if err != nil {
		return nil, err
	}
	limit := int(cmp.Or(r.GetLimit(), usualHot))
	out := s.hotHere(ctx, shards, limit)
	if s.nodes != nil && !forwarded(ctx) {
		for _, a := range others(ctx, s.nodes, memberPatience, func(ctx context.Context, conn grpc.ClientConnInterface) (*footfallv1.ListHotCustomersResponse, error) {
			return footfallv1.NewAdminServiceClient(conn).ListHotCustomers(ctx, r)
		}) {
			out.Customers = append(out.Customers, a.GetCustomers()...)
			out.Missing = slices.DeleteFunc(out.GetMissing(), func(shard uint32) bool { return !slices.Contains(a.GetMissing(), shard) })
		}
	}
	// One that moves may be told of by two.
	slices.SortFunc(out.GetCustomers(), func(a, b *footfallv1.HotCustomer) int {
		return cmp.Or(cmp.Compare(b.GetRate(), a.GetRate()), cmp.Compare(a.GetCustomerId(), b.GetCustomerId()))
	})
	seen := map[string]bool{}
	out.Customers = slices.DeleteFunc(out.GetCustomers(), func(c *footfallv1.HotCustomer) bool {
		again := seen[c.GetCustomerId()]
		seen[c.GetCustomerId()] = true
		return again
	})
	out.Customers = out.GetCustomers()[:min(len(out.GetCustomers()), limit)]
	return out, nil
}

// hotHere asks the shards that are here.
func (s *Admin) hotHere(ctx context.Context, shards []uint32, limit int) *footfallv1.ListHotCustomersResponse {
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		out = &footfallv1.ListHotCustomersResponse{}
	)
	for _, shard := range shards {
		wg.Go(func() {
			hot, err := s.host.Hot(ctx, int(shard), limit)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Missing = append(out.Missing, shard)
				return
			}
			for _, c := range hot.Customers {
				one := &footfallv1.HotCustomer{CustomerId: c.CustomerID, Shard: shard, Owner: s.id.Name, Events: c.Events, Error: c.Error}
				if window := hot.Window.Seconds(); window > 0 {
					one.Rate = float64(c.Events) / max(window, 1)
				}
				out.Customers = append(out.Customers, one)
			}
		})
	}
	wg.Wait()
	slices.Sort(out.GetMissing())
	return out
}
