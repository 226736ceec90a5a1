package behavior

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Kind is what an event is about. Its numbers never enter a record.
type Kind uint8

// The kinds of events.
const (
	Purchase Kind = iota + 1
	Refund
	PageView
	CartAdd
	CartRemove
	CampaignReceived
	CouponRedeemed
	Profile
	Identify
	Erase
)

var kindNames = [...]string{
	Purchase: "purchase", Refund: "refund", PageView: "page_view", CartAdd: "cart_add", CartRemove: "cart_remove",
	CampaignReceived: "campaign_received", CouponRedeemed: "coupon_redeemed", Profile: "profile", Identify: "identify", Erase: "erase",
}

// String is the kind as the protobuf names it: "page_view".
func (k Kind) String() string {
	if int(k) >= len(kindNames) || kindNames[k] == "" {
		return "unknown"
	}
	return kindNames[k]
}

// Attribute is one fact of a customer's profile. An empty Value removes it.
type Attribute struct{ Key, Value string }

// Event is what the fold needs of an event, flat. Reuse one: [Flatten] keeps the memory of
// its slices.
type Event struct {
	// ID is EventID of the event's ID.
	ID uint64
	// Time is when it happened, Unix milliseconds.
	Time int64
	Kind Kind

	// Spend is what a purchase cost in total, or what a refund gave back; Discount is what was
	// taken off a purchase's regular price. Both in ten-thousandths of the currency.
	Spend, Discount int64
	// Items is the sum of the quantities of a purchase.
	Items uint32
	// Departments holds Department of each line that names one; repetitions do no harm.
	Departments []uint32
	// Names are the names that those lines give, and Amounts what they cost, in ten-thousandths;
	// nothing that is kept of a customer comes from either. The names live as long as the
	// message that they were taken from.
	Names   []string
	Amounts []int64

	// Until is the last moment of a received campaign, Unix milliseconds; 0 if it names none.
	Until int64

	// Attributes of a profile, sorted by key, and Known, the name that an identify gives. Their
	// strings live as long as those of the message that they were taken from.
	Attributes []Attribute
	Known      string
}

// EventID is an event's ID as records remember it: xxhash64.
func EventID(id string) uint64 { return xxhash.Sum64String(id) }

// Department is a department's name as records know it: the low 32 bits of xxhash64.
func Department(name string) uint32 { return uint32(xxhash.Sum64String(name)) }

// Flatten fills into with ev, which the validator of messages has accepted. It does not
// allocate for purchases. A *messages.Fault names what it could not read.
func Flatten(ev *footfallv1.Event, into *Event) error {
	into.reset()
	if ev.GetTime() == nil {
		return &messages.Fault{Field: "time", Reason: "is required"}
	}
	into.ID = EventID(ev.EventId)
	into.Time = millis(ev.Time)
	switch k := ev.Kind.(type) {
	case *footfallv1.Event_Purchase:
		into.Kind = Purchase
		return into.lines(k.Purchase.GetLines())
	case *footfallv1.Event_Refund:
		into.Kind = Refund
		amount, err := messages.ParseMoney(k.Refund.GetAmount())
		if err != nil {
			return &messages.Fault{Field: "refund.amount", Reason: err.Error()}
		}
		into.Spend = amount
	case *footfallv1.Event_PageView:
		into.Kind = PageView
	case *footfallv1.Event_CartAdd:
		into.Kind = CartAdd
	case *footfallv1.Event_CartRemove:
		into.Kind = CartRemove
	case *footfallv1.Event_CampaignReceived:
		into.Kind = CampaignReceived
		if ends := k.CampaignReceived.GetEnds(); ends != nil {
			into.Until = millis(ends)
		}
	case *footfallv1.Event_CouponRedeemed:
		into.Kind = CouponRedeemed
	case *footfallv1.Event_Profile:
		into.Kind = Profile
		for key, value := range k.Profile.GetAttributes() {
			into.Attributes = append(into.Attributes, Attribute{key, value})
		}
		slices.SortFunc(into.Attributes, func(a, b Attribute) int { return strings.Compare(a.Key, b.Key) })
	case *footfallv1.Event_Identify:
		into.Kind = Identify
		into.Known = k.Identify.GetKnownAs()
	case *footfallv1.Event_Erase:
		into.Kind = Erase
	default:
		return &messages.Fault{Field: "kind", Reason: "is required"}
	}
	return nil
}

// FlattenScanned is [Flatten] of a purchase that was scanned.
func FlattenScanned(p *messages.Scanned, into *Event) {
	into.reset()
	into.ID = EventID(p.EventID)
	into.Time = millisOf(p.Seconds, p.Nanos)
	into.Kind = Purchase
	for i := range p.Lines {
		into.line(&p.Lines[i])
	}
}

// reset empties an event and keeps its memory.
func (e *Event) reset() {
	*e = Event{Departments: e.Departments[:0], Names: e.Names[:0], Amounts: e.Amounts[:0], Attributes: e.Attributes[:0]}
}

// lines sums the lines of a purchase.
func (e *Event) lines(lines []*footfallv1.Line) error {
	for i, l := range lines {
		flat := messages.ScannedLine{Department: l.GetDepartment(), Quantity: l.GetQuantity()}
		var err error
		if flat.Amount, err = messages.ParseMoney(l.GetAmount()); err != nil {
			return lineFault(i, "amount", err)
		}
		if d := l.GetDiscount(); d != "" {
			if flat.Discount, err = messages.ParseMoney(d); err != nil {
				return lineFault(i, "discount", err)
			}
		}
		e.line(&flat)
	}
	return nil
}

func (e *Event) line(l *messages.ScannedLine) {
	e.Spend = addSaturated(e.Spend, l.Amount)
	e.Discount = addSaturated(e.Discount, l.Discount)
	e.Items += min(l.Quantity, math.MaxUint32-e.Items)
	if l.Department != "" {
		e.Departments = append(e.Departments, Department(l.Department))
		e.Names = append(e.Names, l.Department)
		e.Amounts = append(e.Amounts, l.Amount)
	}
}

func lineFault(i int, field string, err error) error {
	return &messages.Fault{Field: fmt.Sprintf("purchase.lines[%d].%s", i, field), Reason: err.Error()}
}

func millis(t *timestamppb.Timestamp) int64 { return millisOf(t.Seconds, t.Nanos) }

func millisOf(seconds int64, nanos int32) int64 {
	return max(minMillis/1000, min(seconds, maxMillis/1000))*1000 + int64(nanos)/1_000_000
}
