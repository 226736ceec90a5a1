package actors

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Change is a step in the life of a shard, of which its opener is told.
type Change struct {
	// State is Recovering once the shard is acquired, Active once it serves, Idle once it is
	// released; Failed where nothing of it runs any more, for which Err tells why.
	State State
	Epoch uint64
	// Err is *messages.HeldError where the store has another owner, *messages.StaleEpochError
	// where another has taken over.
	Err error
}

// Permanent tells whether a shard that failed with this error would fail again: its log has a
// gap, or bytes are wrong, and a person must look at it.
func Permanent(err error) bool {
	var (
		gap       *messages.LogGapError
		regressed *messages.LogRegressedError
		corrupt   *messages.CorruptError
	)
	return errors.As(err, &gap) || errors.As(err, &regressed) || errors.As(err, &corrupt)
}

// tell tells the opener, if it wants to know.
func (s *shard) tell(c Change) {
	if s.told != nil {
		s.told(c)
	}
}

// start opens the shard where nothing of it runs. told is nil where nobody looks after it but
// the shard itself, which then tries again after it has failed.
func (s *shard) start(m *start) {
	if s.state != Idle && s.state != Failed {
		return
	}
	s.told = m.told
	s.open()
}

// open begins a life: acquire, load, attach, all away from the mailbox.
func (s *shard) open() {
	s.life++
	s.state, s.err = Acquiring, nil
	s.began, s.tookOver = s.cfg.Now(), 0
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	life := s.life
	go func() {
		m := &opened{life: life}
		m.err = s.acquire(ctx, m)
		s.send(m)
		if m.err != nil {
			return
		}
		// The record comes back with the others. Nobody waits for more.
		begin := &footfallv1.Control{Node: s.cfg.Node, Kind: &footfallv1.Control_Epoch{Epoch: &footfallv1.EpochBegin{Epoch: m.epoch, Token: m.token}}}
		if err := s.appendControl(ctx, begin); err != nil && ctx.Err() == nil {
			s.send(&failed{life, err})
		}
	}()
}

// acquire fills m with what the life needs.
func (s *shard) acquire(ctx context.Context, m *opened) (err error) {
	if m.epoch, err = s.store.Acquire(ctx, s.id, s.cfg.Node); err != nil {
		return err
	}
	if m.meta, err = s.store.Load(ctx, s.id, m.epoch); err != nil {
		return err
	}
	// Two lives may have the same epoch where a store was lost, so an owner draws a token.
	m.token = 1 + rand.Uint64N(math.MaxUint64)
	m.reader, err = s.attach(ctx, messages.Mark{Next: m.meta.GetNextOffset(), Sum: m.meta.GetSum()})
	return err
}

// appendControl writes a control record to the shard's log. Any goroutine may call it.
func (s *shard) appendControl(ctx context.Context, c *footfallv1.Control) error {
	body, err := c.MarshalVT()
	if err != nil {
		return err
	}
	return s.log.Append(ctx, s.id, []messages.Record{{
		Type: messages.ControlRecord, FromNode: true, Time: s.cfg.Now().UnixMilli(), Body: body,
	}})
}

func (s *shard) opened(m *opened) {
	if m.life != s.life || s.state != Acquiring {
		if m.reader != nil {
			_ = m.reader.Close()
		}
		if m.life == s.life && s.state == Draining { // it was given up meanwhile
			s.giveUp(m.epoch, m.err)
		}
		return
	}
	if m.err != nil {
		s.acquired(m.epoch)
		s.fail(m.err)
		return
	}
	s.acquired(m.epoch)
	s.token = m.token
	s.tickAppended.Store(0) // a tick that failed to be appended is due again
	s.fold = newFold(s.id, s.cfg, s.cal)
	s.reported, s.unknown = tally{}, nil
	s.fold.poison = s.poison
	s.beginNotes()
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
	s.state, s.working = Recovering, true
	s.tell(Change{State: Recovering, Epoch: s.epoch})
	s.inbox.begin(s, m.reader)
	if !s.complete {
		s.reads.warm = true
	}
}

// acquired notes the epoch of this life; all that is logged from then on names it.
func (s *shard) acquired(epoch uint64) {
	s.epoch = epoch
	s.logger = s.cfg.Logger.With("shard", s.id, "epoch", epoch)
}

// restore takes up the checkpoint.
func (s *shard) restore(m *footfallv1.CheckpointMeta) error {
	if err := s.fold.restore(m); err != nil {
		return err
	}
	s.reported = s.fold.tally()
	s.unknown = slices.Clone(m.ProtoReflect().GetUnknown())
	s.checkpoint.saved = messages.Mark{Next: m.GetNextOffset(), Sum: m.GetSum()}
	s.models.refs = m.GetModels()
	s.scoring.versions = versionsOf(m.GetServing())
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
	s.working = false
	s.endNotes()
	s.inbox.end()
	s.reads.fail(&NotActiveError{Shard: s.id, State: s.state, Err: s.err})
	s.waits.fail(&NotActiveError{Shard: s.id, State: s.state, Err: s.err})
	s.checkpoint.fail(&NotActiveError{Shard: s.id, State: s.state, Err: s.err})
	s.leaveTurn()
	s.checkpoint.reset()
	s.scoring.reset()
	s.residents = newResidents()
}

// retryAfter is how long a failed shard rests before it is opened again.
const retryAfter = 2 * time.Second

func (s *shard) fail(err error) {
	var (
		held  *messages.HeldError
		stale *messages.StaleEpochError
	)
	switch {
	case s.told != nil && errors.As(err, &held): // as it is while others hand over
		s.logger.Debug("shard is another's", "reason", err)
	case s.told != nil && errors.As(err, &stale):
		s.logger.Info("shard is another's", "reason", err)
	default:
		s.logger.Error("shard failed", "error", err)
	}
	s.state, s.err = Failed, err
	s.retryAt = time.Time{}
	if s.told == nil && !Permanent(err) && !errors.As(err, &stale) {
		s.retryAt = s.cfg.Now().Add(retryAfter)
	}
	s.stop()
	s.tell(Change{State: Failed, Epoch: s.epoch, Err: err})
	s.leave(err)
}

// drain gives the shard up, whatever it is at: one that works stops reading, and is released
// with its last checkpoint (see save); what the log holds beyond is the next owner's. One that failed, or was never
// acquired, has nothing to checkpoint; it is released under the epoch that the caller knows.
func (s *shard) drain(m *drain) {
	s.leaving = append(s.leaving, m.reply)
	if m.told != nil {
		s.told = m.told
	}
	switch s.state {
	case Draining:
	case Acquiring:
		s.state = Draining
		s.cancel() // opened comes all the same
	case Recovering, Active:
		s.state = Draining
		s.inbox.stopReading()
	case Idle, Failed:
		s.state = Draining
		s.giveUp(m.epoch, nil)
	}
}

// giveUp releases what may have been acquired and never worked. err is what became of the
// attempt.
func (s *shard) giveUp(epoch uint64, err error) {
	switch {
	case epoch > 0:
		s.epoch = epoch
		s.release(epoch)
	case s.told == nil:
		s.idle(nil) // alone with its store
	default:
		s.idle(err) // the store may have carried it out
	}
}

// release releases a shard of which there is nothing to checkpoint.
func (s *shard) release(epoch uint64) {
	life := s.life
	go func() { s.send(&released{life, s.store.Release(context.Background(), s.id, epoch)}) }()
}

func (s *shard) released(m *released) {
	if m.life == s.life {
		s.idle(m.err)
	}
}

// idle ends a life in order, or with an error that leaves open whether the store has released
// the shard.
func (s *shard) idle(err error) {
	s.state, s.err = Idle, err
	s.stop()
	if err != nil {
		s.tell(Change{State: Failed, Epoch: s.epoch, Err: err})
	} else {
		s.tell(Change{State: Idle, Epoch: s.epoch})
	}
	s.leave(err)
}

// leave answers those who wait for the shard to be given up.
func (s *shard) leave(err error) {
	for _, reply := range s.leaving {
		reply <- err
	}
	s.leaving = nil
}

// drop ends what runs of the shard without a word to anybody.
func (s *shard) drop() {
	s.told = nil
	if s.state != Idle {
		s.idle(nil)
	}
}
