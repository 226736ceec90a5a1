package export

import (
	"footfall/behavior"
)

// Row is one customer at the end of one day. The names of its columns are those of
// behavior.FeatureNames.
type Row struct {
	CustomerID string `parquet:"customer_id,dict"`
	// Day counts from 1, the first day of the history.
	Day int32 `parquet:"day,delta"`
	// Date is the same day, ISO 8601.
	Date string `parquet:"date,dict"`

	RecencyDays     float64 `parquet:"recency_days"`
	VisitDays7      float64 `parquet:"visit_days_7"`
	VisitDays28     float64 `parquet:"visit_days_28"`
	VisitDays84     float64 `parquet:"visit_days_84"`
	LogSpend28      float64 `parquet:"log_spend_28"`
	LogSpend84      float64 `parquet:"log_spend_84"`
	GapEWMA         float64 `parquet:"gap_ewma"`
	Overdue         float64 `parquet:"overdue"`
	Departments28   float64 `parquet:"departments_28"`
	DiscountShare84 float64 `parquet:"discount_share_84"`

	// Sequence holds 10 × 5 values: the last ten shopping days, oldest first, row by row.
	Sequence []float64 `parquet:"sequence,list"`

	// What happened next; nil where the history ends too early to tell, and for Redeem28d
	// where no campaign was active for the customer.
	Purchase7d *bool `parquet:"purchase_7d,optional"`
	Churn28d   *bool `parquet:"churn_28d,optional"`
	Redeem28d  *bool `parquet:"redeem_28d,optional"`
}

// features are the row's ten, in the order of behavior.FeatureNames.
func (r *Row) features() [10]*float64 {
	return [10]*float64{
		&r.RecencyDays, &r.VisitDays7, &r.VisitDays28, &r.VisitDays84, &r.LogSpend28, &r.LogSpend84,
		&r.GapEWMA, &r.Overdue, &r.Departments28, &r.DiscountShare84,
	}
}

// fill computes the row of a record at the end of a day.
func (r *Row) fill(rec behavior.Record, day int32, cal *behavior.Calendar) {
	at := cal.LastMilli(day)
	var features behavior.Features
	rec.Features(at, cal, &features)
	for i, p := range r.features() {
		*p = features[i]
	}
	var sequence [10][5]float64
	rec.Sequence(at, cal, &sequence)
	r.Sequence = r.Sequence[:0]
	for _, row := range sequence {
		r.Sequence = append(r.Sequence, row[:]...)
	}
}
