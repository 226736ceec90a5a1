package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"footfall/actors"
	"footfall/cluster"
	"footfall/inference"
	"footfall/messages"
)

// OverloadError says that a node takes in as much as it can already.
type OverloadError struct{ What string }

func (e *OverloadError) Error() string { return e.What + ": try again" }

// retryAfter is how long a client that was turned away should wait: about one round of the
// log's group commit and of a full queue of queries is over much sooner.
const retryAfter = time.Second

// statusOf says what an error of the rooms behind means to a client.
//
//	bad argument               INVALID_ARGUMENT     400, with its field
//	no event was ever seen     NOT_FOUND            404
//	the awaited event refused  ABORTED              409
//	too much at once           RESOURCE_EXHAUSTED   429, with Retry-After
//	tick under a wall clock    FAILED_PRECONDITION  400
//	another node's shard       UNAVAILABLE          503, with Retry-After and the owner
//	shard not served, disk     UNAVAILABLE          503, with Retry-After
//	past the deadline          DEADLINE_EXCEEDED    504
//	log gap, wrong checksum    DATA_LOSS            500
//	all else                   INTERNAL             500
func statusOf(err error) *status.Status {
	if err == nil {
		return nil
	}
	var (
		fault     *messages.Fault
		notFound  *actors.NotFoundError
		rejected  *actors.RejectedError
		busy      *actors.BusyError
		overload  *OverloadError
		blocked   *messages.BlockedError
		notActive *actors.NotActiveError
		closed    *messages.UnavailableError
		stale     *messages.StaleEpochError
		corrupt   *messages.CorruptError
		gap       *messages.LogGapError
		regressed *messages.LogRegressedError
		notOwner  *cluster.NotOwnerError
	)
	switch {
	case errors.As(err, &rejected):
		return detailed(codes.Aborted, err.Error(), fieldDetail(rejected.Fault.Field, rejected.Fault.Reason))
	case errors.As(err, &fault):
		return detailed(codes.InvalidArgument, err.Error(), fieldDetail(fault.Field, fault.Reason))
	case errors.As(err, &notFound):
		return status.New(codes.NotFound, err.Error())
	case errors.As(err, &busy), errors.As(err, &overload), errors.As(err, &blocked), errors.Is(err, inference.ErrBusy):
		return detailed(codes.ResourceExhausted, err.Error(), retryDetail())
	case errors.Is(err, actors.ErrClock):
		return status.New(codes.FailedPrecondition, err.Error())
	case errors.As(err, &notOwner):
		return detailed(codes.Unavailable, err.Error(), notOwnerDetail(notOwner), retryDetail())
	case errors.As(err, &notActive), errors.As(err, &stale), errors.As(err, &closed),
		errors.Is(err, inference.ErrClosed), errors.Is(err, inference.ErrNoDevice):
		return detailed(codes.Unavailable, err.Error(), retryDetail())
	case errors.As(err, &corrupt), errors.As(err, &gap), errors.As(err, &regressed):
		return status.New(codes.DataLoss, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, late(err))
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the client is gone")
	}
	if s, ok := status.FromError(err); ok {
		return s
	}
	return status.New(codes.Internal, err.Error())
}

// late says what was not done in time, as far as the error does.
func late(err error) string {
	const words = "not done within the deadline"
	if what, ok := strings.CutSuffix(err.Error(), context.DeadlineExceeded.Error()); ok {
		return what + words
	}
	return err.Error() + ": " + words
}

func detailed(code codes.Code, message string, details ...protoadapt.MessageV1) *status.Status {
	s := status.New(code, message)
	if with, err := s.WithDetails(details...); err == nil {
		return with
	}
	return s
}

func fieldDetail(field, reason string) protoadapt.MessageV1 {
	return &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: reason}}}
}

func retryDetail() protoadapt.MessageV1 {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}
}

// Error is the body of every answer that is not 2xx: {"error": {…}}.
type Error struct {
	// Code is the gRPC code in small letters: "not_found".
	Code    string `json:"code"`
	Message string `json:"message"`
	// Field is the one that is at fault, where it is one.
	Field string `json:"field,omitempty"`
}

// writeError answers with a status as JSON.
func writeError(w http.ResponseWriter, s *status.Status) {
	body := Error{Code: codeWord(s.Code()), Message: s.Message()}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				body.Field = v.GetField()
			}
		case *errdetails.RetryInfo:
			setRetryAfter(w, d.GetRetryDelay().AsDuration())
		}
	}
	if s.Code() == codes.InvalidArgument && body.Field == "" {
		body.Field = faultField(s.Message())
	}
	writeJSON(w, runtime.HTTPStatusFromCode(s.Code()), map[string]Error{"error": body})
}

func setRetryAfter(w http.ResponseWriter, d time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int((d+time.Second-1)/time.Second)))
}

// fail answers with an HTTP status that no gRPC code has.
func fail(w http.ResponseWriter, code int, word, message string) {
	writeJSON(w, code, map[string]Error{"error": {Code: word, Message: message}})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Del("Content-Length")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

// The gateway turns the errors of a query's parameters and of a body into text. A fault's
// text is "field: reason". A field that a client made up may be any text, quoted.
var faultText = regexp.MustCompile(`^((?:\w+|"(?:[^"\\]|\\.)*"…?)(?:\[\d+\]|\.\w+)*): `)

func faultField(message string) string {
	if m := faultText.FindStringSubmatch(message); m != nil {
		return m[1]
	}
	return ""
}

// codeWord is a code as REST clients see it: DeadlineExceeded is "deadline_exceeded".
func codeWord(c codes.Code) string {
	var b strings.Builder
	for i, r := range c.String() {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
