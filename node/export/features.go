package export

import (
	"context"
	"iter"

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
	out := rowWriter{w: w, labels: labels, progress: progress}
	_, err := Run(ctx, src, days, func(f *Fold, first, day int32) error {
		return out.write(f.Customers(), first, day, f.Calendar())
	})
	return out.total, err
}

// rowWriter writes the rows of one day after the other.
type rowWriter struct {
	w        Writer
	labels   Labels
	progress Progress

	rows  []Row // of one day; its memory is used again
	total int
}

// write adds the rows of customers, which are in order of ID, at the end of a day of a history
// that began with first.
func (o *rowWriter) write(customers iter.Seq2[string, behavior.Record], first, day int32, cal *behavior.Calendar) error {
	n := 0
	for id, rec := range customers {
		if rec.Lifetime().Purchases == 0 {
			continue
		}
		if n == len(o.rows) {
			o.rows = append(o.rows, Row{})
		}
		r := &o.rows[n]
		r.CustomerID, r.Day, r.Date = id, day-first+1, behavior.FormatDate(day)
		r.fill(rec, day, cal)
		if o.labels != nil {
			r.Purchase7d, r.Churn28d, r.Redeem28d = o.labels(id, day)
		}
		n++
	}
	o.total += n
	if o.progress != nil {
		o.progress(day, o.total)
	}
	if n == 0 {
		return nil
	}
	return o.w.Write(o.rows[:n])
}
