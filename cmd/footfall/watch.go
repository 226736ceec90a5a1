package main

import (
	"context"
	"time"
)

// watch looks at something at once and then every now and then, until it is done. It reports
// false where patience ends before.
func watch(ctx context.Context, every, patience time.Duration, look func() (done bool, err error)) (inTime bool, err error) {
	over := time.NewTimer(patience)
	defer over.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if done, err := look(); done || err != nil {
			return true, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return true, ctx.Err()
		case <-over.C:
			return false, nil
		}
	}
}
