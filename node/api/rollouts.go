package api

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/inference"
	"footfall/inference/rollout"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// defaultCanary is the share of a canary that names none.
const defaultCanary = .1

// maxReason bounds the reason of a rollback, in bytes.
const maxReason = 500

// CanaryModel implements the gRPC service.
func (s *Admin) CanaryModel(ctx context.Context, r *footfallv1.CanaryModelRequest) (*footfallv1.Model, error) {
	share := r.GetShare()
	if share == 0 {
		share = defaultCanary
	}
	if !(share > 0 && share < 1) {
		return nil, &messages.Fault{Field: "share", Reason: "must be above 0 and below 1: who is to get all customers is promoted"}
	}
	return s.change(ctx, rollout.Change{
		Action: string(rollout.Canary), Model: r.GetName(), Version: r.GetVersion(), Share: share,
	}, r.GetLimits())
}

// ShadowModel implements the gRPC service.
func (s *Admin) ShadowModel(ctx context.Context, r *footfallv1.ShadowModelRequest) (*footfallv1.Model, error) {
	share := r.GetShare()
	if share == 0 {
		share = 1
	}
	if !(share > 0 && share <= 1) {
		return nil, &messages.Fault{Field: "share", Reason: "must be above 0, and at most 1"}
	}
	return s.change(ctx, rollout.Change{
		Action: string(rollout.Shadow), Model: r.GetName(), Version: r.GetVersion(), Share: share,
	}, r.GetLimits())
}

// PromoteModel implements the gRPC service.
func (s *Admin) PromoteModel(ctx context.Context, r *footfallv1.PromoteModelRequest) (*footfallv1.Model, error) {
	return s.change(ctx, rollout.Change{Action: "promote", Model: r.GetName(), Version: r.GetVersion()}, nil)
}

// RollbackModel implements the gRPC service.
func (s *Admin) RollbackModel(ctx context.Context, r *footfallv1.RollbackModelRequest) (*footfallv1.Model, error) {
	reason := r.GetReason()
	if len(reason) > maxReason || !utf8.ValidString(reason) {
		return nil, &messages.Fault{Field: "reason", Reason: "must be UTF-8 of at most 500 bytes"}
	}
	return s.change(ctx, rollout.Change{Action: "rollback", Model: r.GetName(), Reason: reason}, nil)
}

func (s *Admin) change(ctx context.Context, c rollout.Change, l *footfallv1.RolloutLimits) (*footfallv1.Model, error) {
	rollouts, ok := s.models.(Rollouts)
	if !ok {
		return nil, status.Error(codes.FailedPrecondition, "this node runs no models: ask one with the role inference")
	}
	for _, f := range []struct {
		name               string
		value, least, most float64
	}{{"limits.error_share", l.GetErrorShare(), 0, 1}, {"limits.slowdown", l.GetSlowdown(), 1, 1e6}, {"limits.shift", l.GetShift(), 0, 1e6}} {
		// 0 is what a request has that does not name it.
		if f.value != 0 && !(f.value >= f.least && f.value <= f.most) {
			return nil, &messages.Fault{Field: f.name, Reason: fmt.Sprintf("is %v: %v to %v are possible, and 0 for the default", f.value, f.least, f.most)}
		}
	}
	c.Limits = rollout.Limits{MinRows: l.GetMinRows(), ErrorShare: l.GetErrorShare(), Slowdown: l.GetSlowdown(), Shift: l.GetShift()}
	m, err := rollouts.Change(ctx, c)
	var (
		unknown *rollout.UnknownError
		state   *rollout.StateError
		load    *inference.LoadError
		other   *messages.GenerationError
	)
	switch {
	case err == nil:
		return m, nil
	case errors.As(err, &unknown):
		return nil, status.Error(codes.NotFound, err.Error())
	case errors.As(err, &state):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case errors.As(err, &load):
		return nil, status.Errorf(codes.FailedPrecondition, "version %s of %s can't be loaded: %v", brief(load.Version), brief(load.Model), err)
	case errors.As(err, &other):
		return nil, status.Error(codes.Aborted, err.Error())
	default:
		return nil, err
	}
}
