package api

import (
	"context"
	"fmt"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// ListDeadLetters implements the gRPC service.
func (s *Admin) ListDeadLetters(ctx context.Context, r *footfallv1.ListDeadLettersRequest) (*footfallv1.ListDeadLettersResponse, error) {
	limit := int(r.GetLimit())
	switch {
	case limit == 0:
		limit = defaultDeadLetters
	case limit > maxDeadLetters:
		return nil, &messages.Fault{Field: "limit", Reason: fmt.Sprintf("must be at most %d", maxDeadLetters)}
	}
	letters, more, err := s.dead.list(ctx, letterFilter{r.GetReason(), r.GetCustomerId(), r.GetSource()}, limit)
	if err != nil {
		return nil, err
	}
	return &footfallv1.ListDeadLettersResponse{Letters: letters, More: more}, nil
}

// GetDeadLetter implements the gRPC service.
func (s *Admin) GetDeadLetter(ctx context.Context, r *footfallv1.GetDeadLetterRequest) (*footfallv1.GetDeadLetterResponse, error) {
	l, err := s.dead.find(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	answer := &footfallv1.GetDeadLetterResponse{Letter: l}
	if answer.EventsJson, err = eventLines(l); err != nil {
		answer.Unreadable = err.Error()
	}
	return answer, nil
}

// ReplayDeadLetters implements the gRPC service.
func (s *Admin) ReplayDeadLetters(ctx context.Context, r *footfallv1.ReplayDeadLettersRequest) (*footfallv1.ReplayDeadLettersResponse, error) {
	sel, err := selectLetters(r.GetIds(), r.GetAll(), letterFilter{r.GetReason(), r.GetCustomerId(), r.GetSource()})
	if err != nil {
		return nil, err
	}
	return s.dead.replay(ctx, sel)
}

// FixDeadLetter implements the gRPC service.
func (s *Admin) FixDeadLetter(ctx context.Context, r *footfallv1.FixDeadLetterRequest) (*footfallv1.FixDeadLetterResponse, error) {
	n := len(r.GetEvents())
	if n == 0 || n > messages.MaxJSONEvents {
		return nil, &messages.Fault{Field: "events", Reason: fmt.Sprintf("must hold 1 to %d events, not %d", messages.MaxJSONEvents, n)}
	}
	if err := s.dead.fix(ctx, r.GetId(), r.GetEvents()); err != nil {
		return nil, err
	}
	return &footfallv1.FixDeadLetterResponse{Accepted: uint32(n)}, nil
}

// DropDeadLetters implements the gRPC service.
func (s *Admin) DropDeadLetters(ctx context.Context, r *footfallv1.DropDeadLettersRequest) (*footfallv1.DropDeadLettersResponse, error) {
	sel, err := selectLetters(r.GetIds(), r.GetAll(), letterFilter{r.GetReason(), r.GetCustomerId(), r.GetSource()})
	if err != nil {
		return nil, err
	}
	return s.dead.drop(ctx, sel)
}
