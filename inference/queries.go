package inference

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrBusy answers a query when as many rows are asked for as may be. Trying again later helps.
var ErrBusy = errors.New("inference: as many rows as may be are being scored: try again")

// Queries scores rows for callers that wait. They share the device with the shards, whose
// scoring must not starve: at most Limit rows are taken at once, and whoever has more is
// turned away, not queued.
//
// Invariant: the rows of requests between the offer and the reply are at most Limit, also of
// those whose callers are gone.
type Queries struct {
	// Offer takes a request, or answers false where its queue is full: [Device.Score].
	Offer func(*Request) bool
	// Limit is how many rows may be taken at once, MaxRows how many of one query.
	Limit, MaxRows int

	rows atomic.Int64
}

// Score answers what the model that the query names says of its rows. Its Reply is not used.
// The matrices must not be written afterwards, even where ctx ended first.
//
// Errors: [*RequestError], [*NotServingError], [ErrBusy], [*ScoreError], [ErrClosed], and ctx's.
func (q *Queries) Score(ctx context.Context, query Request) (Scores, error) {
	if query.Model == "" {
		return Scores{}, &RequestError{Field: "model", Reason: "is missing"}
	}
	if query.Rows < 1 || query.Rows > q.MaxRows {
		return Scores{}, &RequestError{Field: "rows", Reason: fmt.Sprintf("is %d: 1 to %d can be asked for at once", query.Rows, q.MaxRows)}
	}
	if err := ctx.Err(); err != nil {
		return Scores{}, err
	}
	rows := int64(query.Rows)
	if q.rows.Add(rows) > int64(q.Limit) {
		q.rows.Add(-rows)
		return Scores{}, ErrBusy
	}
	if deadline, ok := ctx.Deadline(); ok && query.Deadline.IsZero() {
		query.Deadline = deadline
	}
	replies := make(chan Reply, 1)
	query.Reply = func(r Reply) {
		q.rows.Add(-rows)
		replies <- r
	}
	if !q.Offer(&query) {
		q.rows.Add(-rows)
		return Scores{}, ErrBusy
	}
	select {
	case r := <-replies:
		if r.Err != nil {
			return Scores{}, r.Err
		}
		return r.Models[0], nil
	case <-ctx.Done():
		return Scores{}, ctx.Err()
	}
}
