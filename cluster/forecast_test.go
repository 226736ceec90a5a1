package cluster

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestForesee holds a forecast against what the placement does: nothing is lost or counted twice,
// and the moves lead from the one to the other.
func TestForesee(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := func(label string) (out []string) {
			for i := range rapid.IntRange(1, 9).Draw(t, label) {
				out = append(out, fmt.Sprintf("n%d", i))
			}
			return out
		}
		shards := rapid.IntRange(1, 128).Draw(t, "shards")
		owners := Place(shards, names("before"), nil)
		loads := make([]Load, shards)
		var all Share
		for s := range loads {
			loads[s] = Load{owners[s], uint64(s), 10, float64(s)}
			if rapid.IntRange(0, 9).Draw(t, "nobody") == 0 {
				loads[s].Owner = ""
			}
			all = all.Plus(loads[s])
		}
		f := Foresee(loads, names("after"))

		var after Share
		least, most := shards, 0
		for _, share := range f.After {
			after = Share{after.Shards + share.Shards, after.Customers + share.Customers, after.Bytes + share.Bytes, after.Rate + share.Rate}
			least, most = min(least, share.Shards), max(most, share.Shards)
		}
		require.Equal(t, all, after)
		require.LessOrEqual(t, most-least, 1)
		require.GreaterOrEqual(t, len(f.Moves), f.Least)

		now := make([]string, shards)
		for s := range now {
			now[s] = loads[s].Owner
		}
		require.Equal(t, f.Moves, f.Missing(now))
		for _, m := range f.Moves {
			require.Equal(t, now[m.Shard], m.From)
			now[m.Shard] = m.To
		}
		require.Equal(t, f.Owners, now)
		require.Empty(t, f.Missing(now))
		require.Empty(t, Foresee(withOwners(loads, now), slices.Collect(maps.Keys(f.After))).Moves)
	})
}

func withOwners(loads []Load, owners []string) []Load {
	out := make([]Load, len(loads))
	for s, l := range loads {
		l.Owner = owners[s]
		out[s] = l
	}
	return out
}

func TestForecastDuration(t *testing.T) {
	var f Forecast
	pace := Pace{HandOver: time.Second, Gap: time.Millisecond, Giving: 4, Taking: 4}
	require.Zero(t, f.Duration(pace))
	for s := range 9 {
		f.Moves = append(f.Moves, Move{s, "a", "b"})
	}
	require.Equal(t, 3*time.Second, f.Duration(pace), "three rounds of four")
	pace.Taking = 1
	require.Equal(t, 9*time.Second, f.Duration(pace), "one after the other")
	require.Equal(t, 90*time.Millisecond, f.Duration(Pace{HandOver: time.Millisecond, Gap: 10 * time.Millisecond, Giving: 4, Taking: 4}), "one each gap")
}
