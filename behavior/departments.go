package behavior

import (
	"encoding/binary"
	"math/bits"
)

// A tile names departments by bits. Which department a bit stands for is in the table of the
// record, so a record needs no other, and is exact for any number of departments up to
// [MaxDepartments] in the kept days of one customer.

// bitOf is the bit of a department, -1 where the table does not have it.
func (r Record) bitOf(name uint32) int {
	h := r.head()
	at := h.departmentsAt()
	table := r[at : at+4*h.u16(hDepartments)]
	bit := 0
	for ; len(table) >= 8; table = table[8:] { // two at a time
		pair := binary.LittleEndian.Uint64(table)
		if uint32(pair) == name {
			return bit
		}
		if uint32(pair>>32) == name {
			return bit + 1
		}
		bit += 2
	}
	if len(table) >= 4 && binary.LittleEndian.Uint32(table) == name {
		return bit
	}
	return -1
}

// addDepartment gives a new department a bit. Where the masks are full, departments of which
// no kept tile has any are forgotten, else the masks are widened; where that has an end, the
// department shares a bit.
func (r Record) addDepartment(name uint32) (Record, int) {
	h := r.head()
	if h.u16(hDepartments) == 64*h.u8(hWords) {
		if r = r.forgetDepartments(); r.head().u16(hDepartments) == 64*h.u8(hWords) {
			if h.u8(hWords) == maxWords {
				return r, int(name % MaxDepartments)
			}
			r = r.widen()
		}
		h = r.head()
	}
	bit := h.u16(hDepartments)
	at := h.departmentsAt() + 4*bit
	r = r.open(at, 4)
	binary.LittleEndian.PutUint32(r[at:], name)
	r.head().setU16(hDepartments, bit+1)
	return r, bit
}

// forgetDepartments drops the departments that no tile has, and numbers the others again in
// their order.
func (r Record) forgetDepartments() Record {
	h := r.head()
	words, stride := h.u8(hWords), h.stride()
	var used [maxWords]uint64
	tiles := r.tiles()
	for i := 0; i < len(tiles); i += stride {
		for w := range words {
			used[w] |= tile(tiles[i:]).mask(w)
		}
	}
	table := r[h.departmentsAt():h.tilesAt()]
	var bitOf [MaxDepartments]uint16
	n := 0
	for i := range len(table) / 4 {
		if used[i>>6]&(1<<(i&63)) != 0 {
			copy(table[4*n:4*n+4], table[4*i:])
			bitOf[i] = uint16(n)
			n++
		}
	}
	if 4*n == len(table) {
		return r
	}
	for i := 0; i < len(tiles); i += stride {
		t := tile(tiles[i : i+stride])
		var mask [maxWords]uint64
		for w := range words {
			for m := t.mask(w); m != 0; m &= m - 1 {
				b := bitOf[w<<6|bits.TrailingZeros64(m)]
				mask[b>>6] |= 1 << (b & 63)
			}
		}
		for w := range words {
			t.setMask(w, mask[w])
		}
	}
	at := h.departmentsAt() + 4*n
	h.setU16(hDepartments, n)
	return r.cut(at, len(table)-4*n)
}

// widen doubles the words of the masks.
func (r Record) widen() Record {
	h := r.head()
	first, n, was, words := h.tilesAt(), h.u16(hTiles), h.stride(), h.u8(hWords)
	r = r.open(first+n*was, n*8*words)
	r.head().setU8(hWords, 2*words)
	now := r.head().stride()
	for i := n - 1; i >= 0; i-- {
		t := r[first+i*now : first+(i+1)*now]
		copy(t, r[first+i*was:first+(i+1)*was])
		clear(t[was:])
	}
	return r
}
