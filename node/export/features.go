package export

import (
	"context"

	"footfall/behavior"
)

// Labels tells what happened to a customer after the end of a day (days since 1970-01-01).
// Each is nil where it cannot be known, and redeem28d where no campaign was active.
type Labels func(customerID string, day int32) (purchase7d, churn28d, redeem28d *bool)

// Progress is told how far a history has been exported.
type Progress func(day int32, rows int)

// Features folds src and writes one row for every customer that has bought something, at the
// end of each wanted day, in order of day and customer ID. labels and progress may be nil. It
// does not close w. It returns how many rows it wrote.
func Features(ctx context.Context, src Source, days Days, labels Labels, w Writer, progress Progress) (int, error) {
	var rows []Row
	total := 0
	_, err := Run(ctx, src, days, func(f *Fold, first, day int32) error {
		n := 0
		for id, rec := range f.Customers() {
			if rec.Lifetime().Purchases == 0 {
				continue
			}
			if n == len(rows) {
				rows = append(rows, Row{})
			}
			r := &rows[n]
			r.CustomerID, r.Day, r.Date = id, day-first+1, behavior.FormatDate(day)
			r.fill(rec, day, f.Calendar())
			if labels != nil {
				r.Purchase7d, r.Churn28d, r.Redeem28d = labels(id, day)
			}
			n++
		}
		total += n
		if progress != nil {
			progress(day, total)
		}
		if n == 0 {
			return nil
		}
		return w.Write(rows[:n])
	})
	return total, err
}
