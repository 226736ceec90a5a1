package messages

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "footfall/messages/footfallv1"
)

var testValidator = Validator{Shards: 64, Currency: "USD"}

func at(seconds int64) *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: seconds} }

// goodPurchase is the example of the documentation, with three lines.
func goodPurchase() *pb.Event {
	return &pb.Event{
		EventId: "b-31198459610", CustomerId: "900", Time: at(1_483_271_606),
		Producer: "7b8aa746", Sequence: 1,
		Kind: &pb.Event_Purchase{Purchase: &pb.Purchase{
			BasketId: "31198459610", Currency: "USD", StoreId: "330",
			Lines: []*pb.Line{
				{ProductId: "1095275", Department: "PASTRY", Quantity: 1, Amount: "0.50", Discount: "0.00"},
				{ProductId: "9878513", Department: "GROCERY", Quantity: 2, Amount: "3.98", Discount: "1.00"},
				{ProductId: "1041453", Department: "PRODUCE", Quantity: 1, Amount: "1.25"},
			},
		}},
	}
}

func event(kind *pb.Event) *pb.Event {
	kind.EventId, kind.CustomerId, kind.Time = "e1", "c1", at(1_483_271_606)
	return kind
}

func refund(r *pb.Refund) *pb.Event {
	return event(&pb.Event{Kind: &pb.Event_Refund{Refund: r}})
}

func cartAdd(c *pb.CartChange) *pb.Event {
	return event(&pb.Event{Kind: &pb.Event_CartAdd{CartAdd: c}})
}

func pageViewed(p *pb.PageView) *pb.Event {
	return event(&pb.Event{Kind: &pb.Event_PageView{PageView: p}})
}

func received(c *pb.CampaignReceived) *pb.Event {
	return event(&pb.Event{Kind: &pb.Event_CampaignReceived{CampaignReceived: c}})
}

func redeemed(c *pb.CouponRedeemed) *pb.Event {
	return event(&pb.Event{Kind: &pb.Event_CouponRedeemed{CouponRedeemed: c}})
}

func profiled(a map[string]string) *pb.Event {
	return event(&pb.Event{Kind: &pb.Event_Profile{Profile: &pb.Profile{Attributes: a}}})
}

func identified(as string) *pb.Event {
	return event(&pb.Event{Kind: &pb.Event_Identify{Identify: &pb.Identify{KnownAs: as}}})
}

func manyAttributes(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("k%d", i)] = "v"
	}
	return m
}

// goodEvents has at least one event of each kind, with values at the limits.
func goodEvents() []*pb.Event {
	long := strings.Repeat("x", 128)
	limits := goodPurchase()
	limits.EventId, limits.CustomerId, limits.Producer, limits.Sequence = long, strings.Repeat("é", 64), long, 1<<64-1
	limits.Time = &timestamppb.Timestamp{Seconds: endTime - 1, Nanos: 999_999_999}
	limits.GetPurchase().Currency = ""
	limits.GetPurchase().Lines = nil
	for range MaxLines {
		limits.GetPurchase().Lines = append(limits.GetPurchase().Lines, &pb.Line{
			ProductId: long, Department: long, Quantity: MaxQuantity, Amount: "1000000000", Discount: "1000000000.0000",
		})
	}
	bare := event(&pb.Event{Kind: &pb.Event_Purchase{Purchase: &pb.Purchase{Lines: []*pb.Line{{Amount: "0"}}}}})
	bare.Time = at(0)
	return []*pb.Event{
		goodPurchase(), limits, bare,
		refund(&pb.Refund{BasketId: "1", Currency: "USD", Amount: "0.0001", Reason: "broken\nin two"}),
		pageViewed(&pb.PageView{}),
		pageViewed(&pb.PageView{Url: "https://shop.example/p/1?q=ü", ProductId: "1", Department: "PASTRY"}),
		cartAdd(&pb.CartChange{ProductId: "1", Quantity: MaxQuantity}),
		event(&pb.Event{Kind: &pb.Event_CartRemove{CartRemove: &pb.CartChange{ProductId: "1"}}}),
		received(&pb.CampaignReceived{CampaignId: "18", CampaignType: "Type A", Ends: at(1_490_000_000)}),
		received(&pb.CampaignReceived{CampaignId: "18"}),
		redeemed(&pb.CouponRedeemed{CouponId: "1", CampaignId: "18", BasketId: "2"}),
		profiled(manyAttributes(64)), profiled(nil),
		profiled(map[string]string{strings.Repeat("k", 64): strings.Repeat("v", 256), "removed": ""}),
		identified("c2"),
		event(&pb.Event{Kind: &pb.Event_Erase{Erase: &pb.Erase{Reason: "asked for by letter"}}}),
	}
}

func TestValidateGood(t *testing.T) {
	for _, ev := range goodEvents() {
		require.Nil(t, testValidator.Validate(ev), "%v", ev)
	}
}

func TestValidateFaults(t *testing.T) {
	with := func(change func(*pb.Event)) *pb.Event {
		ev := goodPurchase()
		change(ev)
		return ev
	}
	inLine := func(change func(*pb.Line)) *pb.Event {
		return with(func(ev *pb.Event) { change(ev.GetPurchase().Lines[2]) })
	}
	long := strings.Repeat("x", 129)
	for _, c := range []struct {
		field, reason string
		ev            *pb.Event
	}{
		{"", "empty", nil},
		{"event_id", "required", &pb.Event{}},
		{"event_id", "129 bytes, more than 128", with(func(ev *pb.Event) { ev.EventId = long })},
		{"event_id", "control characters", with(func(ev *pb.Event) { ev.EventId = "a\x7f" })},
		{"event_id", "UTF-8", with(func(ev *pb.Event) { ev.EventId = "a\xff" })},
		{"customer_id", "required", with(func(ev *pb.Event) { ev.CustomerId = "" })},
		{"customer_id", "more than 128", with(func(ev *pb.Event) { ev.CustomerId = long })},
		{"customer_id", `must not contain "/"`, with(func(ev *pb.Event) { ev.CustomerId = "a/b" })},
		{"customer_id", `must not be "."`, with(func(ev *pb.Event) { ev.CustomerId = "." })},
		{"customer_id", `must not be "."`, with(func(ev *pb.Event) { ev.CustomerId = ".." })},
		{"customer_id", "control characters", with(func(ev *pb.Event) { ev.CustomerId = "a\x00" })},
		{"customer_id", "control characters", with(func(ev *pb.Event) { ev.CustomerId = "a\u0085" })},
		{"customer_id", "UTF-8", with(func(ev *pb.Event) { ev.CustomerId = "\xed\xa0\x80" })},
		{"time", "required", with(func(ev *pb.Event) { ev.Time = nil })},
		{"time", "1970 to 2200", with(func(ev *pb.Event) { ev.Time.Seconds = -1 })},
		{"time", "1970 to 2200", with(func(ev *pb.Event) { ev.Time.Seconds = endTime })},
		{"time", "nanoseconds", with(func(ev *pb.Event) { ev.Time.Nanos = -1 })},
		{"time", "nanoseconds", with(func(ev *pb.Event) { ev.Time.Nanos = 1e9 })},
		{"producer", "required where sequence", with(func(ev *pb.Event) { ev.Producer = "" })},
		{"producer", "more than 128", with(func(ev *pb.Event) { ev.Producer = long })},
		{"producer", "control", with(func(ev *pb.Event) { ev.Producer = "\n" })},
		{"sequence", "above 0 where producer", with(func(ev *pb.Event) { ev.Sequence = 0 })},
		{"kind", "one kind of event is required: purchase, refund", with(func(ev *pb.Event) { ev.Kind = nil })},
		{"kind", "one kind", with(func(ev *pb.Event) { ev.Kind = &pb.Event_Purchase{} })},
		{"kind", "one kind", with(func(ev *pb.Event) { ev.Kind = (*pb.Event_Erase)(nil) })},
		{"purchase.basket_id", "more than 128", with(func(ev *pb.Event) { ev.GetPurchase().BasketId = long })},
		{"purchase.currency", `must be empty or USD, the currency of the cluster, not "EUR"`, with(func(ev *pb.Event) { ev.GetPurchase().Currency = "EUR" })},
		{"purchase.currency", "USD", with(func(ev *pb.Event) { ev.GetPurchase().Currency = "usd" })},
		{"purchase.store_id", "control", with(func(ev *pb.Event) { ev.GetPurchase().StoreId = "\t" })},
		{"purchase.lines", "at least one", with(func(ev *pb.Event) { ev.GetPurchase().Lines = nil })},
		{"purchase.lines", "1001 lines", with(func(ev *pb.Event) { ev.GetPurchase().Lines = make([]*pb.Line, 1001) })},
		{"purchase.lines[1]", "empty", with(func(ev *pb.Event) { ev.GetPurchase().Lines[1] = nil })},
		{"purchase.lines[2].product_id", "more than 128", inLine(func(l *pb.Line) { l.ProductId = long })},
		{"purchase.lines[2].department", "UTF-8", inLine(func(l *pb.Line) { l.Department = "\x80" })},
		{"purchase.lines[2].quantity", "more than 1000000", inLine(func(l *pb.Line) { l.Quantity = MaxQuantity + 1 })},
		{"purchase.lines[2].amount", "required", inLine(func(l *pb.Line) { l.Amount = "" })},
		{"purchase.lines[2].amount", "below zero", inLine(func(l *pb.Line) { l.Amount = "-0.01" })},
		{"purchase.lines[2].amount", "decimal string", inLine(func(l *pb.Line) { l.Amount = "1e3" })},
		{"purchase.lines[2].amount", "four decimals", inLine(func(l *pb.Line) { l.Amount = "0.00001" })},
		{"purchase.lines[2].amount", "beyond 1000000000", inLine(func(l *pb.Line) { l.Amount = "1000000001" })},
		{"purchase.lines[2].discount", "below zero", inLine(func(l *pb.Line) { l.Discount = "-1" })},
		{"purchase.lines[2].discount", "decimal string", inLine(func(l *pb.Line) { l.Discount = "x" })},
		{"refund.basket_id", "more than 128", refund(&pb.Refund{BasketId: long, Amount: "1"})},
		{"refund.currency", "USD", refund(&pb.Refund{Currency: "EUR", Amount: "1"})},
		{"refund.amount", "required", refund(&pb.Refund{})},
		{"refund.amount", "above zero", refund(&pb.Refund{Amount: "0"})},
		{"refund.amount", "above zero", refund(&pb.Refund{Amount: "-3"})},
		{"refund.reason", "1025 bytes", refund(&pb.Refund{Amount: "1", Reason: strings.Repeat("r", 1025)})},
		{"page_view.url", "2049 bytes", pageViewed(&pb.PageView{Url: strings.Repeat("u", 2049)})},
		{"page_view.product_id", "control", pageViewed(&pb.PageView{ProductId: "\x01"})},
		{"page_view.department", "more than", pageViewed(&pb.PageView{Department: long})},
		{"cart_add.product_id", "required", cartAdd(&pb.CartChange{})},
		{"cart_add.department", "more than", cartAdd(&pb.CartChange{ProductId: "1", Department: long})},
		{"cart_add.quantity", "more than", cartAdd(&pb.CartChange{ProductId: "1", Quantity: 1e6 + 1})},
		{"cart_remove.product_id", "required", event(&pb.Event{Kind: &pb.Event_CartRemove{CartRemove: &pb.CartChange{}}})},
		{"campaign_received.campaign_id", "required", received(&pb.CampaignReceived{})},
		{"campaign_received.campaign_type", "control", received(&pb.CampaignReceived{CampaignId: "1", CampaignType: "\n"})},
		{"campaign_received.ends", "1970", received(&pb.CampaignReceived{CampaignId: "1", Ends: at(-1)})},
		{"coupon_redeemed.coupon_id", "required", redeemed(&pb.CouponRedeemed{CampaignId: "1"})},
		{"coupon_redeemed.campaign_id", "more than", redeemed(&pb.CouponRedeemed{CouponId: "1", CampaignId: long})},
		{"coupon_redeemed.basket_id", "more than", redeemed(&pb.CouponRedeemed{CouponId: "1", BasketId: long})},
		{"profile.attributes", "65 attributes", profiled(manyAttributes(65))},
		{`profile.attributes[""]`, "not be empty", profiled(map[string]string{"": "v"})},
		{`profile.attributes["b\xff"]`, "UTF-8", profiled(map[string]string{"a": "v", "b\xff": "v"})},
		{`profile.attributes["` + strings.Repeat("k", 48) + `"…]`, "longer than 64", profiled(map[string]string{strings.Repeat("k", 65): "v"})},
		{`profile.attributes["a"]`, "257 bytes", profiled(map[string]string{"z": "\xff", "a": strings.Repeat("v", 257), "m": "\xff", "0": "good"})},
		{"identify.known_as", "required", identified("")},
		{"identify.known_as", `"/"`, identified("a/b")},
		{"identify.known_as", "another customer", identified("c1")},
		{"erase.reason", "UTF-8", event(&pb.Event{Kind: &pb.Event_Erase{Erase: &pb.Erase{Reason: "\xff"}}})},
	} {
		// Repeated, since the order of a map must not show.
		for range 8 {
			f := testValidator.Validate(c.ev)
			require.NotNil(t, f, "%s %s", c.field, c.reason)
			require.Equal(t, c.field, f.Field)
			require.Contains(t, f.Reason, c.reason)
		}
	}
}

func TestValidateInShard(t *testing.T) {
	ev := goodPurchase()
	own := ShardOf(ev.CustomerId, testValidator.Shards)
	require.Nil(t, testValidator.ValidateIn(own, ev))
	f := testValidator.ValidateIn(own+1, ev)
	require.Equal(t, &Fault{"customer_id", fmt.Sprintf("belongs to shard %d, not %d", own, own+1)}, f)
	ev.EventId = ""
	require.Equal(t, "event_id", testValidator.ValidateIn(own+1, ev).Field)
}

// The quick look and the exact one never disagree to the harm of the rule.
func TestPrintableASCII(t *testing.T) {
	for n := range 20 {
		s := strings.Repeat("~", n)
		require.True(t, printableASCII(s))
		for i := range n {
			for c := range 256 {
				b := []byte(s)
				b[i] = byte(c)
				require.Equal(t, c >= 0x20 && c < 0x7f, printableASCII(string(b)), "%q", b)
			}
		}
	}
}

func TestDropUnknown(t *testing.T) {
	ev := goodPurchase()
	want := proto.Clone(ev)
	unknown := []byte("\xf8\x7f\x01")
	for _, m := range []proto.Message{ev, ev.Time, ev.GetPurchase(), ev.GetPurchase().Lines[2]} {
		m.ProtoReflect().SetUnknown(unknown)
	}
	require.Nil(t, testValidator.Validate(ev))
	require.False(t, proto.Equal(want, ev))
	DropUnknown(ev)
	require.True(t, proto.Equal(want, ev))
}

func TestValidateAllocatesNothing(t *testing.T) {
	for _, ev := range goodEvents() {
		require.Zero(t, testing.AllocsPerRun(10, func() { _ = testValidator.Validate(ev) }))
	}
}

// Whatever bytes decode to, the validator answers, twice the same; and what it lets pass is
// carried by every encoding, and passes again.
func FuzzValidate(f *testing.F) {
	for _, ev := range goodEvents() {
		if b, err := ev.MarshalVT(); err == nil && len(b) < 4096 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ev := new(pb.Event)
		if ev.UnmarshalVT(raw) != nil {
			return
		}
		fault := testValidator.Validate(ev)
		require.Equal(t, fault, testValidator.Validate(ev))
		if fault != nil {
			require.NotEmpty(t, fault.Reason)
			_, err := proto.Marshal(&pb.Rejection{Field: fault.Field, Reason: fault.Reason})
			require.NoError(t, err)
			return
		}
		DropUnknown(ev)
		binary, err := proto.Marshal(ev)
		require.NoError(t, err)
		again := new(pb.Event)
		require.NoError(t, proto.Unmarshal(binary, again))
		require.Nil(t, testValidator.Validate(again))
		text, err := protojson.Marshal(ev)
		require.NoError(t, err)
		fromJSON, fault := DecodeJSONEvent(text)
		require.Nil(t, fault)
		require.Nil(t, testValidator.Validate(fromJSON))
	})
}

func BenchmarkValidate(b *testing.B) {
	ev := goodPurchase()
	b.ReportAllocs()
	for b.Loop() {
		if testValidator.Validate(ev) != nil {
			b.Fatal("the event is good")
		}
	}
}
