package actors

import (
	"context"
	"errors"
	"slices"
	"time"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// checkpointer gathers what the next checkpoint must hold, and knows the one being written.
type checkpointer struct {
	// changed are slots with flagDirty, inFlight those with flagInFlight.
	changed, inFlight []uint32
	// changedBytes is about how much the next checkpoint writes.
	changedBytes int64
	letters      []messages.DeadLetter
	writing      bool
	// turn is the one that is waited for, or that has begun while hasTurn: see turns. hurried: it
	// is asked for. That of the checkpoint being written is with who writes it.
	turn             *turn
	hasTurn, hurried bool
	// holder waits for its checkpoint, which is the one being written while holding; held
	// until it is done with it.
	holder        chan<- held
	holding, held bool
	due           time.Time
	// retryAt is when a checkpoint may be tried after one failed.
	retryAt time.Time
	last    time.Time
	saved   messages.Mark // what the last one holds
	// asked is answered by the next checkpoint, asking by the one that is being written.
	asked, asking []chan<- error
}

type (
	checkpointNow struct{ reply chan<- error }
	checkpointed  struct {
		life    uint64
		letters []messages.DeadLetter
		saved   messages.Mark
		// released: the shard was given up with it.
		released bool
		err      error
	}
	// hold checkpoints, and lets none follow until release is called, so that a reader of the
	// store sees one cut.
	hold struct{ reply chan<- held }
	held struct {
		epoch   uint64
		next    uint64
		release func()
		err     error
	}
	unhold struct{ life uint64 }
)

func (c *checkpointer) reset() {
	last := c.last
	*c = checkpointer{last: last}
}

func (c *checkpointer) fail(err error) {
	for _, ch := range append(c.asked, c.asking...) {
		ch <- err
	}
	c.asked, c.asking = nil, nil
	if c.holder != nil && !c.held {
		c.holder <- held{err: err}
	}
}

// dirty notes that a customer changed.
func (s *shard) dirty(slot uint32, c cell) {
	if c.has(flagDirty) {
		return
	}
	c.set(flagDirty)
	s.checkpoint.changed = append(s.checkpoint.changed, slot)
	s.checkpoint.changedBytes += int64(len(c))
}

// mustSave reports whether folding has to wait for a checkpoint: memory is over the budget
// and what fills it can be dropped only once it is written.
func (s *shard) mustSave() bool {
	c := &s.checkpoint
	return s.overfull() && (c.writing || len(c.changed) > 0 || len(c.inFlight) > 0)
}

// save begins a checkpoint where one is due: by time, by size, for want of memory, or
// because somebody asked. The one of a shard that is given up is its last, and releases it.
func (s *shard) save() {
	c := &s.checkpoint
	if c.writing || c.held {
		return
	}
	now := s.cfg.Now()
	asked := len(c.asked) > 0 || c.holder != nil || s.state == Draining
	if !s.wantsCheckpoint(now, asked) {
		s.leaveTurn()
		return
	}
	if s.takeTurn(asked) {
		s.write(now)
	}
}

// wantsCheckpoint reports whether a checkpoint is due. asked: somebody waits for it.
func (s *shard) wantsCheckpoint(now time.Time, asked bool) bool {
	c := &s.checkpoint
	if c.due.IsZero() {
		c.due = now.Add(s.jittered())
	}
	switch nothing := len(c.changed) == 0 && len(c.letters) == 0 && s.fold.next == c.saved.Next; {
	case s.state == Draining:
		return true
	case now.Before(c.retryAt) && len(c.asked) == 0:
		return false
	case asked:
		return true
	case nothing:
		return false
	default:
		return c.changedBytes >= s.cfg.CheckpointBytes || !now.Before(c.due) ||
			s.residents.load() > s.budget() && len(c.changed) > 0
	}
}

// write begins to write a checkpoint in the turn that has come.
func (s *shard) write(now time.Time) {
	c := &s.checkpoint
	cp := &messages.Checkpoint{
		Shard: s.id, Epoch: s.epoch,
		Meta:      s.meta(),
		Customers: s.changedCustomers(),
		Dead:      c.letters,
		Release:   s.state == Draining,
	}
	c.inFlight, c.changed = c.changed, c.inFlight[:0]
	c.changedBytes, c.letters = 0, nil
	c.asking, c.asked = c.asked, nil
	c.writing, c.holding = true, c.holder != nil
	c.due = now.Add(s.cfg.CheckpointEvery)
	turn := c.turn
	c.turn, c.hasTurn = nil, false
	done := &checkpointed{life: s.life, letters: cp.Dead, saved: messages.Mark{Next: s.fold.next, Sum: s.fold.sum}, released: cp.Release}
	go func() {
		done.err = s.store.Checkpoint(context.Background(), cp)
		s.turns.end(turn)
		s.send(done)
	}()
}

// jittered spreads the first checkpoints of the shards over the interval.
func (s *shard) jittered() time.Duration {
	return s.cfg.CheckpointEvery * time.Duration(s.id+1) / time.Duration(s.cfg.Shards)
}

func (s *shard) meta() *footfallv1.CheckpointMeta {
	m := &footfallv1.CheckpointMeta{Customers: s.customers, Models: slices.Clone(s.models.refs), Serving: s.scoring.versions.refs()}
	s.fold.meta(m)
	m.ProtoReflect().SetUnknown(s.unknown)
	m.Unscored, m.Sweeping = s.scoring.unscoredIDs(s)
	return m
}

// changedCustomers copies the changed customers out of the residents.
func (s *shard) changedCustomers() []messages.CustomerRecord {
	out := make([]messages.CustomerRecord, 0, len(s.checkpoint.changed))
	values := make([]byte, 0, s.checkpoint.changedBytes+s.checkpoint.changedBytes/8)
	for _, slot := range s.checkpoint.changed {
		c := s.residents.at(slot)
		c.unset(flagDirty)
		c.set(flagInFlight)
		at := len(values)
		values = appendValue(values, c.scores(), c.record())
		out = append(out, messages.CustomerRecord{ID: string(c.id()), Value: values[at:len(values):len(values)]})
	}
	return out
}

func (s *shard) checkpointed(m *checkpointed) {
	if m.life != s.life {
		return
	}
	c := &s.checkpoint
	c.writing = false
	for _, ch := range c.asking {
		ch <- m.err
	}
	c.asking = nil
	for _, slot := range c.inFlight {
		cell := s.residents.at(slot)
		cell.unset(flagInFlight)
		if m.err != nil {
			s.dirty(slot, cell)
		}
	}
	c.inFlight = c.inFlight[:0]
	if m.err == nil {
		c.last, c.saved = s.cfg.Now(), m.saved
		s.holding(nil)
		if m.released {
			s.idle(nil)
		}
		return
	}
	s.holding(m.err)
	c.letters = append(m.letters, c.letters...)
	var stale *messages.StaleEpochError
	if errors.As(m.err, &stale) || s.state == Draining {
		s.fail(m.err)
		return
	}
	// The log still holds what the checkpoint would have saved: go on, and try again.
	s.logger.Error("checkpoint failed", "error", m.err)
	c.retryAt = s.cfg.Now().Add(retryAfter)
}

func (s *shard) hold(m *hold) {
	if s.state != Active || s.checkpoint.holder != nil {
		m.reply <- held{err: &NotActiveError{Shard: s.id, State: s.state, Err: s.err}}
		return
	}
	s.checkpoint.holder = m.reply
}

// holding answers hold once its checkpoint is written; no other follows until unhold.
func (s *shard) holding(err error) {
	c := &s.checkpoint
	if !c.holding {
		return
	}
	c.holding = false
	if err != nil {
		c.holder <- held{err: err}
		c.holder = nil
		return
	}
	c.held = true
	life := s.life
	c.holder <- held{epoch: s.epoch, next: c.saved.Next, release: func() { s.send(&unhold{life}) }}
}

func (s *shard) unhold(m *unhold) {
	if m.life == s.life {
		s.checkpoint.held, s.checkpoint.holder = false, nil
	}
}
