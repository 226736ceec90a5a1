package oip

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"
)

// timeoutHeader is a caller's deadline, as gRPC writes it: 100m is a tenth of a second.
const timeoutHeader = "Grpc-Timeout"

var timeoutUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// withDeadline returns the request's context, with the deadline that its header names.
func withDeadline(r *http.Request) (context.Context, context.CancelFunc, error) {
	text := r.Header.Get(timeoutHeader)
	if text == "" {
		return r.Context(), func() {}, nil
	}
	unit := timeoutUnits[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 27) // eight digits
	if err != nil || unit == 0 {
		return nil, nil, fault(timeoutHeader, "is %.40q, not a number and a unit (H, M, S, m, u, n)", text)
	}
	// A hundred million hours are more than a duration holds.
	ctx, cancel := context.WithTimeout(r.Context(), min(time.Duration(n), math.MaxInt64/unit)*unit)
	return ctx, cancel, nil
}
