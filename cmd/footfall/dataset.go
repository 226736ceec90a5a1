package main

import (
	"context"
	"fmt"
	"time"

	"footfall/datasets"
)

// openDataset opens a data set by name and tells on standard error what it downloads. change
// may set more options; nil sets none.
func (a *app) openDataset(ctx context.Context, name, timezone, currency string, change func(*datasets.Options)) (*datasets.Dataset, error) {
	loc, err := time.LoadLocation(timezone)
	if err != nil {
		return nil, usagef("--timezone %s: there is no such time zone", timezone)
	}
	o := datasets.Options{Progress: a.err, Location: loc, Currency: currency}
	if change != nil {
		change(&o)
	}
	data, err := datasets.Open(ctx, name, o)
	if err != nil {
		return nil, err
	}
	if n := data.RejectedTotal; n > 0 {
		fmt.Fprintf(a.err, "footfall: %s of %s %s and left out, the first: %v\n", things(int(n), "row"), name, are(n), data.Rejected[0])
	}
	return data, nil
}

func are(n int64) string {
	if n == 1 {
		return "is no event"
	}
	return "are no events"
}
