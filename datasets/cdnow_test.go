package datasets_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/behavior"
	"footfall/datasets"
	"footfall/datasets/datasetstest"
	"footfall/messages"
)

func TestCDNOW(t *testing.T) {
	d := datasetstest.Open(t, "cdnow")
	events := collect(t, d)
	requireStream(t, d, events)
	require.Equal(t, int64(69_659), d.Total)
	require.Equal(t, int64(23_570), d.Customers)
	require.Equal(t, "1997-01-01", behavior.FormatDate(d.FirstDay))
	require.Equal(t, "1998-06-30", behavior.FormatDate(d.LastDay))
}

// The purchases of the sample give the summary that the package has of them.
func TestCDNOWSample(t *testing.T) {
	d := datasetstest.Open(t, "cdnow-sample")
	events := collect(t, d)
	requireStream(t, d, events)
	require.Equal(t, int64(2_357), d.Customers)

	end := time.Date(1997, 9, 30, 0, 0, 0, 0, time.UTC)
	cal := behavior.NewCalendar(time.UTC)
	spend := map[string]map[int32]int64{}
	for _, ev := range events {
		day := cal.DayOf(ev.Time.AsTime())
		if day > cal.DayOf(end) {
			continue
		}
		if spend[ev.CustomerId] == nil {
			spend[ev.CustomerId] = map[int32]int64{}
		}
		paid, err := messages.ParseMoney(ev.GetPurchase().Lines[0].Amount)
		require.NoError(t, err)
		spend[ev.CustomerId][day] += paid
	}
	summary, err := datasets.ReadCDNOWSummary(t.Context(), datasetstest.Options(t))
	require.NoError(t, err)
	require.Len(t, summary, 2_357)
	for _, want := range summary {
		days := spend[want.ID]
		require.NotEmpty(t, days, want.ID)
		first, last := int32(1<<30), int32(0)
		total := int64(0)
		for day, paid := range days {
			first, last = min(first, day), max(last, day)
			total += paid
		}
		require.Equal(t, want.Frequency, len(days)-1, want.ID)
		require.InDelta(t, want.Recency, float64(last-first)/7, .0051, want.ID)
		require.InDelta(t, want.T, float64(cal.DayOf(end)-first)/7, .0051, want.ID)
		if len(days) > 1 {
			mean := float64(total-days[first]) / messages.MoneyScale / float64(len(days)-1)
			require.InDelta(t, want.Monetary, mean, .0051, want.ID)
		}
	}
}
