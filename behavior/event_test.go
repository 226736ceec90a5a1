package behavior

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

func TestFlatten(t *testing.T) {
	at := time.Date(2017, 1, 1, 11, 53, 26, 789_999_999, time.UTC)
	event := func(kind any) *footfallv1.Event {
		ev := &footfallv1.Event{EventId: "e", CustomerId: "900", Time: timestamppb.New(at)}
		switch k := kind.(type) {
		case *footfallv1.Purchase:
			ev.Kind = &footfallv1.Event_Purchase{Purchase: k}
		case *footfallv1.Refund:
			ev.Kind = &footfallv1.Event_Refund{Refund: k}
		case *footfallv1.PageView:
			ev.Kind = &footfallv1.Event_PageView{PageView: k}
		case *footfallv1.CampaignReceived:
			ev.Kind = &footfallv1.Event_CampaignReceived{CampaignReceived: k}
		case *footfallv1.CouponRedeemed:
			ev.Kind = &footfallv1.Event_CouponRedeemed{CouponRedeemed: k}
		case *footfallv1.Profile:
			ev.Kind = &footfallv1.Event_Profile{Profile: k}
		case *footfallv1.Identify:
			ev.Kind = &footfallv1.Event_Identify{Identify: k}
		case *footfallv1.Erase:
			ev.Kind = &footfallv1.Event_Erase{Erase: k}
		}
		return ev
	}
	cartAdd := event(nil)
	cartAdd.Kind = &footfallv1.Event_CartAdd{CartAdd: &footfallv1.CartChange{ProductId: "p"}}
	cartRemove := event(nil)
	cartRemove.Kind = &footfallv1.Event_CartRemove{CartRemove: &footfallv1.CartChange{ProductId: "p"}}

	id, ms := EventID("e"), at.UnixMilli()
	for _, c := range []struct {
		ev   *footfallv1.Event
		want Event
	}{
		{event(&footfallv1.Purchase{Lines: []*footfallv1.Line{
			{Department: "PASTRY", Quantity: 2, Amount: "0.50", Discount: "0.0001"},
			{Amount: "3", Quantity: 1},
			{Department: "GROCERY", Amount: "1.25", Discount: "0.75"},
		}}), Event{
			Kind: Purchase, Spend: 47_500, Discount: 7_501, Items: 3,
			Departments: []uint32{Department("PASTRY"), Department("GROCERY")},
		}},
		{event(&footfallv1.Purchase{Lines: []*footfallv1.Line{{Amount: "0", Quantity: math.MaxUint32}, {Amount: "0", Quantity: 9}}}), Event{Kind: Purchase, Items: math.MaxUint32}},
		{event(&footfallv1.Refund{Amount: "12.34"}), Event{Kind: Refund, Spend: 123_400}},
		{event(&footfallv1.PageView{}), Event{Kind: PageView}},
		{cartAdd, Event{Kind: CartAdd}},
		{cartRemove, Event{Kind: CartRemove}},
		{event(&footfallv1.CampaignReceived{CampaignId: "c", Ends: timestamppb.New(at.Add(time.Hour))}), Event{Kind: CampaignReceived, Until: ms + hour}},
		{event(&footfallv1.CouponRedeemed{CouponId: "c"}), Event{Kind: CouponRedeemed}},
		{event(&footfallv1.Profile{Attributes: map[string]string{"b": "2", "a": "1", "c": ""}}), Event{Kind: Profile, Attributes: []Attribute{{"a", "1"}, {"b", "2"}, {"c", ""}}}},
		{event(&footfallv1.Identify{KnownAs: "anna"}), Event{Kind: Identify, Known: "anna"}},
		{event(&footfallv1.Erase{}), Event{Kind: Erase}},
	} {
		t.Run(c.want.Kind.String(), func(t *testing.T) {
			// What an event before left behind must not show.
			got := Event{Departments: []uint32{1, 2, 3}, Names: []string{"x"}, Amounts: []int64{9}, Attributes: []Attribute{{"x", "y"}}, Spend: 1, Discount: 2, Items: 3, Until: 4, Known: "z"}
			require.NoError(t, Flatten(c.ev, &got))
			c.want.ID, c.want.Time = id, ms
			require.ElementsMatch(t, c.want.Departments, got.Departments)
			require.Len(t, got.Amounts, len(got.Departments))
			require.Len(t, got.Names, len(got.Departments))
			for i, name := range got.Names {
				require.Equal(t, Department(name), got.Departments[i])
			}
			require.Len(t, got.Attributes, len(c.want.Attributes))
			if len(c.want.Attributes) > 0 {
				require.Equal(t, c.want.Attributes, got.Attributes)
			}
			c.want.Departments, c.want.Attributes, got.Departments, got.Attributes, got.Names, got.Amounts = nil, nil, nil, nil, nil, nil
			require.Equal(t, c.want, got)
		})
	}

	untimed := event(&footfallv1.PageView{})
	untimed.Time = nil
	for field, ev := range map[string]*footfallv1.Event{
		"time":                       untimed,
		"kind":                       event(nil),
		"purchase.lines[1].amount":   event(&footfallv1.Purchase{Lines: []*footfallv1.Line{{Amount: "1"}, {}}}),
		"purchase.lines[0].discount": event(&footfallv1.Purchase{Lines: []*footfallv1.Line{{Amount: "1", Discount: "1e3"}}}),
		"refund.amount":              event(&footfallv1.Refund{}),
	} {
		var fault *messages.Fault
		require.ErrorAs(t, Flatten(ev, &Event{}), &fault, field)
		require.Equal(t, field, fault.Field)
	}
}

// TestFlattenScanned flattens what was scanned, and the same decoded.
func TestFlattenScanned(t *testing.T) {
	validator := messages.Validator{Shards: 1, Currency: "USD"}
	scanned, got := messages.Scanned{}, Event{Until: 9, Attributes: []Attribute{{"x", "y"}}}
	for i := range 1000 {
		ev := benchEvent(i, 100)
		raw, err := ev.MarshalVT()
		require.NoError(t, err)
		require.True(t, validator.ScanPurchase(0, raw, &scanned))
		FlattenScanned(&scanned, &got)
		want := Event{Attributes: []Attribute{}}
		require.NoError(t, Flatten(ev, &want))
		require.Equal(t, want, got)
	}
}

func TestFlattenDoesNotAllocate(t *testing.T) {
	ev, into, cal := benchEvent(0, 1), Event{}, NewCalendar(time.UTC)
	rec := make(Record, 0, 4096)
	require.NoError(t, Flatten(ev, &into))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_ = Flatten(ev, &into)
		into.ID++
		into.Time += dayMillis
		rec, _ = Apply(rec, &into, cal)
		var f Features
		rec.Features(into.Time, cal, &f)
		var s [50]float32
		rec.Sequence32(into.Time, cal, s[:])
	}))
}
