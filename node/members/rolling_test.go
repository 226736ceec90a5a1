package members_test

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // watches each node's readiness for the front
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/encoding/protowire"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// front is what clients see of a cluster: calls go to each node in turn that says that it is
// ready, as behind any balancer that looks at readiness. It tries nothing a second time.
func front(t *testing.T, addresses ...string) *member {
	t.Helper()
	r := manual.NewBuilderWithScheme("cluster")
	var state resolver.State
	for _, a := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	r.InitialState(state)
	conn, err := grpc.NewClient("cluster:///", grpc.WithResolvers(r), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}`))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	m := &member{name: "front", conn: conn}
	m.IngestServiceClient = footfallv1.NewIngestServiceClient(conn)
	m.CustomerServiceClient = footfallv1.NewCustomerServiceClient(conn)
	m.AdminServiceClient = footfallv1.NewAdminServiceClient(conn)
	return m
}

// stop ends a node's process in order, as SIGTERM does, and waits for it.
func (m *member) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, m.stdin.Close())
	m.log.Wait()
	require.NoError(t, m.cmd.Wait())
	require.NoError(t, m.conn.Close())
	m.conn = nil
}

// epochs are how often each shard was ever acquired.
func epochs(t *testing.T, m *member) map[uint32]uint64 {
	t.Helper()
	list, err := m.ListShards(t.Context(), &footfallv1.ListShardsRequest{}, grpc.WaitForReady(true))
	require.NoError(t, err)
	out := map[uint32]uint64{}
	for _, s := range list.GetShards() {
		out[s.GetShard()] = s.GetEpoch()
	}
	return out
}

// trio is three nodes in processes of their own, at addresses that stay.
type trio struct {
	*world
	specs []spec
	nodes []*member
	front *member
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{world: newWorld(t)}
	ports, err := local.ReservePorts(6)
	require.NoError(t, err)
	var gossip, grpcs []string
	for range 3 {
		grpcs, gossip = append(grpcs, local.Address(ports.Next())), append(gossip, local.Address(ports.Next()))
	}
	ports.Release() // a reservation holds the port's UDP, which gossip needs
	for i, name := range []string{"n1", "n2", "n3"} {
		s := c.spec(name)
		s.GRPC, s.Gossip, s.Join = grpcs[i], gossip[i], gossip
		c.specs = append(c.specs, s)
	}
	for _, s := range c.specs {
		c.nodes = append(c.nodes, spawn(t, s))
	}
	for _, n := range c.nodes {
		n.ready(t)
	}
	c.front = front(t, grpcs...)
	for i := range customers { // so that each can be asked for
		_, err := c.publish(t.Context(), c.nodes[i%3], customer(i))
		require.NoError(t, err)
	}
	_, err = c.nodes[0].WaitIdle(t.Context(), &footfallv1.WaitIdleRequest{})
	require.NoError(t, err)
	return c
}

// restart stops a node in order, starts it again, and returns once it says that it is ready.
func (c *trio) restart(t *testing.T, i int) {
	t.Helper()
	c.nodes[i].stop(t)
	c.nodes[i] = spawn(t, c.specs[i])
	c.nodes[i].ready(t)
}

// ready waits until balancers send calls to a node.
func (m *member) ready(t *testing.T) {
	t.Helper()
	w, err := healthpb.NewHealthClient(m.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	for {
		r, err := w.Recv()
		require.NoError(t, err)
		if r.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return
		}
	}
}

// TestRollingRestart restarts three nodes one after the other under load: no call fails, each shard goes away once and comes
// back once, and nothing is lost or counted twice.
func TestRollingRestart(t *testing.T) {
	c := newTrio(t)
	home := owners(t, c.nodes...)
	before := epochs(t, c.front)
	l := c.load(t, c.front, c.front)
	for i := range c.nodes {
		c.restart(t, i)
		require.Equal(t, home, owners(t, c.nodes...))
	}
	l.end(t, "rolling restart")
	after := epochs(t, c.front)
	for shard := range maps.Keys(before) {
		require.LessOrEqual(t, after[shard]-before[shard], uint64(2), "shard %d", shard)
	}
	c.proved(t, c.front)
}

// TestRollingUpgrade restarts nodes while newer ones have been at work, by what these leave behind: tables of a newer version
// that older programs can work with, records of kinds and with fields that only they know. Nobody fails, and nothing is lost.
func TestRollingUpgrade(t *testing.T) {
	c := newTrio(t)
	home := owners(t, c.nodes...)
	db, err := pgx.Connect(t.Context(), c.database)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close(context.WithoutCancel(t.Context()))) }()
	for _, sql := range []string{
		`INSERT INTO footfall_identity (name, value) SELECT 'tables usable from version', version::text FROM footfall_schema
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
		`UPDATE footfall_schema SET version = 999`,
		`ALTER TABLE footfall_customers ADD COLUMN newer text NOT NULL DEFAULT 'kept'`,
		`CREATE TABLE footfall_newer (one int PRIMARY KEY)`,
	} {
		_, err := db.Exec(t.Context(), sql)
		require.NoError(t, err)
	}

	conn, err := amqp.Dial(c.broker.URL())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	ch, err := conn.Channel()
	require.NoError(t, err)
	require.NoError(t, ch.Confirm(false))
	write := func(shard int, kind string, body []byte) {
		confirm, err := ch.PublishWithDeferredConfirm("", fmt.Sprintf("footfall.events.%d", shard), true, false, amqp.Publishing{
			ContentType: messages.ContentProtobuf, Type: kind, UserId: "footfall", DeliveryMode: amqp.Persistent, Body: body,
		})
		require.NoError(t, err)
		ok, err := confirm.WaitContext(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
	}
	unknown := protowire.AppendString(protowire.AppendTag(nil, 900, protowire.BytesType), "of a newer node")
	l := c.load(t, c.front, c.front)
	for i := range c.nodes {
		for shard := range shards {
			control, err := (&footfallv1.Control{Node: "newer"}).MarshalVT()
			require.NoError(t, err)
			write(shard, messages.TypeControl, append(control, unknown...))
			write(shard, "footfall.v9.Event", unknown)
		}
		for n := range customers {
			event, err := view(customer(n), fmt.Sprintf("newer-%d-%d", i, n), monday).MarshalVT()
			require.NoError(t, err)
			write(messages.ShardOf(customer(n), shards), messages.TypeEvent, append(event, unknown...))
			c.mu.Lock()
			c.accepted[customer(n)]++
			c.mu.Unlock()
		}
		c.restart(t, i)
		require.Equal(t, home, owners(t, c.nodes...))
	}
	l.end(t, "rolling upgrade")
	c.proved(t, c.front)
	list, err := c.front.ListShards(t.Context(), &footfallv1.ListShardsRequest{})
	require.NoError(t, err)
	for _, s := range list.GetShards() {
		require.EqualValues(t, len(c.nodes), s.GetRejected(), "messages that nobody can read are dead letters")
	}
}
