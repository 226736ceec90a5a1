package actors

import (
	"github.com/cespare/xxhash/v2"

	"footfall/messages"
)

// hot finds the customers of a shard that events come from most often, in memory that does not
// grow: the Space-Saving sketch of Metwally, Agrawal and El Abbadi, whose counts decay by halves.
//
//	places    0 … n-1, in order of count, the least first; the first floor of them are equal
//	entries   whose count a place holds, with the ID and how much of it may be another's
//	table     hash of the ID ─► entry, open addressing with linear probing
//
// A customer that has a counter counts there. One that has none takes over the counter of a
// least one, with its count, and remembers that as its error. No step of that allocates, or looks
// at all counters.
//
// Invariants, where weight is what of a customer's events decay has left:
//  1. For a customer that has a counter: count - error ≤ weight ≤ count.
//  2. One that has none weighs at most the least count once every counter is taken, and nothing
//     before, where nobody was forgotten; else at most below.
//  3. The least count is at most the weight of all customers together, divided by the counters,
//     and two for what halving rounds up; where nobody was forgotten.
//  4. counts grow from place to place, and table names each entry once.
//
// Two customers with one 64-bit hash would share a counter. It belongs to the goroutine of its
// shard, and what it holds depends on nothing but the calls.
type hot struct {
	n, floor int
	counts   [hotCounters]uint64
	who      [hotCounters]uint8
	entries  [hotCounters]hotEntry
	// ids are apart, so that what every event looks at stays near the processor.
	ids   [hotCounters]hotID
	table [hotTable]uint8 // entry + 1, 0 for none
	// below is what customers without a counter may weigh although one is free.
	below uint64
}

// hotEntry is a customer that has a counter. err is how much of its count may be another's.
type hotEntry struct {
	hash, err uint64
	place     uint8
}

type hotID struct {
	length uint8
	id     [messages.MaxID]byte
}

func (i *hotID) String() string { return string(i.id[:i.length]) }

const (
	// hotCounters is how many customers of a shard are told apart.
	hotCounters = 64
	hotTable    = 4 * hotCounters
)

// HotCustomer is one of those that most events of a shard come from.
type HotCustomer struct {
	CustomerID string
	// Events is how many came from it, those of before each minute counting half; it may be up
	// to Error too many, and is never too few.
	Events, Error uint64
}

// add counts an event of a customer.
func (h *hot) add(id string) {
	hash := xxhash.Sum64String(id)
	for at := hash % hotTable; ; at = (at + 1) % hotTable {
		e := h.table[at]
		if e == 0 {
			break
		}
		if h.entries[e-1].hash == hash {
			h.rise(int(h.entries[e-1].place))
			return
		}
	}
	if h.n < hotCounters {
		h.enter(hash, id)
		return
	}
	if h.floor == 0 {
		h.level()
	}
	h.floor--
	e := h.who[h.floor]
	h.unlink(h.entries[e].hash)
	h.take(e, hash, id, h.counts[h.floor])
	h.link(hash, e)
	h.counts[h.floor]++
}

// take makes an entry a customer's.
func (h *hot) take(e uint8, hash uint64, id string, err uint64) {
	h.entries[e].hash, h.entries[e].err = hash, err
	h.ids[e].length = uint8(copy(h.ids[e].id[:], id))
}

// rise adds an event to the count at a place, which may move behind others of its count.
func (h *hot) rise(place int) {
	count := h.counts[place]
	last := place
	if place < h.floor {
		last = h.floor - 1
		h.floor--
	} else {
		for last+1 < h.n && h.counts[last+1] == count {
			last++
		}
	}
	h.swap(place, last)
	h.counts[last]++
}

// swap exchanges the customers of two places, not the counts.
func (h *hot) swap(a, b int) {
	h.who[a], h.who[b] = h.who[b], h.who[a]
	h.entries[h.who[a]].place, h.entries[h.who[b]].place = uint8(a), uint8(b)
}

// level finds how many have the least count.
func (h *hot) level() {
	h.floor = 1
	for h.floor < h.n && h.counts[h.floor] == h.counts[0] {
		h.floor++
	}
}

// enter gives a customer a counter that nobody has.
func (h *hot) enter(hash uint64, id string) {
	place := h.n
	// The entry behind those in use is free: forget keeps it so.
	e := uint8(h.n)
	h.n++
	h.take(e, hash, id, h.below)
	count := h.below + 1
	for ; place > 0 && h.counts[place-1] > count; place-- {
		h.counts[place], h.who[place] = h.counts[place-1], h.who[place-1]
		h.entries[h.who[place]].place = uint8(place)
	}
	h.counts[place], h.who[place] = count, e
	h.entries[e].place = uint8(place)
	h.link(hash, e)
	h.floor = 0
	if h.n == hotCounters {
		h.level()
	}
}

// forget takes a customer's counter away: of one that was erased nothing is kept.
func (h *hot) forget(id string) {
	hash := xxhash.Sum64String(id)
	for at := hash % hotTable; h.table[at] != 0; at = (at + 1) % hotTable {
		e := h.table[at] - 1
		if h.entries[e].hash != hash {
			continue
		}
		if h.n == hotCounters {
			h.below = h.counts[0]
		}
		h.unlink(hash)
		h.n--
		for place := int(h.entries[e].place); place < h.n; place++ {
			h.counts[place], h.who[place] = h.counts[place+1], h.who[place+1]
			h.entries[h.who[place]].place = uint8(place)
		}
		if last := uint8(h.n); e != last { // the last entry moves into the gap
			moved := h.entries[last]
			h.unlink(moved.hash)
			h.entries[e], h.ids[e] = moved, h.ids[last]
			h.who[moved.place] = e
			h.link(moved.hash, e)
		}
		h.entries[h.n], h.ids[h.n] = hotEntry{}, hotID{}
		h.floor = 0
		return
	}
}

// link enters an entry into the table.
func (h *hot) link(hash uint64, e uint8) {
	at := hash % hotTable
	for h.table[at] != 0 {
		at = (at + 1) % hotTable
	}
	h.table[at] = e + 1
}

// unlink removes the entry of a hash, and closes the gap behind it.
func (h *hot) unlink(hash uint64) {
	at := hash % hotTable
	for h.entries[h.table[at]-1].hash != hash {
		at = (at + 1) % hotTable
	}
	for next := (at + 1) % hotTable; h.table[next] != 0; next = (next + 1) % hotTable {
		home := h.entries[h.table[next]-1].hash % hotTable
		// What lies between its home and here may move back to the gap.
		if (next-home)%hotTable >= (next-at)%hotTable {
			h.table[at] = h.table[next]
			at = next
		}
	}
	h.table[at] = 0
}

// halve has all that was count half from now on. Counts are rounded up, and what is sure of them
// down, so that both stay bounds.
func (h *hot) halve() {
	for place := range h.n {
		e := &h.entries[h.who[place]]
		sure := h.counts[place] - e.err
		h.counts[place] = (h.counts[place] + 1) / 2
		e.err = h.counts[place] - sure/2
	}
	h.below = (h.below + 1) / 2
	if h.n == hotCounters {
		h.level()
	}
}

// top returns up to limit customers, the one of most events first.
func (h *hot) top(limit int) []HotCustomer {
	var out []HotCustomer
	for place := h.n - 1; place >= 0 && len(out) < limit; place-- {
		e := &h.entries[h.who[place]]
		if h.counts[place] > e.err { // else it may be nobody's by now
			out = append(out, HotCustomer{CustomerID: h.ids[h.who[place]].String(), Events: h.counts[place], Error: e.err})
		}
	}
	return out
}
