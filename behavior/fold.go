package behavior

import (
	"encoding/binary"
	"math"
)

// Outcome is what became of an event.
type Outcome uint8

// The outcomes.
const (
	// Applied: the event is in the record.
	Applied Outcome = iota + 1
	// Duplicate: its ID is among the last 32 of the customer. The record is unchanged.
	Duplicate
	// TooLate: its day is not kept any more. It is in the lifetime totals only.
	TooLate
)

// String is the outcome as answers name it: "too_late".
func (o Outcome) String() string {
	switch o {
	case Applied:
		return "applied"
	case Duplicate:
		return "duplicate"
	case TooLate:
		return "too_late"
	}
	return "unknown"
}

// Apply folds ev into rec and returns the record that follows from it. rec must be empty, or
// come from Apply or [Load].
//
// Apply owns rec up to its capacity: it works in place, and returns another slice, with some
// headroom, only where the capacity does not suffice. It keeps nothing of ev.
func Apply(rec Record, ev *Event, cal *Calendar) (Record, Outcome) {
	if rec.HasEvent(ev.ID) {
		return rec, Duplicate
	}
	news := !rec.Exists()
	if len(rec) == 0 {
		rec = create(rec)
	}
	rec = rec.remember(ev.ID)

	t := clampMillis(ev.Time)
	h := rec.head()
	h.setU8(hFlags, 0)
	h.latest(hLastEvent, t, !news)
	switch ev.Kind {
	case Purchase:
		return rec.purchase(ev, t, cal.Day(t))
	case Refund:
		return rec.refund(ev, cal.Day(t))
	case PageView:
		h.latest(hLastPageView, t, h.count(hPageViews) > 0)
	case CartAdd:
		h.latest(hLastCartAdd, t, h.count(hCartAdds) > 0)
	case CartRemove:
		h.count(hCartRemoves)
	case CampaignReceived:
		h.latest(hLastCampaign, t, h.count(hCampaigns) > 0)
		if ev.Until != 0 {
			h.latest(hCampaignUntil, clampMillis(ev.Until), h.i64(hCampaignUntil) != 0)
		}
	case CouponRedeemed:
		h.latest(hLastRedemption, t, h.count(hRedemptions) > 0)
	case Profile:
		h.count(hUpdates)
		rec = rec.setAttributes(ev.Attributes)
	case Identify:
		h.count(hUpdates)
		rec = rec.setKnownAs(ev.Known)
	case Erase:
		rec = rec.erase()
	}
	return rec, Applied
}

// create makes an empty record, in the capacity of rec where that suffices.
func create(rec Record) Record {
	if cap(rec) < headerSize {
		rec = make(Record, 0, 256)
	}
	rec = rec[:headerSize]
	clear(rec)
	rec.head().reset()
	return rec
}

// reset writes what is not 0 in an empty record.
func (h *header) reset() {
	h.setU8(hVersion, recordVersion)
	h.setU8(hWords, 1)
	h.setI32(hBaseDay, noDay)
}

// erase forgets everything but the ring of IDs, so that duplicates stay duplicates.
func (r Record) erase() Record {
	h := r.head()
	ring, next := h.u8(hRingLen), h.u8(hRingNext)
	clear(h[:])
	h.reset()
	h.setU8(hFlags, flagErased)
	h.setU8(hRingLen, ring)
	h.setU8(hRingNext, next)
	end := h.departmentsAt()
	clear(r[end:cap(r)]) // what is forgotten does not linger
	return r[:end]
}

// remember puts an ID into the ring, in place of the oldest where it is full.
func (r Record) remember(id uint64) Record {
	n, next := r.head().u8(hRingLen), r.head().u8(hRingNext)
	at := headerSize + 8*next
	if n < RingSize {
		r = r.open(at, 8)
		r.head().setU8(hRingLen, n+1)
	}
	binary.LittleEndian.PutUint64(r[at:], id)
	r.head().setU8(hRingNext, (next+1)%RingSize)
	return r
}

// purchase adds to the tile of its day.
func (r Record) purchase(ev *Event, t int64, day int32) (Record, Outcome) {
	h := r.head()
	discount := max(0, ev.Discount)
	first := h.count(hPurchases) == 0
	h.latest(hLastPurchase, t, !first)
	h.setI64(hSpend, addSaturated(h.i64(hSpend), ev.Spend))
	h.setI64(hDiscount, addSaturated(h.i64(hDiscount), discount))

	at, found := r.find(day)
	fresh := !found || !tile(r[at:]).shopping()
	late := fresh && !first && !r.keeps(day)
	earliest := first || day < h.i32(hFirstDay)
	switch {
	case earliest:
		h.setI32(hFirstDay, day)
		h.setI64(hFirstDaySpend, ev.Spend)
	case day == h.i32(hFirstDay):
		h.setI64(hFirstDaySpend, addSaturated(h.i64(hFirstDaySpend), ev.Spend))
	}
	if fresh && (!late || earliest) {
		h.count(hShoppingDays)
	}
	if late {
		h.count(hTooLate)
		return r, TooLate
	}
	if fresh {
		r = r.shoppingDay(day, at, found, first)
		at, _ = r.find(day)
	}
	tl := tile(r[at:])
	tl.setItems(tl.items() + min(ev.Items, math.MaxUint32-tl.items()))
	tl.setSpend(clampTile(addSaturated(tl.spend(), ev.Spend)))
	tl.setDiscount(clampTile(addSaturated(tl.discount(), discount)))
	for _, name := range ev.Departments {
		bit := r.bitOf(name)
		if bit < 0 {
			r, bit = r.addDepartment(name)
			at, _ = r.find(day)
		}
		tl := tile(r[at:])
		tl.setMask(bit>>6, tl.mask(bit>>6)|1<<(bit&63))
	}
	return r, Applied
}

// shoppingDay makes a day a shopping day; at is where its tile is, or belongs.
func (r Record) shoppingDay(day int32, at int, found, first bool) Record {
	if !found {
		r = r.insert(at)
	}
	tile(r[at:]).setStamp(day<<1 | 1)
	h := r.head()
	h.setU16(hShopTiles, h.u16(hShopTiles)+1)
	switch last := h.i32(hLastDay); {
	case first:
		h.setI32(hLastDay, day)
	case day > last:
		// The usual case; it takes the step that ewma over all tiles would take last.
		h.setF64(hGap, ewma(h.f64(hGap), day-last))
		h.setI32(hLastDay, day)
	default:
		h.setF64(hGap, r.gaps())
	}
	return r.prune()
}

// refund takes off the spend of its day.
func (r Record) refund(ev *Event, day int32) (Record, Outcome) {
	h := r.head()
	h.count(hRefunds)
	h.setI64(hRefunded, addSaturated(h.i64(hRefunded), ev.Spend))

	at, found := r.find(day)
	if !found {
		if tiles := r.tiles(); len(tiles) > 0 && day < tile(tiles[len(tiles)-h.stride():]).day()-KeptDays {
			h.count(hTooLate)
			return r, TooLate
		}
		r = r.insert(at)
		tile(r[at:]).setStamp(day << 1)
		r = r.prune()
		at, _ = r.find(day)
	}
	tl := tile(r[at:])
	tl.setSpend(clampTile(subSaturated(tl.spend(), ev.Spend)))
	return r, Applied
}

// find returns where the tile of a day is, or belongs.
func (r Record) find(day int32) (at int, found bool) {
	h := r.head()
	stride, first := h.stride(), h.tilesAt()
	for at = first + h.u16(hTiles)*stride; at > first; at -= stride {
		if d := tile(r[at-stride:]).day(); d <= day {
			if d == day {
				return at - stride, true
			}
			return at, false
		}
	}
	return at, false
}

// keeps reports whether a day, not yet a shopping day, would be kept as one.
func (r Record) keeps(day int32) bool {
	h := r.head()
	if day >= h.i32(hLastDay)-KeptDays || h.u16(hShopTiles) < SequenceDays {
		return true
	}
	newer := 0
	stride := h.stride()
	for tiles := r.tiles(); len(tiles) > 0 && newer < SequenceDays; tiles = tiles[:len(tiles)-stride] {
		t := tile(tiles[len(tiles)-stride:])
		if t.day() < day {
			break
		}
		if t.shopping() {
			newer++
		}
	}
	return newer < SequenceDays
}

// prune drops the tiles that are not kept any more and folds the gaps before them into the
// base. Nearly always the oldest is young enough.
func (r Record) prune() Record {
	h := r.head()
	stride, tiles := h.stride(), r.tiles()
	oldest := tile(tiles[len(tiles)-stride:]).day() - KeptDays
	lastDay, shopping := h.i32(hLastDay), h.u16(hShopTiles)
	from, to := 0, 0
	for ; from < len(tiles); from += stride {
		t := tile(tiles[from : from+stride])
		if t.day() >= oldest {
			break // and all that follow
		}
		if !t.shopping() {
			continue
		}
		if t.day() < lastDay-KeptDays && shopping > SequenceDays {
			shopping--
			h.drop(t.day())
			continue
		}
		copy(tiles[to:], t)
		to += stride
	}
	if from == to {
		return r
	}
	h.setU16(hTiles, h.u16(hTiles)-(from-to)/stride)
	h.setU16(hShopTiles, shopping)
	return r.cut(h.tilesAt()+to, from-to)
}

// drop folds the gap before the oldest shopping day into the base.
func (h *header) drop(day int32) {
	if base := h.i32(hBaseDay); base != noDay {
		h.setF64(hBaseGap, ewma(h.f64(hBaseGap), day-base))
	}
	h.setI32(hBaseDay, day)
}

// gaps is gap_ewma from the base over the kept shopping days.
func (r Record) gaps() float64 {
	h := r.head()
	m, before := h.f64(hBaseGap), h.i32(hBaseDay)
	stride := h.stride()
	for tiles := r.tiles(); len(tiles) > 0; tiles = tiles[stride:] {
		t := tile(tiles)
		if !t.shopping() {
			continue
		}
		if before != noDay {
			m = ewma(m, t.day()-before)
		}
		before = t.day()
	}
	return m
}

// ewma takes one step; m is 0 before the first. A gap is at least a day, so m never returns to 0.
func ewma(m float64, gap int32) float64 {
	if m == 0 {
		return float64(gap)
	}
	return m + float64(ewmaWeight*float64(float64(gap)-m))
}

// insert makes room for a tile and clears it.
func (r Record) insert(at int) Record {
	stride := r.head().stride()
	r = r.open(at, stride)
	clear(r[at : at+stride])
	r.head().setU16(hTiles, r.head().u16(hTiles)+1)
	return r
}

// open makes room for n bytes, whose content is arbitrary.
func (r Record) open(at, n int) Record {
	size := len(r) + n
	if size > cap(r) {
		grown := make(Record, size, roomy(size))
		copy(grown, r[:at])
		copy(grown[at+n:], r[at:])
		return grown
	}
	tail := r[at:]
	r = r[:size]
	copy(r[at+n:], tail)
	return r
}

// cut takes n bytes out.
func (r Record) cut(at, n int) Record {
	copy(r[at:], r[at+n:])
	return r[:len(r)-n]
}

// roomy is the capacity for a record that has outgrown its own: another tile or two and an
// eighth, in steps of 32.
func roomy(size int) int { return (size + size/8 + 95) &^ 31 }

func addSaturated(a, b int64) int64 {
	s := a + b
	if (a^s)&(b^s) < 0 {
		return math.MaxInt64 ^ (a >> 63)
	}
	return s
}

func subSaturated(a, b int64) int64 {
	s := a - b
	if (a^b)&(a^s) < 0 {
		return math.MaxInt64 ^ (a >> 63)
	}
	return s
}

func clampTile(v int64) int64 { return max(-maxTileMoney, min(v, maxTileMoney)) }
