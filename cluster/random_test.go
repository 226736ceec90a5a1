package cluster

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestRandomScenarios does anything to anybody, in any order, and then lets the cluster come
// to rest: every shard must be where the placement says. What the simulation checks at every
// instant, it checks here, too. rapid prints the steps and the seed of what fails, and how to
// run it again.
func TestRandomScenarios(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 24).Draw(t, "shards")
		s := newSim(shards, rapid.Uint64().Draw(t, "seed"))
		if rapid.Bool().Draw(t, "lossy") {
			s.lossy = 20
		}
		all := []string{"n1", "n2", "n3", "n4", "n5"}
		s.start("n1")
		s.start("n2")
		steps := 12
		if os.Getenv("FOOTFALL_HEAVY") == "1" {
			steps = 40
		}
		for range rapid.IntRange(1, steps).Draw(t, "steps") {
			name := rapid.SampledFrom(all).Draw(t, "node")
			n := s.nodes[name]
			what := rapid.SampledFrom([]string{"start", "start", "drain", "crash", "freeze", "thaw", "cut", "cut both", "cut store", "store away", "heal"}).Draw(t, "what")
			switch {
			case what == "start" && n == nil:
				s.start(name)
			case what == "drain" && n != nil && !n.frozen:
				n.step(DrainAsked{})
			case what == "crash" && n != nil:
				s.crash(name)
			case what == "freeze" && n != nil:
				s.freeze(name)
			case what == "thaw" && n != nil && n.frozen:
				s.thaw(name)
			case what == "cut store":
				s.cut([]string{name}, []string{"store"})
			case what == "cut" || what == "cut both":
				to := slices.DeleteFunc(slices.Clone(all), func(o string) bool { return o == name || !rapid.Bool().Draw(t, "from "+o) })
				s.cut([]string{name}, to)
				if what == "cut both" {
					s.cut(to, []string{name})
				}
			case what == "store away":
				s.store.away = true
			case what == "heal":
				s.heal()
			default:
				continue
			}
			s.logf("=== %s %s", name, what)
			s.changed()
			s.run(time.Duration(rapid.IntRange(1, 6000).Draw(t, "ms")) * time.Millisecond)
			require.Empty(t, s.faults, "%s", &s.log)
		}

		// All is well again.
		s.heal()
		for _, name := range s.names() {
			if s.nodes[name].frozen {
				s.thaw(name)
			}
		}
		if len(s.nodes) == 0 {
			s.start("n1")
		}
		s.logf("=== all is well")
		s.lossy = 0
		s.changed()
		s.run(8 * time.Second)
		require.Empty(t, s.faults, "%s", &s.log)
		if len(s.nodes) == 0 { // all were draining
			return
		}
		var owners []string
		for _, name := range s.names() {
			o := s.nodes[name].own.Owners()
			require.True(t, owners == nil || slices.Equal(owners, o), "nodes differ about the placement\n%s", &s.log)
			owners = o
		}
		for shard, name := range owners {
			require.True(t, s.nodes[name].own.Locate(shard, s.now).Here, "shard %d is not with %s\n%s%s", shard, name, &s.log, s.summary())
		}
		at := s.moves
		s.run(10 * time.Second)
		require.Equal(t, at, s.moves, "shards move without a reason\n%s", &s.log)
	})
}

// TestSimulationLarge runs a cluster as large as one is likely to be, once.
func TestSimulationLarge(t *testing.T) {
	s := newSim(256, 7)
	for i := range 12 {
		s.start(fmt.Sprintf("n%02d", i))
	}
	s.run(5 * time.Second)
	s.crash("n03")
	s.run(4 * time.Second)
	s.nodes["n10"].step(DrainAsked{})
	s.changed()
	s.run(4 * time.Second)
	s.start("n03")
	s.changed()
	s.run(4 * time.Second)
	require.Empty(t, s.faults)
	t.Log(s.summary())
}
