package export

import (
	"encoding/csv"
	"io"

	"footfall/behavior"
)

// Summary is what models of customer lifetime are fitted to: the columns of the summary of
// the Python package lifetimes, with the first purchase not counted.
type Summary struct {
	CustomerID string
	// Frequency is the number of shopping days after the first.
	Frequency uint64
	// Recency is the time from the first to the last shopping day, T that from the first to the
	// day of observation; both in units of [Summaries].
	Recency, T float64
	// MonetaryValue is the mean spend of a shopping day after the first; 0 if there is none.
	MonetaryValue float64
}

// Summaries reads the summary of each customer that has bought something by the end of the
// day, in order of ID. unit is in days: 1, or 7 for weeks. want restricts the customers; nil
// means all.
func Summaries(f *Fold, day int32, unit float64, want func(customerID string) bool) []Summary {
	var all []Summary
	for id, rec := range f.Customers() {
		if want != nil && !want(id) {
			continue
		}
		if l := rec.Lifetime(); l.Purchases > 0 {
			s := summarize(l, day, unit)
			s.CustomerID = id
			all = append(all, s)
		}
	}
	return all
}

func summarize(l behavior.Lifetime, day int32, unit float64) Summary {
	s := Summary{
		Frequency: l.ShoppingDays - 1,
		Recency:   float64(l.LastShoppingDay-l.FirstShoppingDay) / unit,
		T:         float64(day-l.FirstShoppingDay) / unit,
	}
	if s.Frequency > 0 {
		s.MonetaryValue = float64(l.Spend-l.FirstDaySpend) / 10_000 / float64(s.Frequency)
	}
	return s
}

// WriteSummaries writes them as CSV with a header.
func WriteSummaries(w io.Writer, all []Summary) error {
	c := csv.NewWriter(w)
	// The first error stays, and Flush reports it.
	_ = c.Write([]string{"customer_id", "frequency", "recency", "T", "monetary_value"})
	for _, s := range all {
		_ = c.Write([]string{s.CustomerID, number(float64(s.Frequency)), number(s.Recency), number(s.T), number(s.MonetaryValue)})
	}
	c.Flush()
	return c.Error()
}
