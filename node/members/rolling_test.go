package members_test

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // watches each node's readiness for the front
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"footfall/deploy/local"
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
