package actors

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"footfall/behavior"
)

// residents holds the customers of one shard that are in memory, packed into segments
// without a single pointer, so that a garbage collection does not look at them: a million
// records as objects of their own would be a million things to mark.
//
//	index     hash of the customer ID ─► slot; the cell's ID tells whether it is the one
//	slots     slot ─► ref (segment, place in it); stable while the customer is resident
//	segments  cells one behind the other:
//
//	          0        4       6       7       8        12      16
//	          ┌────────┬───────┬───────┬───────┬────────┬───────┬────┬────────┬────────┬───────┐
//	          │capacity│ID len │ flags │scores │rec len │ slot  │ ID │ scores │ record │ spare │
//	          └────────┴───────┴───────┴───────┴────────┴───────┴────┴────────┴────────┴───────┘
//
// A record changes in place while it fits its cell; one that outgrows it moves to the end
// of the last segment and leaves a hole. Once holes and spare bytes are more than a third
// of the memory, the emptiest segments are emptied into the last one (as log-structured
// memory does). A shard that has nothing else to do goes on until they are a twentieth, and
// leaves the customers it moves hardly any spare bytes: who comes again gets new ones.
//
// Invariants:
//  1. index and slots name exactly the live cells, each once.
//  2. live is what the cells of a segment need, and at most its used bytes.
//  3. A slot does not change while its customer is resident; a freed one is used again.
//
// It belongs to the goroutine of its shard.
type residents struct {
	index     index
	slots     []ref
	freeSlots []uint32

	segments     []segment
	freeSegments []uint32
	head         uint32
	spare        []byte

	// used are the bytes of all segments that have been given out, live what customers need of
	// them: the rest is holes and spare bytes.
	used, live int64

	hash func(string) uint64
}

// ref is a place: the segment's number above 13 bits of offset in units of 8 bytes.
type ref uint32

const (
	segmentBytes = 64 << 10
	refBits      = 13
	noRef        = ref(1<<32 - 1)
)

func makeRef(seg uint32, off int) ref { return ref(seg<<refBits | uint32(off)/8) }

func (r ref) segment() uint32 { return uint32(r) >> refBits }
func (r ref) offset() int     { return int(r&(1<<refBits-1)) * 8 }

type segment struct {
	buf        []byte
	used, live int
}

// cell is the bytes of one customer; see residents.
type cell []byte

const cellHeader = 16

const (
	flagLive byte = 1 << iota
	// flagHot is set by use and cleared as the clock of eviction passes.
	flagHot
	// flagDirty: changed since the last checkpoint began.
	flagDirty
	// flagInFlight: in the checkpoint that is being written.
	flagInFlight
	// flagUnscored: its newest state waits to be scored.
	flagUnscored
	// flagScoring: its features are with the scorer.
	flagScoring
)

// flagsPinned keep a customer resident.
const flagsPinned = flagDirty | flagInFlight | flagScoring

func (c cell) capacity() int       { return int(binary.LittleEndian.Uint32(c)) }
func (c cell) idLen() int          { return int(binary.LittleEndian.Uint16(c[4:])) }
func (c cell) scoreCount() int     { return int(c[7]) }
func (c cell) recordLen() int      { return int(binary.LittleEndian.Uint32(c[8:])) }
func (c cell) slot() uint32        { return binary.LittleEndian.Uint32(c[12:]) }
func (c cell) has(flags byte) bool { return c[6]&flags != 0 }
func (c cell) set(flags byte)      { c[6] |= flags }
func (c cell) unset(flags byte)    { c[6] &^= flags }

// id returns the customer's ID; the bytes are the cell's own.
func (c cell) id() []byte { return c[cellHeader : cellHeader+c.idLen()] }

// scores returns the encoded scores; the bytes are the cell's own.
func (c cell) scores() []byte {
	at := cellHeader + c.idLen()
	return c[at : at+c.scoreCount()*scoreBytes]
}

// need is the cell's size without its spare bytes.
func (c cell) need() int { return c.recordStart() + c.recordLen() }

func (c cell) recordStart() int { return cellHeader + c.idLen() + c.scoreCount()*scoreBytes }

// record returns the folded part with the spare bytes of the cell as its capacity.
func (c cell) record() behavior.Record {
	at := c.recordStart()
	return behavior.Record(c[at : at+c.recordLen() : c.capacity()])
}

func newResidents() *residents {
	return &residents{index: newIndex(), hash: xxhash.Sum64String}
}

func (r *residents) len() int { return len(r.slots) - len(r.freeSlots) }

// bytes is the memory of all segments and of the index.
func (r *residents) bytes() int64 {
	return int64(len(r.segments)-len(r.freeSegments))*segmentBytes + int64(r.len())*indexBytes
}

// load is what the customers need of the memory: bytes without the holes. It is what a
// budget bounds; the rest is at most a third of all, and two segments.
func (r *residents) load() int64 { return r.live + int64(r.len())*indexBytes }

// indexBytes is what index and slots cost for a customer, roughly.
const indexBytes = 18

func (r *residents) at(slot uint32) cell {
	p := r.slots[slot]
	b := r.segments[p.segment()].buf[p.offset():]
	return cell(b[:binary.LittleEndian.Uint32(b)])
}

// inUse reports whether a slot has a customer.
func (r *residents) inUse(slot uint32) bool { return r.slots[slot] != noRef }

// find returns the slot of a resident customer.
func (r *residents) find(id string) (slot uint32, ok bool) {
	return r.index.find(r.hash(id), func(slot uint32) bool { return string(r.at(slot).id()) == id })
}

// add makes a customer resident that is not: with its scores and record, neither of which
// is kept.
func (r *residents) add(id string, scores []byte, rec behavior.Record) uint32 {
	var slot uint32
	if n := len(r.freeSlots); n > 0 {
		slot = r.freeSlots[n-1]
		r.freeSlots = r.freeSlots[:n-1]
	} else {
		slot = uint32(len(r.slots))
		r.slots = append(r.slots, noRef)
	}
	r.index.add(r.hash(id), slot)
	r.place(slot, []byte(id), flagLive|flagHot, scores, rec)
	return slot
}

// touch brings the memory of customers near and finds their slots, noSlot for one that is not
// resident. It takes one step for all of them before it takes the next: none waits for the step
// of another, so that the processor waits for the memory of many at once. What it returns only
// keeps the reads from being optimised away.
func (r *residents) touch(ids []string, slots []uint32) (sum uint64) {
	var hashes [ahead]uint64
	for i, id := range ids {
		hashes[i] = r.hash(id)
		sum += r.index.near(hashes[i])
	}
	for i := range ids {
		slots[i] = noSlot
		if slot, ok := r.index.first(hashes[i]); ok {
			slots[i] = slot
			sum += uint64(r.slots[slot])
		}
	}
	for _, slot := range slots {
		if slot == noSlot {
			continue
		}
		p := r.slots[slot]
		// How long the cell is would be the first thing to wait for: most are shorter than this.
		b := r.segments[p.segment()].buf[p.offset():]
		for at := 0; at < len(b) && at < touchBytes; at += 64 {
			sum += uint64(b[at])
		}
	}
	return sum
}

const (
	touchBytes = 768
	noSlot     = 1<<32 - 1
)

// findAt is find where the customer's slot is known from touch.
func (r *residents) findAt(slot uint32, id string) (uint32, bool) {
	if slot != noSlot && r.slots[slot] != noRef && string(r.at(slot).id()) == id {
		return slot, true
	}
	return r.find(id)
}

// place writes a new cell for slot at the head.
func (r *residents) place(slot uint32, id []byte, flags byte, scores []byte, rec behavior.Record) {
	need := cellHeader + len(id) + len(scores) + len(rec)
	capacity := (need + spareBusy + 7) &^ 7
	p, c := r.alloc(capacity, need)
	binary.LittleEndian.PutUint16(c[4:], uint16(len(id)))
	c[6] = flags
	c[7] = byte(len(scores) / scoreBytes)
	binary.LittleEndian.PutUint32(c[8:], uint32(len(rec)))
	binary.LittleEndian.PutUint32(c[12:], slot)
	n := copy(c[cellHeader:], id)
	n += copy(c[cellHeader+n:], scores)
	copy(c[cellHeader+n:], rec)
	r.slots[slot] = p
}

// alloc takes capacity bytes from the head segment, need of which are live.
func (r *residents) alloc(capacity, need int) (ref, cell) {
	if len(r.segments) == 0 || segmentBytes-r.segments[r.head].used < capacity {
		r.head = r.grow()
	}
	s := &r.segments[r.head]
	off := s.used
	s.used += capacity
	s.live += need
	r.used += int64(capacity)
	r.live += int64(need)
	c := cell(s.buf[off:s.used])
	binary.LittleEndian.PutUint32(c, uint32(capacity))
	return makeRef(r.head, off), c
}

func (r *residents) grow() uint32 {
	s := segment{buf: r.spare}
	r.spare = nil
	if s.buf == nil {
		s.buf = make([]byte, segmentBytes)
	}
	if n := len(r.freeSegments); n > 0 {
		at := r.freeSegments[n-1]
		r.freeSegments = r.freeSegments[:n-1]
		r.segments[at] = s
		return at
	}
	r.segments = append(r.segments, s)
	return uint32(len(r.segments) - 1)
}

// free leaves a hole where the cell of slot is.
func (r *residents) free(slot uint32) {
	p := r.slots[slot]
	c := r.at(slot)
	c.unset(flagLive)
	r.grew(p, -c.need())
	r.slots[slot] = noRef
}

// grew notes that the cell at p needs more bytes, or fewer.
func (r *residents) grew(p ref, by int) {
	r.segments[p.segment()].live += by
	r.live += int64(by)
}

// store keeps rec as the record of slot. rec is what behavior.Apply made of the cell's own
// record: the cell itself where it fitted, else new memory.
func (r *residents) store(slot uint32, rec behavior.Record) {
	c := r.at(slot)
	at := c.recordStart()
	if len(rec) <= len(c)-at {
		if len(rec) > 0 && &rec[0] != &c[at] {
			copy(c[at:], rec)
		}
		r.grew(r.slots[slot], len(rec)-c.recordLen())
		binary.LittleEndian.PutUint32(c[8:], uint32(len(rec)))
		return
	}
	r.move(slot, c, c.scores(), rec)
}

// storeScores keeps scores as those of slot.
func (r *residents) storeScores(slot uint32, scores []byte) {
	c := r.at(slot)
	if len(scores) == len(c.scores()) {
		copy(c.scores(), scores)
		return
	}
	r.move(slot, c, scores, c.record())
}

func (r *residents) move(slot uint32, c cell, scores []byte, rec behavior.Record) {
	// The old cell stays readable until place has copied from it: alloc never writes to it.
	id, flags := c.id(), c[6]
	r.free(slot)
	r.place(slot, id, flags, scores, rec)
}

// evict drops the customer of slot from memory.
func (r *residents) evict(slot uint32) {
	r.index.remove(r.hash(string(r.at(slot).id())), slot)
	r.free(slot)
	r.freeSlots = append(r.freeSlots, slot)
}

// The share of holes and spare bytes, 1/n, at which segments are emptied, and how many spare
// bytes a customer keeps that is moved then.
const (
	wasteBusy, spareBusy = 3, 96
	wasteIdle, spareIdle = 20, 8
)

// compactBusy is compact as far as work under way allows.
func (r *residents) compactBusy() { r.compact(wasteBusy, spareBusy, len(r.segments)) }

// compact empties segments until holes and spare bytes are less than one nth of the memory,
// most segments at a time at most.
func (r *residents) compact(nth int64, spare, most int) {
	for range most {
		if r.used-r.live <= r.used/nth+segmentBytes {
			return
		}
		victim, least := -1, 0
		for i := range r.segments {
			s := &r.segments[i]
			if s.buf != nil && uint32(i) != r.head && (victim < 0 || s.used-s.live > least) {
				victim, least = i, s.used-s.live
			}
		}
		if victim < 0 {
			return
		}
		r.empty(uint32(victim), spare)
	}
}

func (r *residents) empty(victim uint32, spare int) {
	s := r.segments[victim]
	for off := 0; off < s.used; {
		c := cell(s.buf[off:])
		c = c[:c.capacity()]
		if c.has(flagLive) {
			need := c.need()
			p, to := r.alloc(min((need+spare+7)&^7, len(c)), need)
			copy(to[4:], c[4:need])
			r.slots[c.slot()] = p
			r.live -= int64(need)
		}
		off += len(c)
	}
	r.used -= int64(s.used)
	r.segments[victim] = segment{}
	r.freeSegments = append(r.freeSegments, victim)
	if r.spare == nil {
		r.spare = s.buf
	}
}
