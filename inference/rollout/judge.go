package rollout

import (
	"fmt"

	"footfall/inference"
)

// Reasons for which a version is taken out by itself: the label of a metric.
const (
	ReasonErrors  = "errors"
	ReasonLatency = "latency"
	ReasonShift   = "shift"
	ReasonHang    = "hang"
	ReasonLoad    = "load"
	ReasonAsked   = "asked"
)

const (
	// leastErrors is how many rows without a value are more than chance.
	leastErrors = 20
	// leastRuns is how many runs tell how long they take.
	leastRuns = 20
	// leastLag is how much longer than the champion's runs are noticed at all, in seconds.
	leastLag = 2e-3
)

// Verdict says why a challenger is to be taken out; it is the zero value while it is not.
type Verdict struct {
	// Reason is one of the constants, Detail says it with figures.
	Reason, Detail string
}

// Judge holds figures against limits. What clients send counts nowhere: figures are of rows that the champion gives values for.
func Judge(f inference.Figures, l Limits) Verdict {
	l = l.Or(Defaults)
	if f.Hangs > 0 {
		return Verdict{ReasonHang, "a run took longer than inference.run_timeout"}
	}
	if share := f.ErrorShare(); f.Errors >= leastErrors && share > l.ErrorShare {
		return Verdict{ReasonErrors, fmt.Sprintf("no usable value for %d of %d rows (%.2g; the limit is %.2g)", f.Errors, f.Rows+f.Errors, share, l.ErrorShare)}
	}
	if f.Rows < l.MinRows {
		return Verdict{}
	}
	if own, champion := f.MeanSeconds(); f.Runs >= leastRuns && own > l.Slowdown*champion && own > champion+leastLag {
		return Verdict{ReasonLatency, fmt.Sprintf("a run takes %.3g ms, and one of the champion %.3g ms (the limit is %.3g times as long)", own*1e3, champion*1e3, l.Slowdown)}
	}
	if shift := f.Shift(); shift > l.Shift {
		return Verdict{ReasonShift, fmt.Sprintf("its scores are spread otherwise than the champion's (index %.3g over %d rows; the limit is %.3g)", shift, f.Rows, l.Shift)}
	}
	return Verdict{}
}
