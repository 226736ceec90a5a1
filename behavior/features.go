package behavior

import (
	"math"
	"math/bits"
)

// Features are the ten features of a customer, in the order of [FeatureNames].
type Features [10]float64

// FeatureNames names the features, in order.
var FeatureNames = [10]string{
	"recency_days", "visit_days_7", "visit_days_28", "visit_days_84", "log_spend_28", "log_spend_84",
	"gap_ewma", "overdue", "departments_28", "discount_share_84",
}

// Places of the features.
const (
	RecencyDays = iota
	VisitDays7
	VisitDays28
	VisitDays84
	LogSpend28
	LogSpend84
	GapEWMA
	Overdue
	Departments28
	DiscountShare84
)

// SequenceNames names the columns of a sequence, in order.
var SequenceNames = [5]string{"age_days", "gap_days", "log_spend", "departments", "discount_share"}

const (
	maxAge     = 84.0 // days: recency, gaps and ages end here
	noGap      = 28.0 // gap_ewma of a customer without two shopping days
	maxOverdue = 20.0
	minGap     = 0.5
)

// Features computes the features as of an instant, Unix milliseconds.
//
// They are exact from the customer's latest event on. For an earlier instant the windows pass
// over the days that come after it, but recency is 0 and gap_ewma knows all. A customer who
// never bought has recency 84, as one who is long gone.
func (r Record) Features(at int64, cal *Calendar, out *Features) {
	*out = Features{RecencyDays: maxAge, GapEWMA: noGap}
	if len(r) > 0 {
		h := r.head()
		if h.u32(hPurchases) > 0 {
			ms := max(0, clampMillis(at)-h.i64(hLastPurchase))
			out[RecencyDays] = min(float64(ms)/dayMillis, maxAge)
		}
		if m := h.f64(hGap); m != 0 {
			out[GapEWMA] = min(m, maxAge)
		}
		if h.u16(hTiles) > 0 {
			r.windows(cal.Day(at), out)
		}
	}
	out[Overdue] = min(out[RecencyDays]/max(out[GapEWMA], minGap), maxOverdue)
}

// windows walks the tiles from the newest to the first that no window holds. The windows lie
// in each other: the sums of one go on where the narrower one ended.
func (r Record) windows(today int32, out *Features) {
	h := r.head()
	stride, tiles := h.stride(), r.tiles()
	for len(tiles) > 0 && tile(tiles[len(tiles)-stride:]).day() > today {
		tiles = tiles[:len(tiles)-stride]
	}
	var w window
	tiles = w.add(tiles, stride, today-7)
	out[VisitDays7] = float64(w.visits)
	tiles = w.add(tiles, stride, today-28)
	out[VisitDays28] = float64(w.visits)
	out[LogSpend28] = logSpend(w.spend)
	out[Departments28] = float64(w.departments(stride))
	w.addSums(tiles, stride, today-84)
	out[VisitDays84] = float64(w.visits)
	out[LogSpend84] = logSpend(w.spend)
	out[DiscountShare84] = share(w.discount, w.spend)
}

// window sums over tiles.
type window struct {
	visits          int32
	spend, discount int64
	mask            [maxWords]uint64
}

// add takes in the tiles after a day, from the end, and returns those that are left.
func (w *window) add(tiles []byte, stride int, after int32) []byte {
	left := w.addSums(tiles, stride, after)
	if stride == tileBase+8 { // up to 64 departments: nearly all customers
		mask := w.mask[0]
		for t := tiles[len(left):]; len(t) >= tileBase+8; t = t[tileBase+8:] {
			mask |= tile(t).mask(0)
		}
		w.mask[0] = mask
		return left
	}
	for t := tiles[len(left):]; len(t) >= stride; t = t[stride:] {
		for i := range (stride - tileBase) / 8 {
			w.mask[i] |= tile(t).mask(i)
		}
	}
	return left
}

// addSums is add without the departments.
func (w *window) addSums(tiles []byte, stride int, after int32) []byte {
	visits, spend, discount := w.visits, w.spend, w.discount
	from := (after + 1) << 1 // the first stamp
	for len(tiles) >= stride {
		t := (*[tileBase]byte)(tiles[len(tiles)-stride:])
		stamp := tile(t[:]).stamp()
		if stamp < from {
			break
		}
		visits += stamp & 1
		spend += tile(t[:]).spend()
		discount += tile(t[:]).discount()
		tiles = tiles[:len(tiles)-stride]
	}
	w.visits, w.spend, w.discount = visits, spend, discount
	return tiles
}

func (w *window) departments(stride int) (n int) {
	for i := range (stride - tileBase) / 8 {
		n += bits.OnesCount64(w.mask[i])
	}
	return n
}

// Features32 fills out[:10] with the features.
func (r Record) Features32(at int64, cal *Calendar, out []float32) {
	var f Features
	r.Features(at, cal, &f)
	out = out[:len(f)]
	for i, v := range f {
		out[i] = float32(v)
	}
}

// Sequence fills out with the last ten shopping days as of an instant, Unix milliseconds,
// oldest first. Missing rows stand first.
func (r Record) Sequence(at int64, cal *Calendar, out *[10][5]float64) {
	row := len(out)
	if len(r) > 0 && r.head().u16(hShopTiles) > 0 {
		h := r.head()
		today := cal.Day(at)
		stride, tiles := h.stride(), r.tiles()
		for i := len(tiles) - stride; i >= 0; i -= stride {
			t := tile(tiles[i : i+stride])
			if !t.shopping() || t.day() > today {
				continue
			}
			if row < len(out) {
				out[row][1] = min(float64(out[row][1]-float64(t.day())), maxAge)
			}
			if row == 0 {
				return
			}
			row--
			out[row] = [5]float64{
				min(float64(today-t.day()), maxAge),
				float64(t.day()), // until the day before is known
				logSpend(t.spend()),
				float64(t.departments()),
				share(t.discount(), t.spend()),
			}
		}
		if row < len(out) {
			if base := h.i32(hBaseDay); base != noDay {
				out[row][1] = min(out[row][1]-float64(base), maxAge)
			} else {
				out[row][1] = 0
			}
		}
	}
	for row > 0 {
		row--
		out[row] = [5]float64{maxAge, maxAge, 0, 0, 0}
	}
}

// Sequence32 fills out[:50] with the sequence, row by row.
func (r Record) Sequence32(at int64, cal *Calendar, out []float32) {
	var s [10][5]float64
	r.Sequence(at, cal, &s)
	out = out[:len(s)*len(s[0])]
	for i, row := range s {
		for k, v := range row {
			out[i*len(row)+k] = float32(v)
		}
	}
}

// logSpend is ln(1 + units) of a sum, which counts as 0 where refunds outweigh.
func logSpend(sum int64) float64 {
	if sum <= 0 {
		return 0
	}
	return math.Log(1 + float64(sum)/10_000)
}

// share is the part of a regular price that was taken off.
func share(discount, spend int64) float64 {
	if discount == 0 {
		return 0
	}
	return float64(discount) / (float64(discount) + float64(max(0, spend)))
}
