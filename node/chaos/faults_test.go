package chaos

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// kind is what a fault strikes; what was struck is healed in this order, so that nobody starts
// into what is still broken.
type kind int

const (
	server kind = iota
	wire
	process
)

// fault is something that goes wrong. strike says what it has done, and returns how it ends.
type fault struct {
	name   string
	kind   kind
	longer bool // it lasts up to ten seconds
	strike func(w *world, r *round) (what string, heal func())
}

// round is what goes wrong at one time.
type round struct {
	w *world
	// free are nodes to which this fault has done nothing yet.
	free []*member
	// alone: nothing else is broken.
	alone bool
}

// pick is a node that runs and that the fault has not picked yet.
func (r *round) pick() *member {
	at := r.w.rng.IntN(len(r.free))
	m := r.free[at]
	r.free = slices.Delete(r.free, at, at+1)
	return m
}

// drain has a node leave for good, asked by another, or by itself where the network may be cut.
func (r *round) drain() *member {
	m := r.pick()
	by := m
	if r.alone {
		by = r.pick()
	}
	r.w.drain(m, by, r.alone)
	return m
}

// others are all names in the network but one.
func others(but string) (out []string) {
	for i := range most {
		if name := fmt.Sprintf("n%d", i+1); name != but {
			out = append(out, name)
		}
	}
	return out
}

func toAll(from string, to []string) (out []direction) {
	for _, name := range to {
		out = append(out, direction{from, name})
	}
	return out
}

func fromAll(to string, from []string) (out []direction) {
	for _, name := range from {
		out = append(out, direction{name, to})
	}
	return out
}

// oneWay is one direction between two.
func (w *world) oneWay(a, b string) direction {
	if w.rng.IntN(2) == 0 {
		return direction{a, b}
	}
	return direction{b, a}
}

// cutting is a fault of the network.
func cutting(name string, what func(w *world, r *round) []direction) fault {
	return fault{name: name, kind: wire, strike: func(w *world, r *round) (string, func()) {
		cut := what(w, r)
		return fmt.Sprint(cut), w.net.cut(cut...)
	}}
}

var faults = []fault{
	{name: "kill -9 of a node", kind: process, strike: func(w *world, r *round) (string, func()) {
		m := r.pick()
		w.kill(m)
		return m.name, func() { w.start(m) }
	}},
	{name: "kill -9 of two nodes", kind: process, strike: func(w *world, r *round) (string, func()) {
		a, b := r.pick(), r.pick()
		w.kill(a)
		w.kill(b)
		return a.name + " " + b.name, func() { w.start(a); w.start(b) }
	}},
	{name: "SIGSTOP", kind: process, longer: true, strike: func(w *world, r *round) (string, func()) {
		m := r.pick()
		return m.name, w.freeze(m)
	}},
	{name: "SIGSTOP of two nodes", kind: process, strike: func(w *world, r *round) (string, func()) {
		a, b := r.pick(), r.pick()
		thawA, thawB := w.freeze(a), w.freeze(b)
		return a.name + " " + b.name, func() { thawA(); thawB() }
	}},
	{name: "restart in order", kind: process, strike: func(w *world, r *round) (string, func()) {
		m := r.pick()
		w.stop(m, r.alone)
		return m.name, func() { w.start(m) }
	}},
	{name: "drain for good, and back", kind: process, strike: func(w *world, r *round) (string, func()) {
		m := r.drain()
		return m.name, func() { w.start(m) }
	}},
	{name: "one more node, or one fewer", kind: process, strike: func(w *world, r *round) (string, func()) {
		for _, m := range w.nodes {
			if !slices.Contains(w.running(), m) {
				w.start(m)
				return m.name + " joins", func() {}
			}
		}
		return r.drain().name + " leaves", func() {}
	}},

	cutting("a node cut off from the others", func(w *world, r *round) []direction {
		m := r.pick()
		return append(toAll(m.name, others(m.name)), fromAll(m.name, others(m.name))...)
	}),
	cutting("a node that nobody hears", func(w *world, r *round) []direction {
		m := r.pick()
		return toAll(m.name, others(m.name))
	}),
	cutting("a node that hears nobody", func(w *world, r *round) []direction {
		m := r.pick()
		return fromAll(m.name, others(m.name))
	}),
	cutting("two nodes apart", func(w *world, r *round) []direction { return both(r.pick().name, r.pick().name) }),
	cutting("one node deaf to another", func(w *world, r *round) []direction {
		return []direction{{r.pick().name, r.pick().name}}
	}),
	cutting("a node without the database", func(w *world, r *round) []direction { return both(r.pick().name, postgres) }),
	cutting("a node half without the database", func(w *world, r *round) []direction {
		return []direction{w.oneWay(r.pick().name, postgres)}
	}),
	cutting("a node without the broker", func(w *world, r *round) []direction { return both(r.pick().name, broker) }),
	cutting("a node half without the broker", func(w *world, r *round) []direction {
		return []direction{w.oneWay(r.pick().name, broker)}
	}),
	{name: "connections reset", kind: wire, strike: func(w *world, r *round) (string, func()) {
		m := r.pick()
		for _, name := range append(others(m.name), broker, postgres) {
			w.net.reset(m.name, name)
		}
		return m.name, func() {}
	}},

	{name: "kill -9 of PostgreSQL", kind: server, strike: func(w *world, r *round) (string, func()) {
		require.NoError(w.t, w.store.Kill())
		return "", func() { require.NoError(w.t, w.store.Restart(w.t.Context())) }
	}},
	{name: "restart of PostgreSQL", kind: server, strike: func(w *world, r *round) (string, func()) {
		require.NoError(w.t, w.store.Halt(w.t.Context()))
		return "", func() { require.NoError(w.t, w.store.Restart(w.t.Context())) }
	}},
	{name: "PostgreSQL's disk full", kind: server, strike: func(w *world, r *round) (string, func()) {
		free := w.disk.fill(w.t, w.store)
		return "", func() {
			free()
			select {
			case <-w.store.Done(): // it had no room for its log
				require.NoError(w.t, w.store.Restart(w.t.Context()))
			default:
			}
		}
	}},
	{name: "kill -9 of RabbitMQ", kind: server, strike: func(w *world, r *round) (string, func()) {
		require.NoError(w.t, w.broker.Kill())
		return "", func() { require.NoError(w.t, w.broker.Restart(w.t.Context())) }
	}},
	{name: "restart of RabbitMQ", kind: server, strike: func(w *world, r *round) (string, func()) {
		require.NoError(w.t, w.broker.Restart(w.t.Context()))
		return "", func() {}
	}},
}

// strikes plans so many rounds: every fault has its turn before one comes again, and some strike
// while another lasts.
//
// FOOTFALL_CHAOS_ONLY leaves those whose names have that in them.
func (w *world) strikes(rounds int) (plan [][]fault) {
	only := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return !strings.Contains(f.name, os.Getenv("FOOTFALL_CHAOS_ONLY")) })
	require.NotEmpty(w.t, only, "FOOTFALL_CHAOS_ONLY")
	var deck []fault
	for len(deck) < rounds {
		again := slices.Clone(only)
		w.rng.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		deck = append(deck, again...)
	}
	for _, f := range deck[:rounds] {
		strike := []fault{f}
		if w.rng.IntN(3) == 0 && len(only) == len(faults) {
			for {
				if g := faults[w.rng.IntN(len(faults))]; g.kind != f.kind {
					strike = append(strike, g)
					break
				}
			}
		}
		plan = append(plan, strike)
	}
	return plan
}

// strike has faults last for a while, and heals them. It returns how long the cluster then took to
// answer for everybody again.
func (w *world) strike(l *load, fs []fault) {
	w.t.Helper()
	r := &round{w: w, alone: len(fs) == 1}
	slices.SortStableFunc(fs, func(a, b fault) int { return int(a.kind - b.kind) })
	last := 300*time.Millisecond + time.Duration(w.rng.Int64N(int64(4*time.Second)))
	var heals []func()
	for i, f := range fs {
		// At least three, of which a fault takes two at most.
		r.free = slices.DeleteFunc(w.running(), func(m *member) bool { return m == w.kept })
		what, heal := f.strike(w, r)
		w.t.Logf("  %s %s", f.name, what)
		heals = append(heals, heal)
		if f.longer && w.rng.IntN(2) == 0 {
			last = 10 * time.Second
		}
		if i+1 < len(fs) {
			l.during(time.Duration(w.rng.Int64N(int64(time.Second))))
		}
	}
	l.during(last)
	for _, heal := range heals {
		heal()
	}
	took := w.everybodyAnswers(time.Minute)
	w.t.Logf("  for %.1f s; all answer %.2f s after", last.Seconds(), took.Seconds())
	l.ok()
}
