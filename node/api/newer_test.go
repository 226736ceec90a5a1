package api

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/actors"
	"footfall/behavior"
	"footfall/cluster"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// newer is a field that this version does not know.
func newer(number protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), text)
}

// beside adds unknown fields to a message.
func beside[M proto.Message](m M, fields []byte) M {
	m.ProtoReflect().SetUnknown(fields)
	return m
}

// newerNode is a cluster whose other node, of a newer version, owns every shard.
type newerNode struct {
	answers map[string]proto.Message // by method; none: it has no such method any more
	asked   map[string][]byte        // the unknown fields of what it was asked
}

func (*newerNode) Locate(shard int) cluster.Location {
	return cluster.Location{Shard: shard, Owner: "n2", Address: "n2:8081"}
}

func (n *newerNode) Wait(_ context.Context, shard int) (cluster.Location, error) {
	return n.Locate(shard), nil
}

func (*newerNode) Members() []cluster.Member {
	return []cluster.Member{{Name: "n1", GRPC: "n1:8081"}, {Name: "n2", GRPC: "n2:8081"}}
}

func (*newerNode) Owners() []string { return slices.Repeat([]string{"n2"}, shardsOfTest) }

func (n *newerNode) Conn(string) (grpc.ClientConnInterface, error) { return n, nil }

func (*newerNode) Stale(int) time.Duration { return 0 }
func (*newerNode) DrainForGood()           {}

func (*newerNode) Prepare(context.Context, int, messages.Mark) error { return nil }

// Invoke answers over the wire's bytes, as a connection does.
func (n *newerNode) Invoke(_ context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	request, ok := args.(proto.Message)
	answer := n.answers[method]
	if !ok || answer == nil {
		return status.Error(codes.Unimplemented, "unknown method "+method)
	}
	b, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	got := request.ProtoReflect().New()
	if err := proto.Unmarshal(b, got.Interface()); err != nil {
		return err
	}
	n.asked[method] = got.GetUnknown()
	if b, err = proto.Marshal(answer); err != nil {
		return err
	}
	return Codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, reply)
}

func (*newerNode) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streams here")
}

// During a rolling upgrade a node asks newer ones. What it does not know of their answers, and of requests that it passes
// on, goes through; what it does not know to ask for is an error and no more.
func TestNewerNodeAnswers(t *testing.T) {
	const (
		getCustomer = footfallv1.CustomerService_GetCustomer_FullMethodName
		batch       = footfallv1.CustomerService_BatchGetCustomers_FullMethodName
		getCluster  = footfallv1.AdminService_GetCluster_FullMethodName
		listShards  = footfallv1.AdminService_ListShards_FullMethodName
	)
	customer := beside(&footfallv1.Customer{CustomerId: "900", Owner: "n2", AsOf: &footfallv1.AsOf{Offset: 7}}, newer(900, "of a customer"))
	n := &newerNode{asked: map[string][]byte{}, answers: map[string]proto.Message{
		getCustomer: customer,
		batch:       beside(&footfallv1.BatchGetCustomersResponse{Customers: []*footfallv1.Customer{customer}}, newer(901, "of an answer")),
		getCluster: &footfallv1.Cluster{Members: []*footfallv1.Member{
			beside(&footfallv1.Member{Name: "n2", State: "sleeping", Roles: []string{"shards", "dreams"}}, newer(902, "of a member")),
		}, Clock: footfallv1.ClockMode(9)},
		listShards: &footfallv1.ListShardsResponse{Shards: []*footfallv1.Shard{
			beside(&footfallv1.Shard{Shard: 1, Owner: "n2", State: "hovering", Epoch: 4}, newer(903, "of a shard")),
		}},
	}}
	host := &scripted{}
	id := Identity{Name: "n1", Shards: shardsOfTest, Currency: "USD", Calendar: behavior.NewCalendar(time.UTC)}
	m, err := NewMetrics(prometheus.NewRegistry(), "v-test")
	require.NoError(t, err)
	nodes := &router{n, "n1"}
	customers := &Customers{host: host, id: id, nodes: nodes, validator: messages.Validator{Shards: shardsOfTest, Currency: "USD"}}
	admin := &Admin{host: host, id: id, nodes: nodes, rates: &Rates{}, state: func() string { return "active" }, now: time.Now}
	unknown := func(m proto.Message) string { return string(m.ProtoReflect().GetUnknown()) }

	c, err := customers.GetCustomer(t.Context(), beside(&footfallv1.GetCustomerRequest{CustomerId: "900"}, newer(910, "a question")))
	require.NoError(t, err)
	require.Equal(t, string(newer(900, "of a customer")), unknown(c))
	require.Equal(t, string(newer(910, "a question")), string(n.asked[getCustomer]))
	all, err := customers.BatchGetCustomers(t.Context(), beside(&footfallv1.BatchGetCustomersRequest{CustomerIds: []string{"900", "901"}}, newer(911, "a question")))
	require.NoError(t, err)
	require.Len(t, all.GetCustomers(), 1)
	require.Equal(t, []string{"901"}, all.GetNotFound())
	require.Equal(t, string(newer(900, "of a customer")), unknown(all.GetCustomers()[0]))
	require.Equal(t, string(newer(911, "a question")), string(n.asked[batch]))

	told, err := admin.GetCluster(t.Context(), &footfallv1.GetClusterRequest{})
	require.NoError(t, err)
	require.Equal(t, "sleeping", told.GetMembers()[1].GetState())
	require.Equal(t, string(newer(902, "of a member")), unknown(told.GetMembers()[1]))
	require.EqualValues(t, 9, told.GetClock())
	for i := range shardsOfTest {
		host.statuses = append(host.statuses, actors.Status{Shard: i})
	}
	list, err := admin.ListShards(t.Context(), &footfallv1.ListShardsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetShards(), shardsOfTest)
	require.Equal(t, "idle", list.GetShards()[1].GetState(), "a state that is known counts more than one that is not")

	// What it has no method for: an event that it can't be asked about is taken in, and what it can't be told is counted.
	ingest := newIngest(host, id, Limits{Ingest: 1 << 20}, m)
	ingest.nodes = nodes
	r, err := ingest.Publish(t.Context(), &footfallv1.EventBatch{Events: []*footfallv1.Event{
		{EventId: "e-1", CustomerId: "900", Time: timestamppb.New(time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC)), Kind: &footfallv1.Event_PageView{PageView: &footfallv1.PageView{}}},
		{EventId: "e-2", CustomerId: "900", Time: timestamppb.New(time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC))},
		beside(&footfallv1.Event{EventId: "e-3", CustomerId: "900", Time: timestamppb.New(time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC)), Kind: &footfallv1.Event_PageView{PageView: &footfallv1.PageView{}}}, newer(912, "of an event")),
	}})
	require.NoError(t, err)
	require.EqualValues(t, 2, r.GetAccepted())
	require.Len(t, r.GetRejected(), 1)
	require.InDelta(t, 1, testutil.ToFloat64(m.untold), 0)
	kept := host.appended[messages.ShardOf("900", shardsOfTest)]
	require.Equal(t, string(newer(912, "of an event")), unknown(kept[1]), "the log has all of an event")
	_, err = admin.DrainMember(t.Context(), &footfallv1.DrainMemberRequest{Member: "n2"})
	require.Equal(t, codes.Unimplemented, status.Code(err))
}
