package datasets_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/behavior"
	"footfall/datasets"
	"footfall/datasets/datasetstest"
	"footfall/messages"
	pb "footfall/messages/footfallv1"
)

// collect reads a whole data set.
func collect(t *testing.T, d *datasets.Dataset) []*pb.Event {
	t.Helper()
	all := make([]*pb.Event, 0, d.Total)
	for ev, err := range d.Events(t.Context()) {
		require.NoError(t, err)
		all = append(all, ev)
	}
	return all
}

// requireStream holds for every data set: what is said of it is true, every event keeps the rules,
// times never go back, sequences count, and an event ID is a customer's only once.
func requireStream(t *testing.T, d *datasets.Dataset, events []*pb.Event) {
	t.Helper()
	require.Len(t, events, int(d.Total))
	validator := messages.Validator{Shards: 64, Currency: d.Currency}
	cal := behavior.NewCalendar(d.Location)
	customers, ids := map[string]bool{}, map[string]bool{}
	kinds := map[string]int64{}
	last := time.Time{}
	for i, ev := range events {
		require.Nil(t, validator.Validate(ev), "%v", ev)
		require.Equal(t, uint64(i+1), ev.Sequence)
		require.Equal(t, d.Producer, ev.Producer)
		at := ev.Time.AsTime()
		require.False(t, at.Before(last), "%v comes after %v", ev, last)
		last = at
		customers[ev.CustomerId] = true
		id := ev.CustomerId + "/" + ev.EventId
		require.False(t, ids[id], "%s is there twice", id)
		ids[id] = true
		kinds[messages.KindName(ev)]++
	}
	require.Equal(t, d.FirstDay, cal.DayOf(events[0].Time.AsTime()))
	require.Equal(t, d.LastDay, cal.DayOf(last))
	if d.Customers > 0 {
		require.Len(t, customers, int(d.Customers))
	}
	if d.Kinds != nil {
		require.Equal(t, d.Kinds, kinds)
	}
}

func date(t time.Time) string { return t.Format(time.DateOnly) }

func TestCompleteJourney(t *testing.T) {
	d := datasetstest.Open(t, "completejourney")
	events := collect(t, d)
	requireStream(t, d, events)

	require.Equal(t, map[string]int64{"purchase": 155_848, "coupon_redeemed": 2_102, "campaign_received": 6_589, "profile": 801}, d.Kinds)
	require.Equal(t, int64(2_469), d.Customers)
	require.Equal(t, "America/New_York", d.Location.String())
	require.Equal(t, "2017-01-01", behavior.FormatDate(d.FirstDay))
	require.Equal(t, "2017-12-31", behavior.FormatDate(d.LastDay))

	// The first basket, as the data have it.
	var first *pb.Event
	lines, unknown, misplaced := 0, 0, 0
	var spend, discount, items, fuel int64
	local, utc, days := map[string]bool{}, map[string]bool{}, map[string]bool{}
	baskets := map[string]string{}
	for _, ev := range events {
		p := ev.GetPurchase()
		if p == nil {
			continue
		}
		if first == nil {
			first = ev
		}
		at := ev.Time.AsTime()
		here := date(at.In(d.Location))
		local[ev.CustomerId+" "+here], utc[ev.CustomerId+" "+date(at)], days[here] = true, true, true
		baskets[p.BasketId] = ev.CustomerId
		if here != date(at) {
			misplaced++
		}
		for _, l := range p.Lines {
			lines++
			amount, err := messages.ParseMoney(l.Amount)
			require.NoError(t, err)
			off, err := messages.ParseMoney(l.Discount)
			require.NoError(t, err)
			spend, discount, items = spend+amount, discount+off, items+int64(l.Quantity)
			if l.Department == "" {
				unknown++
			}
			if l.Department == "FUEL" {
				fuel++
				require.Zero(t, l.Quantity)
			}
		}
	}
	require.True(t, proto.Equal(&pb.Event{
		EventId: "b-31198570044", CustomerId: "900", Time: timestamppb.New(time.Date(2017, 1, 1, 11, 53, 26, 0, time.UTC)),
		Producer: d.Producer, Sequence: first.Sequence,
		Kind: &pb.Event_Purchase{Purchase: &pb.Purchase{BasketId: "31198570044", Currency: "USD", StoreId: "330", Lines: []*pb.Line{
			{ProductId: "1095275", Department: "PASTRY", Quantity: 1, Amount: "0.50", Discount: "0.00"},
		}}},
	}, first), "%v", first)

	// Totals that another program has computed from the tables.
	require.Equal(t, 1_469_307, lines)
	require.Equal(t, int64(459_603_958_00), spend)
	require.Equal(t, int64(82_255_319_00), discount)
	require.Equal(t, int64(1_902_528), items)
	require.Equal(t, int64(12_997), fuel)
	require.Equal(t, 4_836, unknown)
	require.Len(t, days, 364)
	require.NotContains(t, days, "2017-12-25")
	require.InDelta(t, .18333, float64(misplaced)/155_848, 1e-5)

	// Redemptions have a local date: there is a basket on it always, on the same date of UTC only
	// in nine of ten.
	redeemed, onLocal, onUTC := 0, 0, 0
	begun := map[string]bool{}
	for _, ev := range events {
		switch k := ev.Kind.(type) {
		case *pb.Event_CouponRedeemed:
			redeemed++
			stamp := ev.EventId[strings.LastIndex(ev.EventId, "-")+1:]
			day := fmt.Sprintf("%s-%s-%s", stamp[:4], stamp[4:6], stamp[6:])
			if local[ev.CustomerId+" "+day] {
				onLocal++
			}
			if utc[ev.CustomerId+" "+day] {
				onUTC++
			}
			require.Equal(t, day, date(ev.Time.AsTime().In(d.Location)))
			if k.CouponRedeemed.BasketId != "" {
				require.Equal(t, ev.CustomerId, baskets[k.CouponRedeemed.BasketId])
			}
		case *pb.Event_CampaignReceived:
			at := ev.Time.AsTime().In(d.Location)
			require.Zero(t, at.Hour()+at.Minute()+at.Second())
			ends := k.CampaignReceived.Ends.AsTime().In(d.Location)
			require.Equal(t, "23:59:59", ends.Format(time.TimeOnly))
			require.True(t, ends.After(at))
		case *pb.Event_Profile:
			require.False(t, begun[ev.CustomerId], "a profile comes before anything else of a household")
		}
		begun[ev.CustomerId] = true
	}
	require.Equal(t, redeemed, onLocal)
	require.InDelta(t, .88915, float64(onUTC)/float64(redeemed), 1e-4)
}

func TestStepsEndEveryDay(t *testing.T) {
	d := datasetstest.Open(t, "completejourney")
	next, events := d.FirstDay, int64(0)
	for step, err := range d.Steps(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, next, step.Day)
		if step.Event == nil {
			next++
		} else {
			events++
		}
	}
	require.Equal(t, d.LastDay+1, next)
	require.Equal(t, int32(365), d.LastDay-d.FirstDay+1)
	require.Equal(t, d.Total, events)
}

// A history that is moved keeps weekday, local time of day, order and everything else.
func TestShift(t *testing.T) {
	plain := datasetstest.Open(t, "completejourney")
	opt := datasetstest.Options(t)
	now := time.Date(2026, 7, 29, 9, 0, 0, 0, plain.Location) // a Wednesday
	opt.ShiftTo = now
	d, err := datasets.Open(t.Context(), "completejourney", opt)
	require.NoError(t, err)
	require.Zero(t, d.Shift%7)
	require.Equal(t, "2026-07-26", behavior.FormatDate(d.LastDay))
	require.NotEqual(t, plain.Producer, d.Producer)
	moved := collect(t, d)
	requireStream(t, d, moved)
	clamped := 0
	for i, ev := range collect(t, plain) {
		was, is := ev.Time.AsTime().In(d.Location), moved[i].Time.AsTime().In(d.Location)
		want := was.AddDate(0, 0, d.Shift)
		if !is.Equal(want) {
			// Only where a clock that goes back would turn the order around.
			require.True(t, is.After(want) && is.Sub(want) < time.Hour && is.Hour() <= 3, "%v became %v", was, is)
			clamped++
		}
		require.Equal(t, was.Weekday(), is.Weekday())
		ev.Time, ev.Producer = moved[i].Time, moved[i].Producer
		if c := ev.GetCampaignReceived(); c != nil {
			require.True(t, moved[i].GetCampaignReceived().Ends.AsTime().Equal(c.Ends.AsTime().In(d.Location).AddDate(0, 0, d.Shift)))
			c.Ends = moved[i].GetCampaignReceived().Ends
		}
		require.True(t, proto.Equal(ev, moved[i]))
	}
	require.Less(t, clamped, 50)

	// Whoever goes on in another week gives the shift, and gets the same.
	opt.ShiftTo, opt.ShiftDays = time.Time{}, d.Shift
	again, err := datasets.Open(t.Context(), "completejourney", opt)
	require.NoError(t, err)
	require.Equal(t, d.Producer, again.Producer)
	for ev, err := range again.Events(t.Context()) {
		require.NoError(t, err)
		require.True(t, proto.Equal(moved[0], ev))
		break
	}
	opt.ShiftDays = 3
	_, err = datasets.Open(t.Context(), "completejourney", opt)
	require.ErrorContains(t, err, "whole weeks")
}

// The base rates are those of the same labels computed by another program: over the Sundays that
// end 287 to 350 days after the first day, and the customers who had bought before.
func TestLabels(t *testing.T) {
	d := datasetstest.Open(t, "completejourney")
	l, err := datasets.NewLabels(t.Context(), d)
	require.NoError(t, err)
	require.Len(t, l.Customers(), 2_469)
	cal := behavior.NewCalendar(d.Location)
	rows, bought, rows28, churned := 0, 0, 0, 0
	for day := int32(287); day <= 350; day += 7 {
		at := time.UnixMilli(cal.LastMilli(d.FirstDay + day)).In(d.Location)
		require.Equal(t, time.Sunday, at.Weekday())
		for _, customer := range l.Customers() {
			if !l.Purchased(customer, at) {
				continue
			}
			label := l.At(customer, at)
			require.True(t, label.Known)
			require.True(t, label.Ripe7d)
			require.Equal(t, day <= 336, label.Ripe28d)
			rows++
			if label.Purchase7d {
				bought++
				require.False(t, label.Churn28d)
			}
			if label.Ripe28d {
				rows28++
				if label.Churn28d {
					churned++
				}
			}
		}
	}
	require.Equal(t, 24_585, rows)
	require.InDelta(t, .550864, float64(bought)/float64(rows), 1e-5)
	require.Equal(t, 19_654, rows28)
	require.InDelta(t, .177470, float64(churned)/float64(rows28), 1e-5)
}

// Every label equals what one finds by looking at all events.
func TestLabelsAgainstAllEvents(t *testing.T) {
	d := datasetstest.Open(t, "completejourney")
	l, err := datasets.NewLabels(t.Context(), d)
	require.NoError(t, err)
	mine := map[string][]*pb.Event{}
	for _, ev := range collect(t, d) {
		mine[ev.CustomerId] = append(mine[ev.CustomerId], ev)
	}
	active := 0
	for i, customer := range l.Customers() {
		at := time.Date(2017, 2, 1, 17, 0, 0, 0, d.Location).AddDate(0, 0, i%300)
		want := datasets.Label{Churn28d: true, Ripe7d: true, Ripe28d: at.AddDate(0, 0, 28).Year() == 2017}
		for _, ev := range mine[customer] {
			t := ev.Time.AsTime()
			if !t.After(at) {
				want.Known = true
				if c := ev.GetCampaignReceived(); c != nil && !c.Ends.AsTime().Before(at) {
					want.CampaignActive = true
				}
				continue
			}
			in7, in28 := !t.After(at.AddDate(0, 0, 7)), !t.After(at.AddDate(0, 0, 28))
			if ev.GetPurchase() != nil {
				want.Purchase7d = want.Purchase7d || in7
				want.Churn28d = want.Churn28d && !in28
			}
			if ev.GetCouponRedeemed() != nil {
				want.Redeem28d = want.Redeem28d || in28
			}
		}
		got := l.At(customer, at)
		// A profile alone makes nobody known, but it never comes alone.
		require.Equal(t, want, got, "%s at %v", customer, at)
		if got.CampaignActive {
			active++
		}
	}
	require.Greater(t, active, 300)
	require.Equal(t, datasets.Label{Churn28d: true, Ripe7d: true, Ripe28d: true}, l.At("nobody", time.Date(2017, 6, 1, 0, 0, 0, 0, time.UTC)))
}
