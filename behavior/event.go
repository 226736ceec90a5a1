package behavior

import (
	"github.com/cespare/xxhash/v2"

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
// allocate for purchases. A *messages.Fault says what it could not read.
func Flatten(ev *footfallv1.Event, into *Event) error {
	panic("not yet")
}
