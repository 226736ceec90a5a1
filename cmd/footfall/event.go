package main

import (
	"fmt"
	"math"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// kindOf names the kind of an event as the protobuf does.
func kindOf(ev *footfallv1.Event) string {
	m := ev.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")); f != nil {
		return string(f.Name())
	}
	return "-"
}

// what says in a few words what an event tells.
func what(ev *footfallv1.Event) string {
	switch k := ev.GetKind().(type) {
	case *footfallv1.Event_Purchase:
		var sum int64
		for _, l := range k.Purchase.GetLines() {
			amount, err := messages.ParseMoney(l.GetAmount())
			if err != nil || sum > math.MaxInt64-amount {
				return fmt.Sprintf("%d lines", len(k.Purchase.GetLines()))
			}
			sum += amount
		}
		return fmt.Sprintf("%s for %s", messages.FormatMoney(sum), things(len(k.Purchase.GetLines()), "line"))
	case *footfallv1.Event_Refund:
		return k.Refund.GetAmount() + " back"
	case *footfallv1.Event_PageView:
		return k.PageView.GetUrl()
	case *footfallv1.Event_CartAdd:
		return fmt.Sprintf("%d × %s", max(k.CartAdd.GetQuantity(), 1), k.CartAdd.GetProductId())
	case *footfallv1.Event_CartRemove:
		return fmt.Sprintf("%d × %s", max(k.CartRemove.GetQuantity(), 1), k.CartRemove.GetProductId())
	case *footfallv1.Event_CampaignReceived:
		return "campaign " + k.CampaignReceived.GetCampaignId()
	case *footfallv1.Event_CouponRedeemed:
		return "coupon " + k.CouponRedeemed.GetCouponId()
	case *footfallv1.Event_Profile:
		return things(len(k.Profile.GetAttributes()), "attribute")
	case *footfallv1.Event_Identify:
		return "as " + k.Identify.GetKnownAs()
	case *footfallv1.Event_Erase:
		return k.Erase.GetReason()
	}
	return ""
}

func things(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%s %ss", count(n), what)
}
