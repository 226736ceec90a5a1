package actors

import (
	"context"
	"slices"

	"footfall/messages"
)

// reads is what the shard wants from the store, and the one read that is under way. Wants
// gather while a read runs and go out together with the next.
type reads struct {
	underWay bool
	wanted   map[string][]func()
	// then runs once all that is wanted now has been read.
	then []func()
	// warm: the store is being read from end to end, to make resident what fits; after is how
	// far it came.
	warm  bool
	after string
	// evicted: something was dropped, so that a scan cannot make the shard complete.
	evicted bool
}

type readDone struct {
	life uint64
	// ids and values answer a get; a scan has only customers.
	ids       []string
	values    [][]byte
	scan      bool
	sweep     bool
	after     string
	customers []messages.CustomerRecord
	waiting   map[string][]func()
	then      []func()
	err       error
}

// scanBytes is how much one scan of the store brings at most.
const scanBytes = 256 << 10

func (r *reads) reset() { *r = reads{} }

// fail lets everybody who waits look again: they will find the shard not active.
func (r *reads) fail(error) {
	for _, ws := range r.wanted {
		for _, w := range ws {
			w()
		}
	}
	r.reset()
}

// want asks for a customer that is not resident; done, where given, is called in the
// actor's goroutine once it is, or the store does not have it.
func (r *reads) want(id string, done func()) {
	if r.wanted == nil {
		r.wanted = map[string][]func(){}
	}
	waiting, known := r.wanted[id]
	if done != nil {
		waiting = append(waiting, done)
	}
	if !known || done != nil {
		// Assigning to a map keeps the new key, also where an equal one is there.
		r.wanted[cloneString(id)] = waiting
	}
}

// read begins the next read of the store: what is wanted first, then the sweep's passivated
// customers, then warming up.
func (s *shard) read() {
	r := &s.reads
	if r.underWay || s.state == Draining {
		return
	}
	m := &readDone{life: s.life}
	switch {
	case len(r.wanted) > 0:
		m.waiting, m.then = r.wanted, r.then
		r.wanted, r.then = nil, nil
		m.ids = make([]string, 0, len(m.waiting))
		for id := range m.waiting {
			m.ids = append(m.ids, id)
		}
		slices.Sort(m.ids)
	case s.scoring.wantsScan(s):
		m.scan, m.sweep, m.after = true, true, s.scoring.after
	case r.warm && s.state == Active && s.residents.load() < s.budget()*3/4:
		m.scan, m.after = true, r.after
	default:
		return
	}
	r.underWay = true
	epoch, limit := s.epoch, int(min(scanBytes, s.budget()/8))
	go func() {
		ctx := context.Background()
		if m.scan {
			m.customers, m.err = s.store.Scan(ctx, s.id, epoch, m.after, limit)
		} else {
			m.values, m.err = s.store.Get(ctx, s.id, epoch, m.ids)
		}
		s.send(m)
	}()
}

func (s *shard) readDone(m *readDone) {
	defer func() {
		for _, ws := range m.waiting {
			for _, w := range ws {
				w()
			}
		}
	}()
	if m.life != s.life {
		return
	}
	s.reads.underWay = false
	if m.err != nil {
		s.fail(m.err)
		return
	}
	for i, id := range m.ids {
		if m.values[i] != nil && !s.admit(id, m.values[i], true) {
			return
		}
	}
	if m.scan {
		for _, c := range m.customers {
			if !s.admit(c.ID, c.Value, false) {
				return
			}
			if slot, ok := s.residents.find(c.ID); ok && m.sweep {
				s.sweep(slot)
			}
		}
		s.scanned(m)
	}
	for _, then := range m.then {
		then()
	}
	s.scoring.addRecovered(s)
}

// admit makes a stored customer resident that is not.
func (s *shard) admit(id string, value []byte, hot bool) bool {
	if _, ok := s.residents.find(id); ok {
		return true
	}
	scores, rec, err := splitValue(id, value)
	if err != nil {
		s.fail(err)
		return false
	}
	slot := s.residents.add(id, scores, rec)
	if !hot {
		s.residents.at(slot).unset(flagHot)
	}
	return true
}

// scanned moves a scan on.
func (s *shard) scanned(m *readDone) {
	end := len(m.customers) == 0
	if !end {
		last := m.customers[len(m.customers)-1].ID
		if m.sweep {
			s.scoring.after = last
		} else {
			s.reads.after = last
		}
		return
	}
	if m.sweep {
		s.scoring.scanDone = true
		return
	}
	s.reads.warm = false
	s.complete = !s.reads.evicted
}

// minBudget keeps a shard able to work whatever the configuration says.
const minBudget = 64 << 10

// budget is how many bytes of residents this shard may hold.
func (s *shard) budget() int64 { return max(s.cfg.MemoryBudget/int64(s.cfg.Shards), minBudget) }

// overfull is where folding waits for checkpoints, and even customers that wait for scores
// leave memory: a sweep finds them again.
func (s *shard) overfull() bool { return s.residents.load() > s.budget()*5/4 }

// evictSteps bounds how far the hand goes at once.
const evictSteps = 8192

// evict drops customers that were not used lately until the residents fit the budget.
// Eviction follows a clock over the slots: use sets a customer hot, the hand cools it, and
// one that is still cold when the hand comes again goes. While a record waits for its
// customers nobody goes, for some of them are resident already.
func (s *shard) evict() {
	r := s.residents
	if s.reads.underWay || s.inbox.waiting || s.inbox.checked || r.load() <= s.budget() {
		return
	}
	for range min(2*len(r.slots), evictSteps) {
		if r.load() <= s.budget()*7/8 {
			break
		}
		s.scoring.hand = (s.scoring.hand + 1) % len(r.slots)
		slot := uint32(s.scoring.hand)
		if !r.inUse(slot) {
			continue
		}
		c := r.at(slot)
		if c.has(flagHot) {
			c.unset(flagHot)
			continue
		}
		if c.has(flagsPinned) {
			continue
		}
		if c.has(flagUnscored) {
			if !s.overfull() {
				continue
			}
			s.scoring.missed = true
		}
		r.evict(slot)
		s.complete, s.reads.evicted, s.reads.warm = false, true, false
	}
	r.compactBusy()
}
