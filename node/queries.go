package node

import (
	"context"
	"errors"
	"slices"

	"footfall/inference"
	"footfall/inference/oip"
	"footfall/node/api"
)

// queries lets callers of the API ask the models. They get at most half of the queue that the
// shards' rows wait in too, and each of them half of that.
type queries struct {
	scoring *scoring
	ask     inference.Queries
}

var _ api.Queries = (*queries)(nil)

// open prepares the queries of a scoring whose configuration is there.
func (q *queries) open() {
	rows := q.scoring.config.QueueRows
	q.ask.Limit, q.ask.MaxRows = rows/2, rows/4
	q.ask.Offer = func(r *inference.Request) bool {
		p := q.scoring.pool.Load()
		return p != nil && p.Score(r)
	}
}

// Queries implements api.Models.
func (s *scoring) Queries() api.Queries { return &s.queries }

// Ready implements oip.Backend. Where there are none to load, all are.
func (q *queries) Ready() bool { return q.scoring.missing != nil || q.scoring.pool.Load() != nil }

// Serving implements oip.Backend.
func (q *queries) Serving() []*inference.Contract {
	if p := q.scoring.pool.Load(); p != nil {
		return p.Serving()
	}
	return nil
}

// MaxRows implements oip.Backend.
func (q *queries) MaxRows() int { return q.ask.MaxRows }

// Score implements oip.Backend. What has come here from another node goes to no third one.
func (q *queries) Score(ctx context.Context, r inference.Request) (inference.Scores, error) {
	r.Local = true
	return q.ask.Score(ctx, r)
}

// Explain implements api.Queries.
func (q *queries) Explain(ctx context.Context, model string, features, sequence []float32) (*inference.Explanation, error) {
	return explain(ctx, q, model, features, sequence)
}

// explain has the version of a model explained that serves.
func explain(ctx context.Context, q oip.Backend, model string, features, sequence []float32) (*inference.Explanation, error) {
	for again := true; ; again = false {
		serving := q.Serving()
		i := slices.IndexFunc(serving, func(c *inference.Contract) bool { return c.Name == model })
		if i < 0 {
			return nil, &inference.NotServingError{Model: model}
		}
		e, err := inference.Explain(ctx, serving[i], layout, features, sequence, q.Score)
		// The version may have been replaced in between: then the new one is explained.
		if _, gone := errors.AsType[*inference.NotServingError](err); !gone || !again {
			return e, err
		}
	}
}
