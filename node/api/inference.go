package api

import (
	"errors"
	"log/slog"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/inference/oip"
)

// inferenceHandler serves the Open Inference Protocol by HTTP; nil without a server. Its bodies
// count against the bytes that the node takes in at once, as those of events do.
func inferenceHandler(s *oip.Server, ingest *Ingest, limits Limits, logger *slog.Logger) http.Handler {
	if s == nil {
		return nil
	}
	h := &oip.Handler{Server: s, Log: logger, Body: func(w http.ResponseWriter, r *http.Request) ([]byte, func(), error) {
		body, done, err := ingest.body(w, r, limits.Message)
		var overload *OverloadError
		switch {
		case errors.As(err, &overload):
			err = statusOf(err).Err()
		case errors.Is(err, errEncoding):
			err = status.Error(codes.InvalidArgument, err.Error())
		}
		return body, done, err
	}}
	return h.Mux()
}
