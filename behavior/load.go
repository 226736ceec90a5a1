package behavior

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"footfall/messages"
)

// Load takes stored bytes as a record. It checks all invariants, and rewrites a record of an
// older version as one of this; the record may share memory with b. Errors are
// *messages.CorruptError.
func Load(b []byte) (Record, error) {
	r := Record(b)
	if len(r) == 0 {
		return nil, broken("is empty")
	}
	switch r[0] {
	case recordVersion:
		// The versions before will be brought up to date here, one step each.
	default:
		return nil, broken("has version %d, this program reads 1 to %d", r[0], recordVersion)
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return r, nil
}

// Validate checks the invariants of a record of this version; an empty one has none. Errors
// are *messages.CorruptError.
func (r Record) Validate() error {
	if len(r) == 0 {
		return nil
	}
	if err := r.checkLengths(); err != nil {
		return err
	}
	if err := r.checkTiles(); err != nil {
		return err
	}
	if err := r.checkMasks(); err != nil {
		return err
	}
	if err := r.profile().check(); err != nil {
		return err
	}
	return r.checkErased()
}

// checkLengths checks invariant 1; after it, all parts can be read.
func (r Record) checkLengths() error {
	if len(r) < headerSize {
		return broken("has %d bytes, less than a header", len(r))
	}
	h := r.head()
	words, ring := h.u8(hWords), h.u8(hRingLen)
	switch {
	case h.u8(hVersion) != recordVersion:
		return broken("has version %d, not %d", h.u8(hVersion), recordVersion)
	case h.u8(hFlags)&^flagErased != 0 || h.u8(hUnused) != 0:
		return broken("has an unknown flag")
	case words < 1 || words > maxWords || words&(words-1) != 0:
		return broken("has masks of %d words", words)
	case h.u16(hDepartments) > 64*words:
		return broken("has %d departments for %d bits", h.u16(hDepartments), 64*words)
	case ring < 1 || ring > RingSize:
		return broken("has %d event IDs", ring)
	case h.u8(hRingNext) != ring%RingSize && (ring < RingSize || h.u8(hRingNext) >= RingSize):
		return broken("has %d event IDs and writes the next to %d", ring, h.u8(hRingNext))
	case h.profileAt() > len(r):
		return broken("has %d bytes, its parts %d", len(r), h.profileAt())
	}
	for f := hLastPurchase; f <= hLastRedemption; f += 8 {
		if t := h.i64(f); t != clampMillis(t) {
			return broken("has a time of %d ms", t)
		}
	}
	return nil
}

// checkTiles checks invariants 2 to 5.
func (r Record) checkTiles() error {
	h := r.head()
	stride, tiles := h.stride(), r.tiles()
	lastDay, shopping := int32(noDay), 0
	before := int32(noDay)
	for i := 0; i < len(tiles); i += stride {
		t := tile(tiles[i:])
		if t.day() <= before || t.day() < minDay || t.day() > maxDay {
			return broken("has day %d after day %d", t.day(), before)
		}
		if before = t.day(); t.shopping() {
			lastDay = t.day()
			shopping++
		}
		if s, d := t.spend(), t.discount(); s != clampTile(s) || d < 0 || d != clampTile(d) {
			return broken("has sums out of range on day %d", t.day())
		}
	}
	if shopping != h.u16(hShopTiles) || (shopping > 0) != (h.u32(hPurchases) > 0) {
		return broken("has %d shopping days of %d, and %d purchases", shopping, h.u16(hShopTiles), h.u32(hPurchases))
	}
	if shopping == 0 {
		if h.i32(hLastDay) != 0 || h.i32(hFirstDay) != 0 || h.i32(hBaseDay) != noDay || h.u32(hShoppingDays) != 0 || h.f64(hGap) != 0 || h.f64(hBaseGap) != 0 {
			return broken("has shopping days but no purchase")
		}
	} else if h.i32(hLastDay) != lastDay {
		return broken("has latest shopping day %d, but says %d", lastDay, h.i32(hLastDay))
	}

	firstTile := int32(noDay)
	for i, left := 0, shopping; i < len(tiles); i += stride {
		t := tile(tiles[i:])
		if !t.shopping() {
			if t.day() < before-KeptDays || t.items() != 0 || t.discount() != 0 {
				return broken("should not have day %d of refunds", t.day())
			}
			continue
		}
		if firstTile == noDay {
			firstTile = t.day()
		}
		if t.day() < lastDay-KeptDays && left > SequenceDays {
			return broken("should not have day %d any more", t.day())
		}
		left--
	}
	base, first, atLeast := h.i32(hBaseDay), h.i32(hFirstDay), uint32(shopping)
	if base != noDay {
		if base >= firstTile || base < minDay || base < first || shopping < SequenceDays {
			return broken("has base day %d, first day %d and oldest day %d", base, first, firstTile)
		}
		atLeast++
	}
	if shopping > 0 && (first > firstTile || first < minDay || h.u32(hShoppingDays) < atLeast) {
		return broken("has first day %d, oldest day %d and %d shopping days", first, firstTile, h.u32(hShoppingDays))
	}
	switch bg := h.f64(hBaseGap); {
	case bg == 0 && math.Signbit(bg), bg != 0 && !(bg >= 1 && bg <= maxDay-minDay), bg != 0 && base == noDay:
		return broken("has base gap %v", bg)
	}
	if g := r.gaps(); math.Float64bits(g) != math.Float64bits(h.f64(hGap)) {
		return broken("has gap_ewma %v, its days %v", h.f64(hGap), g)
	}
	return nil
}

// checkMasks checks invariant 6.
func (r Record) checkMasks() error {
	h := r.head()
	stride, tiles, n := h.stride(), r.tiles(), h.u16(hDepartments)
	for i := 0; i < len(tiles); i += stride {
		t := tile(tiles[i : i+stride])
		for w := range h.u8(hWords) {
			known := ^uint64(0)
			if bits := n - 64*w; bits < 64 {
				known = 1<<max(0, bits) - 1
			}
			if t.mask(w)&^known != 0 || t.mask(w) != 0 && !t.shopping() {
				return broken("has an unknown department on day %d", t.day())
			}
		}
	}
	return nil
}

// check checks invariant 7.
func (p profile) check() error {
	if len(p) == 0 {
		return nil
	}
	known := int(p[0])
	if known > messages.MaxID || known >= len(p) {
		return broken("has a known_as of %d bytes", known)
	}
	rest := p.attributes()
	if known == 0 && len(rest) == 0 {
		return broken("has an empty profile")
	}
	var last []byte
	for n := 1; len(rest) > 0; n++ {
		if len(rest) < 3 {
			return broken("ends in an attribute")
		}
		k, v := int(rest[0]), int(binary.LittleEndian.Uint16(rest[1:]))
		if n > messages.MaxAttributes || k == 0 || k > messages.MaxAttributeKey || v == 0 || v > messages.MaxAttributeValue || 3+k+v > len(rest) {
			return broken("has an attribute, number %d, of %d and %d bytes", n, k, v)
		}
		key, _, after := rest.next()
		if bytes.Compare(key, last) <= 0 {
			return broken("has attribute %q after %q", key, last)
		}
		last, rest = key, after
	}
	return nil
}

// checkErased checks invariant 8.
func (r Record) checkErased() error {
	h := r.head()
	if h.u8(hFlags)&flagErased == 0 {
		return nil
	}
	var empty header
	empty.reset()
	empty.setU8(hFlags, flagErased)
	empty.setU8(hRingLen, h.u8(hRingLen))
	empty.setU8(hRingNext, h.u8(hRingNext))
	if *h != empty || len(r) != h.departmentsAt() {
		return broken("is erased but not empty")
	}
	return nil
}

func broken(format string, args ...any) error {
	return &messages.CorruptError{What: "customer record", Reason: fmt.Sprintf(format, args...)}
}
