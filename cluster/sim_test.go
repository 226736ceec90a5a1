package cluster

import (
	"container/heap"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"footfall/messages"
)

// sim runs several nodes' state machines against a store, a gossip and hosts that are made
// up, in a time of its own. Everything is decided by the seed. After every event it checks
// what must hold: see check.
type sim struct {
	shards int
	rand   *rand.Rand
	now    time.Time
	queue  events
	seq    int

	store *simStore
	nodes map[string]*simNode
	lives map[string]int // processes that each name has had
	// blocked are the ways from a to b that no gossip passes; "store" may be b.
	blocked map[[2]string]bool
	// lossy: one in so many answers of the store is lost after it did what was asked; 0 for none.
	lossy int

	// What is observed.
	owner     []string        // who answered for each shard last
	served    []time.Time     // when somebody answered last
	moves     int             // changes of owner
	turns     map[simTurn]int // how often, since the last change of the world
	worst     time.Duration
	quietFrom time.Time // the last change of the world
	trouble   bool      // something is cut, frozen or away: nothing is promised
	faults    []string
	log       strings.Builder
}

// simTurn is a node's turn to own a shard.
type simTurn struct {
	shard int
	node  string
}

const (
	simTTL      = 1500 * time.Millisecond
	simRenew    = 500 * time.Millisecond
	simGossip   = 100 * time.Millisecond
	simGone     = 1100 * time.Millisecond
	simKeep     = 5 * time.Minute
	simLate     = time.Second
	simCheckAt  = 10 * time.Millisecond
	simPromised = 3 * time.Second
)

func newSim(shards int, seed uint64) *sim {
	s := &sim{
		shards: shards, rand: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1000, 0),
		nodes: map[string]*simNode{}, lives: map[string]int{}, blocked: map[[2]string]bool{},
		owner: make([]string, shards), served: make([]time.Time, shards), turns: map[simTurn]int{},
	}
	s.store = newSimStore(shards, func() time.Time { return s.now })
	s.changed()
	s.after(simCheckAt, s.watch)
	return s
}

// events is a heap by time, then by order.
type (
	events   []simEvent
	simEvent struct {
		at  time.Time
		seq int
		do  func()
	}
)

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(simEvent)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}

func (s *sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.queue, simEvent{s.now.Add(d), s.seq, do})
}

// some returns a duration between a and b milliseconds.
func (s *sim) some(a, b int) time.Duration {
	return time.Duration(a*1000+s.rand.IntN((b-a)*1000+1)) * time.Microsecond
}

// run lets time pass.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for len(s.queue) > 0 && !s.queue[0].at.After(end) {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.do()
	}
	s.now = end
}

func (s *sim) logf(format string, args ...any) {
	fmt.Fprintf(&s.log, "%7.3f  %s\n", s.now.Sub(time.Unix(1000, 0)).Seconds(), fmt.Sprintf(format, args...))
}

func (s *sim) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.logf("FAULT %s", text)
	s.faults = append(s.faults, fmt.Sprintf("%.3f %s", s.now.Sub(time.Unix(1000, 0)).Seconds(), text))
}

// changed notes that the world has been changed from outside.
func (s *sim) changed() {
	s.quietFrom = s.now
	clear(s.turns)
	s.trouble = s.store.away || len(s.blocked) > 0
	for _, n := range s.nodes {
		s.trouble = s.trouble || n.frozen
	}
}

func (s *sim) names() []string { return slices.Sorted(maps.Keys(s.nodes)) }

// watch looks at the whole from time to time.
func (s *sim) watch() {
	s.check()
	s.after(simCheckAt, s.watch)
}

// check holds what must be true at every instant:
//
//  1. At most one node answers for a shard, and the store has it as the owner.
//  2. A shard that nobody serves is served again within the bound, unless there is trouble.
//  3. No shard goes to and fro: it does not come to the same node for a third time before the
//     world changes again.
func (s *sim) check() {
	canServe := false
	for _, n := range s.nodes {
		canServe = canServe || !n.frozen && n.own.State() == MemberActive
	}
	for shard := range s.shards {
		var here []string
		for _, name := range s.names() {
			if n := s.nodes[name]; n.own.Locate(shard, s.now).Here {
				here = append(here, name)
				kept := s.store.shards[shard]
				if kept.owner != name || kept.epoch != n.running[shard].epoch {
					s.fault("%s answers for shard %d under epoch %d, but the store has %s under %d", name, shard, n.running[shard].epoch, kept.owner, kept.epoch)
				}
				if n.frozen {
					here = here[:len(here)-1] // it is the owner, but says nothing
				}
			}
		}
		if len(here) > 1 {
			s.fault("shard %d is answered for by %s", shard, strings.Join(here, " and "))
		}
		if len(here) == 1 {
			if !s.served[shard].IsZero() {
				s.worst = max(s.worst, s.now.Sub(s.served[shard]))
			}
			if s.owner[shard] != here[0] {
				if s.owner[shard] != "" {
					s.moves++
					turn := simTurn{shard, here[0]}
					if s.turns[turn]++; s.turns[turn] > 2 && !s.trouble {
						s.fault("shard %d goes to and fro: it came to %s %d times", shard, here[0], s.turns[turn])
					}
				}
				s.owner[shard] = here[0]
			}
			s.served[shard] = s.now
		} else if canServe && !s.trouble {
			since := s.quietFrom
			if s.served[shard].After(since) {
				since = s.served[shard]
			}
			if gap := s.now.Sub(since); gap > simPromised && gap <= simPromised+simCheckAt {
				s.fault("shard %d is served by nobody for %s", shard, gap)
			}
		}
	}
}

// simStore is the store: leases by its own clock, epochs by compare-and-set.
type simStore struct {
	now    func() time.Time
	away   bool
	leases map[string]*simLease
	shards []simShard
}

func newSimStore(shards int, now func() time.Time) *simStore {
	return &simStore{now: now, leases: map[string]*simLease{}, shards: make([]simShard, shards)}
}

type simLease struct {
	incarnation string
	until       time.Time
}

type simShard struct {
	owner, incarnation string
	epoch              uint64
}

// live returns what is left of a lease; 0 where it has ended.
func (st *simStore) live(member, incarnation string) time.Duration {
	l := st.leases[member]
	if l == nil || l.incarnation != incarnation {
		return 0
	}
	return max(0, l.until.Sub(st.now()))
}

func (st *simStore) renew(member, incarnation string) error {
	l := st.leases[member]
	switch {
	case l == nil:
		l = &simLease{incarnation: incarnation}
		st.leases[member] = l
	case l.incarnation != incarnation && st.live(member, l.incarnation) > 0:
		return &messages.LeaseHeldError{Member: member, Incarnation: l.incarnation, For: st.live(member, l.incarnation)}
	}
	*l = simLease{incarnation: incarnation, until: st.now().Add(simTTL)}
	return nil
}

func (st *simStore) acquire(shard int, member, incarnation string) (uint64, error) {
	if st.live(member, incarnation) == 0 {
		return 0, errSimLapsed
	}
	k := &st.shards[shard]
	if k.owner != "" && (k.owner != member || k.incarnation != incarnation) {
		if left := st.live(k.owner, k.incarnation); left > 0 {
			return 0, &messages.HeldError{Shard: shard, Owner: k.owner, Epoch: k.epoch, For: left}
		}
	}
	*k = simShard{member, incarnation, k.epoch + 1}
	return k.epoch, nil
}

func (st *simStore) release(shard int, member, incarnation string, epoch uint64) error {
	k := &st.shards[shard]
	if k.owner != member || k.incarnation != incarnation || k.epoch != epoch {
		return &messages.StaleEpochError{Shard: shard, Stored: k.epoch}
	}
	k.owner, k.incarnation = "", ""
	return nil
}

// held are a member's shards, whether its lease holds or not.
func (st *simStore) held(member, incarnation string) map[int]uint64 {
	out := map[int]uint64{}
	for shard, k := range st.shards {
		if k.owner == member && k.incarnation == incarnation {
			out[shard] = k.epoch
		}
	}
	return out
}

// places are the members that had a lease not long ago, and those that should have one.
func (st *simStore) places() (kept, lapsed []string) {
	for name, l := range st.leases {
		ago := st.now().Sub(l.until)
		if ago < simKeep {
			kept = append(kept, name)
		}
		if ago > simLate && ago < simKeep {
			lapsed = append(lapsed, name)
		}
	}
	return kept, lapsed
}

// simNode is one process: a state machine, its gossip, its host.
type simNode struct {
	sim         *sim
	name        string
	life        int
	incarnation string
	own         *Ownership
	dead        bool
	frozen      bool
	later       []func() // what arrives while it is frozen
	left        bool
	heard       map[string]heard
	seen        []Member
	running     []simRunning
}

type heard struct {
	member Member
	beat   int
	at     time.Time
	left   bool
}

// simRunning is what the host runs of a shard.
type simRunning struct {
	epoch    uint64
	life     int    // counts Drops: what was asked before one is not answered after it
	commands int    // counts Acquires, Drains and Drops: a Drain is carried out while it is the last
	asking   bool   // the store for it,
	then     func() // and this is done with the answer
}

// start begins a process of a name.
func (s *sim) start(name string) {
	s.lives[name]++
	life := s.lives[name]
	n := &simNode{
		sim: s, name: name, life: life, heard: map[string]heard{}, running: make([]simRunning, s.shards),
		own: NewOwnership(OwnershipConfig{Name: name, Shards: s.shards}),
	}
	n.incarnation = fmt.Sprintf("%s.%d", name, life)
	s.nodes[name] = n
	n.beat()
	n.renew()
	n.tick()
	n.readPlaces()
	n.after(s.some(100, 200), func() { n.step(Ready{}) })
}

// after does something on the node later, once it runs.
func (n *simNode) after(d time.Duration, do func()) {
	n.sim.after(d, func() { n.on(do) })
}

func (n *simNode) on(do func()) {
	switch {
	case n.dead:
	case n.frozen:
		n.later = append(n.later, do)
	default:
		do()
	}
}

func (n *simNode) tick() {
	n.step(Ticked{})
	n.after(TickEvery, n.tick)
}

// ask sends a request to the store: do happens there, then runs here with its error. Where
// the store is away, or the way to it is blocked, the request fails in time.
func (n *simNode) ask(do func() error, then func(error)) {
	s := n.sim
	s.after(s.some(1, 3), func() {
		if s.store.away || s.blocked[[2]string{n.name, "store"}] {
			n.after(300*time.Millisecond, func() { then(errSimAway) })
			return
		}
		err := do()
		if s.lossy > 0 && s.rand.IntN(s.lossy) == 0 {
			err = errSimAway
		}
		n.after(s.some(1, 3), func() { then(err) })
	})
}

func (n *simNode) verify(seq uint64) {
	var held map[int]uint64
	n.ask(func() error { held = n.sim.store.held(n.name, n.incarnation); return nil }, func(err error) {
		if err != nil {
			held = nil
		}
		n.step(HeldRead{seq, held})
	})
}

var errSimLapsed = fmt.Errorf("the lease has lapsed")

var errSimAway = fmt.Errorf("the store does not answer")

func (n *simNode) renew() {
	if n.left {
		return
	}
	sent := n.sim.now
	incarnation := n.incarnation
	n.ask(func() error { return n.sim.store.renew(n.name, incarnation) }, func(err error) {
		if err != nil {
			n.after(simRenew/5, n.renew)
			return
		}
		n.step(LeaseRenewed{[]time.Time{sent.Add(simTTL)}})
		n.after(simRenew, n.renew)
	})
}

func (n *simNode) readPlaces() {
	var kept, lapsed []string
	n.ask(func() error { kept, lapsed = n.sim.store.places(); return nil }, func(err error) {
		if err == nil {
			n.step(PlacesRead{kept, lapsed})
		}
		n.after(2*time.Second, n.readPlaces)
	})
}

// beat gossips: everything that was heard goes to everybody whom it reaches.
func (n *simNode) beat() {
	if n.left && n.dead {
		return
	}
	s := n.sim
	me := n.heard[n.name]
	n.heard[n.name] = heard{n.member(), max(me.beat, n.life*1_000_000) + 1, s.now, n.left}
	said := maps.Clone(n.heard)
	for _, to := range s.names() {
		if to == n.name || s.blocked[[2]string{n.name, to}] {
			continue
		}
		s.after(s.some(1, 20), func() {
			if p := s.nodes[to]; p != nil {
				p.on(func() { p.listen(said) })
			}
		})
	}
	n.look()
	n.after(simGossip, n.beat)
}

func (n *simNode) member() Member {
	return Member{Name: n.name, Incarnation: n.incarnation, State: n.own.State(), Roles: RoleShards, GRPC: n.name + ":8081"}
}

func (n *simNode) listen(said map[string]heard) {
	for name, h := range said {
		if old, ok := n.heard[name]; name != n.name && (!ok || h.beat > old.beat) {
			h.at = n.sim.now
			n.heard[name] = h
		}
	}
	n.look()
}

// look tells the state machine where what gossip knows has changed.
func (n *simNode) look() {
	var now []Member
	for _, name := range slices.Sorted(maps.Keys(n.heard)) {
		if h := n.heard[name]; name == n.name || !h.left && n.sim.now.Sub(h.at) < simGone {
			now = append(now, h.member)
		}
	}
	same := slices.EqualFunc(now, n.seen, func(a, b Member) bool {
		return a.Name == b.Name && a.State == b.State && a.Incarnation == b.Incarnation
	})
	if same {
		return
	}
	n.seen = now
	var text []string
	for _, m := range now {
		text = append(text, m.Name+"("+m.State.String()+")")
	}
	n.logf("sees %s", strings.Join(text, " "))
	n.step(MembersChanged{now})
}

func (n *simNode) logf(format string, args ...any) {
	n.sim.logf("%s %s", n.name, fmt.Sprintf(format, args...))
}

// step gives the state machine an event and does what it says.
func (n *simNode) step(e Event) {
	shards := map[string][]int{}
	var kinds []string
	note := func(kind string, shard int) {
		if shards[kind] == nil {
			kinds = append(kinds, kind)
		}
		shards[kind] = append(shards[kind], shard)
	}
	for _, c := range n.own.Step(n.sim.now, e) {
		switch c := c.(type) {
		case Acquire:
			note("acquires", c.Shard)
			n.acquire(c.Shard)
		case Drain:
			note("drains", c.Shard)
			n.drain(c.Shard, c.Epoch)
		case Drop:
			note("drops", c.Shard)
			r := n.running[c.Shard]
			n.running[c.Shard] = simRunning{life: r.life + 1, commands: r.commands + 1}
		case TellReleased:
			n.tell(c)
		case Verify:
			n.verify(c.Seq)
		case Drained:
			n.logf("drained")
			n.leave()
		default:
			n.logf("%s", c)
		}
	}
	for _, k := range kinds {
		n.logf("%s %s", k, describe(shards[k]))
	}
	if n.sim.shards <= 64 { // else only when watching, for the time that it takes
		n.sim.check()
	}
}

// answer is an event about a shard, unless the shard was dropped since it was asked for.
func (n *simNode) answer(shard, life int, e Event) {
	if n.running[shard].life == life {
		n.step(e)
	}
}

func (n *simNode) acquire(shard int) {
	var epoch uint64
	r := &n.running[shard]
	r.commands++
	r.asking = true
	incarnation, life := n.incarnation, r.life
	n.ask(func() (err error) { epoch, err = n.sim.store.acquire(shard, n.name, incarnation); return err }, func(err error) {
		held, isHeld := errors.AsType[*messages.HeldError](err)
		if r.life != life {
			return
		}
		then := r.then
		r.asking, r.then = false, nil
		switch {
		case err == nil:
			r.epoch = epoch
			n.step(Acquired{shard, epoch})
			n.after(n.sim.some(10, 40), func() { n.answer(shard, life, Activated{shard}) })
		case isHeld:
			n.step(Refused{shard, held.Owner, held.For})
		default:
			n.step(ShardFailed{Shard: shard})
		}
		if then != nil {
			then()
		}
	})
}

// drain checkpoints and releases a shard. Without an epoch it awaits the answer to an Acquire, and
// asks the store what it has for this member.
func (n *simNode) drain(shard int, epoch uint64) {
	r, incarnation := &n.running[shard], n.incarnation
	r.commands++
	command, life := r.commands, r.life
	ended := func(err error) {
		_, stale := errors.AsType[*messages.StaleEpochError](err)
		switch {
		case err == nil:
			n.answer(shard, life, Released{shard})
		case stale:
			n.answer(shard, life, SteppedDown{shard})
		default:
			n.answer(shard, life, ShardFailed{Shard: shard})
		}
	}
	release := func() {
		if r.commands == command {
			n.ask(func() error { return n.sim.store.release(shard, n.name, incarnation, epoch) }, ended)
		}
	}
	find := func() {
		var has bool
		n.ask(func() error {
			epoch, has = n.sim.store.held(n.name, incarnation)[shard]
			return nil
		}, func(err error) {
			if err != nil || !has {
				ended(err)
				return
			}
			release()
		})
	}
	switch {
	case epoch != 0:
		n.after(n.sim.some(5, 20), release)
	case r.asking:
		r.then = find
	default:
		find()
	}
}

func (n *simNode) tell(c TellReleased) {
	s := n.sim
	if s.blocked[[2]string{n.name, c.To}] {
		return
	}
	s.after(s.some(1, 3), func() {
		if p := s.nodes[c.To]; p != nil {
			p.on(func() { p.step(ReleasedElsewhere{c.Shard}) })
		}
	})
}

// leave says good-bye and ends.
func (n *simNode) leave() {
	n.left = true
	n.beat()
	n.after(200*time.Millisecond, func() {
		n.dead = true
		if n.sim.nodes[n.name] == n {
			delete(n.sim.nodes, n.name)
		}
		n.sim.changed()
	})
}

// What is done to nodes from outside.

func (s *sim) crash(name string) {
	s.nodes[name].dead = true
	delete(s.nodes, name)
	s.changed()
}

func (s *sim) freeze(name string) {
	s.nodes[name].frozen = true
	s.changed()
}

func (s *sim) thaw(name string) {
	n := s.nodes[name]
	n.frozen = false
	s.changed()
	later := n.later
	n.later = nil
	for _, do := range later {
		n.on(do)
	}
}

// cut blocks the way from each of a to each of b.
func (s *sim) cut(a, b []string) {
	for _, x := range a {
		for _, y := range b {
			s.blocked[[2]string{x, y}] = true
		}
	}
	s.changed()
}

func (s *sim) heal() {
	clear(s.blocked)
	s.store.away = false
	s.changed()
}

// summary is who answers for what, and what it took.
func (s *sim) summary() string {
	var b strings.Builder
	for _, name := range s.names() {
		n := s.nodes[name]
		fmt.Fprintf(&b, "%s: %s", name, n.own)
		if n.frozen {
			b.WriteString(" (frozen)")
		}
		b.WriteByte('\n')
	}
	nobody := 0
	for shard := range s.shards {
		if s.now.Sub(s.served[shard]) > 2*simCheckAt {
			nobody++
		}
	}
	fmt.Fprintf(&b, "moves %d, longest pause %d ms, served by nobody %d\n", s.moves, s.worst.Milliseconds(), nobody)
	s.moves, s.worst = 0, 0
	return b.String()
}
