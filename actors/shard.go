package actors

import (
	"context"
	"errors"
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
// from its checkpoint after a while; one whose log has a gap stays failed, loudly.
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
	began     time.Time // when this life did
	life      uint64    // counts openings: an answer from a former life is dropped
	cancel    context.CancelFunc
	epoch     uint64
	poison    map[messages.Position]string
	fold      *fold
	residents *residents
	models    modelTable
	// complete: every customer of the shard is resident, so that a missing one is new.
	complete  bool
	customers uint64
	scratch   []byte
	// last is the slot of the customer that was folded last.
	last uint32
	// hints are the slots that the next customers probably have, noSlot where none is known.
	hints [ahead]uint32
	// touched keeps what is only read from being optimised away.
	touched uint64

	inbox      inbox
	reads      reads
	checkpoint checkpointer
	scoring    scoring
	waits      waits

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
	start  struct{}
	opened struct {
		life   uint64
		epoch  uint64
		meta   *footfallv1.CheckpointMeta
		reader Reader
		err    error
	}
	failed struct {
		life uint64
		err  error
	}
	maintain   struct{ now time.Time }
	resume     struct{}
	drain      struct{ reply chan<- error }
	released   struct{ err error }
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
		s.open()
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
		if s.serves(m.reply) {
			s.waits.idle = append(s.waits.idle, m)
		}
	case *scored:
		s.scored(m)
	case *checkpointNow:
		if s.serves(m.reply) {
			s.checkpoint.asked = append(s.checkpoint.asked, m.reply)
		}
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
	case *waitActive:
		s.waits.active = append(s.waits.active, m.reply)
	case *failed:
		if m.life == s.life {
			s.fail(m.err)
		}
	case *drain:
		s.drain(m)
	case *released:
		s.idle(m.err)
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
		if s.state != Recovering && s.state != Active && s.state != Draining {
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

// open begins a life: acquire, load, attach, all away from the mailbox.
func (s *shard) open() {
	s.life++
	s.state, s.err = Acquiring, nil
	s.began = s.cfg.Now()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	life := s.life
	go func() {
		m := &opened{life: life}
		m.epoch, m.meta, m.reader, m.err = s.acquire(ctx)
		s.send(m)
	}()
}

func (s *shard) acquire(ctx context.Context) (uint64, *footfallv1.CheckpointMeta, Reader, error) {
	epoch, err := s.store.Acquire(ctx, s.id, s.cfg.Node)
	if err != nil {
		return 0, nil, nil, err
	}
	meta, err := s.store.Load(ctx, s.id, epoch)
	if err != nil {
		return 0, nil, nil, err
	}
	reader, err := s.log.Open(ctx, s.id, messages.Mark{Next: meta.GetNextOffset(), Sum: meta.GetSum()})
	if err != nil {
		return 0, nil, nil, err
	}
	begin := &footfallv1.Control{Node: s.cfg.Node, Kind: &footfallv1.Control_Epoch{Epoch: &footfallv1.EpochBegin{Epoch: epoch}}}
	if err := s.appendControl(ctx, begin); err != nil {
		return 0, nil, nil, errors.Join(err, reader.Close())
	}
	return epoch, meta, reader, nil
}

// appendControl writes a control record to the shard's log. Any goroutine may call it.
func (s *shard) appendControl(ctx context.Context, c *footfallv1.Control) error {
	body, err := c.MarshalVT()
	if err != nil {
		return err
	}
	_, err = s.log.Append(ctx, s.id, []messages.Record{{
		Type: messages.ControlRecord, FromNode: true, Time: s.cfg.Now().UnixMilli(), Body: body,
	}})
	return err
}

func (s *shard) opened(m *opened) {
	if m.life != s.life || s.state != Acquiring {
		if m.reader != nil {
			_ = m.reader.Close()
		}
		return
	}
	if m.err != nil {
		s.fail(m.err)
		return
	}
	s.epoch = m.epoch
	s.tickAppended.Store(0) // a tick that failed to be appended is due again
	s.fold = newFold(s.id, s.cfg, s.cal)
	s.fold.poison = s.poison
	s.residents = newResidents()
	s.models = modelTable{}
	s.customers, s.complete = 0, true
	s.checkpoint.reset()
	s.scoring.reset()
	s.reads.reset()
	if m.meta != nil {
		if err := s.restore(m.meta); err != nil {
			_ = m.reader.Close()
			s.fail(err)
			return
		}
	}
	s.state = Recovering
	s.inbox.begin(s, m.reader)
	if !s.complete {
		s.reads.warm = true
	}
}

// restore takes up the checkpoint.
func (s *shard) restore(m *footfallv1.CheckpointMeta) error {
	if err := s.fold.restore(m); err != nil {
		return err
	}
	s.models.refs = m.GetModels()
	s.customers = m.GetCustomers()
	s.complete = s.customers == 0
	s.noteTick(s.fold.lastTick, s.fold.ticked)
	if s.scorer != nil {
		for _, id := range m.GetUnscored() {
			s.reads.want(id, nil)
			s.scoring.recovered = append(s.scoring.recovered, id)
		}
		if m.GetSweeping() {
			s.scoring.missed = true
			s.scoring.beginSweep()
		}
	}
	return nil
}

// stop ends what runs beside the mailbox in this life, and drops the customers.
func (s *shard) stop() {
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
	s.life++
	s.inbox.end()
	s.reads.fail(&NotActiveError{Shard: s.id, State: s.state, Err: s.err})
	s.waits.fail(&NotActiveError{Shard: s.id, State: s.state, Err: s.err})
	s.checkpoint.fail(&NotActiveError{Shard: s.id, State: s.state, Err: s.err})
	s.checkpoint.reset()
	s.scoring.reset()
	s.residents = newResidents()
}

// retryAfter is how long a failed shard rests before it is opened again.
const retryAfter = 2 * time.Second

func (s *shard) fail(err error) {
	s.logger.Error("shard failed", "epoch", s.epoch, "error", err)
	s.state, s.err = Failed, err
	s.retryAt = time.Time{}
	if retryable(err) {
		s.retryAt = s.cfg.Now().Add(retryAfter)
	}
	s.stop()
}

// retryable tells errors that a new life may not meet again from those that need a person.
func retryable(err error) bool {
	var (
		gap       *messages.LogGapError
		regressed *messages.LogRegressedError
		corrupt   *messages.CorruptError
		stale     *messages.StaleEpochError
	)
	return !errors.As(err, &gap) && !errors.As(err, &regressed) && !errors.As(err, &corrupt) && !errors.As(err, &stale)
}

// idleSegments is how many segments an idle shard empties at a time.
const idleSegments = 32

// maintain is sent a few times a second.
func (s *shard) maintain(now time.Time) {
	switch s.state {
	case Failed:
		if !s.retryAt.IsZero() && !now.Before(s.retryAt) {
			s.open()
		}
	case Active:
		s.tickByWall(now)
		if len(s.inbox.queue) == 0 {
			s.residents.compact(wasteIdle, spareIdle, idleSegments)
		}
	default:
	}
}

// tickByWall appends the tick of yesterday once it has ended by the clock of the wall.
func (s *shard) tickByWall(now time.Time) {
	if s.fold.clock != footfallv1.ClockMode_CLOCK_MODE_WALL {
		return
	}
	yesterday := s.cal.DayOf(now) - 1
	if day, ok := s.ticked(); ok && day >= yesterday {
		return
	}
	s.noteTick(yesterday, true)
	life := s.life
	go func() {
		if err := s.appendTick(context.Background(), yesterday); err != nil {
			s.send(&failed{life, err})
		}
	}()
}

func (s *shard) appendTick(ctx context.Context, day int32) error {
	return s.appendControl(ctx, &footfallv1.Control{
		Node: s.cfg.Node,
		Kind: &footfallv1.Control_Tick{Tick: &footfallv1.Tick{Date: behavior.FormatDate(day)}},
	})
}

const tickBias = 1 << 31

// noteTick remembers the newest tick that was appended or read. Any goroutine may call it.
func (s *shard) noteTick(day int32, ok bool) {
	if !ok {
		return
	}
	v := int64(day) + tickBias
	for {
		old := s.tickAppended.Load()
		if old >= v || s.tickAppended.CompareAndSwap(old, v) {
			return
		}
	}
}

// ticked is the newest day whose tick was appended or read. Any goroutine may call it.
func (s *shard) ticked() (day int32, ok bool) {
	v := s.tickAppended.Load()
	return int32(v - tickBias), v != 0
}

// drain checkpoints and releases the shard. What the log holds beyond is the next owner's.
func (s *shard) drain(m *drain) {
	if s.state == Idle || s.state == Failed || s.state == Acquiring {
		s.state = Idle
		s.stop()
		m.reply <- nil
		return
	}
	s.state = Draining
	s.inbox.stopReading()
	epoch := s.epoch
	done := make(chan error, 1)
	s.checkpoint.asked = append(s.checkpoint.asked, done)
	go func() {
		err := <-done
		if err == nil {
			err = s.store.Release(context.Background(), s.id, epoch)
		}
		s.send(&released{err})
		m.reply <- err
	}()
}

func (s *shard) idle(err error) {
	s.state, s.err = Idle, err
	s.stop()
}

func (s *shard) send(m any) { s.root.Send(s.pid, letter{m}) }

// letter wraps every message: one that comes after the shard has stopped is lost in silence,
// as it should be, where the actor system would print it.
type letter struct{ message any }

// IgnoreDeadLetterLogging is looked for by the actor system.
func (letter) IgnoreDeadLetterLogging() {}

// publish lets others see how the shard is.
func (s *shard) publish() {
	st := Status{Shard: s.id, State: s.state, Epoch: s.epoch, Err: s.err, LastCheckpoint: s.checkpoint.last}
	if f := s.fold; f != nil {
		st.Next, st.Customers = f.next, s.customers
		st.Resident, st.ResidentBytes = uint64(s.residents.len()), s.residents.bytes()
		st.Events, st.Duplicates, st.Rejected, st.TooLate = f.events, f.duplicates, f.rejected, f.tooLate
		st.Unscored, st.Sweeping, st.Clock = uint64(s.scoring.waiting()), s.scoring.sweeping, f.clock
		st.lastTick, st.ticked = f.lastTick, f.ticked
	}
	s.mu.Lock()
	s.status = st
	s.mu.Unlock()
}
