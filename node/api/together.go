package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/actors"
	"footfall/cluster"
	"footfall/messages/footfallv1"
)

// memberPatience is how long a member is waited for that is asked what it is like.
const memberPatience = time.Second

// clockShard is the shard whose owner knows what the clock is, and drives it.
const clockShard = 0

// together adds what the other members say of themselves. One that does not answer is told of
// as far as the gossip goes.
func (s *Admin) together(mine *footfallv1.Cluster, answers map[string]*footfallv1.Cluster) *footfallv1.Cluster {
	answers[s.id.Name] = mine
	out := &footfallv1.Cluster{
		Shards: mine.GetShards(), Timezone: mine.GetTimezone(), Currency: mine.GetCurrency(), Clock: mine.GetClock(), FoldVersion: mine.GetFoldVersion(),
	}
	for _, m := range s.nodes.Members() {
		a := answers[m.Name]
		if a == nil || len(a.GetMembers()) != 1 {
			out.Members = append(out.Members, gossiped(m))
			continue
		}
		me := a.GetMembers()[0]
		out.Members = append(out.Members, me)
		if me.GetShards() > 0 && (out.GetLastTick() == "" || a.GetLastTick() < out.GetLastTick()) {
			out.LastTick = a.GetLastTick()
		}
	}
	if a := answers[s.nodes.Locate(clockShard).Owner]; a != nil {
		out.Clock = a.GetClock()
	}
	return out
}

// gossiped is what the gossip tells of a member.
func gossiped(m cluster.Member) *footfallv1.Member {
	out := &footfallv1.Member{
		Name: m.Name, State: m.State.String(), HttpAddress: m.HTTP, GrpcAddress: m.GRPC, Version: m.Version, Devices: m.Devices,
	}
	for _, role := range []struct {
		has  cluster.Roles
		name string
	}{{cluster.RoleShards, "shards"}, {cluster.RoleInference, "inference"}} {
		if m.Roles&role.has != 0 {
			out.Roles = append(out.Roles, role.name)
		}
	}
	return out
}

// stateUnknown is that of a shard whose owner does not answer.
const stateUnknown = "unknown"

// shardsTogether takes of each shard what the node says that is furthest with it.
func (s *Admin) shardsTogether(mine *footfallv1.ListShardsResponse, answers map[string]*footfallv1.ListShardsResponse) *footfallv1.ListShardsResponse {
	answers[s.id.Name] = mine
	out := &footfallv1.ListShardsResponse{Shards: make([]*footfallv1.Shard, s.id.Shards)}
	for _, a := range answers {
		for _, sh := range a.GetShards() {
			if i := int(sh.GetShard()); i < len(out.GetShards()) && before(sh, out.GetShards()[i]) {
				out.Shards[i] = sh
			}
		}
	}
	owners := s.nodes.Owners()
	for i, sh := range out.GetShards() {
		if answers[owners[i]] == nil && owners[i] != "" && (sh == nil || !slices.Contains(working, sh.GetState())) {
			out.Shards[i] = &footfallv1.Shard{Shard: uint32(i), Owner: owners[i], State: stateUnknown, Offset: -1}
		}
	}
	return out
}

// working are the states of a shard that is somewhere, from that which says most on.
var working = []string{actors.Active.String(), actors.Draining.String(), actors.Recovering.String()}

// before reports whether what one node says of a shard counts more than what another does.
func before(a, b *footfallv1.Shard) bool {
	if b == nil {
		return true
	}
	rank := func(sh *footfallv1.Shard) int {
		order := slices.Concat(working, []string{actors.Acquiring.String(), actors.Failed.String(), actors.Idle.String()})
		if i := slices.Index(order, sh.GetState()); i >= 0 {
			return i
		}
		return len(order) // of a newer node
	}
	if ra, rb := rank(a), rank(b); ra != rb {
		return ra < rb
	}
	return a.GetEpoch() > b.GetEpoch()
}

// waitIdle waits for each shard where its owner is.
func (s *Admin) waitIdle(ctx context.Context, shards []uint32, scored bool) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, shard := range shards {
		wg.Go(func() {
			_, err := route(ctx, s.nodes, int(shard),
				func(ctx context.Context) (struct{}, error) {
					return struct{}{}, s.host.WaitShardIdle(ctx, int(shard), scored)
				},
				func(ctx context.Context, conn grpc.ClientConnInterface) (struct{}, error) {
					_, err := footfallv1.NewAdminServiceClient(conn).WaitIdle(ctx, &footfallv1.WaitIdleRequest{Scored: scored, Shards: []uint32{shard}})
					return struct{}{}, err
				})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// verify folds a shard again where its owner is.
func (s *Admin) verify(ctx context.Context, shard uint32) (*footfallv1.VerifyProgress, error) {
	return route(ctx, s.nodes, int(shard),
		func(ctx context.Context) (*footfallv1.VerifyProgress, error) { return s.verifyHere(ctx, shard) },
		func(ctx context.Context, conn grpc.ClientConnInterface) (*footfallv1.VerifyProgress, error) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel() // the stream has one answer
			stream, err := footfallv1.NewAdminServiceClient(conn).Verify(ctx, &footfallv1.VerifyRequest{Shards: []uint32{shard}})
			if err != nil {
				return nil, err
			}
			return stream.Recv()
		})
}

// DrainMember implements the gRPC service.
func (s *Admin) DrainMember(ctx context.Context, r *footfallv1.DrainMemberRequest) (*footfallv1.DrainMemberResponse, error) {
	if s.nodes == nil {
		return nil, status.Error(codes.FailedPrecondition, "this node is on its own: nobody would take its shards over; stop it instead")
	}
	if r.GetMember() == s.id.Name {
		s.nodes.DrainForGood()
		return &footfallv1.DrainMemberResponse{}, nil
	}
	for _, m := range s.nodes.Members() {
		if m.Name != r.GetMember() || m.GRPC == "" || forwarded(ctx) {
			continue
		}
		conn, err := s.nodes.Conn(m.GRPC)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(s.nodes.passOn(ctx), drainPatience)
		defer cancel()
		return footfallv1.NewAdminServiceClient(conn).DrainMember(ctx, r)
	}
	return nil, status.Error(codes.NotFound, fmt.Sprintf("no member %q is there: footfall cluster lists them", brief(r.GetMember())))
}

// drainPatience is how long a member is waited for that is told to drain.
const drainPatience = 5 * time.Second
