package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/actors"
	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// maxDifferences are told of one shard; one is enough to know that it is not equal.
const maxDifferences = 20

// Admin tells operators of a node and its shards, and moves its clock.
type Admin struct {
	footfallv1.UnimplementedAdminServiceServer

	host   Host
	id     Identity
	models Models  // may be nil
	nodes  *router // nil on a node on its own
	dead   *deadLetters
	rates  *Rates
	state  func() string
	now    func() time.Time
}

// GetCluster implements the gRPC service.
func (s *Admin) GetCluster(ctx context.Context, r *footfallv1.GetClusterRequest) (*footfallv1.Cluster, error) {
	mine := s.alone()
	if s.nodes == nil || forwarded(ctx) {
		return mine, nil
	}
	return s.together(mine, others(ctx, s.nodes, memberPatience, func(ctx context.Context, conn grpc.ClientConnInterface) (*footfallv1.Cluster, error) {
		return footfallv1.NewAdminServiceClient(conn).GetCluster(ctx, r)
	})), nil
}

// alone is the cluster as far as this node is it.
func (s *Admin) alone() *footfallv1.Cluster {
	statuses := s.host.Status()
	me := &footfallv1.Member{
		Name:        s.id.Name,
		State:       s.state(),
		Roles:       s.id.Roles,
		HttpAddress: s.id.HTTPAddress,
		GrpcAddress: s.id.GRPCAddress,
		Version:     s.id.Version,
		Started:     timestamppb.New(s.id.Started),
		Zone:        s.id.Zone,
	}
	if s.models != nil {
		me.Devices = s.models.Devices()
	}
	if s.nodes != nil { // the others' shards are theirs to tell of
		statuses = slices.DeleteFunc(statuses, func(st actors.Status) bool { return st.State != actors.Active })
	}
	for _, st := range statuses {
		if st.State == actors.Active {
			me.Shards++
		}
	}
	return &footfallv1.Cluster{
		Members:     []*footfallv1.Member{me},
		Shards:      uint32(s.id.Shards),
		Timezone:    s.id.Calendar.Location().String(),
		Currency:    s.id.Currency,
		Clock:       s.host.Clock(),
		FoldVersion: behavior.FoldVersion,
		LastTick:    lastTick(statuses),
	}
}

// lastTick is the last day that has ended in every shard. ISO dates sort as text.
func lastTick(statuses []actors.Status) string {
	if len(statuses) == 0 {
		return ""
	}
	ticks := make([]string, len(statuses))
	for i, st := range statuses {
		ticks[i] = st.LastTick
	}
	return slices.Min(ticks)
}

// ListShards implements the gRPC service.
func (s *Admin) ListShards(ctx context.Context, r *footfallv1.ListShardsRequest) (*footfallv1.ListShardsResponse, error) {
	mine := s.shardsHere()
	if s.nodes == nil || forwarded(ctx) {
		return mine, nil
	}
	return s.shardsTogether(mine, others(ctx, s.nodes, memberPatience, func(ctx context.Context, conn grpc.ClientConnInterface) (*footfallv1.ListShardsResponse, error) {
		return footfallv1.NewAdminServiceClient(conn).ListShards(ctx, r)
	})), nil
}

// shardsHere are the shards as this node sees them.
func (s *Admin) shardsHere() *footfallv1.ListShardsResponse {
	out := &footfallv1.ListShardsResponse{}
	for _, st := range s.host.Status() {
		heat := s.rates.Of(st.Shard)
		sh := &footfallv1.Shard{
			Shard:           uint32(st.Shard),
			State:           st.State.String(),
			Epoch:           st.Epoch,
			Offset:          int64(st.Next) - 1,
			Lag:             int64(st.Lag),
			Customers:       st.Customers,
			Resident:        st.Resident,
			ResidentBytes:   uint64(max(0, st.ResidentBytes)),
			Rate:            heat.Events,
			ApplyShare:      heat.Busy,
			BytesRate:       heat.Bytes,
			QueryRate:       heat.Queries,
			Events:          st.Events,
			Duplicates:      st.Duplicates,
			Rejected:        st.Rejected,
			Unscored:        st.Unscored,
			Sweeping:        st.Sweeping,
			LastTick:        st.LastTick,
			TookOverSeconds: st.TookOver.Seconds(),
		}
		if st.State != actors.Idle && st.State != actors.Failed {
			sh.Owner = s.id.Name
		}
		if !st.LastCheckpoint.IsZero() {
			sh.LastCheckpoint = timestamppb.New(st.LastCheckpoint)
		}
		if st.Err != nil {
			sh.Error = st.Err.Error()
		}
		out.Shards = append(out.Shards, sh)
	}
	return out
}

// firstDay is the earliest that a tick may name: no event is of an earlier one.
const firstDay = "1970-01-01"

// endable says why a date cannot be that of a tick. A tick cannot be taken back: one far ahead
// would let events of all those days in, and keep the clock from ending days until then. So a
// day that has not begun by this node's clock does not end. Today may: a history that is moved
// ends at any of the last days.
func (s *Admin) endable(date string) *messages.Fault {
	day, err := behavior.ParseDate(date)
	switch today := s.id.Calendar.DayOf(s.now()); {
	case err != nil:
		return &messages.Fault{Field: "date", Reason: fmt.Sprintf("must be a day such as \"2017-01-31\", not %q", brief(date))}
	case day < 0:
		return &messages.Fault{Field: "date", Reason: fmt.Sprintf("must not be before %s, not %s", firstDay, date)}
	case day > today:
		return &messages.Fault{Field: "date", Reason: fmt.Sprintf("must not be after %s, which is today in %s: %s has not begun",
			behavior.FormatDate(today), s.id.Calendar.Location(), date)}
	}
	return nil
}

// Tick implements the gRPC service.
func (s *Admin) Tick(ctx context.Context, r *footfallv1.TickRequest) (*footfallv1.TickResponse, error) {
	if f := s.endable(r.GetDate()); f != nil {
		return nil, f
	}
	return route(ctx, s.nodes, clockShard,
		func(ctx context.Context) (*footfallv1.TickResponse, error) {
			appended, err := s.host.Tick(ctx, r.GetDate())
			if err != nil {
				return nil, err
			}
			return &footfallv1.TickResponse{Appended: appended}, nil
		},
		func(ctx context.Context, conn grpc.ClientConnInterface) (*footfallv1.TickResponse, error) {
			return footfallv1.NewAdminServiceClient(conn).Tick(ctx, r)
		})
}

// SetClock implements the gRPC service.
func (s *Admin) SetClock(ctx context.Context, r *footfallv1.SetClockRequest) (*footfallv1.SetClockResponse, error) {
	switch r.GetMode() {
	case footfallv1.ClockMode_CLOCK_MODE_WALL, footfallv1.ClockMode_CLOCK_MODE_DRIVEN:
	default:
		return nil, &messages.Fault{Field: "mode", Reason: "must be wall or driven"}
	}
	if err := s.host.SetClock(ctx, r.GetMode()); err != nil {
		return nil, err
	}
	if s.nodes != nil {
		if err := s.waitIdle(ctx, s.allShards(), false); err != nil {
			return nil, err
		}
	}
	return &footfallv1.SetClockResponse{}, nil
}

// WaitIdle implements the gRPC service.
func (s *Admin) WaitIdle(ctx context.Context, r *footfallv1.WaitIdleRequest) (*footfallv1.WaitIdleResponse, error) {
	shards, err := s.chosen(r.GetShards())
	switch {
	case err != nil:
	case s.nodes == nil && len(r.GetShards()) == 0:
		err = s.host.WaitIdle(ctx, r.GetScored())
	default:
		err = s.waitIdle(ctx, shards, r.GetScored())
	}
	if err != nil {
		return nil, err
	}
	return &footfallv1.WaitIdleResponse{}, nil
}

// Verify implements the gRPC service.
func (s *Admin) Verify(r *footfallv1.VerifyRequest, stream grpc.ServerStreamingServer[footfallv1.VerifyProgress]) error {
	shards, err := s.chosen(r.GetShards())
	if err != nil {
		return err
	}
	for i, shard := range shards {
		p, err := s.verify(stream.Context(), shard)
		if err != nil {
			return err
		}
		p.Done, p.Total = uint32(i+1), uint32(len(shards))
		if err := stream.Send(p); err != nil {
			return err
		}
	}
	return nil
}

// verifyHere folds a shard of this node again.
func (s *Admin) verifyHere(ctx context.Context, shard uint32) (*footfallv1.VerifyProgress, error) {
	v, err := s.host.Verify(ctx, int(shard))
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", shard, err)
	}
	p := &footfallv1.VerifyProgress{Shard: shard, Events: v.Events, Customers: v.Customers, Offset: int64(v.Next) - 1}
	for _, d := range v.Differences[:min(len(v.Differences), maxDifferences)] {
		p.Differences = append(p.Differences, fmt.Sprintf("customer %q: %s", d.CustomerID, d.What))
	}
	if more := len(v.Differences) - maxDifferences; more > 0 {
		p.Differences = append(p.Differences, fmt.Sprintf("and %d more", more))
	}
	return p, nil
}

// allShards are the numbers of all shards.
func (s *Admin) allShards() []uint32 {
	all := make([]uint32, s.id.Shards)
	for i := range all {
		all[i] = uint32(i)
	}
	return all
}

// chosen are the shards that a request names, in order and each once; all where it names none.
func (s *Admin) chosen(named []uint32) ([]uint32, error) {
	if len(named) == 0 {
		return s.allShards(), nil
	}
	shards := slices.Compact(slices.Sorted(slices.Values(named)))
	if last := shards[len(shards)-1]; int(last) >= s.id.Shards {
		return nil, &messages.Fault{Field: "shards", Reason: fmt.Sprintf("must be from 0 to %d, not %d", s.id.Shards-1, last)}
	}
	return shards, nil
}

// brief shortens what a client sent for an answer.
func brief(s string) string {
	const limit = 64
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
