package actors

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

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
		m.err = s.acquire(ctx, m)
		s.send(m)
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
	if m.reader, err = s.log.Open(ctx, s.id, messages.Mark{Next: m.meta.GetNextOffset(), Sum: m.meta.GetSum()}); err != nil {
		return err
	}
	// Two lives may have the same epoch where a store was lost, so an owner draws a token.
	m.token = 1 + rand.Uint64N(math.MaxUint64)
	begin := &footfallv1.Control{Node: s.cfg.Node, Kind: &footfallv1.Control_Epoch{Epoch: &footfallv1.EpochBegin{Epoch: m.epoch, Token: m.token}}}
	if err = s.appendControl(ctx, begin); err != nil {
		err = errors.Join(err, m.reader.Close())
		m.reader = nil
	}
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
		return
	}
	if m.err != nil {
		s.fail(m.err)
		return
	}
	s.epoch, s.token = m.epoch, m.token
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
	s.checkpoint.savedNext = m.GetNextOffset()
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
