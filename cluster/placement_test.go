package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// placeBySorting is Place as its comment tells it: sort all pairs, take them one by one.
func placeBySorting(owners, members []string) []string {
	var all []pair
	load := map[string]int{}
	for s, owner := range owners {
		if owner != "" {
			load[owner]++
			continue
		}
		for m, name := range members {
			all = append(all, pair{choice{weight(shardHash(s), nameHash(name)), m}, s})
		}
	}
	slices.SortFunc(all, func(a, b pair) int {
		if c := a.before(b.choice); c != 0 {
			return c
		}
		return a.shard - b.shard
	})
	floor, extra := len(owners)/len(members), len(owners)%len(members)
	for _, n := range load {
		if n > floor {
			extra--
		}
	}
	owners = slices.Clone(owners)
	for _, p := range all {
		name := members[p.member]
		if owners[p.shard] != "" || load[name] > floor || load[name] == floor && extra == 0 {
			continue
		}
		if load[name] == floor {
			extra--
		}
		load[name]++
		owners[p.shard] = name
	}
	return owners
}

func names(t *rapid.T, label string, least, most int) []string {
	return rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,4}-?[0-9]{0,3}`), least, most, rapid.ID[string]).Draw(t, label)
}

func loads(owners []string) map[string]int {
	out := map[string]int{}
	for _, o := range owners {
		out[o]++
	}
	return out
}

// moved are the shards whose owner differs.
func moved(a, b []string) (out []int) {
	for s := range a {
		if a[s] != b[s] {
			out = append(out, s)
		}
	}
	return out
}

func TestPlaceAgainstSorting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 200).Draw(t, "shards")
		all := names(t, "members", 1, 24)
		gone := rapid.IntRange(0, len(all)-1).Draw(t, "away")
		present, away := all[gone:], all[:gone]

		homes := placeBySorting(make([]string, shards), nameSet(all))
		for s, o := range homes {
			if slices.Contains(away, o) {
				homes[s] = ""
			}
		}
		want := placeBySorting(homes, nameSet(present))
		require.Equal(t, want, Place(shards, present, away))
	})
}

func TestPlaceIsAFunctionOfTheSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(0, 128).Draw(t, "shards")
		present, away := names(t, "present", 1, 12), names(t, "away", 0, 4)
		want := Place(shards, present, away)
		again := rapid.Permutation(append(slices.Clone(present), present[0])).Draw(t, "order")
		gone := rapid.Permutation(append(slices.Clone(away), present[0])).Draw(t, "order of away")
		require.Equal(t, want, Place(shards, again, gone))
	})
	require.Equal(t, []string{"", ""}, Place(2, nil, []string{"a"}))
	require.Equal(t, []string{"a", "a"}, Place(2, []string{"a"}, nil))
}

// Invariant 1.
func TestPlaceIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 1024).Draw(t, "shards")
		present := names(t, "present", 1, 40)
		away := names(t, "away", 0, 10)
		got := loads(Place(shards, present, away))
		for _, m := range nameSet(present) {
			require.GreaterOrEqual(t, got[m], shards/len(present), m)
			require.LessOrEqual(t, got[m], (shards+len(present)-1)/len(present), m)
		}
		require.LessOrEqual(t, len(got), len(present))
	})
}

// Invariant 2.
func TestRollingRestartMovesEachShardTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 512).Draw(t, "shards")
		members := names(t, "members", 2, 24)
		first := Place(shards, members, nil)
		now, moves := first, make([]int, shards)
		step := func(present, away []string) {
			next := Place(shards, present, away)
			for _, s := range moved(now, next) {
				moves[s]++
			}
			now = next
		}
		for i := range members {
			rest := slices.Concat(members[:i], members[i+1:])
			step(rest, members[i:i+1])
			require.NotContains(t, now, members[i])
			step(members, nil)
		}
		require.Equal(t, first, now)
		for s, n := range moves {
			require.Equal(t, 2, n, "shard %d", s)
		}
	})
}

// Only the shards of those that are away move, however many are.
func TestAwayMovesNoOtherShard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 512).Draw(t, "shards")
		members := names(t, "members", 2, 24)
		n := rapid.IntRange(1, len(members)-1).Draw(t, "away")
		before, after := Place(shards, members, nil), Place(shards, members[n:], members[:n])
		for s := range before {
			if !slices.Contains(members[:n], before[s]) {
				require.Equal(t, before[s], after[s], "shard %d", s)
			}
		}
	})
}

// Invariant 3: a member that joins gets its share, and what moves between others is bounded.
// The bound is measured: see the table for means.
func TestJoinMovesLittle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		shards, members int
		mean            float64 // the most that is moved over the share, on average of the trials
	}{
		{64, 1, 1},
		{64, 2, 1.15},
		{64, 3, 1.3},
		{64, 5, 1.5},
		{64, 7, 1.8},
		{256, 8, 1.4},
		{1024, 16, 1.5},
		{1024, 64, 2.6},
	} {
		var all, share int
		for range 20 {
			members := make([]string, c.members+1)
			for i := range members {
				members[i] = fmt.Sprintf("node-%d", r.Uint32())
			}
			before, after := Place(c.shards, members[1:], nil), Place(c.shards, members, nil)
			all += len(moved(before, after))
			share += loads(after)[members[0]]
		}
		require.LessOrEqual(t, float64(all)/float64(share), c.mean, "%d shards, %d members", c.shards, c.members)
	}
}

func BenchmarkPlace(b *testing.B) {
	for _, c := range []struct{ shards, members, away int }{{64, 5, 0}, {1024, 64, 1}, {16384, 1000, 0}, {16384, 1000, 1}} {
		b.Run(fmt.Sprintf("shards=%d/members=%d/away=%d", c.shards, c.members, c.away), func(b *testing.B) {
			members := make([]string, c.members)
			for i := range members {
				members[i] = fmt.Sprintf("node-%d", i)
			}
			for b.Loop() {
				Place(c.shards, members[c.away:], members[:c.away])
			}
		})
	}
}
