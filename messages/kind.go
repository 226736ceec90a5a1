package messages

import "footfall/messages/footfallv1"

// KindName returns the kind of an event as the protobuf names it, "purchase"; empty where there is
// none.
func KindName(ev *footfallv1.Event) string {
	switch ev.GetKind().(type) {
	case *footfallv1.Event_Purchase:
		return "purchase"
	case *footfallv1.Event_Refund:
		return "refund"
	case *footfallv1.Event_PageView:
		return "page_view"
	case *footfallv1.Event_CartAdd:
		return "cart_add"
	case *footfallv1.Event_CartRemove:
		return "cart_remove"
	case *footfallv1.Event_CampaignReceived:
		return "campaign_received"
	case *footfallv1.Event_CouponRedeemed:
		return "coupon_redeemed"
	case *footfallv1.Event_Profile:
		return "profile"
	case *footfallv1.Event_Identify:
		return "identify"
	case *footfallv1.Event_Erase:
		return "erase"
	default:
		return ""
	}
}
