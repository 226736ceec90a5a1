package datasets

import (
	"context"
	"slices"
	"strings"
	"time"

	"footfall/behavior"
	"footfall/messages/footfallv1"
)

// Labels answers what really happened after an instant: the truth that models are trained on and
// measured against. It is immutable: any number of goroutines may ask it.
type Labels struct {
	loc       *time.Location
	end       time.Time
	customers map[string]*course
}

// course is what a customer did, in Unix milliseconds, each in order of time.
type course struct {
	purchases, redemptions []int64
	campaigns              []campaignTime
}

type campaignTime struct{ received, ends int64 }

// Label is the truth about one customer after an instant t. Days are calendar days of the data set's
// time zone: t + 7 d is the same time of day a week later.
type Label struct {
	// Known is false for a customer of whom nothing had happened up to t.
	Known bool
	// Purchase7d says that there is a purchase in (t, t+7d].
	Purchase7d bool
	// Churn28d says that there is none in (t, t+28d].
	Churn28d bool
	// Redeem28d says that a coupon is redeemed in (t, t+28d]. It is to be asked of customers only
	// for whom CampaignActive says that at t they had received a campaign that was not over.
	Redeem28d      bool
	CampaignActive bool
	// Ripe7d and Ripe28d say that the data reach as far as the labels of 7 and 28 days need.
	Ripe7d, Ripe28d bool
}

// NewLabels reads a data set once.
func NewLabels(ctx context.Context, d *Dataset) (*Labels, error) {
	l := &Labels{loc: d.Location, customers: map[string]*course{}, end: behavior.NewCalendar(d.Location).EndOfDay(d.LastDay)}
	for ev, err := range d.Events(ctx) {
		if err != nil {
			return nil, err
		}
		c := l.customers[ev.CustomerId]
		if c == nil {
			c = &course{}
			// The event's strings share the memory of many others.
			l.customers[strings.Clone(ev.CustomerId)] = c
		}
		at := ev.Time.AsTime().UnixMilli()
		switch k := ev.Kind.(type) {
		case *footfallv1.Event_Purchase:
			c.purchases = append(c.purchases, at)
		case *footfallv1.Event_CouponRedeemed:
			c.redemptions = append(c.redemptions, at)
		case *footfallv1.Event_CampaignReceived:
			ends := l.end.UnixMilli()
			if k.CampaignReceived.Ends != nil {
				ends = k.CampaignReceived.Ends.AsTime().UnixMilli()
			}
			c.campaigns = append(c.campaigns, campaignTime{at, ends})
		}
	}
	return l, nil
}

// At is the label of a customer at t.
func (l *Labels) At(customer string, t time.Time) Label {
	local := t.In(l.loc)
	after7, after28 := local.AddDate(0, 0, 7), local.AddDate(0, 0, 28)
	label := Label{
		Churn28d: true,
		Ripe7d:   after7.Before(l.end), Ripe28d: after28.Before(l.end),
	}
	c := l.customers[customer]
	if c == nil {
		return label
	}
	at := t.UnixMilli()
	label.Purchase7d = within(c.purchases, at, after7.UnixMilli())
	label.Churn28d = !within(c.purchases, at, after28.UnixMilli())
	label.Redeem28d = within(c.redemptions, at, after28.UnixMilli())
	label.Known = begun(c.purchases, at) || begun(c.redemptions, at)
	for _, k := range c.campaigns {
		if k.received <= at {
			label.Known = true
			label.CampaignActive = label.CampaignActive || at <= k.ends
		}
	}
	return label
}

// Purchased reports whether the customer had bought anything up to t.
func (l *Labels) Purchased(customer string, t time.Time) bool {
	c := l.customers[customer]
	return c != nil && begun(c.purchases, t.UnixMilli())
}

// Customers returns the names of all customers, sorted.
func (l *Labels) Customers() []string {
	names := make([]string, 0, len(l.customers))
	for name := range l.customers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func begun(times []int64, at int64) bool { return len(times) > 0 && times[0] <= at }

// within reports whether one of the times, which are in order, lies in (from, to].
func within(times []int64, from, to int64) bool {
	i, _ := slices.BinarySearch(times, from+1)
	return i < len(times) && times[i] <= to
}
