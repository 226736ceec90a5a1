package access

import (
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// throttled writes a few lines a second and counts the others: whoever is refused could fill the
// disk else.
type throttled struct {
	logger *slog.Logger
	now    func() time.Time
	lines  *rate.Limiter
	left   atomic.Int64 // out since the last line
}

func newThrottled(l *slog.Logger, now func() time.Time) *throttled {
	return &throttled{logger: l, now: now, lines: rate.NewLimiter(1, 20)}
}

// Warn writes a line, unless there were too many.
func (t *throttled) Warn(message string, args ...any) {
	if !t.lines.AllowN(t.now(), 1) {
		t.left.Add(1)
		return
	}
	if n := t.left.Swap(0); n > 0 {
		args = append(args, "left_out_before", n)
	}
	t.logger.Warn(message, args...) //nolint:sloglint // its callers give constants
}
