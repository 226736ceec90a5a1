package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"footfall/messages"
)

// Host runs shards. Its methods must not block; the loop calls them, one at a time. report may
// be called from any goroutine.
type Host interface {
	// Acquire takes a shard and recovers it. It reports Refused or ShardFailed, or Acquired
	// and then Activated; and ShardFailed or SteppedDown whenever that befalls it later.
	Acquire(shard int, report func(Event))
	// Drain makes the shard stop reading, checkpoint and be released in the store, whatever
	// it is at: also where an Acquire is under way or has failed with an error that leaves
	// open whether the store carried it out. epoch is the one that was acquired, 0 where that
	// is not known. It reports one of Released, SteppedDown, ShardFailed.
	Drain(shard int, epoch uint64, report func(Event))
	// Drop ends whatever runs of the shard, without a word to the store.
	Drop(shard int)
}

// Leases keeps this member's lease by the store's clock. All methods may be called from any
// goroutine, and end with ctx.
type Leases interface {
	// Renew makes the lease last for ttl, and returns for how long it does in each of the
	// store's databases, counted from the moment of the call; 0 where it could not be renewed,
	// for which err tells why. *messages.LeaseHeldError: another incarnation has it.
	Renew(ctx context.Context, member, incarnation string, ttl time.Duration) (lasts []time.Duration, err error)
	// Owned returns the epochs of the shards that the incarnation has and that nobody took.
	Owned(ctx context.Context, member, incarnation string) (map[int]uint64, error)
	// Places returns the members whose place is kept: those with a lease, and those whose
	// lease ended not long ago without having been given up. lapsed are those of them whose lease
	// should have been renewed a while ago.
	Places(ctx context.Context) (kept, lapsed []string, err error)
}

// Gossip is who is there. See [Membership].
type Gossip interface {
	// Members returns everybody who is there, this member too.
	Members() []Member
	// Changed has room for one signal, which is there after every change.
	Changed() <-chan struct{}
	// SetState tells the others how far this member is. It does not block.
	SetState(MemberState)
	// TellReleased tells a member that a shard waits for it. It does not block, and may fail.
	TellReleased(member string, shard int)
	// Releases are shards that others have released for this member.
	Releases() <-chan int
}

// ReconcilerConfig is what a [Reconciler] needs to know. Zero durations mean the defaults.
type ReconcilerConfig struct {
	Ownership OwnershipConfig
	// Incarnation tells this process from others that had its name.
	Incarnation string
	// TTL is how long a lease lasts (1.5 s), RenewEvery how often it is renewed (TTL / 3).
	TTL, RenewEvery time.Duration
	// PlacesEvery is how often the store is asked whose places are kept (2 s).
	PlacesEvery time.Duration
	// Now must not go back, and should go on while the process is stopped.
	Now    func() time.Time
	Logger *slog.Logger
	// Observe, if not nil, is called with what the ownership is told and what it wants, in
	// order, by the loop.
	Observe func(Event, []Command)
}

func (c ReconcilerConfig) withDefaults() ReconcilerConfig {
	if c.TTL == 0 {
		c.TTL = 1500 * time.Millisecond
	}
	if c.RenewEvery == 0 {
		c.RenewEvery = c.TTL / 3
	}
	if c.PlacesEvery == 0 {
		c.PlacesEvery = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// NameTakenError says that another process is running under this member's name: two nodes are
// configured with one name.
type NameTakenError struct {
	Member string
	// By tells which process: "at 10.0.0.7:7946".
	By string
}

func (e *NameTakenError) Error() string {
	return fmt.Sprintf("name_taken: another node is running under the name %q, %s: give each node a node.name of its own", e.Member, e.By)
}

// Reconciler is the loop that drives an [Ownership]: it hears of members, leases, shards and
// time, and carries out what follows. Whatever blocks runs beside it and reports back.
//
//	gossip ──► members ─┐                        ┌─► host: acquire, drain, drop
//	store ───► lease ───┤   queue    one loop    ├─► gossip: state, released
//	host ────► shards ──┼─────────► Ownership ───┤
//	ticker ─────────────┘                        └─► store: what is mine?
//
// Changes coalesce: the loop is woken by a channel with room for one, and takes all that has
// queued. The queue is bounded by what was asked for: each command is answered a few times.
type Reconciler struct {
	cfg    ReconcilerConfig
	host   Host
	leases Leases
	gossip Gossip
	logger *slog.Logger

	wake    chan struct{}
	drained chan struct{}
	done    sync.WaitGroup

	mu    sync.Mutex // guards queue
	queue []queued

	state   sync.RWMutex // guards what follows; only the loop writes
	own     *Ownership
	lives   []uint64 // of each shard: counts its Drops, so that reports from before are not heard
	changed chan struct{}
	counts  counts
}

// queued is an event, and for a report of a shard the life in which it was asked for.
type queued struct {
	event Event
	shard int // -1 where it is no report
	life  uint64
}

// NewReconciler makes one; Run starts it.
func NewReconciler(cfg ReconcilerConfig, host Host, leases Leases, gossip Gossip) (*Reconciler, error) {
	var faults []error
	check := func(ok bool, text string) {
		if !ok {
			faults = append(faults, errors.New(text))
		}
	}
	check(cfg.Ownership.Name != "", "Ownership.Name is empty")
	check(cfg.Ownership.Shards > 0, "Ownership.Shards must be above 0")
	check(cfg.Incarnation != "", "Incarnation is empty")
	check(cfg.Now != nil, "Now is nil")
	if len(faults) > 0 {
		return nil, fmt.Errorf("cluster: %w", errors.Join(faults...))
	}
	cfg = cfg.withDefaults()
	return &Reconciler{
		cfg: cfg, host: host, leases: leases, gossip: gossip, logger: cfg.Logger,
		wake: make(chan struct{}, 1), drained: make(chan struct{}),
		own: NewOwnership(cfg.Ownership), lives: make([]uint64, cfg.Ownership.Shards), changed: make(chan struct{}),
	}, nil
}

// Run reconciles until ctx is done, or the name turns out to be another's: *NameTakenError.
// Shards that are owned then are dropped by the latter, and stay as they are by the former.
func (r *Reconciler) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	r.done.Go(func() { r.renew(ctx, cancel) })
	r.done.Go(func() { r.readPlaces(ctx) })
	r.loop(ctx)
	cancel(nil)
	r.done.Wait()
	if taken, ok := errors.AsType[*NameTakenError](context.Cause(ctx)); ok {
		r.step(queued{LeaseLost{}, -1, 0})
		return taken
	}
	return nil
}

// Ready says that the node can serve shards now.
func (r *Reconciler) Ready() { r.post(queued{Ready{}, -1, 0}) }

// Drain gives up every shard. It returns once nothing is owned, or with the error of ctx.
func (r *Reconciler) Drain(ctx context.Context) error {
	r.post(queued{DrainAsked{}, -1, 0})
	select {
	case <-r.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Reconciler) post(q queued) {
	r.mu.Lock()
	r.queue = append(r.queue, q)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Reconciler) loop(ctx context.Context) {
	tick := time.NewTicker(TickEvery)
	defer tick.Stop()
	r.step(queued{MembersChanged{r.gossip.Members()}, -1, 0})
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.step(queued{Ticked{}, -1, 0})
		case <-r.gossip.Changed():
			r.step(queued{MembersChanged{r.gossip.Members()}, -1, 0})
		case shard := <-r.gossip.Releases():
			r.step(queued{ReleasedElsewhere{shard}, -1, 0})
		case <-r.wake:
			r.mu.Lock()
			queue := r.queue
			r.queue = nil
			r.mu.Unlock()
			for _, q := range queue {
				r.step(q)
			}
		}
	}
}

// step hands one event to the ownership and carries out what follows.
func (r *Reconciler) step(q queued) {
	r.state.Lock()
	if q.shard >= 0 && r.lives[q.shard] != q.life {
		r.state.Unlock()
		return
	}
	commands := r.own.Step(r.cfg.Now(), q.event)
	for _, c := range commands {
		if c, ok := c.(Drop); ok {
			r.lives[c.Shard]++
		}
	}
	r.counts.count(q.event, commands)
	if _, tick := q.event.(Ticked); !tick || len(commands) > 0 {
		close(r.changed)
		r.changed = make(chan struct{})
	}
	r.state.Unlock()
	if r.cfg.Observe != nil {
		r.cfg.Observe(q.event, commands)
	}
	for _, c := range commands {
		r.do(c)
	}
}

func (r *Reconciler) do(c Command) {
	switch c := c.(type) {
	case Acquire:
		r.host.Acquire(c.Shard, r.reports(c.Shard))
	case Drain:
		r.host.Drain(c.Shard, c.Epoch, r.reports(c.Shard))
	case Drop:
		r.logger.Warn("shard dropped: another node has it", "shard", c.Shard)
		r.host.Drop(c.Shard)
	case Announce:
		r.logger.Info("this node changes its state", "state", c.State)
		r.gossip.SetState(c.State)
	case TellReleased:
		r.gossip.TellReleased(c.To, c.Shard)
	case Verify:
		r.done.Go(func() { r.readOwned(c.Seq) })
	case LeaseLapsed:
		r.logger.Warn("lease lapsed: not answering as owner", "database", c.Database)
	case LeaseRestored:
		r.logger.Info("lease restored", "database", c.Database)
	case Drained:
		r.logger.Info("drained: no shard is owned any more")
		close(r.drained)
	}
}

// reports is how the host tells of a shard. Only the loop calls it, and only it writes lives.
func (r *Reconciler) reports(shard int) func(Event) {
	life := r.lives[shard]
	return func(e Event) { r.post(queued{e, shard, life}) }
}

// renew keeps the lease. A call that hangs must leave time for another before the lease ends.
func (r *Reconciler) renew(ctx context.Context, end context.CancelCauseFunc) {
	var had, failing bool
	var refused time.Time // since when another incarnation is met
	for {
		sent := r.cfg.Now()
		call, cancel := context.WithTimeout(ctx, r.cfg.TTL*2/5)
		lasts, err := r.leases.Renew(call, r.cfg.Ownership.Name, r.cfg.Incarnation, r.cfg.TTL)
		cancel()
		if ctx.Err() != nil {
			return
		}
		until := make([]time.Time, len(lasts))
		for i, d := range lasts {
			if d > 0 {
				until[i] = sent.Add(d)
				had, refused = true, time.Time{}
			}
		}
		if len(until) > 0 {
			r.post(queued{LeaseRenewed{until}, -1, 0})
		}
		var held *messages.LeaseHeldError
		wait := r.cfg.RenewEvery - r.cfg.Now().Sub(sent)
		switch {
		case err == nil:
			failing = false
		case errors.As(err, &held):
			if refused.IsZero() {
				refused = sent
			}
			// Of a process that ended the lease lapses. One that has taken ours while we slept,
			// or goes on renewing, is alive.
			if had || r.cfg.Now().Sub(refused) > 3*r.cfg.TTL {
				end(&NameTakenError{r.cfg.Ownership.Name, "incarnation " + held.Incarnation})
				return
			}
			wait = min(wait, held.For)
			r.logger.Info("waiting for the lease of an earlier process of this name", "incarnation", held.Incarnation, "for", held.For)
		default:
			if !failing {
				r.logger.Warn("lease not renewed; trying again", "error", err)
			}
			failing = true
			wait = min(wait, r.cfg.RenewEvery/5)
		}
		if !pause(ctx, max(wait, r.cfg.RenewEvery/50)) {
			return
		}
	}
}

// readOwned answers a Verify.
func (r *Reconciler) readOwned(seq uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.TTL)
	defer cancel()
	held, err := r.leases.Owned(ctx, r.cfg.Ownership.Name, r.cfg.Incarnation)
	switch {
	case err != nil:
		r.logger.Warn("owned shards not read", "error", err)
		held = nil
	case held == nil:
		held = map[int]uint64{}
	}
	r.post(queued{HeldRead{seq, held}, -1, 0})
}

// readPlaces tells whose places are kept.
func (r *Reconciler) readPlaces(ctx context.Context) {
	for {
		call, cancel := context.WithTimeout(ctx, r.cfg.PlacesEvery)
		kept, lapsed, err := r.leases.Places(call)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.logger.Warn("places of members not read", "error", err)
		default:
			r.post(queued{PlacesRead{kept, lapsed}, -1, 0})
		}
		if !pause(ctx, r.cfg.PlacesEvery) {
			return
		}
	}
}

// pause waits, and tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Locate tells where a shard is now.
func (r *Reconciler) Locate(shard int) Location {
	now := r.cfg.Now()
	r.state.RLock()
	defer r.state.RUnlock()
	return r.own.Locate(shard, now)
}

// Wait returns once the shard is here or is not coming here, or with the error of ctx.
func (r *Reconciler) Wait(ctx context.Context, shard int) (Location, error) {
	for {
		now := r.cfg.Now()
		r.state.RLock()
		l, changed := r.own.Locate(shard, now), r.changed
		r.state.RUnlock()
		if l.Here || !l.Coming {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return l, ctx.Err()
		}
	}
}

// State is how far this node is.
func (r *Reconciler) State() MemberState {
	r.state.RLock()
	defer r.state.RUnlock()
	return r.own.State()
}

// Owners are the members that should own the shards, as this node sees it.
func (r *Reconciler) Owners() []string {
	r.state.RLock()
	defer r.state.RUnlock()
	return r.own.Owners()
}
