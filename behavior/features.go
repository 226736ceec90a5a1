package behavior

// Features are the ten features of a customer, in the order of FeatureNames.
type Features [10]float64

// FeatureNames names the features, in order.
var FeatureNames = [10]string{
	"recency_days", "visit_days_7", "visit_days_28", "visit_days_84", "log_spend_28", "log_spend_84",
	"gap_ewma", "overdue", "departments_28", "discount_share_84",
}

// SequenceNames names the columns of a sequence, in order.
var SequenceNames = [5]string{"age_days", "gap_days", "log_spend", "departments", "discount_share"}

// Features computes the features as of an instant, Unix milliseconds.
func (r Record) Features(at int64, cal *Calendar, out *Features) { panic("not yet") }

// Features32 fills out[:10].
func (r Record) Features32(at int64, cal *Calendar, out []float32) { panic("not yet") }

// Sequence fills out with the last ten shopping days as of an instant, oldest first.
func (r Record) Sequence(at int64, cal *Calendar, out *[10][5]float64) { panic("not yet") }

// Sequence32 fills out[:50], row by row.
func (r Record) Sequence32(at int64, cal *Calendar, out []float32) { panic("not yet") }
