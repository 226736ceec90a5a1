package cluster

import (
	"slices"
	"strings"
	"time"
)

// Ownership is the state machine of one node: what it should own against what it owns. It is
// pure: [Ownership.Step] takes an event and the time, and returns what is to be done. It
// belongs to one goroutine.
//
// Of each shard:
//
//	        wanted               acquired              caught up
//	idle ───────────► acquiring ──────────► recovering ──────────► active
//	 ▲                 │  ▲  │                   │                   │
//	 │    not wanted   │  └──┘ refused, failed:  │ not wanted        │ not wanted,
//	 ├─────────────────┘       again later       │                   │ in its turn
//	 │                                           ▼                   │
//	 └────────────── released ──────────────── draining ◄────────────┘
//
// What recovers or is active and fails is acquired again after a while; where that would end
// the same it is failed, and stays so until it is not wanted and drains.
// A higher epoch leads from anywhere to idle. Of the node:
//
//	joining ── ready, lease ──► active ── drain ──► draining ── all idle ──► (leaves)
//
// Invariants:
//
//  1. A shard is acquired only while this node is active, the placement gives the shard to
//     it, and its lease holds.
//  2. A shard that was acquired is let go by a Drain; a Drop follows only where the store has
//     another owner. A Drain is repeated until it is answered by Released or SteppedDown.
//  3. The node answers for a shard only while the shard is active, the lease holds, and it has
//     been sure of the shard since the last lapse: it acquired the shard, or the store was asked
//     and still had it as the owner. Nobody can take a shard while the lease holds.
//  4. The lease has lapsed where the answer to a renewal comes after the end of the one before,
//     whenever it was sent: in between another member may have taken shards.
//  5. What the store may have for this member is drained once it is not wanted, whatever became
//     of it here: a shard whose Acquire ended in a lost connection does not stay with nobody.
//  6. At most MaxDraining shards drain at once; the others serve until it is their turn. At
//     most AcquiresPerTick are tried per tick: a node that is alone with its opinion does not
//     burden the store.
//  7. A member that gossip knows and the store does not hear is away: others stand in for it. Only
//     a node whose own lease has held for a while judges so, since after an outage of the store
//     every lease has lapsed, and all come back.
type Ownership struct {
	cfg OwnershipConfig

	self    MemberState
	ready   bool
	told    bool // Drained was said
	members map[string]Member
	places  []string
	lapsed  []string // there, but not for the store
	present []string // of the placement
	away    []string
	owners  []string
	dirty   bool // present or away may have changed

	leases []lease // in each database; shard s has that of s mod their number

	verified time.Time // when the store was last asked what it has for this node
	verify   uint64    // counts these questions
	waiting  bool      // one is on its way,
	asOf     uint64    // asked at this step: it says nothing of what changed since
	step     uint64

	shards []slot
	budget int

	now time.Time
	out []Command
}

// lease is this node's lease in one database.
type lease struct {
	until  time.Time
	since  time.Time // it has not lapsed
	lapsed bool      // and the store has not said since what is still this node's
	lapses uint64    // counts them
}

// slot is what is known of one shard.
type slot struct {
	state ShardState
	// held: the store has, or may have, the shard for this member.
	held bool
	// epoch is that of the last Acquired, 0 where it is not known.
	epoch uint64
	// sure: nobody else can have it, see invariant 3.
	sure bool
	// since is the step at which held or epoch changed last.
	since uint64
	// asked: a command is on its way, given after so many lapses; else the next is due at retryAt.
	asked   bool
	lapses  uint64
	retryAt time.Time
	tries   int  // refused in a row
	fails   int  // failed in a row, whatever was refused before
	hinted  bool // it was released elsewhere while a command was on its way
	// holder is who had it when the store refused it to us.
	holder string
}

// OwnershipConfig is what an [Ownership] needs to know. Zero values mean the defaults.
type OwnershipConfig struct {
	// Name is this member's.
	Name string
	// Shards is the number of shards of the cluster.
	Shards int
	// Databases is the number of databases of the store (1): shard s is in s mod Databases, and
	// this node has a lease in each.
	Databases int
	// NoShards: this node has not the role to own any.
	NoShards bool
	// MaxDraining is how many shards drain at once ([MaxDraining]).
	MaxDraining int
	// AcquiresPerTick bounds the Acquires between two ticks (32).
	AcquiresPerTick int
	// RetryLeast and RetryMost bound the time until a refused shard is tried again (40 ms,
	// 500 ms). It is tried at once when its holder tells that it has released it.
	RetryLeast, RetryMost time.Duration
	// FailedRetry is the time until a failed shard is tried again, at first (250 ms): it
	// doubles up to 1 s.
	FailedRetry time.Duration
	// VerifyEvery is how often the store is asked what it has for this member (5 s).
	VerifyEvery time.Duration
}

// MaxDraining is how many shards a member drains at once, unless its configuration says otherwise.
const MaxDraining = 4

// TickEvery is how often an [Ownership] wants to hear that time has passed.
const TickEvery = 50 * time.Millisecond

func (c OwnershipConfig) withDefaults() OwnershipConfig {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&c.RetryLeast, 40*time.Millisecond)
	set(&c.RetryMost, 500*time.Millisecond)
	set(&c.FailedRetry, 250*time.Millisecond)
	set(&c.VerifyEvery, 5*time.Second)
	if c.MaxDraining == 0 {
		c.MaxDraining = MaxDraining
	}
	if c.Databases == 0 {
		c.Databases = 1
	}
	if c.AcquiresPerTick == 0 {
		c.AcquiresPerTick = 32
	}
	return c
}

// NewOwnership makes one that owns nothing, has no lease and is joining.
func NewOwnership(cfg OwnershipConfig) *Ownership {
	cfg = cfg.withDefaults()
	return &Ownership{
		cfg: cfg, members: map[string]Member{}, owners: make([]string, cfg.Shards),
		shards: make([]slot, cfg.Shards), leases: make([]lease, cfg.Databases), dirty: true, budget: cfg.AcquiresPerTick,
	}
}

// Step takes one event at a time and returns the commands that follow, in order. now must
// not go back.
func (o *Ownership) Step(now time.Time, e Event) []Command {
	o.now, o.out = now, nil
	o.step++
	o.checkLeases()
	switch e := e.(type) {
	case MembersChanged:
		o.membersChanged(e.Members)
	case PlacesRead:
		o.places, o.lapsed, o.dirty = nameSet(e.Names), nil, true
		if o.steady() {
			o.lapsed = nameSet(slices.Clone(e.Lapsed))
		}
	case Ready:
		o.ready = true
	case DrainAsked:
		if o.self != MemberDraining {
			o.become(MemberDraining)
		}
	case Ticked:
		o.budget = o.cfg.AcquiresPerTick
	case LeaseRenewed:
		o.leaseRenewed(e.Until)
	case HeldRead:
		o.heldRead(e)
	case LeaseLost:
		o.leaseLost()
	default:
		o.shardEvent(e)
	}
	if o.self == MemberJoining && o.ready && o.leasedAny() {
		o.become(MemberActive)
	}
	if o.dirty {
		o.place()
		o.dirty = false
	}
	o.reconcile()
	return o.out
}

func (o *Ownership) do(c Command) { o.out = append(o.out, c) }

func (o *Ownership) become(s MemberState) {
	o.self, o.dirty = s, true
	o.do(Announce{s})
}

// lease is the one that a shard depends on.
func (o *Ownership) lease(s int) *lease { return &o.leases[s%len(o.leases)] }

// leased tells whether it holds.
func (o *Ownership) leased(s int) bool { return o.now.Before(o.lease(s).until) }

// leasedAny tells whether the node has a lease in any database.
func (o *Ownership) leasedAny() bool {
	return slices.ContainsFunc(o.leases, func(l lease) bool { return o.now.Before(l.until) })
}

// steadyFor is how long a lease has to have held before a node believes that others have none:
// by then all who come back after an outage of the store have renewed theirs.
const steadyFor = 3 * time.Second

// steady tells whether the node has had its lease for a while in every database.
func (o *Ownership) steady() bool {
	return !slices.ContainsFunc(o.leases, func(l lease) bool { return !o.now.Before(l.until) || o.now.Sub(l.since) < steadyFor })
}

// checkLeases notices lapses, before anything else is believed.
func (o *Ownership) checkLeases() {
	for i := range o.leases {
		l := &o.leases[i]
		if l.lapsed || l.until.IsZero() || o.now.Before(l.until) {
			continue
		}
		l.lapsed = true
		l.lapses++
		o.waiting = false // an answer on its way says nothing any more
		for s := i; s < len(o.shards); s += len(o.leases) {
			o.shards[s].sure = false
		}
		o.do(LeaseLapsed{i})
	}
}

// leaseRenewed takes the new ends. After a lapse, and from time to time, the store is asked
// what it has for this node.
func (o *Ownership) leaseRenewed(until []time.Time) {
	ask := o.now.Sub(o.verified) >= o.cfg.VerifyEvery
	for i := range min(len(until), len(o.leases)) {
		if l := &o.leases[i]; until[i].After(l.until) {
			if !o.now.Before(l.until) {
				l.since = o.now
			}
			l.until = until[i]
			ask = ask || l.lapsed
		}
	}
	if ask && !o.waiting && o.leasedAny() {
		o.verify++
		o.waiting, o.verified, o.asOf = true, o.now, o.step
		o.do(Verify{o.verify})
	}
}

// heldRead compares what the store has for this node with what it believes. The answer
// judges only what was so when it was asked for, and is so still.
func (o *Ownership) heldRead(e HeldRead) {
	if !o.waiting || e.Seq != o.verify {
		return
	}
	o.waiting = false
	if e.Held == nil {
		o.verified = time.Time{} // with the next renewal
		return
	}
	for s := range o.shards {
		k := &o.shards[s]
		epoch, has := e.Held[s]
		switch {
		case !o.leased(s): // it proves nothing
		case k.asked || k.since >= o.asOf:
			if k.held && !k.sure && !k.asked {
				o.verified = time.Time{}
			}
		case k.held && has && (epoch == k.epoch || k.epoch == 0):
			k.sure, k.epoch = true, epoch
		case k.held:
			o.do(Drop{s})
			o.set(s, slot{})
		case has:
			o.set(s, slot{state: Draining, held: true, epoch: epoch, retryAt: o.now})
		}
	}
	for i := range o.leases {
		l := &o.leases[i]
		if !l.lapsed || !o.now.Before(l.until) {
			continue
		}
		l.lapsed = false
		o.do(LeaseRestored{i})
		for s := i; s < len(o.shards); s += len(o.leases) {
			// What failed because the store was away need not wait.
			o.shards[s].retryAt, o.shards[s].tries, o.shards[s].fails = o.now, 0, 0
		}
	}
}

// leaseLost drops everything: another process has this node's name.
func (o *Ownership) leaseLost() {
	clear(o.leases)
	for s := range o.shards {
		if o.shards[s].state != Idle {
			o.do(Drop{s})
		}
		o.set(s, slot{})
	}
}

func (o *Ownership) membersChanged(members []Member) {
	o.dirty = true
	// What the store said of one who was not there, or was another process, is no news of this one.
	o.lapsed = slices.DeleteFunc(o.lapsed, func(name string) bool {
		i := slices.IndexFunc(members, func(m Member) bool { return m.Name == name })
		before, there := o.members[name]
		return i >= 0 && (!there || before.Incarnation != members[i].Incarnation)
	})
	clear(o.members)
	for _, m := range members {
		o.members[m.Name] = m
	}
}

// place computes the owners anew where who is present or away has changed. This node knows
// best about itself.
func (o *Ownership) place() {
	var present, away []string
	add := func(name string, state MemberState) {
		switch state {
		case MemberActive:
			present = append(present, name)
		case MemberDraining:
			away = append(away, name)
		case MemberJoining:
		}
	}
	for name, m := range o.members {
		if name == o.cfg.Name || !m.Owns() {
			continue
		}
		if _, lapsed := slices.BinarySearch(o.lapsed, name); lapsed && m.State == MemberActive {
			m.State = MemberDraining // others stand in for one that drains, too
		}
		add(name, m.State)
	}
	if !o.cfg.NoShards {
		add(o.cfg.Name, o.self)
	}
	present = nameSet(present)
	for _, name := range o.places {
		if _, ok := slices.BinarySearch(present, name); !ok {
			away = append(away, name)
		}
	}
	away = nameSet(away)
	if slices.Equal(present, o.present) && slices.Equal(away, o.away) {
		return
	}
	o.present, o.away = present, away
	o.owners = Place(o.cfg.Shards, present, away)
}

// shardEvent takes what the host tells of a shard. What does not fit its state is late, and
// of no meaning.
func (o *Ownership) shardEvent(e Event) {
	switch e := e.(type) {
	case Refused:
		if k := o.slot(e.Shard, Acquiring); k != nil && k.asked {
			next := slot{state: Acquiring, tries: k.tries + 1, holder: e.Holder, retryAt: o.now}
			if !k.hinted {
				next.retryAt = o.now.Add(o.backOff(e))
			}
			o.set(e.Shard, next)
		}
	case Acquired:
		if k := o.slot(e.Shard, Acquiring); k != nil && k.asked {
			o.set(e.Shard, slot{state: Recovering, held: true, epoch: e.Epoch, sure: o.leased(e.Shard) && k.lapses == o.lease(e.Shard).lapses})
		}
	case Activated:
		if k := o.slot(e.Shard, Recovering); k != nil {
			k.state = Active
		}
	case Released:
		if o.slot(e.Shard, Draining) != nil {
			o.set(e.Shard, slot{})
			if to := o.owners[e.Shard]; to != "" && to != o.cfg.Name {
				o.do(TellReleased{e.Shard, to})
			}
		}
	case ShardFailed:
		o.shardFailed(e)
	case SteppedDown:
		if o.slot(e.Shard, Acquiring, Recovering, Active, Draining, Failed) != nil {
			o.set(e.Shard, slot{})
		}
	case ReleasedElsewhere:
		if k := o.slot(e.Shard, Acquiring); k != nil {
			k.hinted, k.holder = k.asked, ""
			k.retryAt, k.tries = o.now, 0
		}
	}
}

// shardFailed decides when to try again what failed.
func (o *Ownership) shardFailed(e ShardFailed) {
	k := o.slot(e.Shard, Acquiring, Recovering, Active, Draining)
	if k == nil {
		return
	}
	// An Acquire that failed may have been carried out all the same.
	next := slot{state: k.state, held: true, epoch: k.epoch, fails: k.fails + 1}
	next.retryAt = o.now.Add(o.cfg.FailedRetry << min(k.fails, 2))
	switch {
	case k.state == Draining:
	case e.ForGood:
		next.state = Failed
	default:
		next.state = Acquiring
	}
	o.set(e.Shard, next)
}

func (o *Ownership) set(s int, k slot) {
	k.since = o.step
	o.shards[s] = k
}

// slot returns a shard's slot if it is in one of the states.
func (o *Ownership) slot(s int, states ...ShardState) *slot {
	if s < 0 || s >= len(o.shards) || !slices.Contains(states, o.shards[s].state) {
		return nil
	}
	return &o.shards[s]
}

// backOff is the time until the next try: short while the holder is there, for it will let
// the shard go; else what is left of its lease. The jitter differs by shard, try and member
// but not by run.
func (o *Ownership) backOff(e Refused) time.Duration {
	tries := o.shards[e.Shard].tries
	d := min(o.cfg.RetryLeast<<min(tries, 8), o.cfg.RetryMost)
	jitter := weight(shardHash(e.Shard)+uint64(tries), nameHash(o.cfg.Name)) % 256
	if !o.there(e.Holder) && e.For > 0 {
		return e.For + o.cfg.RetryLeast*time.Duration(jitter)/256
	}
	return d*3/4 + d*time.Duration(jitter)/512
}

// wants tells whether this node should own a shard.
func (o *Ownership) wants(s int) bool {
	return o.self == MemberActive && o.owners[s] == o.cfg.Name
}

// reconcile commands what is due, shard by shard.
func (o *Ownership) reconcile() {
	draining, busy := 0, 0
	for s := range o.shards {
		if o.shards[s].state == Draining {
			draining++
		}
	}
	for s := range o.shards {
		k := &o.shards[s]
		due := !k.asked && !o.now.Before(k.retryAt)
		switch {
		case o.wants(s):
			switch k.state {
			case Idle:
				o.set(s, slot{state: Acquiring, retryAt: o.now})
				o.acquire(s)
			case Acquiring:
				if due {
					o.acquire(s)
				}
			case Draining:
				if due {
					o.drain(s)
				}
			case Recovering, Active, Failed: // as it should be, or as good as it gets
			}
		case k.state == Draining:
			if due {
				o.drain(s)
			}
		case k.state == Idle:
		case k.state == Acquiring && !k.asked && !k.held:
			o.set(s, slot{})
		case draining < o.cfg.MaxDraining || k.state == Acquiring:
			draining++
			k.state, k.fails = Draining, 0
			o.drain(s)
		}
		if k.state != Idle {
			busy++
		}
	}
	if o.self == MemberDraining && busy == 0 && !o.told {
		o.told = true
		o.do(Drained{})
	}
}

func (o *Ownership) acquire(s int) {
	if o.budget == 0 || !o.leased(s) {
		return
	}
	o.budget--
	k := &o.shards[s]
	k.asked, k.lapses, k.hinted = true, o.lease(s).lapses, false
	o.do(Acquire{s})
}

func (o *Ownership) drain(s int) {
	k := &o.shards[s]
	k.asked = true
	o.do(Drain{s, k.epoch})
}

// Locate tells where a shard is to be found at an instant.
func (o *Ownership) Locate(s int, now time.Time) Location {
	k := &o.shards[s]
	l := Location{Shard: s, State: k.state, Owner: o.owners[s]}
	switch {
	case k.state == Active && k.sure && now.Before(o.lease(s).until):
		l.Here, l.Owner = true, o.cfg.Name
	case k.state == Draining && k.sure && now.Before(o.lease(s).until):
		l.Leaving = true
	case k.state == Acquiring && k.holder != o.cfg.Name && o.there(k.holder):
		l.Owner = k.holder // it serves until it has drained
	case k.state == Acquiring || k.state == Recovering || k.state == Active:
		l.Coming, l.Owner = true, o.cfg.Name
	}
	l.Address = o.members[l.Owner].GRPC
	return l
}

// there tells whether gossip knows a member.
func (o *Ownership) there(name string) bool {
	_, ok := o.members[name]
	return ok
}

// State is how far this node is.
func (o *Ownership) State() MemberState { return o.self }

// Owners are the members that should own the shards.
func (o *Ownership) Owners() []string { return slices.Clone(o.owners) }

// Owned are the shards that are not idle, in the states asked for; none means all.
func (o *Ownership) Owned(states ...ShardState) (out []int) {
	for s, k := range o.shards {
		if k.state != Idle && (len(states) == 0 || slices.Contains(states, k.state)) {
			out = append(out, s)
		}
	}
	return out
}

// String tells of the shards in each state, for scenarios and logs.
func (o *Ownership) String() string {
	var b strings.Builder
	b.WriteString(o.self.String())
	for st := Acquiring; st <= Failed; st++ {
		if s := o.Owned(st); len(s) > 0 {
			b.WriteString(" " + st.String() + "=" + describe(s))
		}
	}
	return b.String()
}
