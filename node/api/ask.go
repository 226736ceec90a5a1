package api

import (
	"errors"
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/node/access"
)

// ask lets calls through whose callers may make them. Of the others nothing but the headers is read.
func (s *server) ask(next http.Handler) http.Handler {
	if s.access == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := s.access.Check(r)
		var refusal *access.Refusal
		switch {
		case err == nil:
			next.ServeHTTP(w, r)
		case errors.As(err, &refusal):
			if c := refusal.Challenge(); c != "" {
				w.Header().Set("WWW-Authenticate", c)
			}
			// What is left of the body would have to be read for the next request.
			if r.ContentLength != 0 {
				w.Header().Set("Connection", "close")
			}
			writeRefusal(w, r, refusal.GRPCStatus())
		case len(access.MethodsOf(r.URL.Path)) > 0:
			writeRoutingError(w, r, http.StatusMethodNotAllowed)
		default:
			writeRoutingError(w, r, http.StatusNotFound)
		}
	})
}

// writeRefusal answers in the form of the protocol that was spoken.
func writeRefusal(w http.ResponseWriter, r *http.Request, s *status.Status) {
	if r.URL.Path != "/v2" && !strings.HasPrefix(r.URL.Path, "/v2/") {
		writeError(w, s)
		return
	}
	code := map[codes.Code]int{
		codes.Unauthenticated: http.StatusUnauthorized, codes.PermissionDenied: http.StatusForbidden, codes.ResourceExhausted: http.StatusTooManyRequests,
	}[s.Code()]
	if code == http.StatusTooManyRequests {
		setRetryAfter(w, retryAfter)
	}
	writeJSON(w, code, map[string]string{"error": s.Message()})
}
