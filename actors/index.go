package actors

import "math/bits"

// index finds the slot of a customer by the hash of its ID: open addressing with linear
// probing over one array without pointers. An entry is 32 bits of hash above the slot plus
// one; 0 is empty. Its home is the top bits of those 32, so that the array can grow, and an
// entry can move back, without a look at the customer.
//
// Invariant: between the home of an entry and the entry there is no empty place.
type index struct {
	entries []uint64
	shift   int
	n       int
}

const minIndex = 64

func newIndex() index {
	return index{entries: make([]uint64, minIndex), shift: 32 - bits.TrailingZeros(minIndex)}
}

func (x *index) home(e uint64) int { return int(e >> 32 >> x.shift) }

// find calls is with the slot of each entry that has the hash, until one is it.
func (x *index) find(hash uint64, is func(slot uint32) bool) (slot uint32, ok bool) {
	tag := hash >> 32
	for at := int(tag >> x.shift); ; at = (at + 1) & (len(x.entries) - 1) {
		e := x.entries[at]
		if e == 0 {
			return 0, false
		}
		if e>>32 == tag && is(uint32(e)-1) {
			return uint32(e) - 1, true
		}
	}
}

// near reads the entry that has the hash, or one close to it.
func (x *index) near(hash uint64) uint64 { return x.entries[hash>>32>>x.shift] }

// first returns the slot of the first entry that has the hash: a good guess.
func (x *index) first(hash uint64) (slot uint32, ok bool) {
	tag := hash >> 32
	for at := int(tag >> x.shift); ; at = (at + 1) & (len(x.entries) - 1) {
		switch e := x.entries[at]; {
		case e == 0:
			return 0, false
		case e>>32 == tag:
			return uint32(e) - 1, true
		}
	}
}

// add enters a slot that is not there.
func (x *index) add(hash uint64, slot uint32) {
	if x.n >= len(x.entries)*3/4 {
		x.grow()
	}
	x.put(hash>>32<<32 | uint64(slot+1))
	x.n++
}

func (x *index) put(e uint64) {
	at := x.home(e)
	for x.entries[at] != 0 {
		at = (at + 1) & (len(x.entries) - 1)
	}
	x.entries[at] = e
}

func (x *index) grow() {
	old := x.entries
	x.entries = make([]uint64, 2*len(old))
	x.shift--
	for _, e := range old {
		if e != 0 {
			x.put(e)
		}
	}
}

// remove takes out a slot that is there.
func (x *index) remove(hash uint64, slot uint32) {
	mask := len(x.entries) - 1
	e := hash>>32<<32 | uint64(slot+1)
	hole := x.home(e)
	for x.entries[hole] != e {
		hole = (hole + 1) & mask
	}
	x.n--
	// Entries behind the hole move into it unless that would put them before their home.
	for at := (hole + 1) & mask; x.entries[at] != 0; at = (at + 1) & mask {
		if (at-x.home(x.entries[at]))&mask >= (at-hole)&mask {
			x.entries[hole] = x.entries[at]
			hole = at
		}
	}
	x.entries[hole] = 0
}
