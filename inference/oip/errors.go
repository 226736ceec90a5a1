package oip

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"footfall/inference"
)

// retryAfter is how long a client that was turned away should wait: what is being scored is
// done much sooner.
const retryAfter = time.Second

// fault is a bad request: INVALID_ARGUMENT with the field.
func fault(field, format string, args ...any) error {
	reason := fmt.Sprintf(format, args...)
	return detailed(codes.InvalidArgument, field+": "+reason, &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: reason}},
	})
}

func notFound(format string, args ...any) error {
	return status.Errorf(codes.NotFound, format, args...)
}

func unavailable(message string) error { return detailed(codes.Unavailable, message, retry()) }

func retry() *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}
}

func detailed(code codes.Code, message string, detail protoadapt.MessageV1) error {
	s := status.New(code, message)
	if with, err := s.WithDetails(detail); err == nil {
		s = with
	}
	return s.Err()
}

func isNotServing(err error) bool {
	var e *inference.NotServingError
	return errors.As(err, &e)
}

// statusOf says what an error of the backend means to a client.
func statusOf(err error) error {
	var (
		notServing *inference.NotServingError
		request    *inference.RequestError
	)
	switch {
	case errors.As(err, &notServing):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, inference.ErrNoModel):
		return status.Error(codes.NotFound, err.Error())
	case errors.As(err, &request):
		return fault(request.Field, "%s", request.Reason)
	case errors.Is(err, inference.ErrBusy):
		return detailed(codes.ResourceExhausted, err.Error(), retry())
	case errors.Is(err, inference.ErrClosed), errors.Is(err, inference.ErrNoDevice):
		return unavailable(err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "not done within the deadline")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the client is gone")
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(codes.Internal, err.Error())
}

func list(names []string) string { return strings.Join(names, ", ") }
