package api

import (
	"context"
	_ "embed" // the description of POST /v1/events
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/access"
)

// newGateway makes the REST calls that are generated from the services.
func newGateway(conn *inProcess) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, Marshaler{}),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			writeError(w, statusOf(err))
		}),
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
			writeRoutingError(w, r, code)
		}),
		runtime.SetQueryParameterParser(queryParser{}),
		runtime.WithMiddlewares(func(next runtime.HandlerFunc) runtime.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request, params map[string]string) {
				if !takesParameters(r) {
					if f := noParameters(r); f != nil {
						writeError(w, statusOf(f))
						return
					}
				}
				next(w, r, params)
			}
		}),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
		// Nothing of a request's headers is of use to the services but the deadline, which the
		// gateway reads itself.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
	)
	err := errors.Join(
		footfallv1.RegisterCustomerServiceHandlerClient(context.Background(), mux, footfallv1.NewCustomerServiceClient(conn)),
		footfallv1.RegisterAdminServiceHandlerClient(context.Background(), mux, footfallv1.NewAdminServiceClient(conn)),
	)
	return mux, err
}

func writeRoutingError(w http.ResponseWriter, r *http.Request, code int) {
	switch code {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", strings.Join(access.MethodsOf(r.URL.Path), ", "))
		fail(w, code, "method_not_allowed", r.Method+" is not what "+r.URL.Path+" takes")
	case http.StatusBadRequest:
		fail(w, code, "invalid_argument", "the path cannot be read")
	default:
		fail(w, http.StatusNotFound, "not_found", "there is nothing at "+r.URL.Path+": /openapi.json lists all calls")
	}
}

// queryParser reads query parameters strictly: what a call does not know is a fault, not
// ignored, and each fault names its parameter.
type queryParser struct{ runtime.DefaultQueryParser }

// Parse implements runtime.QueryParameterParser.
func (p queryParser) Parse(msg proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	fields := msg.ProtoReflect().Descriptor().Fields()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fd := fields.ByName(protoreflect.Name(name))
		if fd == nil {
			fd = fields.ByJSONName(name)
		}
		switch {
		case fd == nil || filter.HasCommonPrefix([]string{string(fd.Name())}):
			return &messages.Fault{Field: name, Reason: "no such parameter" + parameters(fields, filter)}
		case len(values[name]) > 1 && !fd.IsList():
			return &messages.Fault{Field: name, Reason: "is given twice"}
		}
		one := url.Values{name: values[name]}
		if err := p.DefaultQueryParser.Parse(msg, one, filter); err != nil {
			return &messages.Fault{Field: name, Reason: "must be " + kindInWords(fd) + ", not \"" + brief(values[name][0]) + "\""}
		}
	}
	return nil
}

// takesParameters reports whether a call has a query, which [queryParser] then reads.
func takesParameters(r *http.Request) bool {
	return r.Method == http.MethodGet && (strings.HasPrefix(r.URL.Path, "/v1/customers/") || r.URL.Path == "/v1/deadletters" || r.URL.Path == "/v1/customers:hot")
}

// noParameters says what is wrong with the query of a call that has none.
func noParameters(r *http.Request) *messages.Fault {
	if r.URL.RawQuery == "" {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(r.URL.Query())) {
		return &messages.Fault{Field: name, Reason: "no such parameter: the call takes none"}
	}
	return &messages.Fault{Reason: "the query cannot be read"}
}

func parameters(fields protoreflect.FieldDescriptors, filter *utilities.DoubleArray) string {
	var names []string
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); !filter.HasCommonPrefix([]string{name}) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ": the call takes none"
	}
	return ": the call takes " + strings.Join(names, ", ")
}

func kindInWords(fd protoreflect.FieldDescriptor) string {
	switch {
	case fd.Kind() == protoreflect.MessageKind && fd.Message().FullName() == timeName:
		return `a time such as "2017-01-01T11:53:26Z"`
	case fd.Kind() == protoreflect.Uint32Kind || fd.Kind() == protoreflect.Uint64Kind:
		return "a whole number, 0 or more"
	default:
		return "a " + fd.Kind().String()
	}
}

// Server is what the HTTP side of a node is made of.
type server struct {
	id     Identity
	limits Limits
	chain  *chain
	ingest *Ingest
	logger *slog.Logger
	// ready tells why the node is not ready; nothing where it is.
	ready    func() Readiness
	gatherer prometheus.Gatherer
	gateway  http.Handler
	// inference is the Open Inference Protocol; nil without models.
	inference http.Handler
	access    *access.Access
	// patterns are the pages, for a test that each has a role.
	patterns []string
}

// patterns is a ServeMux that remembers what it serves.
type patterns struct {
	*http.ServeMux
	into *[]string
}

func (p *patterns) Handle(pattern string, h http.Handler) {
	*p.into = append(*p.into, pattern)
	p.ServeMux.Handle(pattern, h)
}

func (p *patterns) HandleFunc(pattern string, f func(http.ResponseWriter, *http.Request)) {
	p.Handle(pattern, http.HandlerFunc(f))
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready bool `json:"ready"`
	// Reasons say what is missing, where something is.
	Reasons []string `json:"reasons"`
	// Notes are what an operator should know although the node is ready.
	Notes []string `json:"notes,omitempty"`
}

// handler returns all that the HTTP port serves.
func (s *server) handler() (http.Handler, error) {
	spec, err := openAPI(s.id.Version)
	if err != nil {
		return nil, err
	}
	page, policy, err := indexPage(s.id)
	if err != nil {
		return nil, err
	}
	mux := &patterns{ServeMux: http.NewServeMux(), into: &s.patterns}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r, code := s.ready(), http.StatusOK
		if r.Reasons == nil {
			r.Reasons = []string{}
		}
		if !r.Ready {
			code = http.StatusServiceUnavailable
			setRetryAfter(w, retryAfter)
		}
		writeJSON(w, code, r)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelError)}))
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", typeJSON)
		_, _ = w.Write(spec) // the client may be gone
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		_, _ = w.Write(page) // the client may be gone
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		code := http.StatusNotFound
		if slices.Contains([]string{"/", "/healthz", "/readyz", "/metrics", "/openapi.json"}, r.URL.Path) {
			code = http.StatusMethodNotAllowed
		}
		writeRoutingError(w, r, code)
	})

	events := s.ingest.serveEvents(s.chain, s.limits.Message)
	route := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v1/events" && r.Method == http.MethodPost:
			if f := noParameters(r); f != nil {
				writeError(w, statusOf(f))
				return
			}
			events(w, r)
		case r.URL.Path == "/v1/events":
			writeRoutingError(w, r, http.StatusMethodNotAllowed)
		// Not through the mux above: it would tidy up paths, and a customer's ID may look untidy.
		case strings.HasPrefix(r.URL.Path, "/v1/"):
			s.serveREST(w, r)
		case s.inference != nil && (r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/")):
			s.inference.ServeHTTP(w, r)
		default:
			mux.ServeHTTP(w, r)
		}
	})

	// A page in a browser must not write through its user's access to this machine.
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusForbidden, "permission_denied", "a page of another origin must not write")
	}))
	return s.guard(s.ask(sameOrigin.Handler(route))), nil
}

// serveREST serves what is generated.
func (s *server) serveREST(w http.ResponseWriter, r *http.Request) {
	// The gateway sees paths decoded, so an encoded slash would look like two parts of one.
	if escaped := strings.ToLower(r.URL.EscapedPath()); strings.HasPrefix(escaped, "/v1/customers/") && strings.Contains(escaped, "%2f") {
		writeError(w, statusOf(&messages.Fault{Field: "customer_id", Reason: `must not contain "/"`}))
		return
	}
	if r.Method == http.MethodHead {
		r = r.Clone(r.Context())
		r.Method = http.MethodGet // net/http drops the body
	}
	r.Body = http.MaxBytesReader(w, r.Body, s.limits.Message)
	s.gateway.ServeHTTP(w, r)
}

// guard keeps a panic from ending the connection without an answer.
func (s *server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := s.chain.guard(r.Context(), r.Method+" "+r.URL.Path, func() error {
			next.ServeHTTP(w, r)
			return nil
		})
		if err != nil {
			writeError(w, status.Convert(err))
		}
	})
}

// newHTTP makes the server. With TLS it has its configuration, and is to serve by that.
func newHTTP(h http.Handler, limits Limits, guard *access.Access, logger *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: limits.withDefaults().Headers,
		ReadTimeout:       2 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	if guard != nil {
		s.TLSConfig = guard.HTTPTLS()
	}
	return s
}

// openAPI is the generated description of the REST calls, as they really are: numbers are
// numbers, enums words, errors ours, and POST /v1/events is there.
func openAPI(version string) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(messages.OpenAPI, &doc); err != nil {
		return nil, fmt.Errorf("openapi.swagger.json: %w", err)
	}
	patch(doc)
	doc["info"] = map[string]any{
		"title":       "Footfall",
		"version":     version,
		"description": "A living picture of every customer. The same calls by gRPC: package footfall.v1.",
	}
	doc["tags"] = []any{}
	paths, ok1 := doc["paths"].(map[string]any)
	definitions, ok2 := doc["definitions"].(map[string]any)
	if !ok1 || !ok2 {
		return nil, errors.New("openapi.swagger.json: no paths or definitions")
	}
	delete(definitions, "rpcStatus")
	delete(definitions, "protobufAny")
	var more struct{ Paths, Definitions map[string]any }
	if err := json.Unmarshal(openAPIEvents, &more); err != nil {
		return nil, fmt.Errorf("openapi-events.json: %w", err)
	}
	maps.Copy(paths, more.Paths)
	maps.Copy(definitions, more.Definitions)
	return json.MarshalIndent(doc, "", "  ")
}

//go:embed openapi-events.json
var openAPIEvents []byte

// patch walks a value of the document.
func patch(v any) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			patch(item)
		}
	case map[string]any:
		if format, _ := v["format"].(string); v["type"] == "string" && (format == "int64" || format == "uint64") {
			v["type"] = "integer"
		}
		if v["$ref"] == "#/definitions/rpcStatus" {
			v["$ref"] = "#/definitions/Error"
		}
		if words, ok := v["enum"].([]any); ok {
			patchEnum(v, words)
		}
		for _, item := range v {
			patch(item)
		}
	}
}

func patchEnum(v map[string]any, words []any) {
	unspecified, _ := words[0].(string)
	prefix := strings.TrimSuffix(unspecified, "UNSPECIFIED")
	small := make([]any, 0, len(words))
	for _, word := range words[1:] {
		s, _ := word.(string)
		small = append(small, strings.ToLower(strings.TrimPrefix(s, prefix)))
	}
	v["enum"] = small
	if text, ok := v["description"].(string); ok {
		for i, word := range words[1:] {
			text = strings.ReplaceAll(text, fmt.Sprint(word, ":"), fmt.Sprint(small[i], ":"))
		}
		v["description"] = strings.TrimSpace(text)
	}
	delete(v, "default")
}
