package messages

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages/footfallv1"
)

// Limits of an event. Lengths are in bytes of UTF-8.
const (
	MaxID             = 128
	MaxName           = 128
	MaxURL            = 2048
	MaxText           = 1024
	MaxLines          = 1000
	MaxQuantity       = 1_000_000
	MaxAttributes     = 64
	MaxAttributeKey   = 64
	MaxAttributeValue = 256
)

// Times of events lie from 1970 to 2200.
const (
	minTime = 0
	endTime = 7_289_654_400 // 2201-01-01T00:00:00Z
)

// Validator holds the rules of an event: what it lets pass can be folded by any reader, and what
// it refuses by none. The answer depends on the event and these fields only, so every reader of a
// log finds the same. Refusing is exact, too: of several faults the first in the order of the
// fields is reported, and of a profile's attributes the one that sorts first.
//
//	event_id, customer_id     1–128 bytes of UTF-8, no control characters; a customer_id has no "/"
//	                          and is not "." or ".."
//	time                      required, from 1970 to 2200
//	producer, sequence        neither, or a name of at most 128 bytes and a number above 0
//	kind                      exactly one
//	currency                  empty, or the cluster's
//	purchase.lines            1–1,000
//	  amount                  required decimal, 0 or more, at most four places
//	  discount                decimal, 0 or more; empty is 0
//	  quantity                at most 1,000,000; 0 means not given
//	refund.amount             required decimal above 0
//	page_view                 url at most 2,048 bytes
//	cart_add, cart_remove     product_id required; quantity as above
//	campaign_received         campaign_id required; ends, where given, as time
//	coupon_redeemed           coupon_id required
//	profile.attributes        at most 64; key 1–64 bytes, value at most 256
//	identify.known_as         a customer_id, not the event's own
//	other IDs and names       at most 128 bytes without control characters
//	reason                    at most 1,024 bytes
//
// All strings are UTF-8, which fast protobuf decoders do not check. Fields that this version does
// not know are let pass unread (see [DropUnknown]); a kind that it does not know is a missing kind.
type Validator struct {
	// Shards is the number of shards of the cluster; used by ValidateIn only.
	Shards int
	// Currency is the cluster's, ISO 4217.
	Currency string
}

// Validate returns the first rule that the event breaks, or nil. It allocates nothing for an
// event without fault.
func (v Validator) Validate(ev *footfallv1.Event) *Fault {
	if ev == nil {
		return &Fault{Reason: "the event is empty"}
	}
	if r := requiredID(ev.EventId); r != "" {
		return &Fault{"event_id", r}
	}
	if r := customerID(ev.CustomerId); r != "" {
		return &Fault{"customer_id", r}
	}
	if ev.Time == nil {
		return &Fault{"time", isRequired}
	}
	if r := instant(ev.Time); r != "" {
		return &Fault{"time", r}
	}
	if ev.Producer != "" || ev.Sequence != 0 {
		if f := producer(ev); f != nil {
			return f
		}
	}
	return v.kind(ev)
}

// ValidateIn is Validate for a reader of one shard's log: an event of a customer that belongs to
// another shard is a fault, too.
func (v Validator) ValidateIn(shard int, ev *footfallv1.Event) *Fault {
	if f := v.Validate(ev); f != nil {
		return f
	}
	if s := ShardOf(ev.CustomerId, v.Shards); s != shard {
		return &Fault{"customer_id", fmt.Sprintf("belongs to shard %d, not %d", s, shard)}
	}
	return nil
}

func (v Validator) kind(ev *footfallv1.Event) *Fault {
	switch k := ev.Kind.(type) {
	case *footfallv1.Event_Purchase:
		if k != nil && k.Purchase != nil {
			return v.purchase(k.Purchase)
		}
	case *footfallv1.Event_Refund:
		if k != nil && k.Refund != nil {
			return v.refund(k.Refund)
		}
	case *footfallv1.Event_PageView:
		if k != nil && k.PageView != nil {
			return pageView(k.PageView)
		}
	case *footfallv1.Event_CartAdd:
		if k != nil && k.CartAdd != nil {
			return cartChange("cart_add", k.CartAdd)
		}
	case *footfallv1.Event_CartRemove:
		if k != nil && k.CartRemove != nil {
			return cartChange("cart_remove", k.CartRemove)
		}
	case *footfallv1.Event_CampaignReceived:
		if k != nil && k.CampaignReceived != nil {
			return campaignReceived(k.CampaignReceived)
		}
	case *footfallv1.Event_CouponRedeemed:
		if k != nil && k.CouponRedeemed != nil {
			return couponRedeemed(k.CouponRedeemed)
		}
	case *footfallv1.Event_Profile:
		if k != nil && k.Profile != nil {
			return profile(k.Profile)
		}
	case *footfallv1.Event_Identify:
		if k != nil && k.Identify != nil {
			return identify(k.Identify, ev.CustomerId)
		}
	case *footfallv1.Event_Erase:
		if k != nil && k.Erase != nil {
			return fault("erase.reason", text(k.Erase.Reason, MaxText))
		}
	}
	return &Fault{"kind", "one kind of event is required: " + kindNames}
}

const kindNames = "purchase, refund, page_view, cart_add, cart_remove, campaign_received, coupon_redeemed, profile, identify or erase"

func (v Validator) purchase(p *footfallv1.Purchase) *Fault {
	if r := name(p.BasketId); r != "" {
		return &Fault{"purchase.basket_id", r}
	}
	if p.Currency != "" && p.Currency != v.Currency {
		return &Fault{"purchase.currency", v.otherCurrency(p.Currency)}
	}
	if len(p.Lines) == 0 {
		return &Fault{"purchase.lines", "at least one line is required"}
	}
	if len(p.Lines) > MaxLines {
		return &Fault{"purchase.lines", fmt.Sprintf("has %d lines, more than %d", len(p.Lines), MaxLines)}
	}
	for i, l := range p.Lines {
		if sub, r := line(l); r != "" {
			return &Fault{"purchase.lines[" + strconv.Itoa(i) + "]" + sub, r}
		}
	}
	return fault("purchase.store_id", name(p.StoreId))
}

// line returns the field below the line that is at fault, and the reason.
func line(l *footfallv1.Line) (field, reason string) {
	if l == nil {
		return "", "the line is empty"
	}
	if r := name(l.ProductId); r != "" {
		return ".product_id", r
	}
	if r := name(l.Department); r != "" {
		return ".department", r
	}
	if l.Quantity > MaxQuantity {
		return ".quantity", quantityTooLarge
	}
	if l.Amount == "" {
		return ".amount", isRequired
	}
	if v, err := ParseMoney(l.Amount); err != nil || v < 0 {
		return ".amount", badMoney(err, "must not be below zero")
	}
	if l.Discount != "" {
		if v, err := ParseMoney(l.Discount); err != nil || v < 0 {
			return ".discount", badMoney(err, "must not be below zero")
		}
	}
	return "", ""
}

func (v Validator) refund(r *footfallv1.Refund) *Fault {
	if reason := name(r.BasketId); reason != "" {
		return &Fault{"refund.basket_id", reason}
	}
	if r.Currency != "" && r.Currency != v.Currency {
		return &Fault{"refund.currency", v.otherCurrency(r.Currency)}
	}
	if r.Amount == "" {
		return &Fault{"refund.amount", isRequired}
	}
	if m, err := ParseMoney(r.Amount); err != nil || m <= 0 {
		return &Fault{"refund.amount", badMoney(err, "must be above zero")}
	}
	return fault("refund.reason", text(r.Reason, MaxText))
}

func (v Validator) otherCurrency(have string) string {
	return fmt.Sprintf("must be empty or %s, the currency of the cluster, not %s", v.Currency, brief(have))
}

func pageView(p *footfallv1.PageView) *Fault {
	return cmp.Or(
		fault("page_view.url", text(p.Url, MaxURL)),
		fault("page_view.product_id", name(p.ProductId)),
		fault("page_view.department", name(p.Department)))
}

func cartChange(field string, c *footfallv1.CartChange) *Fault {
	if r := requiredID(c.ProductId); r != "" {
		return &Fault{field + ".product_id", r}
	}
	if r := name(c.Department); r != "" {
		return &Fault{field + ".department", r}
	}
	if c.Quantity > MaxQuantity {
		return &Fault{field + ".quantity", quantityTooLarge}
	}
	return nil
}

func campaignReceived(c *footfallv1.CampaignReceived) *Fault {
	if r := requiredID(c.CampaignId); r != "" {
		return &Fault{"campaign_received.campaign_id", r}
	}
	if r := name(c.CampaignType); r != "" {
		return &Fault{"campaign_received.campaign_type", r}
	}
	if c.Ends != nil {
		return fault("campaign_received.ends", instant(c.Ends))
	}
	return nil
}

func couponRedeemed(c *footfallv1.CouponRedeemed) *Fault {
	return cmp.Or(
		fault("coupon_redeemed.coupon_id", requiredID(c.CouponId)),
		fault("coupon_redeemed.campaign_id", name(c.CampaignId)),
		fault("coupon_redeemed.basket_id", name(c.BasketId)))
}

func profile(p *footfallv1.Profile) *Fault {
	if len(p.Attributes) > MaxAttributes {
		return &Fault{"profile.attributes", fmt.Sprintf("has %d attributes, more than %d", len(p.Attributes), MaxAttributes)}
	}
	for k, v := range p.Attributes {
		if attribute(k, v) == "" {
			continue
		}
		// There is a fault. The one to report must not depend on the order of a map.
		for _, k := range slices.Sorted(maps.Keys(p.Attributes)) {
			if r := attribute(k, p.Attributes[k]); r != "" {
				return &Fault{"profile.attributes[" + brief(k) + "]", r}
			}
		}
	}
	return nil
}

func attribute(key, value string) (reason string) {
	switch {
	case key == "":
		return "the name of an attribute must not be empty"
	case len(key) > MaxAttributeKey:
		return fmt.Sprintf("the name of an attribute is longer than %d bytes", MaxAttributeKey)
	}
	if r := plain(key); r != "" {
		return "the name of an attribute " + r
	}
	return text(value, MaxAttributeValue)
}

func identify(i *footfallv1.Identify, self string) *Fault {
	if r := customerID(i.KnownAs); r != "" {
		return &Fault{"identify.known_as", r}
	}
	if i.KnownAs == self {
		return &Fault{"identify.known_as", "must be another customer than customer_id"}
	}
	return nil
}

// DropUnknown removes the fields that this version does not know from an event and all within it.
// Nobody has looked at their bytes: an event out of a log loses them before it is handed to another
// program, whose decoder might refuse it for them.
func DropUnknown(ev *footfallv1.Event) { dropUnknown(ev.ProtoReflect()) }

func dropUnknown(m protoreflect.Message) {
	if len(m.GetUnknown()) > 0 {
		m.SetUnknown(nil)
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.Message() == nil || field.IsMap():
			// The only maps are of strings.
		case field.IsList():
			for i := range v.List().Len() {
				dropUnknown(v.List().Get(i).Message())
			}
		default:
			dropUnknown(v.Message())
		}
		return true
	})
}

func producer(ev *footfallv1.Event) *Fault {
	switch {
	case ev.Producer == "":
		return &Fault{"producer", "is required where sequence is given"}
	case ev.Sequence == 0:
		return &Fault{"sequence", "must be above 0 where producer is given"}
	}
	return fault("producer", name(ev.Producer))
}

// The checks below return a reason, empty where there is no fault.

const (
	isRequired       = "is required"
	quantityTooLarge = "is more than 1000000"
)

func fault(field, reason string) *Fault {
	if reason == "" {
		return nil
	}
	return &Fault{field, reason}
}

func badMoney(err error, sign string) string {
	if err != nil {
		return err.Error()
	}
	return sign
}

func customerID(s string) string {
	if r := requiredID(s); r != "" {
		return r
	}
	if s == "." || s == ".." {
		return `must not be "." or ".."`
	}
	if strings.IndexByte(s, '/') >= 0 {
		return `must not contain "/"`
	}
	return ""
}

func requiredID(s string) string {
	if s == "" {
		return isRequired
	}
	return name(s)
}

func name(s string) string {
	if len(s) > MaxName {
		return tooLong(s, MaxName)
	}
	if !printableASCII(s) {
		return plain(s)
	}
	return ""
}

// printableASCII reports whether s is sure to be printable ASCII, as nearly all names are: then
// nothing more is to be looked at. It takes eight bytes at a time, for it is most of what
// validating costs. It may say false of a string that is.
func printableASCII(s string) bool {
	const ones = 0x0101010101010101
	var odd uint64
	for ; len(s) >= 8; s = s[8:] {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		// The high bit of a byte is set where it was, where adding 1 sets it (0x7f), or where
		// taking 0x20 off borrows. Carries into a neighbour only follow a byte that is odd itself.
		odd |= w | (w + ones) | (w - 0x20*ones)
	}
	if odd&(0x80*ones) != 0 {
		return false
	}
	for i := range len(s) {
		if s[i]-0x20 >= 0x7f-0x20 {
			return false
		}
	}
	return true
}

// plain refuses what is not UTF-8 without control characters.
func plain(s string) string {
	if !utf8.ValidString(s) {
		return notUTF8
	}
	if strings.IndexFunc(s, unicode.IsControl) >= 0 {
		return "must not contain control characters"
	}
	return ""
}

const notUTF8 = "is not valid UTF-8"

func text(s string, limit int) string {
	if len(s) > limit {
		return tooLong(s, limit)
	}
	if !utf8.ValidString(s) {
		return notUTF8
	}
	return ""
}

func tooLong(s string, limit int) string {
	return fmt.Sprintf("has %d bytes, more than %d", len(s), limit)
}

func instant(t *timestamppb.Timestamp) string {
	switch {
	case t.Nanos < 0 || t.Nanos > 999_999_999:
		return "has nanoseconds outside of 0 to 999999999"
	case t.Seconds < minTime || t.Seconds >= endTime:
		return "must lie from 1970 to 2200"
	}
	return ""
}

// brief quotes a value for an error: printable, valid UTF-8 and short whatever it was.
func brief(s string) string {
	const limit = 48
	if len(s) > limit {
		cut := limit
		for cut > limit-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return strconv.Quote(s[:cut]) + "…"
	}
	return strconv.Quote(s)
}
