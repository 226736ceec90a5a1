package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/behavior"
	"footfall/inference"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// explainable returns what is wrong with a model's name in a request, before anything waits
// for an answer.
func (s *Customers) explainable(model string) error {
	if s.queries == nil {
		return status.Error(codes.FailedPrecondition, "explain: this node runs no models: ask one with the role inference")
	}
	if !s.queries.Ready() {
		return detailed(codes.Unavailable, "explain: the models are being loaded: try again", retryDetail()).Err()
	}
	var names []string
	for _, c := range s.queries.Serving() {
		if c.Name == model {
			return nil
		}
		if !slices.Contains(names, c.Name) { // each version is one
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return &messages.Fault{Field: "explain", Reason: "no model serves on this node"}
	}
	return &messages.Fault{Field: "explain", Reason: fmt.Sprintf("no model \"%s\" serves: %s do", brief(model), strings.Join(names, ", "))}
}

// explain adds to a customer's picture what each feature in it contributes to a model's score.
func (s *Customers) explain(ctx context.Context, c *footfallv1.Customer, model string, rec behavior.Record, at int64) error {
	features, sequence := s.rows(rec, at)
	e, err := s.queries.Explain(ctx, model, features, sequence)
	var (
		notServing *inference.NotServingError
		cannot     *inference.ExplainError
		baseline   *inference.BaselineError
	)
	switch {
	case err == nil:
	case errors.As(err, &notServing):
		// It served a moment ago: whatever does now is named.
		return cmp.Or(s.explainable(model), err)
	case errors.As(err, &cannot):
		return &messages.Fault{Field: "explain", Reason: model + ": " + cannot.Reason}
	case errors.As(err, &baseline):
		return &messages.Fault{Field: "explain", Reason: fmt.Sprintf("%s has no baseline for %s: its model.yaml needs bins or a baseline for it", model, baseline.Feature)}
	default:
		return err
	}
	c.Explanation = &footfallv1.Explanation{
		Model: e.Model, Version: e.Version, Value: decimal(float32(e.Value)), BaselineValue: decimal(float32(e.Baseline)),
		Contributions: make(map[string]float64, len(e.Contributions)),
	}
	for _, p := range e.Contributions {
		c.Explanation.Contributions[p.Feature] = p.Value
	}
	return nil
}

// rows are what models are fed of a customer at an instant.
func (s *Customers) rows(rec behavior.Record, at int64) (features, sequence []float32) {
	var values behavior.Features
	rec.Features(at, s.id.Calendar, &values)
	for _, v := range values {
		features = append(features, float32(v))
	}
	var days [10][5]float64
	rec.Sequence(at, s.id.Calendar, &days)
	for _, day := range days {
		for _, v := range day {
			sequence = append(sequence, float32(v))
		}
	}
	return features, sequence
}
