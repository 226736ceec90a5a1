package cluster

import (
	"slices"
	"time"
)

// Load is what a shard weighs now, and with whom.
type Load struct {
	Owner     string
	Customers uint64
	Bytes     uint64  // of resident customers
	Rate      float64 // events/s
}

// Share is what a member has, or will have.
type Share struct {
	Shards    int
	Customers uint64
	Bytes     uint64
	Rate      float64
}

// Plus is the share with one more shard.
func (s Share) Plus(l Load) Share {
	return Share{s.Shards + 1, s.Customers + l.Customers, s.Bytes + l.Bytes, s.Rate + l.Rate}
}

// Move is a shard that changes its owner. From is empty where nobody has it.
type Move struct {
	Shard    int
	From, To string
}

// Forecast is what becomes of a cluster when exactly certain members own its shards: those that
// go have been drained for good, so that no place is kept for them.
type Forecast struct {
	// Owners are those of each shard afterwards.
	Owners []string
	// Moves are in the order of shards. Least is how many had to move at the least, for the loads
	// to be even.
	Moves []Move
	Least int
	// Before and After are the shares by member.
	Before, After map[string]Share
}

// Foresee computes the forecast of the members that are given, one name at least.
func Foresee(loads []Load, members []string) Forecast {
	f := Forecast{
		Owners: Place(len(loads), members, nil),
		Before: map[string]Share{}, After: map[string]Share{},
	}
	for _, name := range nameSet(members) {
		f.After[name] = Share{}
	}
	for s, l := range loads {
		if l.Owner != "" {
			f.Before[l.Owner] = f.Before[l.Owner].Plus(l)
		}
		f.After[f.Owners[s]] = f.After[f.Owners[s]].Plus(l)
		if l.Owner != f.Owners[s] {
			f.Moves = append(f.Moves, Move{s, l.Owner, f.Owners[s]})
		}
	}
	for name, after := range f.After {
		f.Least += max(0, after.Shards-f.Before[name].Shards)
	}
	return f
}

// Pace is how fast shards move.
type Pace struct {
	// HandOver is how long one hand-over takes, Gap the least time between two that one member begins.
	HandOver, Gap time.Duration
	// Giving and Taking are how many shards a member hands over at once, and takes.
	Giving, Taking int
}

// Duration is how long the moves take at a pace. Members work side by side.
func (f Forecast) Duration(p Pace) time.Duration {
	from, to := map[string]int{}, map[string]int{}
	for _, m := range f.Moves {
		from[m.From]++
		to[m.To]++
	}
	var longest time.Duration
	for _, n := range from {
		rounds := (n + p.Giving - 1) / p.Giving
		longest = max(longest, time.Duration(n)*p.Gap, time.Duration(rounds)*p.HandOver)
	}
	for _, n := range to {
		rounds := (n + p.Taking - 1) / p.Taking
		longest = max(longest, time.Duration(rounds)*p.HandOver)
	}
	return longest
}

// Missing are the moves that have not been made, where the shards are with these owners.
func (f Forecast) Missing(owners []string) []Move {
	return slices.DeleteFunc(slices.Clone(f.Moves), func(m Move) bool {
		return m.Shard < len(owners) && owners[m.Shard] == m.To
	})
}
