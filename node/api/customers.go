package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/actors"
	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

const (
	// maxBatch is the most customers of one call.
	maxBatch = 1000
	// defaultHistory and maxHistory are events of one answer.
	defaultHistory = 1000
	maxHistory     = 10_000
)

// Customers answers what is known of customers.
type Customers struct {
	footfallv1.UnimplementedCustomerServiceServer

	host      Host
	id        Identity
	models    Models  // may be nil
	queries   Queries // nil without models
	nodes     *router // nil on a node on its own
	validator messages.Validator
}

// GetCustomer implements the gRPC service.
func (s *Customers) GetCustomer(ctx context.Context, r *footfallv1.GetCustomerRequest) (*footfallv1.Customer, error) {
	if f := s.names(r.GetCustomerId(), r.GetWaitFor()); f != nil {
		return nil, f
	}
	if r.GetAt() != nil && !r.GetAt().IsValid() {
		return nil, &messages.Fault{Field: "at", Reason: "is no valid time"}
	}
	shard := messages.ShardOf(r.GetCustomerId(), s.id.Shards)
	if r.GetAllowStale() && s.nodes != nil && !s.nodes.answers(shard) {
		if c, err := s.get(ctx, r); !moved(err) {
			if err == nil {
				c.AsOf.StaleMs = s.nodes.Stale(shard).Milliseconds()
			}
			return c, err
		}
	}
	return route(ctx, s.nodes, shard,
		func(ctx context.Context) (*footfallv1.Customer, error) { return s.get(ctx, r) },
		func(ctx context.Context, owner grpc.ClientConnInterface) (*footfallv1.Customer, error) {
			return footfallv1.NewCustomerServiceClient(owner).GetCustomer(ctx, r)
		})
}

// get answers on this node.
func (s *Customers) get(ctx context.Context, r *footfallv1.GetCustomerRequest) (*footfallv1.Customer, error) {
	if r.GetExplain() != "" {
		if err := s.explainable(r.GetExplain()); err != nil {
			return nil, err
		}
	}
	if r.GetWaitFor() != "" {
		switch err := s.host.WaitFor(ctx, r.GetCustomerId(), r.GetWaitFor()); {
		case errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("event %q of customer %q was not applied: %w", r.GetWaitFor(), r.GetCustomerId(), err)
		case err != nil:
			return nil, err
		}
	}
	a, err := s.host.Ask(ctx, r.GetCustomerId())
	if err != nil {
		return nil, err
	}
	at, err := instant(a, r.GetAt())
	if err != nil {
		return nil, err
	}
	c := s.render(a, at)
	if r.GetExplain() != "" {
		if err := s.explain(ctx, c, r.GetExplain(), a.Record, at); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// BatchGetCustomers implements the gRPC service.
func (s *Customers) BatchGetCustomers(ctx context.Context, r *footfallv1.BatchGetCustomersRequest) (*footfallv1.BatchGetCustomersResponse, error) {
	ids := r.GetCustomerIds()
	if len(ids) == 0 || len(ids) > maxBatch {
		return nil, &messages.Fault{Field: "customer_ids", Reason: fmt.Sprintf("must name 1 to %d customers, not %d", maxBatch, len(ids))}
	}
	seen := make(map[string]int, len(ids))
	for i, id := range ids {
		field := "customer_ids[" + strconv.Itoa(i) + "]"
		if f := s.names(id, ""); f != nil {
			return nil, &messages.Fault{Field: field, Reason: f.Reason}
		}
		if before, ok := seen[id]; ok {
			return nil, &messages.Fault{Field: field, Reason: fmt.Sprintf("names the customer of customer_ids[%d] again", before)}
		}
		seen[id] = i
	}
	if r.GetAt() != nil && !r.GetAt().IsValid() {
		return nil, &messages.Fault{Field: "at", Reason: "is no valid time"}
	}
	if s.nodes == nil {
		return s.getMany(ctx, r)
	}
	return s.gather(ctx, r)
}

// getMany answers on this node, in the order of the request.
func (s *Customers) getMany(ctx context.Context, r *footfallv1.BatchGetCustomersRequest) (*footfallv1.BatchGetCustomersResponse, error) {
	ids := r.GetCustomerIds()
	answers, err := s.host.AskMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := &footfallv1.BatchGetCustomersResponse{Customers: make([]*footfallv1.Customer, 0, len(ids))}
	for i, a := range answers {
		if a == nil {
			out.NotFound = append(out.NotFound, ids[i])
			continue
		}
		at, err := instant(a, r.GetAt())
		if err != nil {
			return nil, err
		}
		out.Customers = append(out.Customers, s.render(a, at))
	}
	return out, nil
}

// GetHistory implements the gRPC service.
func (s *Customers) GetHistory(ctx context.Context, r *footfallv1.GetHistoryRequest) (*footfallv1.GetHistoryResponse, error) {
	id := r.GetCustomerId()
	if f := s.names(id, ""); f != nil {
		return nil, f
	}
	limit := int(r.GetLimit())
	switch {
	case limit == 0:
		limit = defaultHistory
	case limit > maxHistory:
		return nil, &messages.Fault{Field: "limit", Reason: fmt.Sprintf("must be at most %d", maxHistory)}
	}
	shard := messages.ShardOf(id, s.id.Shards)
	return route(ctx, s.nodes, shard,
		func(ctx context.Context) (*footfallv1.GetHistoryResponse, error) {
			return s.history(ctx, id, shard, limit)
		},
		func(ctx context.Context, owner grpc.ClientConnInterface) (*footfallv1.GetHistoryResponse, error) {
			return footfallv1.NewCustomerServiceClient(owner).GetHistory(ctx, r)
		})
}

// history answers on this node.
func (s *Customers) history(ctx context.Context, id string, shard, limit int) (*footfallv1.GetHistoryResponse, error) {
	out := &footfallv1.GetHistoryResponse{}
	var err error
	out.Truncated, err = s.host.History(ctx, id, limit, func(e actors.HistoryEntry) error {
		entry := &footfallv1.HistoryEntry{
			Offset:  int64(e.Position.Offset),
			Index:   e.Position.Index,
			Event:   e.Event,
			Outcome: e.Outcome,
			Reason:  e.Reason,
		}
		if e.Record.Exists() {
			entry.State = s.picture(e.Record, id, shard, e.Position.Offset+1, e.AsOf)
		}
		out.Entries = append(out.Entries, entry)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(out.GetEntries()) == 0 {
		// Either its events have been trimmed, or there never was one.
		if _, err := s.host.Ask(ctx, id); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// names checks the names in a request by the rules for those in events.
func (s *Customers) names(customerID, eventID string) *messages.Fault {
	probe := footfallv1.Event{EventId: eventID, CustomerId: customerID}
	if eventID == "" {
		probe.EventId = "-"
	}
	switch f := s.validator.Validate(&probe); f.Field {
	case "event_id":
		return &messages.Fault{Field: "wait_for", Reason: f.Reason}
	case "customer_id":
		return f
	default: // an event without a time is faulty, but the names are not
		return nil
	}
}

// instant is the one that features are computed for, in Unix milliseconds: the answer's own,
// or a later one that was asked for. What a customer did after it cannot be taken away.
func instant(a *actors.Answer, at *timestamppb.Timestamp) (int64, error) {
	if at == nil {
		return a.AsOf, nil
	}
	ms, last := at.AsTime().UnixMilli(), a.Record.Lifetime().LastEvent
	if ms < last {
		return 0, &messages.Fault{Field: "at", Reason: fmt.Sprintf("must not be before %s, the latest event of customer %q", formatTime(last), a.CustomerID)}
	}
	if at.AsTime().Year() > 2200 {
		return 0, &messages.Fault{Field: "at", Reason: "must not be after 2200"}
	}
	return ms, nil
}

func formatTime(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339Nano) }

// render makes the picture of a customer for an instant.
func (s *Customers) render(a *actors.Answer, at int64) *footfallv1.Customer {
	c := s.picture(a.Record, a.CustomerID, a.Shard, a.Next, at)
	for _, score := range a.Scores {
		c.Scores = append(c.Scores, &footfallv1.Score{
			Model:   score.Model,
			Version: score.Version,
			Value:   decimal(score.Value),
			Offset:  int64(score.Position.Offset),
			Time:    timestamppb.New(time.UnixMilli(score.Time)),
		})
		if s.models != nil {
			if name := s.models.Segment(score.Model, score.Version, score.Value); name != "" {
				c.Segment = name
			}
		}
	}
	return c
}

// picture is render without what models said.
func (s *Customers) picture(rec behavior.Record, customerID string, shard int, next uint64, at int64) *footfallv1.Customer {
	life := rec.Lifetime()
	c := &footfallv1.Customer{
		CustomerId:    customerID,
		Shard:         uint32(shard),
		Owner:         s.id.Name,
		AsOf:          &footfallv1.AsOf{Time: timestamppb.New(time.UnixMilli(at)), Offset: int64(next) - 1},
		LastEventTime: timestamppb.New(time.UnixMilli(life.LastEvent)),
		Features:      make(map[string]float64, len(behavior.FeatureNames)),
		Lifetime:      lifetime(life),
		IdentifiedAs:  rec.KnownAs(),
	}
	var features behavior.Features
	rec.Features(at, s.id.Calendar, &features)
	for i, name := range behavior.FeatureNames {
		c.Features[name] = features[i]
	}
	var days [10][5]float64
	rec.Sequence(at, s.id.Calendar, &days)
	for _, d := range days {
		c.Sequence = append(c.Sequence, &footfallv1.ShoppingDay{AgeDays: d[0], GapDays: d[1], LogSpend: d[2], Departments: d[3], DiscountShare: d[4]})
	}
	if attributes := rec.Attributes(); len(attributes) > 0 {
		c.Attributes = make(map[string]string, len(attributes))
		for _, a := range attributes {
			c.Attributes[a.Key] = a.Value
		}
	}
	return c
}

func lifetime(l behavior.Lifetime) *footfallv1.Lifetime {
	out := &footfallv1.Lifetime{
		Events:            l.Events,
		Purchases:         l.Purchases,
		ShoppingDays:      l.ShoppingDays,
		Refunds:           l.Refunds,
		PageViews:         l.PageViews,
		CartAdds:          l.CartAdds,
		CartRemoves:       l.CartRemoves,
		CampaignsReceived: l.Campaigns,
		CouponsRedeemed:   l.Redemptions,
		TooLate:           l.TooLate,
		Spend:             messages.FormatMoney(l.Spend - l.Refunded),
		Discount:          messages.FormatMoney(l.Discount),
		FirstDaySpend:     messages.FormatMoney(l.FirstDaySpend),
	}
	if l.Purchases > 0 {
		out.FirstShoppingDay = behavior.FormatDate(l.FirstShoppingDay)
		out.LastShoppingDay = behavior.FormatDate(l.LastShoppingDay)
	}
	return out
}

// decimal is the float64 that the shortest decimal of a float32 means, so that a score does
// not show digits that the model never gave. float32(decimal(v)) == v.
func decimal(v float32) float64 {
	f, err := strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', -1, 32), 64)
	if err != nil {
		return float64(v)
	}
	return f
}
