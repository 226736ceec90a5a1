package datasets

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Synthetic makes up customers and what they do. Every event is a pure function of the parameters
// and its number, so there is no state, any part of the stream can be made, and 100 million events
// take no more memory than a hundred.
//
//   - Time: event j stands where j/Events of all that happens has happened, with the rhythm of the
//     day, the week (Saturday is twice a Tuesday) and the year (December is half as much again).
//   - Customers: activity is skewed, the busiest 1 % have a tenth of the events. Three in ten come
//     in the course of the time, and two in three leave before its end.
//   - Kinds: 62 % purchases, 20 % page views and 10 % changes of carts, most of them of something
//     that the customer buys soon after; refunds of purchases before; a campaign every four weeks,
//     and coupons of it redeemed by those who received it; profiles.
//   - Each customer prefers some departments and has its own inclination to discounts.
//
// As parameters of a name: synthetic?customers=1000&events=100000&seed=1&days=365&start=2024-01-01,
// which are the defaults.
type Synthetic struct {
	Customers, Events, Seed uint64
	// Days is how long the history is, Start its first day, a date.
	Days  int
	Start time.Time
	// Location is the time zone in which days begin and end.
	Location *time.Location
	Currency string
}

// syntheticVersion is of the generator: a change of what it makes is a new version.
const syntheticVersion = 1

func openSynthetic(name string, opt Options) (*Dataset, error) {
	s, err := parseSynthetic(name)
	if err != nil {
		return nil, err
	}
	if s.Location = opt.Location; s.Location == nil {
		s.Location = time.UTC
	}
	s.Currency = orUSD(opt.Currency)
	sum := sha256.Sum256(fmt.Appendf(nil, "synthetic version=%d customers=%d events=%d seed=%d days=%d start=%s zone=%s currency=%s",
		syntheticVersion, s.Customers, s.Events, s.Seed, s.Days, s.Start.Format(time.DateOnly), s.Location, s.Currency))
	digest := hex.EncodeToString(sum[:])
	first := behavior.NewCalendar(time.UTC).DayOf(s.Start)
	return &Dataset{
		Name: "synthetic", Digest: digest, Producer: "synthetic-" + digest[:digestLen],
		Location: s.Location, Currency: s.Currency,
		FirstDay: first, LastDay: first + int32(s.Days) - 1,
		Total:  int64(s.Events),
		events: s.stream,
	}, nil
}

func parseSynthetic(name string) (*Synthetic, error) {
	s := &Synthetic{Customers: 1_000, Events: 100_000, Seed: 1, Days: 365, Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}
	_, query, _ := strings.Cut(name, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	number := func(text string, least, most uint64) (uint64, error) {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("must be a whole number from %d to %d, not %q", least, most, text)
		}
		return n, nil
	}
	for key, all := range values {
		text, err := all[len(all)-1], error(nil)
		switch key {
		case "customers":
			s.Customers, err = number(text, 1, 1e9)
		case "events":
			s.Events, err = number(text, 1, 1e12)
		case "seed":
			s.Seed, err = number(text, 0, 1<<64-1)
		case "days":
			var n uint64
			n, err = number(text, 1, 36_500)
			s.Days = int(n)
		case "start":
			s.Start, err = time.Parse(time.DateOnly, text)
			if err == nil && (s.Start.Year() < 1971 || s.Start.Year() > 2090) {
				err = fmt.Errorf("must lie from 1971 to 2090")
			}
		default:
			err = fmt.Errorf("is unknown: use customers, events, seed, days, start")
		}
		if err != nil {
			return nil, fmt.Errorf("synthetic: %s: %w", key, err)
		}
	}
	return s, nil
}

// What happens when, relative to other times.
var (
	hourWeights    = [24]float64{1, 1, 1, 1, 1, 2, 6, 14, 22, 30, 38, 44, 46, 42, 40, 44, 54, 66, 62, 48, 32, 20, 10, 4}
	weekdayWeights = [7]float64{16, 11, 10, 11, 13, 17, 20} // from Sunday
	monthWeights   = [12]float64{90, 92, 96, 98, 102, 100, 96, 98, 100, 102, 118, 150}
)

var departments = [12]string{
	"GROCERY", "PRODUCE", "MEAT", "DAIRY", "BAKERY", "DELI", "FROZEN", "BEVERAGES", "HOUSEHOLD", "BEAUTY", "PET", "GARDEN",
}

// maker is a Synthetic with its tables.
type maker struct {
	*Synthetic
	// starts are the first moments of each day and of the one after the last, Unix milliseconds.
	starts []int64
	// days and hours are the shares of all events before each day, and of a day's before each hour;
	// the last of each is 1.
	days  []float64
	hours [25]float64
}

func (s *Synthetic) maker() *maker {
	m := &maker{Synthetic: s, starts: make([]int64, s.Days+1), days: make([]float64, s.Days+1)}
	for d := range s.Days + 1 {
		day := time.Date(s.Start.Year(), s.Start.Month(), s.Start.Day()+d, 0, 0, 0, 0, s.Location)
		m.starts[d] = day.UnixMilli()
		if d < s.Days {
			m.days[d+1] = m.days[d] + float64(weekdayWeights[day.Weekday()]*monthWeights[day.Month()-1])
		}
	}
	for h, weight := range hourWeights {
		m.hours[h+1] = m.hours[h] + weight
	}
	for d := range m.days {
		m.days[d] /= m.days[s.Days]
	}
	for h := range m.hours {
		m.hours[h] /= m.hours[24]
	}
	m.days[s.Days], m.hours[24] = 1, 1
	return m
}

func (s *Synthetic) stream(ctx context.Context) iter.Seq2[*footfallv1.Event, error] {
	return func(yield func(*footfallv1.Event, error) bool) {
		m := s.maker()
		for j := range s.Events {
			if j%1024 == 0 && ctx.Err() != nil {
				yield(nil, ctx.Err())
				return
			}
			if !yield(m.event(j), nil) {
				return
			}
		}
	}
}

// Purposes of random numbers: one for each thing that is decided, so that no decision bears on
// another.
const (
	forTime = iota + 1
	forKind
	forCustomer
	forLines
	forLook
	forLife
	forTaste
	forProfile
)

// random is a number of 64 random bits for a purpose and the thing, of a kind, that it is about.
func (m *maker) random(purpose, thing, index uint64) uint64 {
	return peerMix(peerMix(m.Seed*peerGamma+purpose) + thing*peerGamma2 + index*peerGamma)
}

// unit makes 64 random bits a number from 0 to below 1.
func unit(r uint64) float64 { return float64(r>>11) * (1.0 / (1 << 53)) }

// share is how much of all that happens has happened at event j.
func (m *maker) share(j uint64) float64 {
	return (float64(j) + unit(m.random(forTime, j, 0))) / float64(m.Events)
}

// time is the instant at which a share of everything has happened: the inverse of the rhythm.
func (m *maker) time(share float64) int64 {
	d := sort.SearchFloat64s(m.days, share)
	if d > 0 && (d > m.Days || m.days[d] > share) {
		d--
	}
	d = min(d, m.Days-1)
	inDay := (share - m.days[d]) / (m.days[d+1] - m.days[d])
	h := 0
	for h < 23 && m.hours[h+1] <= inDay {
		h++
	}
	ofDay := (float64(h) + (inDay-m.hours[h])/(m.hours[h+1]-m.hours[h])) / 24
	length := m.starts[d+1] - m.starts[d]
	return m.starts[d] + min(int64(ofDay*float64(length)), length-1)
}

type syntheticKind uint8

const (
	makePurchase syntheticKind = iota
	makePageView
	makeCartAdd
	makeCartRemove
	makeRefund
	makeCampaign
	makeCoupon
	makeProfile
)

func (m *maker) kind(j uint64) syntheticKind {
	switch r := m.random(forKind, j, 0) % 1000; {
	case r < 620:
		return makePurchase
	case r < 820:
		return makePageView
	case r < 890:
		return makeCartAdd
	case r < 920:
		return makeCartRemove
	case r < 945:
		return makeRefund
	case r < 970:
		return makeCampaign
	case r < 985:
		return makeCoupon
	default:
		return makeProfile
	}
}

// customer is whose event j is, where it does not follow another one. Those who have not come yet or
// have left are passed over.
func (m *maker) customer(j uint64) uint64 {
	share := m.share(j)
	var c uint64
	for try := range uint64(24) {
		u := unit(m.random(forCustomer, j, try))
		c = uint64(float64(m.Customers) * float64(u*u))
		come := float64(1.3*unit(m.random(forLife, c, 0))) - 1
		stay := .3 / (1 - unit(m.random(forLife, c, 1)))
		if come = max(come, 0); come <= share && share < come+stay {
			break
		}
	}
	return c
}

// lookBack finds the latest event of a kind among some before j, beginning a random way back.
func (m *maker) lookBack(j, reach uint64, kind syntheticKind) (uint64, bool) {
	back := 1 + m.random(forLook, j, 0)%min(max(reach, 1), max(j, 1))
	for range 400 {
		if back > j {
			break
		}
		if m.kind(j-back) == kind {
			return j - back, true
		}
		back++
	}
	return 0, false
}

// perDay is how many events a day has on average.
func (m *maker) perDay() uint64 { return 1 + m.Events/uint64(m.Days) }

// event makes event j.
func (m *maker) event(j uint64) *footfallv1.Event {
	ev := &footfallv1.Event{EventId: "s-" + strconv.FormatUint(j, 10), Time: timestamppb.New(time.UnixMilli(m.time(m.share(j))))}
	kind := m.kind(j)
	customer := m.customer(j)
	// What another event says that this one follows: the purchase that it leads to or takes back,
	// the campaign that a coupon is of.
	other := j
	switch kind {
	case makePageView, makeCartAdd, makeCartRemove:
		if next := j + 1 + m.random(forLook, j, 0)%min(64, m.perDay()); next < m.Events && m.kind(next) == makePurchase {
			other, customer = next, m.customer(next)
		}
	case makeRefund:
		if before, ok := m.lookBack(j, 10*m.perDay(), makePurchase); ok {
			other, customer = before, m.customer(before)
		} else {
			kind = makePageView
		}
	case makeCoupon:
		if before, ok := m.lookBack(j, 14*m.perDay(), makeCampaign); ok {
			other, customer = before, m.customer(before)
		} else {
			kind = makePageView
		}
	case makePurchase, makeCampaign, makeProfile:
		// They stand for themselves.
	}
	ev.CustomerId = "s" + strconv.FormatUint(customer, 10)
	switch kind {
	case makePurchase:
		ev.Kind = &footfallv1.Event_Purchase{Purchase: m.purchase(j, customer)}
	case makePageView:
		department, product := m.product(other, customer, 0)
		ev.Kind = &footfallv1.Event_PageView{PageView: &footfallv1.PageView{
			Url: "https://shop.example/products/" + product, ProductId: product, Department: department,
		}}
	case makeCartAdd:
		ev.Kind = &footfallv1.Event_CartAdd{CartAdd: m.cart(other, customer)}
	case makeCartRemove:
		ev.Kind = &footfallv1.Event_CartRemove{CartRemove: m.cart(other, customer)}
	case makeRefund:
		ev.Kind = &footfallv1.Event_Refund{Refund: m.refund(other, customer)}
	case makeCampaign:
		campaign, ends := m.campaign(j)
		ev.Kind = &footfallv1.Event_CampaignReceived{CampaignReceived: &footfallv1.CampaignReceived{
			CampaignId: campaign, CampaignType: "coupons", Ends: timestamppb.New(time.UnixMilli(ends)),
		}}
	case makeCoupon:
		campaign, _ := m.campaign(other)
		ev.Kind = &footfallv1.Event_CouponRedeemed{CouponRedeemed: &footfallv1.CouponRedeemed{
			CouponId: campaign + "-" + strconv.FormatUint(m.random(forLook, j, 1)%20, 10), CampaignId: campaign,
		}}
	case makeProfile:
		r := m.random(forProfile, customer, 0)
		ev.Kind = &footfallv1.Event_Profile{Profile: &footfallv1.Profile{Attributes: map[string]string{
			"age":            [...]string{"19-24", "25-34", "35-44", "45-54", "55-64", "65+"}[r%6],
			"household_size": [...]string{"1", "2", "3", "4", "5+"}[r>>8%5],
		}}}
	}
	return ev
}

// campaign is the one that event j is about, and when it ends: a new one begins every four weeks.
func (m *maker) campaign(j uint64) (id string, ends int64) {
	day := sort.Search(len(m.starts), func(d int) bool { return m.starts[d] > m.time(m.share(j)) }) - 1
	n := day / 28
	end := min(28*(n+1), len(m.starts)-1)
	return "k" + strconv.Itoa(n+1), m.starts[end] + 14*86_400_000 - 1000
}

// product is a line's: three in four are of the four departments that the customer prefers.
func (m *maker) product(j, customer, line uint64) (department, product string) {
	r := m.random(forLines, j, line)
	d := r >> 8 % uint64(len(departments))
	if r&3 != 0 {
		d = m.random(forTaste, customer, 1+r>>16&3) % uint64(len(departments))
	}
	return departments[d], strconv.FormatUint(1000*(d+1)+r>>24%500, 10)
}

func (m *maker) purchase(j, customer uint64) *footfallv1.Purchase {
	p := &footfallv1.Purchase{
		BasketId: "s" + strconv.FormatUint(j, 10), Currency: m.Currency,
		StoreId: strconv.FormatUint(1+m.random(forTaste, customer, 0)%50, 10),
	}
	for line := range m.lines(j) {
		amount, discount := m.amount(j, customer, line)
		department, product := m.product(j, customer, line)
		p.Lines = append(p.Lines, &footfallv1.Line{
			ProductId: product, Department: department, Quantity: 1 + uint32(m.random(forLines, j, 200+line)%4)/2,
			Amount: messages.FormatMoney(amount), Discount: messages.FormatMoney(discount),
		})
	}
	return p
}

// lines is how many a purchase has: 1 to 12, mostly few.
func (m *maker) lines(j uint64) uint64 {
	u := unit(m.random(forLines, j, 1000))
	return 1 + uint64(12*float64(u*float64(u*u)))
}

// amount is what a line costs, 0.49 to 40, mostly little, and what was taken off.
func (m *maker) amount(j, customer, line uint64) (amount, discount int64) {
	u := unit(m.random(forLines, j, 400+line))
	cents := 49 + int64(3951*float64(u*float64(u*u)))
	inclined := m.random(forTaste, customer, 9) % 60
	if r := m.random(forLines, j, 600+line); r%100 < inclined {
		discount = cents * int64(5+r>>16%30) / 100
	}
	return (cents - discount) * 100, discount * 100
}

// refund gives back one line of purchase j.
func (m *maker) refund(j, customer uint64) *footfallv1.Refund {
	amount, _ := m.amount(j, customer, m.random(forLook, j, 2)%m.lines(j))
	return &footfallv1.Refund{BasketId: "s" + strconv.FormatUint(j, 10), Currency: m.Currency, Amount: messages.FormatMoney(amount), Reason: "returned"}
}

func (m *maker) cart(j, customer uint64) *footfallv1.CartChange {
	department, product := m.product(j, customer, 0)
	return &footfallv1.CartChange{ProductId: product, Department: department, Quantity: 1}
}
