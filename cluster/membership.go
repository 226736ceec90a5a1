package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"footfall/messages"
)

// MembershipConfig is what a [Membership] needs to know. Zero durations mean the defaults.
type MembershipConfig struct {
	// Self is this member. Its State is where it begins.
	Self Member
	// Cluster identifies the cluster: members of another one are not heard, nor do they hear
	// this one. Anything that all nodes of a cluster have in common and others have not.
	Cluster string
	// Listen is the address to listen on, TCP and UDP, host:port; port 0 takes a free one.
	Listen string
	// Advertise is the address under which others reach it, host or host:port; empty means
	// that of Listen, or a private one of this machine where it listens on all of them.
	Advertise string
	// Join are the seeds, each host:port. All addresses of a host name are tried, each time
	// anew. A seed need not be up: it is tried until it is.
	Join []string
	// KeysFile has the keys of the gossip, see readKeys; empty means that it is not encrypted.
	KeysFile string
	// KeysEvery is how often the file is looked at (2 s).
	KeysEvery time.Duration
	// RejoinEvery is how often seeds and lost members that are not there are tried (10 s).
	RejoinEvery time.Duration
	// LostFor is how long a member that was lost is tried (1 h).
	LostFor time.Duration
	// ConflictPatience is how long a start waits for another node of the same name to go: it
	// may be this one's former process, at another address, that is not missed yet (5 s).
	ConflictPatience time.Duration

	Now    func() time.Time
	Logger *slog.Logger
}

func (c MembershipConfig) withDefaults() MembershipConfig {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&c.KeysEvery, 2*time.Second)
	set(&c.RejoinEvery, 10*time.Second)
	set(&c.LostFor, time.Hour)
	set(&c.ConflictPatience, 5*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c *MembershipConfig) validate() error {
	faults := c.Self.checkMeta()
	address := func(field, s string) {
		if _, _, err := splitAddress(s); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", field, err))
		}
	}
	address("Listen", c.Listen)
	for i, s := range c.Join {
		address(fmt.Sprintf("Join[%d]", i), s)
	}
	if c.Now == nil {
		faults = append(faults, &messages.Fault{Field: "Now", Reason: "is nil"})
	}
	return errors.Join(faults...)
}

// splitAddress splits host:port.
func splitAddress(s string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not host:port", s)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q has no port number", s)
	}
	return host, int(n), nil
}

// Membership is the gossip of this node: who is there, and how far they are. It is a hint,
// soon after the fact: a member that is killed is missed after about a second, one on a busy
// machine may be missed though it lives.
//
// What it promises:
//
//  1. Members of another cluster, or without the right key, are neither heard nor told.
//  2. Joining never gives up: seeds that are not there, and members that were lost, are tried
//     again and again, so that the halves of a split find each other.
//  3. The callbacks of memberlist, which hold its lock, only copy and signal.
//
// All methods may be called from any goroutine.
type Membership struct {
	cfg    MembershipConfig
	logger *slog.Logger
	list   *memberlist.Memberlist
	ring   *memberlist.Keyring // nil where the gossip is not encrypted

	stop   context.CancelFunc
	done   sync.WaitGroup
	closed sync.Once

	meta     atomic.Pointer[[]byte] // what is gossiped of this member
	changed  chan struct{}
	releases chan int
	tell     chan struct{} // the metadata are to be told anew
	missed   chan struct{} // a member was lost
	dropped  atomic.Uint64 // releases that found no room

	strangers strangers

	mu       sync.Mutex // guards what follows; memberlist's callbacks take it
	self     Member
	peers    map[string]peer      // everybody who is there, this member too
	lost     map[string]time.Time // addresses of members that went without a word, and when
	conflict string               // the address of another member of this name, "" for none
}

// peer is a member and how to reach its gossip.
type peer struct {
	member Member
	node   memberlist.Node
}

// NewMembership listens and tries once to join; then it goes on trying by itself. It fails
// where the configuration is wrong, where it cannot listen, or with *NameTakenError.
func NewMembership(ctx context.Context, cfg MembershipConfig) (*Membership, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	cfg = cfg.withDefaults()
	m := &Membership{
		strangers: strangers{now: cfg.Now},
		cfg:       cfg, logger: cfg.Logger, self: cfg.Self,
		changed: make(chan struct{}, 1), releases: make(chan int, 1024), tell: make(chan struct{}, 1), missed: make(chan struct{}, 1),
		peers: map[string]peer{}, lost: map[string]time.Time{},
	}
	m.writeMeta()
	mc, keys, err := m.config(ctx)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if m.list, err = memberlist.Create(mc); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := m.firstJoin(ctx); err != nil {
		return nil, errors.Join(err, m.list.Shutdown())
	}
	run, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.done.Go(func() { m.keepJoined(run) })
	m.done.Go(func() { m.keepTold(run) })
	if m.ring != nil {
		m.done.Go(func() { m.keepKeys(run, keys) })
	}
	return m, nil
}

// config is memberlist's. The times are such that a killed member is missed after about 1.1 s;
// they cost a probe every 250 ms, whatever the number of members.
func (m *Membership) config(ctx context.Context) (mc *memberlist.Config, keys [][]byte, err error) {
	mc = memberlist.DefaultLANConfig()
	mc.Name = m.cfg.Self.Name
	mc.ProbeInterval, mc.ProbeTimeout = 250*time.Millisecond, 100*time.Millisecond
	mc.SuspicionMult, mc.SuspicionMaxTimeoutMult = 3, 2
	mc.GossipInterval = 50 * time.Millisecond
	mc.TCPTimeout = 2 * time.Second
	mc.PushPullInterval = 10 * time.Second
	mc.EnableCompression = false // small packets, often
	// A node that comes back under another address has its name at once: the store's lease says who
	// owns what, not the name.
	mc.DeadNodeReclaimTime = time.Millisecond
	mc.Label = label(m.cfg.Cluster)
	host, port, err := splitAddress(m.cfg.Listen)
	if err != nil {
		return nil, nil, err
	}
	if mc.BindAddr, err = resolve(ctx, host); err != nil {
		return nil, nil, err
	}
	mc.BindPort, mc.AdvertisePort = port, port
	if a := m.cfg.Advertise; a != "" {
		if h, p, err := splitAddress(a); err == nil {
			a, mc.AdvertisePort = h, p
		}
		if mc.AdvertiseAddr, err = resolve(ctx, a); err != nil {
			return nil, nil, err
		}
	}
	d := &delegate{m}
	mc.Delegate, mc.Events, mc.Conflict, mc.Alive = d, d, d, d
	mc.Logger = bridgeLog(m.logger, &m.strangers)
	if m.cfg.KeysFile != "" {
		if keys, err = readKeys(m.cfg.KeysFile); err != nil {
			return nil, nil, err
		}
		if m.ring, err = memberlist.NewKeyring(keys, keys[0]); err != nil {
			return nil, nil, err
		}
		mc.Keyring = m.ring
	}
	return mc, keys, nil
}

// label marks every packet of a cluster. With keys it is authenticated, too.
func label(cluster string) string {
	sum := sha256.Sum256([]byte(cluster))
	return "footfall/" + hex.EncodeToString(sum[:12])
}

// resolve returns an IP address of a host.
func resolve(ctx context.Context, host string) (string, error) {
	if host == "" {
		return "0.0.0.0", nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	found, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// firstJoin tries to join, and makes sure that the name is free. Seeds that do not answer are
// no error.
func (m *Membership) firstJoin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ConflictPatience)
	defer cancel()
	taken := ""
	for {
		m.mu.Lock()
		m.conflict = ""
		m.mu.Unlock()
		m.join(ctx, taken != "")
		m.mu.Lock()
		at := m.conflict
		m.mu.Unlock()
		if at == "" && (taken == "" || ctx.Err() == nil) {
			return nil // free, or free by now, or nobody could be asked
		}
		if at != "" {
			taken = at
		}
		if !pause(ctx, 250*time.Millisecond) {
			return &NameTakenError{m.cfg.Self.Name, "at " + taken}
		}
	}
}

// The time between two tries while somebody is missed: it doubles. One that is missed for longer
// is tried every RejoinEvery.
const (
	missedLeast = 250 * time.Millisecond
	missedMost  = 2 * time.Second
	missedFor   = time.Minute
)

// keepJoined tries those who are not there, more often while nobody is, or one was a moment ago:
// when the network is whole again, its halves should not wait.
func (m *Membership) keepJoined(ctx context.Context) {
	quick := missedLeast
	for {
		wait := m.cfg.RejoinEvery
		if m.misses() {
			wait = min(quick, wait)
			quick = min(2*quick, missedMost)
		} else {
			quick = missedLeast
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			m.join(ctx, false)
		case <-m.missed: // then it is time for less of a wait
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// misses tells whether this member is alone though it has seeds, or has lost another a moment ago.
func (m *Membership) misses() bool {
	now := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.cfg.Join) > 0 && len(m.peers) <= 1 {
		return true
	}
	for _, at := range m.lost {
		if now.Sub(at) < missedFor {
			return true
		}
	}
	return false
}

// joinAtOnce bounds how many addresses are tried at a time: one that says nothing takes seconds.
const joinAtOnce = 16

// join tries every seed and every lost member that is not there, or all of them again.
func (m *Membership) join(ctx context.Context, again bool) {
	there := map[string]bool{}
	now := m.cfg.Now()
	m.mu.Lock()
	for _, p := range m.peers {
		there[p.node.Address()] = true
	}
	maps.DeleteFunc(m.lost, func(addr string, at time.Time) bool { return there[addr] || now.Sub(at) > m.cfg.LostFor })
	try := slices.Collect(maps.Keys(m.lost))
	m.mu.Unlock()

	for _, seed := range m.cfg.Join {
		host, port, err := splitAddress(seed)
		if err != nil {
			continue // refused by validate
		}
		found, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			m.logger.Debug("seed not resolved; trying again", "seed", seed, "error", err)
			continue
		}
		for _, ip := range found {
			try = append(try, net.JoinHostPort(ip, strconv.Itoa(port)))
		}
	}
	slices.Sort(try)
	var tries sync.WaitGroup
	defer tries.Wait()
	free := make(chan struct{}, joinAtOnce)
	for _, addr := range slices.Compact(try) {
		if there[addr] && !again {
			continue
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		tries.Go(func() {
			defer func() { <-free }()
			if _, err := m.list.Join([]string{addr}); err != nil {
				m.logger.Debug("not joined; trying again", "address", addr, "error", err)
			}
		})
	}
}

// tellTimeout bounds how long memberlist may wait for a broadcast to go out.
const tellTimeout = 2 * time.Second

// keepTold gossips this member's metadata whenever they have changed.
func (m *Membership) keepTold(ctx context.Context) {
	for {
		select {
		case <-m.tell:
		case <-ctx.Done():
			return
		}
		if err := m.list.UpdateNode(tellTimeout); err != nil {
			m.logger.Warn("own state not told to others yet", "error", err)
		}
	}
}

// keepKeys reads the keys again when the file changes. A file that cannot be read changes
// nothing.
func (m *Membership) keepKeys(ctx context.Context, last [][]byte) {
	failing := ""
	for pause(ctx, m.cfg.KeysEvery) {
		keys, err := readKeys(m.cfg.KeysFile)
		if err == nil && !slices.EqualFunc(keys, last, func(a, b []byte) bool { return string(a) == string(b) }) {
			if err = useKeys(m.ring, keys); err == nil {
				m.logger.Info("gossip keys changed", "keys", len(keys))
				last = keys
			}
		}
		switch {
		case err == nil:
			failing = ""
		case err.Error() != failing:
			failing = err.Error()
			m.logger.Error("gossip keys not read: those of before stay in use", "error", err)
		}
	}
}

func (m *Membership) writeMeta() {
	b := encodeMeta(&m.self, metaLimit)
	m.meta.Store(&b)
}

// SetState tells the others how far this member is. It does not block.
func (m *Membership) SetState(s MemberState) {
	m.mu.Lock()
	m.self.State = s
	m.writeMeta()
	m.mu.Unlock()
	signal(m.tell)
}

// Advertise tells the others which devices this member has. It does not block.
func (m *Membership) Advertise(devices []string) {
	m.mu.Lock()
	m.self.Devices, m.self.DevicesLeftOut = slices.Clone(devices), 0
	m.writeMeta()
	m.mu.Unlock()
	signal(m.tell)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Members returns everybody who is there, by name, this member too.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Member, 0, len(m.peers))
	for _, name := range slices.Sorted(maps.Keys(m.peers)) {
		if name == m.self.Name {
			out = append(out, m.self)
		} else {
			out = append(out, m.peers[name].member)
		}
	}
	return out
}

// Changed has room for one signal, which is there after every change.
func (m *Membership) Changed() <-chan struct{} { return m.changed }

// Releases are shards that others have released for this member.
func (m *Membership) Releases() <-chan int { return m.releases }

// Address is where this member's gossip is reached.
func (m *Membership) Address() string { return m.list.LocalNode().Address() }

// The only message between members.
const releasedMessage = 1

// TellReleased tells a member that a shard waits for it: one packet, which may be lost.
func (m *Membership) TellReleased(member string, shard int) {
	m.mu.Lock()
	p, ok := m.peers[member]
	m.mu.Unlock()
	if !ok || shard < 0 {
		return
	}
	if err := m.list.SendBestEffort(&p.node, binary.AppendUvarint([]byte{releasedMessage}, uint64(shard))); err != nil {
		m.logger.Debug("release not told", "member", member, "shard", shard, "error", err)
	}
}

// Leave tells the others that this member goes, and ends the gossip. Its shards should be
// released before.
func (m *Membership) Leave(timeout time.Duration) error {
	var err error
	m.end(func() { err = m.list.Leave(timeout) })
	return err
}

// Close ends the gossip without a word: the others will miss this member, as if it had been
// killed.
func (m *Membership) Close() error {
	m.end(func() {})
	return nil
}

func (m *Membership) end(before func()) {
	m.closed.Do(func() {
		m.stop()
		m.done.Wait()
		before()
		if err := m.list.Shutdown(); err != nil {
			m.logger.Warn("gossip not ended well", "error", err)
		}
	})
}

// delegate takes memberlist's callbacks. They hold its lock.
type delegate struct{ m *Membership }

func (d *delegate) NodeMeta(int) []byte             { return *d.m.meta.Load() }
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}

func (d *delegate) NotifyMsg(b []byte) {
	if len(b) < 2 || b[0] != releasedMessage {
		return // of a newer node
	}
	shard, n := binary.Uvarint(b[1:])
	if n <= 0 || shard > 1<<24 {
		return
	}
	select {
	case d.m.releases <- int(shard):
	default:
		d.m.dropped.Add(1) // it will be tried again anyway
	}
}

func (d *delegate) NotifyJoin(n *memberlist.Node)   { d.seen(n) }
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.seen(n) }

func (d *delegate) seen(n *memberlist.Node) {
	p := peer{node: *n}
	// One whose metadata cannot be read is there, but has no role.
	p.member, _ = decodeMeta(n.Meta)
	p.member.Name = n.Name
	p.node.Addr, p.node.Meta = slices.Clone(n.Addr), nil
	d.m.mu.Lock()
	d.m.peers[n.Name] = p
	delete(d.m.lost, p.node.Address())
	d.m.mu.Unlock()
	signal(d.m.changed)
}

// maxLost bounds the members that are tried though they are gone.
const maxLost = 1024

func (d *delegate) NotifyLeave(n *memberlist.Node) {
	now := d.m.cfg.Now()
	d.m.mu.Lock()
	p := d.m.peers[n.Name]
	delete(d.m.peers, n.Name)
	// One that leaves has said so before. (memberlist does not tell here.)
	if p.member.State != MemberDraining && len(d.m.lost) < maxLost {
		d.m.lost[n.Address()] = now
		signal(d.m.missed)
	}
	d.m.mu.Unlock()
	signal(d.m.changed)
}

// NotifyAlive refuses members that count other shards: they would place them elsewhere.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.m.cfg.Self.Name {
		return nil
	}
	if p, err := decodeMeta(n.Meta); err == nil && p.Shards != d.m.cfg.Self.Shards {
		return fmt.Errorf("it has %d shards, this cluster %d", p.Shards, d.m.cfg.Self.Shards)
	}
	return nil
}

func (d *delegate) NotifyConflict(mine, other *memberlist.Node) {
	if mine.Name != d.m.cfg.Self.Name {
		return
	}
	at := other.Address()
	d.m.mu.Lock()
	d.m.conflict = at
	d.m.mu.Unlock()
	d.m.logger.Error("another node has this node's name: give each a node.name of its own", "name", mine.Name, "address", at)
}

// Interfaces that memberlist calls.
var (
	_ memberlist.Delegate         = (*delegate)(nil)
	_ memberlist.EventDelegate    = (*delegate)(nil)
	_ memberlist.ConflictDelegate = (*delegate)(nil)
	_ memberlist.AliveDelegate    = (*delegate)(nil)
	_ Gossip                      = (*Membership)(nil)
)

// The levels that memberlist writes before its lines.
var levels = []struct {
	prefix string
	level  slog.Level
}{
	{"[DEBUG] ", slog.LevelDebug},
	{"[INFO] ", slog.LevelInfo},
	{"[WARN] ", slog.LevelWarn},
	{"[ERR] ", slog.LevelError},
	{"[ERROR] ", slog.LevelError},
}

// logWriter hands lines of memberlist's logger to slog.
type logWriter struct {
	logger    *slog.Logger
	strangers *strangers
}

func (w logWriter) Write(b []byte) (int, error) {
	text, level := strings.TrimSpace(string(b)), slog.LevelInfo
	for _, l := range levels {
		if rest, ok := strings.CutPrefix(text, l.prefix); ok {
			text, level = rest, l.level
			break
		}
	}
	if w.strangers.refused(text) {
		return len(b), nil
	}
	// What memberlist calls a warning is often another node's start or end.
	w.logger.Log(context.Background(), min(level, slog.LevelWarn), "gossip", "text", strings.TrimPrefix(text, "memberlist: "))
	return len(b), nil
}

func bridgeLog(l *slog.Logger, s *strangers) *log.Logger { return log.New(logWriter{l, s}, "", 0) }
