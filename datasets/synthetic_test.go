package datasets_test

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"footfall/behavior"
	"footfall/datasets"
	pb "footfall/messages/footfallv1"
)

func TestSynthetic(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	opt := datasets.Options{Location: berlin, Currency: "EUR"}
	d, err := datasets.Open(t.Context(), "synthetic?customers=2000&events=200000&seed=7", opt)
	require.NoError(t, err)
	events := collect(t, d)
	requireStream(t, d, events)
	require.Equal(t, "2024-01-01", behavior.FormatDate(d.FirstDay))
	require.Equal(t, "2024-12-30", behavior.FormatDate(d.LastDay))

	// The same again is the same, and another seed is not.
	again, err := datasets.Open(t.Context(), "synthetic?events=200000&seed=7&customers=2000", opt)
	require.NoError(t, err)
	require.Equal(t, d.Digest, again.Digest)
	i := 0
	for ev, err := range again.Events(t.Context()) {
		require.NoError(t, err)
		if i%97 == 0 {
			require.True(t, proto.Equal(events[i], ev))
		}
		i++
	}
	other, err := datasets.Open(t.Context(), "synthetic?customers=2000&events=200000&seed=8", opt)
	require.NoError(t, err)
	require.NotEqual(t, d.Producer, other.Producer)

	count := map[string]int{}
	byCustomer := map[string][]*pb.Event{}
	weekday, month, hour := map[time.Weekday]int{}, map[time.Month]int{}, map[int]int{}
	baskets := map[string]string{}
	received := map[string]bool{}
	bought := map[string]bool{}
	refunds, followed := 0, 0
	for _, ev := range events {
		at := ev.Time.AsTime().In(berlin)
		weekday[at.Weekday()]++
		month[at.Month()]++
		hour[at.Hour()]++
		byCustomer[ev.CustomerId] = append(byCustomer[ev.CustomerId], ev)
		switch k := ev.Kind.(type) {
		case *pb.Event_Purchase:
			count["purchase"]++
			baskets[k.Purchase.BasketId] = ev.CustomerId
			require.Equal(t, "EUR", k.Purchase.Currency)
			for _, l := range k.Purchase.Lines {
				bought[ev.CustomerId+l.ProductId] = true
			}
		case *pb.Event_Refund:
			refunds++
			require.Equal(t, ev.CustomerId, baskets[k.Refund.BasketId], "a refund is of an earlier basket of the customer")
		case *pb.Event_CampaignReceived:
			received[ev.CustomerId+k.CampaignReceived.CampaignId] = true
			require.True(t, k.CampaignReceived.Ends.AsTime().After(at))
		case *pb.Event_CouponRedeemed:
			require.True(t, received[ev.CustomerId+k.CouponRedeemed.CampaignId], "a coupon is of a campaign that was received")
			count["coupon"]++
		}
	}
	for _, ev := range events {
		if c := ev.GetCartAdd(); c != nil && bought[ev.CustomerId+c.ProductId] {
			followed++
		}
	}
	require.InDelta(t, .62, float64(count["purchase"])/200_000, .01)
	require.Greater(t, refunds, 4_000)
	require.Greater(t, count["coupon"], 1_500)
	require.Greater(t, followed, 6_000)

	// Rhythm, skew and churn.
	require.Greater(t, weekday[time.Saturday], weekday[time.Tuesday]*17/10)
	require.Greater(t, month[time.December], month[time.June]*13/10)
	require.Greater(t, hour[17], 20*max(hour[3], 1))
	sizes := []int{}
	left := 0
	for _, mine := range byCustomer {
		sizes = append(sizes, len(mine))
		if len(mine) >= 20 && mine[len(mine)-1].Time.AsTime().Before(time.Date(2024, 9, 1, 0, 0, 0, 0, time.UTC)) {
			left++
		}
	}
	slices.SortFunc(sizes, func(a, b int) int { return cmp.Compare(b, a) })
	top := 0
	for _, n := range sizes[:20] {
		top += n
	}
	require.Greater(t, len(byCustomer), 1_500)
	require.Greater(t, top, 200_000*8/100)
	require.Greater(t, left, len(byCustomer)/5)
}

// Streams are ordered and inside of their days however they are cut.
func TestSyntheticSizes(t *testing.T) {
	for _, name := range []string{
		"synthetic?customers=1&events=1&days=1", "synthetic?customers=1&events=2000&days=1", "synthetic?customers=100000&events=1000&days=1000",
		"synthetic?customers=10&events=5000&days=7&start=2024-03-29&seed=18446744073709551615", "synthetic?events=3000&days=36500&start=1971-01-01",
	} {
		for _, zone := range []string{"UTC", "America/New_York", "Africa/Cairo"} {
			loc, err := time.LoadLocation(zone)
			require.NoError(t, err)
			d, err := datasets.Open(t.Context(), name, datasets.Options{Location: loc})
			require.NoError(t, err)
			last := time.Time{}
			cal := behavior.NewCalendar(loc)
			n := int64(0)
			for ev, err := range d.Events(t.Context()) {
				require.NoError(t, err)
				at := ev.Time.AsTime()
				require.False(t, at.Before(last))
				last = at
				day := cal.DayOf(at)
				require.GreaterOrEqual(t, day, d.FirstDay)
				require.LessOrEqual(t, day, d.LastDay)
				n++
			}
			require.Equal(t, d.Total, n)
		}
	}
}

func TestSyntheticFaults(t *testing.T) {
	for name, want := range map[string]string{
		"synthetic?customers=0":      "customers: must be a whole number from 1",
		"synthetic?events=many":      "events: must be a whole number",
		"synthetic?colour=red":       "colour: is unknown",
		"synthetic?start=01.02.2024": "start",
		"synthetic?start=1960-01-01": "1971 to 2090",
		"synthetic?days=40000":       "days",
		"synthetic?%zz":              "invalid URL escape",
	} {
		_, err := datasets.Open(t.Context(), name, datasets.Options{})
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "\n")
	}
}

func BenchmarkSynthetic(b *testing.B) {
	d, err := datasets.Open(b.Context(), "synthetic?customers=1000000&events=1000000000", datasets.Options{})
	require.NoError(b, err)
	b.ReportAllocs()
	n := 0
	for _, err := range d.Events(b.Context()) {
		require.NoError(b, err)
		if n++; n == b.N {
			break
		}
	}
}
