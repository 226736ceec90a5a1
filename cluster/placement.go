package cluster

import (
	"cmp"
	"container/heap"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Place returns who should own each shard: shards names, empty where nobody is present.
// It is a function of the two sets alone, in whatever order and however often a name is
// given, so that nodes which know of the same members agree without a word.
//
// present are the members that may own shards now. away are those that have a place but
// cannot own any for a while, such as one that restarts; a name in both is present.
//
// Every pair of shard and member has a weight: a hash of both. Pairs are taken from the
// heaviest to the lightest; a pair is made when the shard has no owner yet and the member
// has room. That is rendezvous hashing where nobody is full. Room is exact: with n members
// each has ⌊shards/n⌋, and the first shards mod n that reach it may have one more.
//
// What follows, and is tested:
//
//  1. Loads of present members differ by at most 1.
//  2. While a member is away only its shards move, and its return moves the same back: a
//     rolling restart moves each shard exactly twice, and ends as it began.
//  3. A member that joins or leaves for good moves its own share, and little more: the
//     price of exact loads. See TestTable for how little.
func Place(shards int, present, away []string) []string {
	owners := make([]string, shards)
	here := nameSet(present)
	if len(here) == 0 {
		return owners
	}
	all := nameSet(append(slices.Clone(present), away...))
	todo := make([]int, shards)
	for s := range todo {
		todo[s] = s
	}
	f := newFilling(shards, all)
	f.fill(todo)
	homes := f.owners
	if len(all) == len(here) {
		for s, m := range homes {
			owners[s] = all[m]
		}
		return owners
	}

	// The shards of those who are away are added to what the present have at home. They have
	// room: no load at home is above ⌈shards/all⌉, and no more of them are above
	// ⌊shards/present⌋ than may be.
	f = newFilling(shards, here)
	todo = todo[:0]
	for s, m := range homes {
		if i, ok := slices.BinarySearch(here, all[m]); ok {
			f.give(s, i)
		} else {
			todo = append(todo, s)
		}
	}
	f.fill(todo)
	for s, m := range f.owners {
		owners[s] = here[m]
	}
	return owners
}

// nameSet returns the names in order, each once.
func nameSet(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.Compact(out)
}

// weight is how much a shard wants a member. Both hashes are well mixed by themselves, but
// their exclusive or alone would not do: members whose hashes begin with the same bits would
// lose and win together. The finalizer of splitmix64 makes every pair a draw of its own.
func weight(shard, name uint64) uint64 { return mix(shard ^ name) }

func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return x
}

func shardHash(s int) uint64      { return mix(uint64(s) + 0x9e3779b97f4a7c15) }
func nameHash(name string) uint64 { return xxhash.Sum64String(name) }

// choice is a member as a shard sees it; pair the same with the shard.
type choice struct {
	weight uint64
	member int
}

type pair struct {
	choice
	shard int
}

// before orders choices, the heaviest first; names decide between equals.
func (c choice) before(d choice) int {
	return cmp.Or(cmp.Compare(d.weight, c.weight), cmp.Compare(c.member, d.member))
}

// choices is how many of a shard's heaviest members are looked up at once. Few shards need
// more: that is what makes it S×M hashes and S×log S steps, not a sort of S×M pairs.
const choices = 6

// filling gives shards to members, the heaviest pair first.
type filling struct {
	names  []uint64 // hashes of the members' names
	owners []int    // of each shard; -1 for none
	load   []int    // of each member
	floor  int      // what everybody may have
	extra  int      // how many may still have one more
	next   []upcoming
}

// upcoming are a shard's heaviest choices that were not refused yet.
type upcoming struct {
	shard uint64
	list  []choice
	last  choice // the lightest that was ever in the list
}

func newFilling(shards int, members []string) *filling {
	f := &filling{
		names: make([]uint64, len(members)), owners: make([]int, shards), load: make([]int, len(members)),
		floor: shards / len(members), extra: shards % len(members),
	}
	for i, m := range members {
		f.names[i] = nameHash(m)
	}
	for s := range f.owners {
		f.owners[s] = -1
	}
	return f
}

// full tells whether a member takes no more. Once full, always full.
func (f *filling) full(m int) bool {
	return f.load[m] > f.floor || f.load[m] == f.floor && f.extra == 0
}

func (f *filling) give(shard, m int) {
	if f.load[m] == f.floor {
		f.extra--
	}
	f.load[m]++
	f.owners[shard] = m
}

// fill gives each of the shards its owner. A heap holds each shard's heaviest choice that
// was not refused, so that pairs come in the order of a sort of them all.
func (f *filling) fill(shards []int) {
	f.next = make([]upcoming, len(f.owners))
	room := make([]choice, len(shards)*choices)
	queue := make(pairs, 0, len(shards))
	for i, s := range shards {
		f.next[s] = upcoming{shardHash(s), room[i*choices : i*choices : (i+1)*choices], choice{math.MaxUint64, -1}}
		queue = append(queue, pair{f.pop(s), s})
	}
	heap.Init(&queue)
	for len(queue) > 0 {
		p := queue[0]
		if !f.full(p.member) {
			f.give(p.shard, p.member)
			heap.Pop(&queue)
			continue
		}
		queue[0].choice = f.pop(p.shard)
		heap.Fix(&queue, 0)
	}
}

// pop takes a shard's heaviest choice that was not refused.
func (f *filling) pop(shard int) choice {
	u := &f.next[shard]
	if len(u.list) == 0 {
		f.look(u)
	}
	c := u.list[0]
	u.list = u.list[1:]
	return c
}

// look fills the list with the heaviest members behind the last that have room. There is
// one: the shard has no owner, so not everybody is full.
func (f *filling) look(u *upcoming) {
	list := u.list[:0:cap(u.list)]
	if cap(list) < choices {
		list = make([]choice, 0, choices)
	}
	for m, name := range f.names {
		c := choice{weight(u.shard, name), m}
		if len(list) == choices && c.weight < list[choices-1].weight || f.full(m) || c.before(u.last) <= 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(list, c, choice.before)
		if len(list) == choices {
			list = list[:choices-1]
		}
		list = slices.Insert(list, i, c)
	}
	u.list, u.last = list, list[len(list)-1]
}

// pairs is a heap, the heaviest first.
type pairs []pair

func (p pairs) Len() int { return len(p) }
func (p pairs) Less(i, j int) bool {
	return cmp.Or(p[i].before(p[j].choice), cmp.Compare(p[i].shard, p[j].shard)) < 0
}
func (p pairs) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *pairs) Push(x any)   { *p = append(*p, x.(pair)) }
func (p *pairs) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}
