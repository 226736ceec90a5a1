package actors

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// shard is the actor that hosts the customers of one shard. One mailbox for all of them is
// what makes {position, customers} a consistent cut, so that a checkpoint needs no pause.
//
//	        start              opened           own epoch read back
//	idle ─────────► acquiring ─────────► recovering ─────────► active
//	 ▲                  │                    │                   │ drain
//	 │                  │ any error          │                   ▼
//	 │                  └──────► failed ◄────┴────────────── draining
//	 └─────────────────────────────────────────── released ──────┘
//
// A failed shard that a restart may help (a panic, a store that was away) is opened again
// from its checkpoint after a while, by itself or by whoever opened it and is told of it; one
// whose log has a gap stays failed, loudly.
//
// Invariants, numbered as in the design:
//  1. Every checkpoint names the epoch under which the shard was acquired.
//  2. A checkpoint holds exactly the customers changed since the one before, as of its position.
//  4. Records are folded in the order of their offsets; fold refuses any other.
//  5. The reader has two batches, the scorer two requests, queries a credit: the mailbox is
//     bounded at its sources.
//  6. A score replaces only an older one of its model.
//
// And of its own:
//   - At most one read of the store is under way, and nothing is evicted meanwhile: what it
//     brings is never older than what was dropped.
//   - Only customers that are clean, scored and not in a checkpoint are evicted.
//   - The mailbox is never blocked: log, store and scorer answer by message.
type shard struct {
	// Fixed at the start.
	id     int
	cfg    *Config
	log    Log
	store  Store
	scorer Scorer
	cal    *behavior.Calendar
	logger *slog.Logger
	root   *actor.RootContext
	pid    *actor.PID

	// Owned by the actor's goroutine.
	state     State
	err       error
	retryAt   time.Time
	began     time.Time     // when this life did
	tookOver  time.Duration // from then until it was active
	life      uint64        // counts openings: an answer from a former life is dropped
	told      func(Change)
	leaving   []chan<- error // wait until the shard is given up
	working   bool           // from opened to the end of the life: there is a fold to go on with
	cancel    context.CancelFunc
	epoch     uint64
	token     uint64 // in this life's own epoch record
	poison    map[messages.Position]string
	fold      *fold
	residents *residents
	models    modelTable
	// complete: every customer of the shard is resident, so that a missing one is new.
	complete  bool
	customers uint64
	scratch   []byte
	// hints are the slots that the next customers probably have, noSlot where none is known.
	hints [ahead]uint32
	// counted is how many events had come when maintain looked last.
	counted uint64
	// reported is what has been counted of this life's fold, did what this process has done in all lives.
	reported, did tally
	// unknown are fields of the checkpoint that only newer nodes know: the next one has them, too.
	unknown []byte
	// notes are taken where somebody reads the metrics; nil else. halved is when the sketch of them
	// was halved last, window how long what is in it has been coming, in seconds.
	notes  *notes
	halved time.Time
	window time.Duration
	census census
	heat   heat
	// handed are the traces that the log cannot carry; exemplar is that of a record folded since
	// the time of folding was observed, "" for none.
	handed   *handed
	exemplar string
	// touched keeps what is only read from being optimised away.
	touched uint64

	inbox      inbox
	reads      reads
	checkpoint checkpointer
	turns      *turns // the host's
	scoring    scoring
	waits      waits

	standby standby

	// readers are the goroutines that pull from the log.
	readers sync.WaitGroup
	// queries counts the queries in flight; written by the callers.
	queries atomic.Int64
	// tickAppended is the newest day whose tick was appended or read, as a day + 1<<31; 0 for none.
	tickAppended atomic.Int64

	mu     sync.Mutex // guards status
	status Status
}

// Messages to a shard. life is the one in which they were asked for.
type (
	start  struct{ told func(Change) }
	opened struct {
		life   uint64
		epoch  uint64
		token  uint64
		meta   *footfallv1.CheckpointMeta
		reader Reader
		err    error
	}
	failed struct {
		life uint64
		err  error
	}
	maintain struct{ now time.Time }
	resume   struct{}
	drain    struct {
		epoch uint64
		told  func(Change)
		reply chan<- error
	}
	released struct {
		life uint64
		err  error
	}
	drop       struct{}
	waitActive struct{ reply chan<- error }
)

// Receive handles one message, then does what can be done without waiting.
func (s *shard) Receive(ctx actor.Context) {
	defer s.survive()
	l, ok := ctx.Message().(letter)
	if !ok {
		return
	}
	switch m := l.message.(type) {
	case *start:
		s.start(m)
	case *opened:
		s.opened(m)
	case *delivery:
		s.deliver(m)
	case *resume:
		s.inbox.resuming = false
	case *readDone:
		s.readDone(m)
	case *ask:
		s.ask(m)
	case *waitFor:
		s.waitFor(m)
	case *forgetWait:
		s.waits.forget(m.wait)
	case *rejected:
		s.waits.rejected(m.customer, m.event, m.fault)
	case *waitIdle:
		if s.state == Acquiring || s.serves(m.reply) {
			s.waits.idle = append(s.waits.idle, m)
		}
	case *scored:
		s.scored(m)
	case *serving:
		if s.state == Active && s.scorer != nil {
			s.versionsServe(m.models)
		}
	case *checkpointNow:
		if s.serves(m.reply) {
			s.checkpoint.asked = append(s.checkpoint.asked, m.reply)
		}
	case *turnBegins:
		s.turnBegins(m)
	case *checkpointed:
		s.checkpointed(m)
	case *hold:
		s.hold(m)
	case *unhold:
		s.unhold(m)
	case *maintain:
		s.maintain(m.now)
	case *feed:
		s.feed(m)
	case *visit:
		s.visit(m)
	case *askHot:
		s.askHot(m)
	case *waitActive:
		s.waits.active = append(s.waits.active, m.reply)
	case *failed:
		if m.life == s.life {
			s.fail(m.err)
		}
	case *drain:
		s.drain(m)
	case *released:
		s.released(m)
	case *drop:
		s.drop()
	}
	s.work()
	s.publish()
	s.tellActive()
}

// serves reports whether the shard works; else it says so.
func (s *shard) serves(reply chan<- error) bool {
	if s.state == Recovering || s.state == Active {
		return true
	}
	reply <- &NotActiveError{Shard: s.id, State: s.state, Err: s.err}
	return false
}

// tellActive answers who waits for the shard to serve, once it does or has failed.
func (s *shard) tellActive() {
	if s.state != Active && s.state != Failed || len(s.waits.active) == 0 {
		return
	}
	var err error
	if s.state == Failed {
		err = &NotActiveError{Shard: s.id, State: s.state, Err: s.err}
	}
	for _, reply := range s.waits.active {
		reply <- err
	}
	s.waits.active = nil
}

// work does all that has become possible.
func (s *shard) work() {
	for _, step := range [...]func(){s.foldSome, s.evict, s.score, s.read, s.save, s.resolveIdle} {
		if !s.working {
			return
		}
		step()
	}
}

// survive turns a panic into a failed shard: its memory is not to be trusted any more, its
// checkpoint is. The event at which it happened will be a dead letter in the next life.
func (s *shard) survive() {
	p := recover()
	if p == nil {
		return
	}
	s.logger.Error("shard panicked", "panic", p, "stack", string(debug.Stack()))
	if s.inbox.folding {
		s.poison[s.fold.at] = fmt.Sprintf("the fold panicked: %v", p)
		s.inbox.folding = false
	}
	s.fail(&panicError{p})
	s.publish()
	s.tellActive()
}

type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// idleSegments is how many segments an idle shard empties at a time.
const idleSegments = 32

// maintain is sent a few times a second.
func (s *shard) maintain(now time.Time) {
	s.observe(now)
	switch s.state {
	case Failed:
		if !s.retryAt.IsZero() && !now.Before(s.retryAt) {
			s.open()
		}
	case Active:
		s.tickByWall(now)
		count := s.fold.events + s.fold.duplicates
		idle := count == s.counted
		s.counted = count
		if idle {
			s.residents.compact(wasteIdle, spareIdle, idleSegments)
		}
	default:
	}
}

func (s *shard) send(m any) { s.root.Send(s.pid, letter{m}) }

// letter wraps every message: one that comes after the shard has stopped is lost in silence,
// as it should be, where the actor system would print it.
type letter struct{ message any }

// IgnoreDeadLetterLogging is looked for by the actor system.
func (letter) IgnoreDeadLetterLogging() {}

// tally is what a fold counts.
type tally struct{ events, duplicates, rejected, tooLate, newer uint64 }

// count takes what the fold has counted since it was last asked into what this process did. Unlike
// the sums of a fold, which move with the shard and begin again where a crash has undone some, that
// never goes back.
func (s *shard) count() {
	f, m := s.fold, s.cfg.Metrics
	if f == nil {
		return
	}
	now, last := f.tally(), s.reported
	if now == last {
		return
	}
	if now.newer > 0 && last.newer == 0 {
		s.logger.Warn("control records of a newer version are passed over: they stay in the log for nodes that know them", "next", f.next)
	}
	s.did.events += now.events - last.events
	s.did.rejected += now.rejected - last.rejected
	s.did.tooLate += now.tooLate - last.tooLate
	if m != nil {
		m.duplicates.Add(float64(now.duplicates - last.duplicates))
		m.newer.Add(float64(now.newer - last.newer))
	}
	s.reported = now
}

// publish lets others see how the shard is.
func (s *shard) publish() {
	s.count()
	st := Status{
		Shard: s.id, State: s.state, Epoch: s.epoch, Err: s.err, TookOver: s.tookOver,
		LastCheckpoint: s.checkpoint.last, Checkpointed: s.checkpoint.saved.Next, saved: s.checkpoint.saved,
	}
	if f := s.fold; f != nil {
		st.Next, st.Customers = f.next, s.customers
		st.Resident, st.ResidentBytes = uint64(s.residents.len()), s.residents.bytes()
		st.Events, st.Duplicates, st.Rejected, st.TooLate = f.events, f.duplicates, f.rejected, f.tooLate
		st.Unscored, st.Sweeping, st.Clock = uint64(s.scoring.waiting()), s.scoring.sweeping, f.clock
		st.lastTick, st.ticked = f.lastTick, f.ticked
	}
	st.Busy, st.Bytes, st.Queries, st.census = s.heat.busy, s.heat.bytes, s.heat.queries, s.census.done
	st.did = s.did
	s.mu.Lock()
	s.status = st
	s.mu.Unlock()
}
