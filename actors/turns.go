package actors

import (
	"slices"
	"sync"
)

// turns has shards write their checkpoints some at a time: a store to which all of them write at
// once is no faster, and everybody waits for it as long as the last. It is the host's, with a queue
// for each database of the store, so that one that is away holds up nobody else's.
//
//	due ────► queue ────► written, mostDue at once
//	asked ──► queue ────► written, mostWritten at once with those, and before any that is due
//
// What a checkpoint holds is gathered when its turn comes: those that wait take up no memory, and
// what changes meanwhile is in them.
//
// Invariants:
//  1. Up to mostWritten turns are under way, and none that was only due begins beside mostDue others.
//  2. Turns of a queue begin in the order in which they came to it.
//  3. A turn that has begun is ended once: by who wrote, or who has nothing to write any more.
//
// All methods may be called from any goroutine.
type turns struct {
	mu     sync.Mutex
	queues []turnQueue // of each database
}

type turnQueue struct {
	underWay   int
	asked, due []*turn
}

const (
	// mostDue are the checkpoints that are written at once to a database because they are due;
	// mostWritten the most if somebody waits for some of them. The others of a database's
	// connections are left for reading.
	mostDue     = 4
	mostWritten = 8
)

// turn is that of a shard.
type turn struct {
	database int
	// begins is called once, without waiting, where the turn did not begin at once.
	begins func(*turn)

	// Guarded by the queues' lock.
	began bool
	// asked: somebody waits for it.
	asked bool
}

func newTurns(databases int) *turns { return &turns{queues: make([]turnQueue, max(databases, 1))} }

// take reports whether the turn begins at once; else it waits.
func (t *turns) take(w *turn) (begins bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := &t.queues[w.database]
	if w.asked {
		q.asked = append(q.asked, w)
	} else {
		q.due = append(q.due, w)
	}
	return q.next(w)
}

// hurry makes a turn that waits one that is asked for, and reports whether it begins at once.
func (t *turns) hurry(w *turn) (begins bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.began || w.asked {
		return false
	}
	q := &t.queues[w.database]
	w.asked = true
	q.due = without(q.due, w)
	q.asked = append(q.asked, w)
	return q.next(w)
}

// end ends a turn, whether it has begun or still waits.
func (t *turns) end(w *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := &t.queues[w.database]
	if !w.began {
		q.asked, q.due = without(q.asked, w), without(q.due, w)
		return
	}
	q.underWay--
	q.next(nil)
}

// next begins the turns whose time has come, and reports whether that of the caller is one of them.
func (q *turnQueue) next(caller *turn) (begins bool) {
	for {
		var from *[]*turn
		switch {
		case len(q.asked) > 0 && q.underWay < mostWritten:
			from = &q.asked
		case len(q.due) > 0 && q.underWay < mostDue:
			from = &q.due
		default:
			return begins
		}
		w := (*from)[0]
		*from = slices.Delete(*from, 0, 1)
		w.began = true
		q.underWay++
		if w == caller {
			begins = true
		} else {
			w.begins(w)
		}
	}
}

func without(queue []*turn, w *turn) []*turn {
	return slices.DeleteFunc(queue, func(o *turn) bool { return o == w })
}

// takeTurn reports whether a checkpoint may be written now; else the shard hears when it may.
func (s *shard) takeTurn(asked bool) bool {
	c := &s.checkpoint
	switch {
	case c.turn == nil:
		c.turn = &turn{database: s.id % len(s.turns.queues), asked: asked, begins: func(w *turn) { s.send(&turnBegins{w}) }}
		c.hasTurn, c.hurried = s.turns.take(c.turn), asked
	case !c.hasTurn && asked && !c.hurried:
		c.hurried = true
		c.hasTurn = s.turns.hurry(c.turn)
	}
	return c.hasTurn
}

// leaveTurn gives a turn back that is not needed any more.
func (s *shard) leaveTurn() {
	c := &s.checkpoint
	if c.turn != nil {
		s.turns.end(c.turn)
		c.turn, c.hasTurn = nil, false
	}
}

// turnBegins tells a shard that its turn has come.
type turnBegins struct{ turn *turn }

func (s *shard) turnBegins(m *turnBegins) {
	if s.checkpoint.turn == m.turn { // else it was given back meanwhile
		s.checkpoint.hasTurn = true
	}
}
