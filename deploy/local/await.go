package local

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Await calls try until it succeeds, at intervals that grow to a tenth of a second. Where ctx ends before, the error has its cause
// and what try said last.
func Await(ctx context.Context, try func(context.Context) error) error {
	pause := 5 * time.Millisecond
	for {
		last := try(ctx)
		if last == nil {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			cause := context.Cause(ctx)
			if errors.Is(last, cause) || errors.Is(last, ctx.Err()) {
				return cause
			}
			return fmt.Errorf("%w (%w)", cause, last)
		}
		pause = min(2*pause, 100*time.Millisecond)
	}
}
