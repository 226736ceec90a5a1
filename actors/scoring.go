package actors

import (
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.opentelemetry.io/otel/trace"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// scoring is the derived part of a shard: which customers wait for scores, and which are
// with the scorer. It lags behind folding and never holds it up; a customer that changes
// while it waits is scored once, as it is then.
type scoring struct {
	// queue holds slots from head on; those without flagUnscored have been dealt with.
	queue []uint32
	head  int
	// inFlight counts requests with the scorer; offered is one that it had no room for.
	inFlight int
	offered  *scoreJob
	retryAt  time.Time

	// A sweep visits every customer once after a tick: first the slots up to the one that was
	// the last as it began, then what the store has beyond them.
	sweeping bool
	cursor   uint32
	after    string
	scanDone bool
	// all: the sweep scores everybody, also those whose scores look fresh. missed: somebody
	// left memory unscored, so that such a sweep must follow.
	all, missed bool

	// recovered are customers that the checkpoint listed as unscored.
	recovered []string

	// pushed and taken count what went into the queue and came out; traced are the records whose
	// customers are in it, and that are traced.
	pushed, taken uint64
	traced        []traced

	// versions are by model those whose scores customers are to have, as the scorer said last.
	// Where it no longer names one, customers may have scores of it: a sweep replaces them, and
	// until turned there is no second one for that reason.
	versions versions
	turned   time.Time

	// hand is the clock hand of eviction: see evict.
	hand int
}

// scoreJob is a request with the customers of its rows.
type scoreJob struct {
	life     uint64
	slots    []uint32
	times    []int64
	position messages.Position
	request  ScoreRequest
	spans    []trace.Span
}

type scored struct {
	job   *scoreJob
	reply ScoreReply
}

const (
	maxScoring = 2
	// maxUnscoredIDs bounds the list in a checkpoint; past it recovery sweeps instead.
	maxUnscoredIDs = 4096
)

func (c *scoring) reset() { *c = scoring{} }

func (c *scoring) beginSweep() {
	c.sweeping, c.cursor, c.after, c.scanDone = true, 0, "", false
	c.all = c.all || c.missed
	c.missed = false
}

// waiting is how many customers are known to wait, those of a sweep ahead not counted.
func (c *scoring) waiting() int {
	n := len(c.queue) - c.head
	if c.offered != nil {
		n += len(c.offered.slots)
	}
	return n
}

func (c *scoring) idle() bool {
	return c.waiting() == 0 && c.inFlight == 0 && !c.sweeping && !c.missed && len(c.recovered) == 0
}

// unscored notes that a customer's newest state is not scored.
func (s *shard) unscored(slot uint32, c cell) {
	if s.scorer == nil || c.has(flagUnscored) {
		return
	}
	c.set(flagUnscored)
	s.scoring.queue = append(s.scoring.queue, slot)
	s.scoring.pushed++
}

// sweep lets a customer be scored unless all its scores are of after the tick already.
func (s *shard) sweep(slot uint32) {
	cell := s.residents.at(slot)
	tick, _ := s.fold.tickTime()
	scores := cell.scores()
	fresh := len(scores) > 0 && !s.scoring.all
	for at := 0; at < len(scores); at += scoreBytes {
		score := getScore(scores[at:])
		fresh = fresh && score.time >= tick && !s.scoring.versions.replaced(s.models, score.model)
	}
	if !fresh {
		s.unscored(slot, cell)
	}
}

func (c *scoring) addRecovered(s *shard) {
	for _, id := range c.recovered {
		if slot, ok := s.residents.find(id); ok {
			s.unscored(slot, s.residents.at(slot))
		}
	}
	c.recovered = nil
}

// wantsScan reports whether the sweep waits for customers that are not resident. They come
// in small pieces, only when the ones before are scored, and leave when memory is short.
func (c *scoring) wantsScan(s *shard) bool {
	return c.sweeping && !s.complete && !c.scanDone && c.cursor >= uint32(len(s.residents.slots)) &&
		c.waiting() == 0 && s.residents.load() <= s.budget()
}

// score hands customers to the scorer while it takes them.
func (s *shard) score() {
	c := &s.scoring
	if s.scorer == nil || s.state == Recovering || c.inFlight >= maxScoring {
		return
	}
	if !c.retryAt.IsZero() && s.cfg.Now().Before(c.retryAt) {
		return
	}
	for c.inFlight < maxScoring {
		job := c.offered
		if job == nil {
			job = s.nextJob()
		}
		if job == nil {
			return
		}
		c.offered = nil
		if !s.scorer.Score(&job.request) {
			c.offered = job
			return
		}
		c.inFlight++
	}
}

// nextJob gathers the customers that have waited longest, then those of the sweep.
func (s *shard) nextJob() *scoreJob {
	c := &s.scoring
	if c.missed && !c.sweeping {
		c.beginSweep()
	}
	s.advanceSweep()
	slots := c.take(s)
	n := len(slots)
	if n == 0 {
		return nil
	}
	job := &scoreJob{life: s.life, position: s.position(), slots: slots, times: make([]int64, n)}
	job.request = ScoreRequest{
		Rows:      n,
		Features:  make([]float32, n*features),
		Sequences: make([]float32, n*sequence),
		Customers: make([]uint64, n),
		Reply:     func(r ScoreReply) { s.send(&scored{job, r}) },
	}
	if len(c.traced) > 0 {
		s.beginScores(job)
	}
	now := s.cfg.Now().UnixMilli()
	for i, slot := range job.slots {
		cell := s.residents.at(slot)
		cell.set(flagScoring)
		job.request.Customers[i] = xxhash.Sum64(cell.id())
		rec := cell.record()
		job.times[i] = s.asOf(rec.Lifetime().LastEvent, now)
		rec.Features32(job.times[i], s.cal, job.request.Features[i*features:(i+1)*features])
		rec.Sequence32(job.times[i], s.cal, job.request.Sequences[i*sequence:(i+1)*sequence])
	}
	return job
}

// position is how far the customers are folded while the shard is between two records: the
// whole message before the next.
func (s *shard) position() messages.Position {
	return messages.Position{Offset: max(s.fold.next, 1) - 1}
}

// take removes up to a request's customers from the queue. One that is with the scorer now
// goes to the end: a customer is in one request at a time.
func (c *scoring) take(s *shard) []uint32 {
	waiting := c.queue[c.head:]
	slots := make([]uint32, 0, min(len(waiting), s.cfg.ScoreRows))
	n := 0
	for ; n < len(waiting) && len(slots) < s.cfg.ScoreRows; n++ {
		slot := waiting[n]
		if !s.residents.inUse(slot) || !s.residents.at(slot).has(flagUnscored) {
			continue
		}
		if s.residents.at(slot).has(flagScoring) {
			c.queue = append(c.queue, slot)
			c.pushed++
			continue
		}
		s.residents.at(slot).unset(flagUnscored)
		slots = append(slots, slot)
	}
	c.head += n
	c.taken += uint64(n)
	// The queue moves to the front of its memory once half of that is behind its head.
	if c.head >= len(c.queue)/2 {
		c.queue, c.head = c.queue[:copy(c.queue, c.queue[c.head:])], 0
	}
	return slots
}

const (
	features = 10
	sequence = 50
)

// advanceSweep fills the queue up to a request's size from the sweep.
func (s *shard) advanceSweep() {
	c := &s.scoring
	if !c.sweeping {
		return
	}
	for len(c.queue)-c.head < s.cfg.ScoreRows && c.cursor < uint32(len(s.residents.slots)) {
		if s.residents.inUse(c.cursor) {
			s.sweep(c.cursor)
		}
		c.cursor++
	}
	if c.cursor >= uint32(len(s.residents.slots)) && (s.complete || c.scanDone) && c.waiting() == 0 {
		c.sweeping, c.all = false, false
	}
}

// asOf is the instant for which a customer's features are computed: now under a clock of
// the wall; else the last tick or the customer's latest event, whichever is later.
func (s *shard) asOf(lastEvent, now int64) int64 {
	if s.fold.clock == footfallv1.ClockMode_CLOCK_MODE_WALL {
		return now
	}
	if tick, ok := s.fold.tickTime(); ok {
		return max(tick, lastEvent)
	}
	return lastEvent
}

// scored keeps what the scorer said.
func (s *shard) scored(m *scored) {
	if m.job.life != s.life {
		endScores(m.job, &m.reply)
		return
	}
	c := &s.scoring
	c.inFlight--
	if len(m.job.spans) > 0 {
		defer endScores(m.job, &m.reply)
	}
	if m.reply.Err != nil {
		s.logger.Warn("scoring failed", "rows", m.job.request.Rows, "error", m.reply.Err)
		c.retryAt = s.cfg.Now().Add(time.Second)
		for _, slot := range m.job.slots {
			cell := s.residents.at(slot)
			cell.unset(flagScoring)
			s.unscored(slot, cell)
		}
		return
	}
	c.retryAt = time.Time{}
	if m.reply.Whole {
		s.versionsServe(m.reply.Models)
	}
	var scratch [8 * scoreBytes]byte
	numbers := make([]uint16, len(m.reply.Models))
	for j, model := range m.reply.Models {
		numbers[j] = s.models.number(model.Model, model.Version)
	}
	for i, slot := range m.job.slots {
		cell := s.residents.at(slot)
		cell.unset(flagScoring)
		if len(m.reply.Models) == 0 {
			continue
		}
		scores := append(scratch[:0], cell.scores()...)
		for j := range m.reply.Models {
			model := &m.reply.Models[j]
			value := i
			if model.Rows != nil {
				var chosen bool
				if value, chosen = slices.BinarySearch(model.Rows, uint32(i)); !chosen {
					continue
				}
			}
			scores = s.models.merge(scores, packedScore{
				model: numbers[j], value: model.Values[value], epoch: uint32(s.epoch),
				position: m.job.position, time: m.job.times[i],
			})
		}
		s.residents.storeScores(slot, scores)
		s.dirty(slot, s.residents.at(slot))
	}
}

// unscoredIDs lists for a checkpoint who waits for scores; where they are too many, or a
// sweep is under way, recovery sweeps all.
func (c *scoring) unscoredIDs(s *shard) (ids []string, sweep bool) {
	if s.scorer == nil {
		return nil, false
	}
	n := c.waiting() + c.inFlight*s.cfg.ScoreRows + len(c.recovered)
	if c.sweeping || c.missed || n > maxUnscoredIDs {
		return nil, true
	}
	if n == 0 {
		return nil, false
	}
	ids = append(ids, c.recovered...)
	for slot := range s.residents.slots {
		if !s.residents.inUse(uint32(slot)) {
			continue
		}
		if cell := s.residents.at(uint32(slot)); cell.has(flagUnscored | flagScoring) {
			ids = append(ids, string(cell.id()))
		}
	}
	return ids, false
}
