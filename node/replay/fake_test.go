package replay

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

const fakeShards = 16

// fakeNode applies events as a shard does: of each producer only sequences above the highest
// that the shard has seen. It can lose requests and answers.
type fakeNode struct {
	footfallv1.AdminServiceClient

	clock footfallv1.ClockMode
	zone  string
	// lose is how many of a hundred requests, and how many answers, are lost.
	lose int
	// reject refuses events of this customer.
	reject string

	mu       sync.Mutex
	random   *rand.Rand
	seen     [fakeShards]map[string]uint64
	applied  []*footfallv1.Event
	ticks    []string
	lastTick string
	// after is how many events were applied when a day ended.
	after map[string]int
	then  footfallv1.ClockMode
	down  bool
}

func newFakeNode(clock footfallv1.ClockMode) *fakeNode {
	n := &fakeNode{clock: clock, zone: "America/New_York", random: rand.New(rand.NewPCG(1, 2)), after: map[string]int{}}
	for i := range n.seen {
		n.seen[i] = map[string]uint64{}
	}
	return n
}

var errLost = status.Error(codes.Unavailable, "connection reset")

// lost says before and after a call whether it is lost, and takes its time.
func (n *fakeNode) lost(ctx context.Context) error {
	n.mu.Lock()
	wait, lost := time.Duration(n.random.IntN(20))*time.Millisecond, n.down || n.random.IntN(100) < n.lose
	n.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	if lost {
		return errLost
	}
	return nil
}

func (n *fakeNode) Publish(ctx context.Context, in *footfallv1.EventBatch, _ ...grpc.CallOption) (*footfallv1.PublishResponse, error) {
	if err := n.lost(ctx); err != nil {
		return nil, err
	}
	out := &footfallv1.PublishResponse{}
	n.mu.Lock()
	for i, ev := range in.GetEvents() {
		if ev.GetCustomerId() == n.reject {
			out.Rejected = append(out.Rejected, &footfallv1.Rejection{Index: uint32(i), EventId: ev.GetEventId(), Field: "customer_id", Reason: "is not welcome"})
			continue
		}
		out.Accepted++
		seen := n.seen[messages.ShardOf(ev.GetCustomerId(), fakeShards)]
		if ev.GetSequence() > seen[ev.GetProducer()] {
			seen[ev.GetProducer()] = ev.GetSequence()
			n.applied = append(n.applied, ev)
		}
	}
	n.mu.Unlock()
	return out, n.lost(ctx)
}

func (n *fakeNode) GetCluster(ctx context.Context, _ *footfallv1.GetClusterRequest, _ ...grpc.CallOption) (*footfallv1.Cluster, error) {
	if err := n.lost(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return &footfallv1.Cluster{Shards: fakeShards, Timezone: n.zone, Clock: n.clock, LastTick: n.lastTick}, nil
}

func (n *fakeNode) Tick(ctx context.Context, in *footfallv1.TickRequest, _ ...grpc.CallOption) (*footfallv1.TickResponse, error) {
	if err := n.lost(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	if n.clock != footfallv1.ClockMode_CLOCK_MODE_DRIVEN || in.GetDate() < n.lastTick {
		n.mu.Unlock()
		return nil, status.Error(codes.FailedPrecondition, "this day has ended")
	}
	appended := in.GetDate() > n.lastTick
	if appended {
		n.lastTick = in.GetDate()
		n.ticks = append(n.ticks, in.GetDate())
		n.after[in.GetDate()] = len(n.applied)
	}
	n.mu.Unlock()
	return &footfallv1.TickResponse{Appended: appended}, n.lost(ctx)
}

func (n *fakeNode) SetClock(ctx context.Context, in *footfallv1.SetClockRequest, _ ...grpc.CallOption) (*footfallv1.SetClockResponse, error) {
	if err := n.lost(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.then = in.GetMode()
	n.mu.Unlock()
	return &footfallv1.SetClockResponse{}, n.lost(ctx)
}

var newYork = func() *time.Location {
	loc, err := time.LoadLocation("America/New_York")
	if err != nil {
		panic(err)
	}
	return loc
}()

// history makes perDay events on each of the days from 2017-01-01 on, but for the empty ones.
func history(t testing.TB, days, perDay int, empty ...int) (Source, []*footfallv1.Event) {
	t.Helper()
	var events []*footfallv1.Event
	for day := range days {
		skip := false
		for _, e := range empty {
			skip = skip || e == day
		}
		if skip {
			continue
		}
		for i := range perDay {
			at := time.Date(2017, 1, 1+day, 8, i, 0, 0, newYork)
			events = append(events, &footfallv1.Event{
				EventId:    fmt.Sprintf("e-%d-%d", day, i),
				CustomerId: fmt.Sprint(i % 40),
				Time:       timestamppb.New(at),
				Producer:   "test",
				Sequence:   uint64(len(events)) + 1,
				Kind:       &footfallv1.Event_PageView{PageView: &footfallv1.PageView{}},
			})
		}
	}
	return Source{Location: newYork, Events: all(events)}, events
}

func all(events []*footfallv1.Event) iter.Seq2[*footfallv1.Event, error] {
	return func(yield func(*footfallv1.Event, error) bool) {
		for _, ev := range events {
			if !yield(proto.Clone(ev).(*footfallv1.Event), nil) {
				return
			}
		}
	}
}
