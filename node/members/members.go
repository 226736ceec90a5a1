package members

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"footfall/cluster"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/api"
)

// Options is what a member is made of.
type Options struct {
	// Self is this member, without incarnation and state.
	Self cluster.Member
	// Cluster is what all members have in common, and those of other clusters have not.
	Cluster string
	// Listen, Advertise, Join and KeysFile are those of cluster.MembershipConfig.
	Listen, Advertise string
	Join              []string
	KeysFile          string
	// Databases is how many the store has.
	Databases int

	Host  Host
	Store Store
	// Changed is told the other members after each change, where it is set. It must not block.
	Changed func([]cluster.Member)
	// Credentials makes those of a connection to another node, whose name expected returns as the
	// gossip has it by then, "" where it has none; nil credentials mean that it is not encrypted.
	// May be nil.
	Credentials func(expected func() string) credentials.TransportCredentials
	// Dial is added to the options of connections to other nodes.
	Dial     []grpc.DialOption
	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// Members is this node among the others.
//
//	New ──► joining ──Ready, lease──► active ──Drain──► draining ──Leave──► gone
//
// Invariants:
//  1. Everything of the shards goes through one loop, which Run is.
//  2. The lease is renewed from Run until Leave, and ends only when nothing is owned any more, or
//     the time for a drain is over.
type Members struct {
	self        cluster.Member
	store       Store
	logger      *slog.Logger
	gossip      *cluster.Membership
	loop        *cluster.Reconciler
	leases      *leases
	shards      *shards
	peers       *peers
	incarnation string
	changed     func([]cluster.Member)

	life     context.Context //nolint:containedctx // it is the member's life, not a call's
	end      context.CancelFunc
	ran      atomic.Bool
	over     chan struct{} // Run has returned
	active   chan struct{} // the member is active, or was
	isActive sync.Once
	left     sync.Once

	forGood atomic.Bool
	asked   chan struct{} // somebody wants this member to leave for good
	ask     sync.Once
}

var _ api.Cluster = (*Members)(nil)

// New listens for gossip and tries to join. Run begins the work.
func New(ctx context.Context, o Options) (_ *Members, err error) {
	m := &Members{
		self: o.Self, store: o.Store, logger: o.Logger, incarnation: rand.Text(), changed: o.Changed,
		over: make(chan struct{}), active: make(chan struct{}), asked: make(chan struct{}),
		leases: newLeases(o.Store, o.Databases, time.Now),
	}
	m.peers = newPeers(o.Credentials, m.nameAt, o.Self.Version)
	m.peers.options = append(m.peers.options, o.Dial...)
	m.self.Incarnation, m.self.State = m.incarnation, cluster.MemberJoining
	m.life, m.end = context.WithCancel(context.Background())
	m.shards = newShards(m.life, o.Host, o.Store, m.self.Name, m.incarnation, m.self.Shards)
	m.shards.offer = m.offer
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	m.gossip, err = cluster.NewMembership(ctx, cluster.MembershipConfig{
		Self: m.self, Cluster: o.Cluster, Listen: o.Listen, Advertise: o.Advertise, Join: o.Join, KeysFile: o.KeysFile,
		Now: time.Now, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	m.loop, err = cluster.NewReconciler(cluster.ReconcilerConfig{
		Ownership:   cluster.OwnershipConfig{Name: m.self.Name, Shards: m.self.Shards, Databases: o.Databases, NoShards: !m.self.Owns()},
		Incarnation: m.incarnation, Now: time.Now, Logger: o.Logger, Observe: m.observe,
	}, m.shards, m.leases, m.gossip)
	if err != nil {
		return nil, err
	}
	return m, errors.Join(o.Registry.Register(m.loop), o.Registry.Register(m.gossip))
}

// observe is called by the loop.
func (m *Members) observe(e cluster.Event, commands []cluster.Command) {
	if c, ok := e.(cluster.MembersChanged); ok {
		m.peers.keep(func(address string) bool {
			return slices.ContainsFunc(c.Members, func(member cluster.Member) bool { return member.GRPC == address })
		})
		if m.changed != nil {
			m.changed(slices.DeleteFunc(slices.Clone(c.Members), func(o cluster.Member) bool { return o.Name == m.self.Name }))
		}
	}
	for _, c := range commands {
		if a, ok := c.(cluster.Announce); ok && a.State == cluster.MemberActive {
			m.isActive.Do(func() { close(m.active) })
		}
	}
}

// Run is the member's work, until Leave. *cluster.NameTakenError says that another node has its name.
func (m *Members) Run() error {
	m.ran.Store(true)
	defer close(m.over)
	return m.loop.Run(m.life)
}

// Ready says that shards can be served now.
func (m *Members) Ready() { m.loop.Ready() }

// Active is closed once the member is active.
func (m *Members) Active() <-chan struct{} { return m.active }

// Drain hands every shard over. It returns once nothing is owned, or with the error of ctx.
func (m *Members) Drain(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-m.over: // nothing is owned any more
			cancel()
		case <-ctx.Done():
		}
	}()
	return m.loop.Drain(ctx)
}

// leaveWithin bounds how long the store and the others are told that this member leaves.
const leaveWithin = 2 * time.Second

// Leave ends the lease, and the gossip with a word to the others. It is idempotent.
func (m *Members) Leave() {
	m.left.Do(func() {
		m.end()
		if m.ran.Load() {
			<-m.over
			m.endLease()
		}
		if err := m.gossip.Leave(leaveWithin); err != nil {
			m.logger.Warn("the others were not told that this node leaves", "error", err)
		}
		m.peers.close()
		m.shards.calls.Wait()
	})
}

// endLease lets the lease lapse at once; the place is kept unless the member leaves for good.
func (m *Members) endLease() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
	defer cancel()
	var err error
	if m.forGood.Load() {
		err = m.store.GiveUp(ctx, m.self.Name, m.incarnation)
	} else {
		_, err = m.store.Renew(ctx, m.self.Name, m.incarnation, time.Millisecond)
	}
	if err != nil {
		m.logger.Warn("the lease was not ended: it lapses by itself", "error", err)
	}
}

// Close gives back what New opened, where Leave has not. The others will miss this member as if
// it had been killed.
func (m *Members) Close() error {
	var err error
	m.left.Do(func() {
		m.end()
		if m.ran.Load() {
			<-m.over
		}
		if m.gossip != nil {
			err = m.gossip.Close()
		}
		m.peers.close()
		m.shards.calls.Wait()
	})
	return err
}

// DrainForGood asks the node to hand over its shards, give up its place and end: see Asked.
func (m *Members) DrainForGood() {
	m.ask.Do(func() {
		m.forGood.Store(true)
		close(m.asked)
	})
}

// Asked is closed once DrainForGood was called.
func (m *Members) Asked() <-chan struct{} { return m.asked }

// Locate implements api.Cluster.
func (m *Members) Locate(shard int) cluster.Location { return m.loop.Locate(shard) }

// Wait implements api.Cluster.
func (m *Members) Wait(ctx context.Context, shard int) (cluster.Location, error) {
	return m.loop.Wait(ctx, shard)
}

// Members implements api.Cluster.
func (m *Members) Members() []cluster.Member { return m.gossip.Members() }

// Owners implements api.Cluster.
func (m *Members) Owners() []string { return m.loop.Owners() }

// Renew has calls to other nodes take new connections: this node's certificate is another one.
func (m *Members) Renew() { m.peers.renew() }

// nameAt is the name of the member whose gRPC is at an address; "" where none is known.
func (m *Members) nameAt(address string) string {
	for _, member := range m.gossip.Members() {
		if member.GRPC == address {
			return member.Name
		}
	}
	return ""
}

// Conn implements api.Cluster.
func (m *Members) Conn(address string) (grpc.ClientConnInterface, error) {
	return m.peers.conn(address)
}

// Prepare implements api.Cluster.
func (m *Members) Prepare(ctx context.Context, shard int, at messages.Mark) error {
	return m.shards.arrivals.prepare(ctx, shard, func() error { return m.shards.host.Prepare(ctx, shard, at) })
}

// offer tells the next owner of a shard that it will be released soon.
func (m *Members) offer(ctx context.Context, shard int, at messages.Mark) error {
	to := m.loop.Owners()[shard]
	for _, member := range m.gossip.Members() {
		if member.Name != to || to == m.self.Name {
			continue
		}
		conn, err := m.peers.conn(member.GRPC)
		if err != nil {
			return err
		}
		_, err = footfallv1.NewNodeServiceClient(conn).PrepareShard(api.PassOn(ctx, m.self.Name), &footfallv1.PrepareShardRequest{
			Shard: uint32(shard), NextOffset: at.Next, Sum: at.Sum,
		})
		return err
	}
	return nil
}

// Stale implements api.Cluster.
func (m *Members) Stale(shard int) time.Duration { return m.leases.stale(shard) }

// Advertise tells the others which devices this member has.
func (m *Members) Advertise(devices []string) { m.gossip.Advertise(devices) }

// State is how far this member is.
func (m *Members) State() cluster.MemberState { return m.loop.State() }

// Address is where the gossip listens.
func (m *Members) Address() string { return m.gossip.Address() }

// Missing says what keeps this member from serving as it should, but for its shards.
func (m *Members) Missing() (reasons []string) {
	if s := m.State(); s == cluster.MemberJoining {
		reasons = append(reasons, "the node is not an active member of its cluster yet")
	}
	if !m.leases.held() {
		reasons = append(reasons, fmt.Sprintf("the lease of %s is not held: the store could not renew it", m.self.Name))
	}
	return reasons
}
