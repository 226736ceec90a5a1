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

// windows walks the tiles from the newest to the first that no window holds.
func (r Record) windows(today int32, out *Features) {
	h := r.head()
	stride, tiles := h.stride(), r.tiles()
	narrow := stride == tileBase+8
	var n7, n28, n84 int32
	var spend28, spend84, discount int64
	var mask [maxWords]uint64
	for i := len(tiles) - stride; i >= 0; i -= stride {
		t := tile(tiles[i : i+stride])
		stamp := t.stamp()
		age := today - stamp>>1
		if uint32(age) >= 84 {
			if age < 0 {
				continue
			}
			break
		}
		shopping := stamp & 1
		n84 += shopping
		spend84 += t.spend()
		discount += t.discount()
		if age >= 28 {
			continue
		}
		n28 += shopping
		spend28 += t.spend()
		if narrow {
			mask[0] |= t.mask(0)
		} else {
			for w := range h.u8(hWords) {
				mask[w] |= t.mask(w)
			}
		}
		if age < 7 {
			n7 += shopping
		}
	}
	departments := bits.OnesCount64(mask[0])
	if !narrow {
		for _, m := range mask[1:] {
			departments += bits.OnesCount64(m)
		}
	}
	out[VisitDays7], out[VisitDays28], out[VisitDays84] = float64(n7), float64(n28), float64(n84)
	out[LogSpend28], out[LogSpend84] = logSpend(spend28), logSpend(spend84)
	out[Departments28] = float64(departments)
	out[DiscountShare84] = share(discount, spend84)
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
