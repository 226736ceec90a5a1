package behavior

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// FoldVersion changes whenever the same log would give other records.
const FoldVersion = 1

// Record is the canonical encoding of one customer's folded state; it does not name the
// customer. nil is a customer of whom nothing was ever heard. All integers are little-endian:
//
//	  0  u8   version, 1
//	  1  u8   flags: 1 = erased, and nothing heard since
//	  2  u8   n, how many event IDs the ring holds, at most 32
//	  3  u8   slot of the ring that the next ID goes to
//	  4  u8   W, words of a tile's department mask: 1, 2, 4, 8 or 16
//	  5  u8   0
//	  6  u16  D, how many departments the table holds, at most 64·W
//	  8  u16  T, how many tiles there are
//	 10  u16  how many of them are shopping days
//	 12  i32  latest shopping day
//	 16  i32  first shopping day
//	 20  i32  base day: the shopping day before the oldest that is kept; none: the lowest i32
//	 24  f64  gap_ewma over all gaps; 0: there is none
//	 32  f64  gap_ewma over the gaps up to the base day
//	 40  i64  lifetime sums, ten-thousandths: purchases, refunds, discounts,
//	          purchases of the first shopping day
//	 72  i64  latest times, ms: purchase, any event, page view, cart add, campaign received,
//	          end of a campaign, coupon redeemed
//	128  u32  lifetime counts: shopping days, purchases, refunds, page views, cart adds,
//	          cart removes, campaigns, redemptions, profiles and identifies, too late
//	168  u64  × n  ring of the last event IDs
//	     u32  × D  department table: the bit of a department is its index
//	     tile × T  in order of their days, 24 + 8·W bytes each:
//	          0  i32  day·2, +1 for a shopping day
//	          4  u32  items
//	          8  i64  purchases − refunds
//	         16  i64  discounts
//	         24  u64  × W  departments
//	     profile, to the end; nothing where there is none (profile.go)
//
// Invariants, which [Record.Validate] checks:
//
//  1. The lengths add up, and what is unused is 0.
//  2. The days of tiles ascend. The latest shopping day is the newest shopping tile; there is
//     one as soon as there was a purchase.
//  3. A shopping tile is at most 84 days older than the latest shopping day or among the last
//     ten; another tile is at most 84 days older than the newest tile.
//  4. The base day is before the oldest shopping tile and not before the first shopping day.
//  5. gap_ewma is what the base and the kept shopping days give.
//  6. Masks have bits below D only.
//  7. The keys of the profile ascend; it is within the limits of the validator.
//  8. An erased record is empty but for its ring.
type Record []byte

const (
	recordVersion = 1

	flagErased = 1

	// RingSize is how many event IDs a record remembers.
	RingSize = 32
	// KeptDays is how many days before the latest shopping day others are kept.
	KeptDays = 84
	// SequenceDays is how many shopping days are kept however old they are.
	SequenceDays = 10
	// MaxDepartments is how many departments the kept days of a customer tell apart; of more,
	// some share a bit.
	MaxDepartments = 64 * maxWords

	maxWords   = 16
	headerSize = 168
	tileBase   = 24 // bytes of a tile before its mask
	noDay      = math.MinInt32

	// A day's sums end here, 3.6·10¹² units, so that those of all tiles of a record, not above
	// 2⁸, fit an int64 without further checks.
	maxTileMoney = 1 << 55

	ewmaWeight = 0.15
)

// The header's fields. The types of constants below say how wide they are.
type (
	u8Field  int
	u16Field int
	i32Field int
	u32Field int
	i64Field int
	f64Field int
)

const (
	hVersion  u8Field = 0
	hFlags    u8Field = 1
	hRingLen  u8Field = 2
	hRingNext u8Field = 3
	hWords    u8Field = 4
	hUnused   u8Field = 5

	hDepartments u16Field = 6
	hTiles       u16Field = 8
	hShopTiles   u16Field = 10

	hLastDay  i32Field = 12
	hFirstDay i32Field = 16
	hBaseDay  i32Field = 20

	hGap     f64Field = 24
	hBaseGap f64Field = 32

	hSpend         i64Field = 40
	hRefunded      i64Field = 48
	hDiscount      i64Field = 56
	hFirstDaySpend i64Field = 64

	hLastPurchase   i64Field = 72
	hLastEvent      i64Field = 80
	hLastPageView   i64Field = 88
	hLastCartAdd    i64Field = 96
	hLastCampaign   i64Field = 104
	hCampaignUntil  i64Field = 112
	hLastRedemption i64Field = 120

	hShoppingDays u32Field = 128
	hPurchases    u32Field = 132
	hRefunds      u32Field = 136
	hPageViews    u32Field = 140
	hCartAdds     u32Field = 144
	hCartRemoves  u32Field = 148
	hCampaigns    u32Field = 152
	hRedemptions  u32Field = 156
	hUpdates      u32Field = 160
	hTooLate      u32Field = 164
)

// header gives the fields their types. It points into a record.
type header [headerSize]byte

func (r Record) head() *header { return (*header)(r) }

func (h *header) u8(f u8Field) int      { return int(h[f]) }
func (h *header) u16(f u16Field) int    { return int(binary.LittleEndian.Uint16(h[f : f+2])) }
func (h *header) i32(f i32Field) int32  { return int32(binary.LittleEndian.Uint32(h[f : f+4])) }
func (h *header) u32(f u32Field) uint32 { return binary.LittleEndian.Uint32(h[f : f+4]) }
func (h *header) i64(f i64Field) int64  { return int64(binary.LittleEndian.Uint64(h[f : f+8])) }
func (h *header) f64(f f64Field) float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(h[f : f+8]))
}

func (h *header) setU8(f u8Field, v int)      { h[f] = byte(v) }
func (h *header) setU16(f u16Field, v int)    { binary.LittleEndian.PutUint16(h[f:f+2], uint16(v)) }
func (h *header) setI32(f i32Field, v int32)  { binary.LittleEndian.PutUint32(h[f:f+4], uint32(v)) }
func (h *header) setU32(f u32Field, v uint32) { binary.LittleEndian.PutUint32(h[f:f+4], v) }
func (h *header) setI64(f i64Field, v int64)  { binary.LittleEndian.PutUint64(h[f:f+8], uint64(v)) }
func (h *header) setF64(f f64Field, v float64) {
	binary.LittleEndian.PutUint64(h[f:f+8], math.Float64bits(v))
}

// count adds one to a counter, which stops at its highest value, and returns what it was.
func (h *header) count(f u32Field) (before uint32) {
	n := h.u32(f)
	if n != math.MaxUint32 {
		h.setU32(f, n+1)
	}
	return n
}

// latest raises a time that is known only once known is true.
func (h *header) latest(f i64Field, ms int64, known bool) {
	if !known || ms > h.i64(f) {
		h.setI64(f, ms)
	}
}

// Where the parts of a record begin.

func (h *header) stride() int        { return tileBase + 8*h.u8(hWords) }
func (h *header) departmentsAt() int { return headerSize + 8*h.u8(hRingLen) }
func (h *header) tilesAt() int       { return h.departmentsAt() + 4*h.u16(hDepartments) }
func (h *header) profileAt() int     { return h.tilesAt() + h.u16(hTiles)*h.stride() }

// tiles are the bytes of all tiles.
func (r Record) tiles() []byte {
	h := r.head()
	at := h.tilesAt()
	return r[at : at+h.u16(hTiles)*h.stride()]
}

// tile is the view of one tile's bytes.
type tile []byte

func (t tile) stamp() int32        { return int32(binary.LittleEndian.Uint32(t[0:4])) }
func (t tile) day() int32          { return t.stamp() >> 1 }
func (t tile) shopping() bool      { return t.stamp()&1 != 0 }
func (t tile) items() uint32       { return binary.LittleEndian.Uint32(t[4:8]) }
func (t tile) spend() int64        { return int64(binary.LittleEndian.Uint64(t[8:16])) }
func (t tile) discount() int64     { return int64(binary.LittleEndian.Uint64(t[16:24])) }
func (t tile) mask(w int) uint64   { return binary.LittleEndian.Uint64(t[tileBase+8*w:]) }
func (t tile) setStamp(v int32)    { binary.LittleEndian.PutUint32(t[0:4], uint32(v)) }
func (t tile) setItems(v uint32)   { binary.LittleEndian.PutUint32(t[4:8], v) }
func (t tile) setSpend(v int64)    { binary.LittleEndian.PutUint64(t[8:16], uint64(v)) }
func (t tile) setDiscount(v int64) { binary.LittleEndian.PutUint64(t[16:24], uint64(v)) }
func (t tile) setMask(w int, v uint64) {
	binary.LittleEndian.PutUint64(t[tileBase+8*w:], v)
}

// departments is how many bits of the mask are set.
func (t tile) departments() (n int) {
	for m := t[tileBase:]; len(m) >= 8; m = m[8:] {
		n += bits.OnesCount64(binary.LittleEndian.Uint64(m))
	}
	return n
}

// Exists reports whether anything is known of the customer: false for an empty record, and
// from an erase until the next event.
func (r Record) Exists() bool { return len(r) > 0 && r.head().u8(hFlags)&flagErased == 0 }

// HasEvent reports whether an event, by its EventID, is among the last 32 that were applied.
func (r Record) HasEvent(id uint64) bool {
	if len(r) == 0 {
		return false
	}
	ring := r[headerSize:r.head().departmentsAt()]
	for len(ring) >= 32 { // four at a time
		four := (*[32]byte)(ring)
		if binary.LittleEndian.Uint64(four[0:8]) == id || binary.LittleEndian.Uint64(four[8:16]) == id ||
			binary.LittleEndian.Uint64(four[16:24]) == id || binary.LittleEndian.Uint64(four[24:32]) == id {
			return true
		}
		ring = ring[32:]
	}
	for ; len(ring) >= 8; ring = ring[8:] {
		if binary.LittleEndian.Uint64(ring) == id {
			return true
		}
	}
	return false
}

// Lifetime sums over everything that was ever applied. Money is in ten-thousandths, times are
// Unix milliseconds, days are days since 1970-01-01.
type Lifetime struct {
	// Events is the sum of the counts of all kinds.
	Events      uint64
	Purchases   uint64
	Refunds     uint64
	PageViews   uint64
	CartAdds    uint64
	CartRemoves uint64
	Campaigns   uint64
	Redemptions uint64
	// Updates counts profiles and identifies.
	Updates uint64
	// TooLate counts the purchases and refunds whose day was not kept any more.
	TooLate uint64

	// Spend sums the purchases, Refunded the refunds.
	Spend, Refunded, Discount int64

	// The rest is 0 where there was no purchase. A purchase that was too late counts as a new
	// shopping day only where it is before all others: in between one can't know.
	ShoppingDays                      uint64
	FirstShoppingDay, LastShoppingDay int32
	// FirstDaySpend sums the purchases of the first shopping day.
	FirstDaySpend int64
	LastPurchase  int64

	// The latest time of any event, and of one kind each; 0 where there was none.
	LastEvent, LastPageView, LastCartAdd, LastCampaign, LastRedemption int64
	// CampaignUntil is the latest end of a received campaign; 0 where none named one.
	CampaignUntil int64
}

// Lifetime reads the totals.
func (r Record) Lifetime() Lifetime {
	if len(r) == 0 {
		return Lifetime{}
	}
	h := r.head()
	l := Lifetime{
		Purchases:   uint64(h.u32(hPurchases)),
		Refunds:     uint64(h.u32(hRefunds)),
		PageViews:   uint64(h.u32(hPageViews)),
		CartAdds:    uint64(h.u32(hCartAdds)),
		CartRemoves: uint64(h.u32(hCartRemoves)),
		Campaigns:   uint64(h.u32(hCampaigns)),
		Redemptions: uint64(h.u32(hRedemptions)),
		Updates:     uint64(h.u32(hUpdates)),
		TooLate:     uint64(h.u32(hTooLate)),

		Spend:    h.i64(hSpend),
		Refunded: h.i64(hRefunded),
		Discount: h.i64(hDiscount),

		ShoppingDays:     uint64(h.u32(hShoppingDays)),
		FirstShoppingDay: h.i32(hFirstDay),
		LastShoppingDay:  h.i32(hLastDay),
		FirstDaySpend:    h.i64(hFirstDaySpend),
		LastPurchase:     h.i64(hLastPurchase),

		LastEvent:      h.i64(hLastEvent),
		LastPageView:   h.i64(hLastPageView),
		LastCartAdd:    h.i64(hLastCartAdd),
		LastCampaign:   h.i64(hLastCampaign),
		LastRedemption: h.i64(hLastRedemption),
		CampaignUntil:  h.i64(hCampaignUntil),
	}
	l.Events = l.Purchases + l.Refunds + l.PageViews + l.CartAdds + l.CartRemoves + l.Campaigns + l.Redemptions + l.Updates
	return l
}
