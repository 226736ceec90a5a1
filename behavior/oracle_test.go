package behavior

import (
	"maps"
	"math"
	"slices"
	"time"
)

// oracle is the fold done the obvious way: it keeps every event and computes everything from
// all of them. It shares no code with the fold but the types of its input and output.
type oracle struct {
	loc    *time.Location
	ids    []uint64
	exists bool

	purchases []*dated
	refunds   []*dated
	counts    map[Kind]uint64
	late      uint64
	// early are the days of purchases that were too late, but before all others.
	early map[int32]bool
	until int64
	last  map[Kind]int64
	known string
	attrs map[string]string
}

type dated struct {
	Event
	day    int32
	counts bool // in its day, not only in the lifetime totals
}

func newOracle(loc *time.Location) *oracle {
	o := &oracle{loc: loc}
	o.forget()
	return o
}

func (o *oracle) forget() {
	*o = oracle{loc: o.loc, ids: o.ids, counts: map[Kind]uint64{}, early: map[int32]bool{}, last: map[Kind]int64{}, attrs: map[string]string{}}
}

func (o *oracle) day(ms int64) int32 {
	y, m, d := time.UnixMilli(ms).In(o.loc).Date()
	return int32(math.Floor(float64(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix()) / 86400))
}

// shopping are all days with a purchase that counts, ascending.
func (o *oracle) shopping() []int32 {
	days := map[int32]bool{}
	for _, p := range o.purchases {
		if p.counts {
			days[p.day] = true
		}
	}
	return slices.Sorted(maps.Keys(days))
}

// kept are those that a record keeps of days, ascending.
func kept(days []int32) []int32 {
	for len(days) > 10 && days[len(days)-1]-days[0] > 84 {
		days = days[1:]
	}
	return days
}

// newest is the last day with anything that counts.
func (o *oracle) newest() (day int32, ok bool) {
	for _, list := range [][]*dated{o.purchases, o.refunds} {
		for _, e := range list {
			if e.counts && (!ok || e.day > day) {
				day, ok = e.day, true
			}
		}
	}
	return day, ok
}

func (o *oracle) apply(ev Event) Outcome {
	if slices.Contains(o.ids[max(0, len(o.ids)-32):], ev.ID) {
		return Duplicate
	}
	o.ids = append(o.ids, ev.ID)
	if ev.Kind == Erase {
		o.forget()
		return Applied
	}
	if o.exists = true; o.counts[ev.Kind] == 0 || ev.Time > o.last[ev.Kind] {
		o.last[ev.Kind] = ev.Time
	}
	o.counts[ev.Kind]++
	ev.Departments = slices.Clone(ev.Departments)
	e := &dated{ev, o.day(ev.Time), true}
	switch ev.Kind {
	case Purchase:
		days := o.shopping()
		if !slices.Contains(days, e.day) {
			days = append(days, e.day)
			slices.Sort(days)
		}
		e.counts = slices.Contains(kept(days), e.day)
		if first, _ := o.first(); !e.counts && e.day < first {
			o.early[e.day] = true
		}
		o.purchases = append(o.purchases, e)
	case Refund:
		newest, some := o.newest()
		e.counts = !some || e.day >= newest-84 || slices.Contains(kept(o.shopping()), e.day)
		o.refunds = append(o.refunds, e)
	case CampaignReceived:
		if ev.Until != 0 && (o.until == 0 || ev.Until > o.until) {
			o.until = ev.Until
		}
	case Profile:
		for _, a := range ev.Attributes {
			if o.attrs[a.Key] = a.Value; a.Value == "" {
				delete(o.attrs, a.Key)
			}
		}
	case Identify:
		o.known = ev.Known
	case PageView, CartAdd, CartRemove, CouponRedeemed, Erase: // only count
	}
	// Refunds on other than shopping days are forgotten after 84 days.
	newest, _ := o.newest()
	for _, r := range o.refunds {
		if !slices.Contains(o.shopping(), r.day) && r.day < newest-84 {
			r.counts = false
		}
	}
	if !e.counts {
		o.late++
		return TooLate
	}
	return Applied
}

// first is the day of the first purchase, and what was spent on it.
func (o *oracle) first() (day int32, spend int64) {
	for i, p := range o.purchases {
		if i == 0 || p.day < day {
			day, spend = p.day, 0
		}
		if p.day == day {
			spend += p.Spend
		}
	}
	return day, spend
}

// sums of the days for which in holds.
func (o *oracle) sums(in func(day int32) bool) (spend, discount float64, departments int) {
	var net, off int64
	names := map[uint32]bool{}
	for _, p := range o.purchases {
		if p.counts && in(p.day) {
			net += p.Spend
			off += p.Discount
			for _, d := range p.Departments {
				names[d] = true
			}
		}
	}
	for _, r := range o.refunds {
		if r.counts && in(r.day) {
			net -= r.Spend
		}
	}
	return float64(max(0, net)) / 10000, float64(off) / 10000, len(names)
}

func (o *oracle) features(at int64) map[string]float64 {
	today := o.day(at)
	window := func(n int32) func(int32) bool {
		return func(day int32) bool { return 0 <= today-day && today-day < n }
	}
	visits := func(n int32) (count float64) {
		for _, day := range o.shopping() {
			if window(n)(day) {
				count++
			}
		}
		return count
	}
	f := map[string]float64{"recency_days": 84, "gap_ewma": 28}
	latest := int64(math.MinInt64)
	for _, p := range o.purchases {
		latest = max(latest, p.Time)
	}
	if len(o.purchases) > 0 {
		f["recency_days"] = min(float64(at-latest)/86400000, 84)
	}
	days := o.shopping()
	for i := 1; i < len(days); i++ {
		gap := float64(days[i] - days[i-1])
		if i == 1 {
			f["gap_ewma"] = gap
		} else {
			f["gap_ewma"] += float64(.15 * float64(gap-f["gap_ewma"]))
		}
	}
	f["gap_ewma"] = min(f["gap_ewma"], 84)
	f["overdue"] = min(f["recency_days"]/max(f["gap_ewma"], .5), 20)
	f["visit_days_7"], f["visit_days_28"], f["visit_days_84"] = visits(7), visits(28), visits(84)
	spend28, _, departments := o.sums(window(28))
	spend84, discount84, _ := o.sums(window(84))
	f["log_spend_28"], f["log_spend_84"] = math.Log(1+spend28), math.Log(1+spend84)
	f["departments_28"] = float64(departments)
	if discount84+spend84 > 0 {
		f["discount_share_84"] = discount84 / (discount84 + spend84)
	}
	return f
}

func (o *oracle) sequence(at int64) (seq [10][5]float64) {
	days := o.shopping()
	for i := range seq {
		n := len(days) - len(seq) + i
		if n < 0 {
			seq[i] = [5]float64{84, 84, 0, 0, 0}
			continue
		}
		spend, discount, departments := o.sums(func(day int32) bool { return day == days[n] })
		seq[i][0] = float64(min(o.day(at)-days[n], 84))
		if n > 0 {
			seq[i][1] = float64(min(days[n]-days[n-1], 84))
		}
		seq[i][2] = math.Log(1 + spend)
		seq[i][3] = float64(departments)
		if spend+discount > 0 {
			seq[i][4] = discount / (spend + discount)
		}
	}
	return seq
}

func (o *oracle) lifetime() Lifetime {
	l := Lifetime{
		Purchases: o.counts[Purchase], Refunds: o.counts[Refund], PageViews: o.counts[PageView], CartAdds: o.counts[CartAdd],
		CartRemoves: o.counts[CartRemove], Campaigns: o.counts[CampaignReceived], Redemptions: o.counts[CouponRedeemed],
		Updates: o.counts[Profile] + o.counts[Identify], TooLate: o.late,
		LastPurchase: o.last[Purchase], LastPageView: o.last[PageView], LastCartAdd: o.last[CartAdd],
		LastCampaign: o.last[CampaignReceived], LastRedemption: o.last[CouponRedeemed], CampaignUntil: o.until,
	}
	for i, kind := range slices.Sorted(maps.Keys(o.last)) {
		if i == 0 || o.last[kind] > l.LastEvent {
			l.LastEvent = o.last[kind]
		}
		l.Events += o.counts[kind]
	}
	for _, p := range o.purchases {
		l.Spend += p.Spend
		l.Discount += p.Discount
	}
	for _, r := range o.refunds {
		l.Refunded += r.Spend
	}
	if days := o.shopping(); len(days) > 0 {
		l.FirstShoppingDay, l.FirstDaySpend = o.first()
		l.LastShoppingDay = days[len(days)-1]
		l.ShoppingDays = uint64(len(days) + len(o.early))
	}
	return l
}
