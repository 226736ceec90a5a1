package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"footfall/actors"
	"footfall/behavior"
	"footfall/cluster"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/api"
	"footfall/node/config"
	"footfall/node/members"
	"footfall/node/storage"
	"footfall/store/postgresstore"
)

// joinWithin bounds how long a node that starts looks whether its name is free.
const joinWithin = 30 * time.Second

// join makes the node one of a cluster, where its store is one that others share.
func (n *Node) join(version string, reg prometheus.Registerer, m *api.Metrics) error {
	store, shared := n.storage.Store.Backing.(*postgresstore.Store)
	if !shared {
		return m.Alone(reg)
	}
	m.InCluster()
	ctx, cancel := context.WithTimeout(context.Background(), joinWithin)
	defer cancel()
	identity := storage.Identity(n.cfg.Shards, n.cfg.Location, n.cfg.Currency)
	var err error
	others := n.elsewhere()
	n.members, err = members.New(ctx, members.Options{
		Self: cluster.Member{
			Name:    n.cfg.Name,
			Roles:   rolesOf(n.cfg.Roles),
			GRPC:    reached(n.cfg.GRPCAdvertise, n.grpcListener),
			HTTP:    reached(n.cfg.HTTPAdvertise, n.httpListener),
			Version: clip(version, 48),
			Shards:  n.cfg.Shards,
			Devices: n.cfg.InferenceDevices,
		},
		Cluster:   fmt.Sprintf("%s %+v", n.storage.Log.UUID(), identity),
		Listen:    n.cfg.ClusterListen,
		Advertise: n.cfg.ClusterAdvertise,
		Join:      n.cfg.ClusterJoin,
		KeysFile:  n.cfg.ClusterKeysFile,
		Databases: len(n.cfg.StoreDatabases),
		Host:      n.host.Host,
		Store:     store,

		Credentials: n.access.PeerCredentials,
		Dial:        api.DialTraced(n.tracing.Provider()),
		Changed: func(all []cluster.Member) {
			if others != nil {
				others.set(all)
			}
		},
		Logger:   n.logger,
		Registry: reg,
	})
	if err != nil {
		return err
	}
	n.access.OnRenewal(n.members.Renew)
	if others != nil {
		others.member = n.members.Conn
	}
	if n.scoring != nil {
		n.scoring.advertise = n.members.Advertise
	}
	return nil
}

// elsewhere is the way to devices of others; nil where nothing is scored.
func (n *Node) elsewhere() *elsewhere {
	switch {
	case n.scoring != nil:
		return n.scoring.others
	case n.outsourced != nil:
		return n.outsourced.elsewhere
	default:
		return nil
	}
}

// endElsewhere ends what runs on other members, before the connections to them. It is idempotent.
func (n *Node) endElsewhere() {
	if e := n.elsewhere(); e != nil {
		e.remotes.Close()
	}
}

func rolesOf(roles config.Roles) (out cluster.Roles) {
	if roles.Has(config.RoleShards) {
		out |= cluster.RoleShards
	}
	if roles.Has(config.RoleInference) {
		out |= cluster.RoleInference
	}
	return out
}

// clip shortens what is only shown.
func clip(s string, most int) string { return strings.ToValidUTF8(s[:min(len(s), most)], "") }

// reached is where others reach a listener: as they are told, or where it listens. One that
// listens on all addresses is reached at a private one of this machine.
func reached(advertised string, l net.Listener) string {
	if advertised != "" {
		return advertised
	}
	at, ok := l.Addr().(*net.TCPAddr)
	if !ok || !at.IP.IsUnspecified() {
		return l.Addr().String()
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return l.Addr().String()
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsPrivate() && n.IP.To4() != nil {
			return (&net.TCPAddr{IP: n.IP, Port: at.Port}).String()
		}
	}
	return l.Addr().String()
}

// others is the way to the other nodes; nil on a node on its own.
func (n *Node) others() api.Cluster {
	if n.members == nil {
		return nil
	}
	return n.members
}

// shardsHost is what the services are given of the shards.
func (n *Node) shardsHost() api.Host {
	if n.members == nil {
		return n.host
	}
	return &sharedHost{n.host, n}
}

// sentAway is closed once the node is to leave its cluster for good; never on a node on its own.
func (n *Node) sentAway() <-chan struct{} {
	if n.members == nil {
		return nil
	}
	return n.members.Asked()
}

// startShards begins the work of the shards. On a node on its own it returns once all of them
// have recovered or failed; in a cluster once the node is an active member, which then gets its
// shards one by one.
func (n *Node) startShards(ctx context.Context) error {
	if n.members == nil {
		return n.host.Start(ctx)
	}
	n.host.Begin()
	n.members.Ready()
	select {
	case <-n.members.Active():
	case <-ctx.Done():
	}
	return nil
}

// handOver gives the shards to the others, and goes on answering until they are there.
func (n *Node) handOver(ctx context.Context) {
	began := n.now()
	if err := n.members.Drain(ctx); err != nil {
		n.logger.Warn("not all shards were handed over: the others wait for the lease", "error", err)
		return
	}
	n.logger.Info("shards handed over", "seconds", n.now().Sub(began).Seconds())
}

// settling is how long a node that joins is not ready since shards of its place are on their way.
const settling = 10 * time.Second

// settled remembers that a node has had all shards of its place once, or has waited long enough
// for them: from then on one that moves does not make it unready, since whoever has it answers.
type settled struct {
	done  atomic.Bool
	since atomic.Int64 // when the member became active, Unix milliseconds
}

// missed reports whether a shard that is not active here should be. In a cluster that is one of
// the node's place that has failed, and not since another member has it. Until the node has
// settled it is each of its place.
func (n *Node) missed(st actors.Status) bool {
	owners := n.members.Owners()
	if owners[st.Shard] != n.cfg.Name {
		return false
	}
	var (
		held  *messages.HeldError
		stale *messages.StaleEpochError
	)
	failed := st.State == actors.Failed && !errors.As(st.Err, &held) && !errors.As(st.Err, &stale)
	return failed || !n.settled.done.Load()
}

// settle looks whether the node has settled.
func (n *Node) settle() {
	if n.members == nil || n.settled.done.Load() || n.state.Load() != active {
		return
	}
	now := n.now().UnixMilli()
	n.settled.since.CompareAndSwap(0, now)
	owners, here := n.members.Owners(), true
	for _, st := range n.host.Status() {
		here = here && (st.State == actors.Active || owners[st.Shard] != n.cfg.Name)
	}
	if here || now-n.settled.since.Load() >= settling.Milliseconds() {
		n.settled.done.Store(true)
	}
}

// sharedHost is the host of a node of a cluster, where shards are not all here.
type sharedHost struct {
	*guardedHost
	node *Node
}

// CheckTime refuses an event that lies too far past the last day that this node knows to have
// ended in any shard: days end in all of them. It may not have heard of the last one yet, which
// whoever refuses events makes sure of: see LearnTick. The owner's fold looks again.
func (h *sharedHost) CheckTime(_ int, timeMS int64) *messages.Fault {
	if timeMS < h.node.tooFar.Load() {
		return nil
	}
	limit, fault := actors.CheckTime(h.node.calendar, h.ended(), timeMS)
	h.node.tooFar.Store(limit)
	return fault
}

// wallSkew is how much earlier a day may end by the clock of another node.
const wallSkew = 5 * time.Minute

// ended is the last day that has ended, empty where none is known. Under the clock of the wall a
// day that is over by this node's clock is over.
func (h *sharedHost) ended() string {
	last := h.node.learned()
	for shard := range h.node.cfg.Shards {
		last = max(last, h.LastTick(shard)) // ISO dates sort as text
	}
	if last != "" && h.node.clock.Load() == int32(footfallv1.ClockMode_CLOCK_MODE_WALL) {
		today := h.node.calendar.DayOf(h.node.now().Add(wallSkew))
		last = max(last, behavior.FormatDate(today-1))
	}
	return last
}

// LearnTick takes a day that has ended, as who drives the clock says.
func (h *sharedHost) LearnTick(date string) {
	if date > h.ended() {
		h.node.lastLearned.Store(&date)
	}
}

// learned is the last day of which others have told.
func (n *Node) learned() string {
	if date := n.lastLearned.Load(); date != nil {
		return *date
	}
	return ""
}

// Clock is the clock as a shard that works here has folded it.
func (h *sharedHost) Clock() footfallv1.ClockMode {
	for _, st := range h.Status() {
		if st.State == actors.Active && st.Clock != footfallv1.ClockMode_CLOCK_MODE_UNSPECIFIED {
			return st.Clock
		}
	}
	return h.node.cfg.Clock
}

// SetClock returns once every log has it: the owners fold it.
func (h *sharedHost) SetClock(ctx context.Context, mode footfallv1.ClockMode) error {
	body, err := (&footfallv1.Control{
		Node: h.node.cfg.Name, Kind: &footfallv1.Control_Clock{Clock: &footfallv1.ClockChange{Mode: mode}},
	}).MarshalVT()
	if err != nil {
		return err
	}
	now := h.node.now().UnixMilli()
	for shard := range h.node.cfg.Shards {
		r := messages.Record{Type: messages.ControlRecord, FromNode: true, Time: now, Body: body}
		if err := h.node.storage.Log.Append(ctx, shard, []messages.Record{r}); err != nil {
			return fmt.Errorf("shard %d: %w", shard, err)
		}
	}
	return nil
}
