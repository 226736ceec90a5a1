package inference

import "time"

// Clock is the time that a device goes by.
type Clock struct {
	Now func() time.Time
	// AfterFunc calls f once d has passed, from any goroutine, unless stop comes before.
	AfterFunc func(d time.Duration, f func()) (stop func())
}

// SystemClock is the machine's clock.
func SystemClock() Clock {
	return Clock{
		Now: time.Now,
		AfterFunc: func(d time.Duration, f func()) func() {
			t := time.AfterFunc(d, f)
			return func() { t.Stop() }
		},
	}
}
