package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"footfall/messages/footfallv1"
	"footfall/messages/inferencev2"
	"footfall/node/access"
)

const trustDomain = "retail.example"

// guarded is an API behind real listeners with TLS and tokens.
type guarded struct {
	dir       string
	access    *access.Access
	registry  *prometheus.Registry
	http, rpc string // addresses
	log       *safeBuffer
	ca        *access.Authority
	api       *API
	clock     atomic.Int64 // seconds that its clock is ahead
	frozen    atomic.Bool  // it stands still
	roots     *x509.CertPool
	tokens    map[string]string
}

// safeBuffer is written by several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func guard(t *testing.T, limits access.Limits) *guarded {
	t.Helper()
	g := &guarded{dir: t.TempDir(), registry: prometheus.NewRegistry(), log: &safeBuffer{}, tokens: map[string]string{}}
	var err error
	g.ca, err = access.NewAuthority("test", time.Now())
	require.NoError(t, err)
	g.roots = x509.NewCertPool()
	require.True(t, g.roots.AppendCertsFromPEM(g.ca.Cert))
	require.NoError(t, os.WriteFile(g.file("ca.pem"), g.ca.Cert, 0o600))
	g.certify(t, g.ca, "a", time.Hour)
	g.grant(t, "reader", time.Time{}, access.Read)
	g.grant(t, "publisher", time.Time{}, access.Ingest)
	g.grant(t, "operator", time.Time{}, access.Operate)
	g.grant(t, "old", time.Now().Add(-time.Hour), access.Read, access.Ingest, access.Operate)
	logger, began := slog.New(slog.NewJSONHandler(g.log, nil)), time.Now()
	g.access, err = access.New(access.Config{
		TokensFile: g.file("tokens.yaml"), CertFile: g.file("a.pem"), KeyFile: g.file("a-key.pem"), CAFile: g.file("ca.pem"),
		TrustDomain: trustDomain, Node: "a", Limits: limits, Every: time.Hour, Logger: logger, Registerer: g.registry,
		Now: func() time.Time {
			if g.frozen.Load() {
				return began
			}
			return time.Now().Add(time.Duration(g.clock.Load()) * time.Second)
		},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- g.access.Run(ctx) }()

	s := serve(t, &scripted{}, func(o *Options) {
		o.Access, o.Logger = g.access, logger
		o.Models = scriptedRooms{queries: &scriptedModels{}}
	})
	g.api = s.api
	web, rpc := g.listen(t), g.listen(t)
	g.http, g.rpc = web.Addr().String(), rpc.Addr().String()
	ended := make(chan error, 2)
	go func() { ended <- s.api.HTTP.ServeTLS(g.access.Listen("http", web), "", "") }()
	go func() { ended <- s.api.GRPC.Serve(g.access.Listen("grpc", rpc)) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ran)
		require.NoError(t, s.api.HTTP.Close())
		s.api.GRPC.Stop()
		for range 2 {
			if err := <-ended; err != nil {
				require.ErrorIs(t, err, http.ErrServerClosed)
			}
		}
	})
	return g
}

func (g *guarded) listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

func (g *guarded) file(name string) string { return filepath.Join(g.dir, name) }

// certify writes NAME.pem and NAME-key.pem.
func (g *guarded) certify(t *testing.T, ca *access.Authority, name string, lasts time.Duration) {
	t.Helper()
	_, _, err := ca.SignFiles(g.dir, access.Issue{TrustDomain: trustDomain, Node: name, Hosts: []string{"127.0.0.1"}, From: time.Now(), For: lasts})
	require.NoError(t, err)
}

// grant adds a token to the file.
func (g *guarded) grant(t *testing.T, name string, end time.Time, roles ...access.Role) {
	t.Helper()
	secret, token, err := access.NewToken(name, access.RolesOf(roles...), end)
	require.NoError(t, err)
	require.NoError(t, access.AddToken(g.file("tokens.yaml"), token))
	g.tokens[name] = secret
}

// pair loads the certificate of a name.
func (g *guarded) pair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(g.file(name+".pem"), g.file(name+"-key.pem"))
	require.NoError(t, err)
	return pair
}

// dial connects with TLS, and with the certificates that are given.
func (g *guarded) dial(t *testing.T, certs ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(g.rpc, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: g.roots, Certificates: certs, MinVersion: tls.VersionTLS13})))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// as is the context of a call with a token, and with more headers.
func as(t *testing.T, token string, more ...string) context.Context {
	if token != "" {
		more = append(more, "authorization", "Bearer "+token)
	}
	return metadata.NewOutgoingContext(t.Context(), metadata.Pairs(more...))
}

// count is a series of a counter or gauge; labels are "name=value".
func (g *guarded) count(t *testing.T, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := g.registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			match := true
			for _, want := range labels {
				name, value, _ := strings.Cut(want, "=")
				for _, l := range m.GetLabel() {
					match = match && (l.GetName() != name || l.GetValue() == value)
				}
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (g *guarded) client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: g.roots, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true}}
}

func (g *guarded) do(t *testing.T, method, path, authorization string, body io.Reader) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+g.http+path, body)
	require.NoError(t, err)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := g.client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return reply{resp.StatusCode, string(b), resp.Header}
}

// TestEveryCallHasARole holds the table of roles against what is served.
func TestEveryCallHasARole(t *testing.T) {
	s := serve(t, &scripted{}, func(o *Options) { o.Models = scriptedRooms{queries: &scriptedModels{}} })
	methods := 0
	for service, info := range s.api.GRPC.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			role, ok := access.RoleOfMethod(name)
			require.True(t, ok, "%s has no row in the table of node/access", name)
			require.Equal(t, service == healthpb.Health_ServiceDesc.ServiceName, role == access.Open, name)
			methods++
		}
	}
	require.Greater(t, methods, 25)

	for _, pattern := range s.api.patterns {
		method, path, ok := strings.Cut(pattern, " ")
		if !ok {
			require.Equal(t, "/", pattern, "what is left answers 404")
			continue
		}
		_, ok = access.RoleOfRoute(method, strings.TrimSuffix(path, "{$}"))
		require.True(t, ok, "%s has no row in the table of node/access", pattern)
	}
	require.Greater(t, len(s.api.patterns), 5)

	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(s.get(t, "/openapi.json").body), &doc))
	generated := 0
	for path, calls := range doc.Paths {
		for method, call := range calls {
			role, ok := access.RoleOfRoute(strings.ToUpper(method), strings.NewReplacer("{", "", "}", "").Replace(path))
			require.True(t, ok, "%s %s has no row in the table of node/access", method, path)
			service, name, ok := strings.Cut(call.OperationID, "_")
			if !ok {
				continue
			}
			same, ok := access.RoleOfMethod("/footfall.v1." + service + "/" + name)
			if ok {
				require.Equal(t, same, role, "%s %s asks for another role than by gRPC", method, path)
				generated++
			}
		}
	}
	require.Greater(t, generated, 12)
	for _, path := range []string{"GET /v2/health/live", "GET /v2/health/ready", "GET /v2", "GET /v2/models/m", "GET /v2/models/m/ready", "POST /v2/models/m/infer", "POST /v2/models/m/versions/1/infer"} {
		method, path, _ := strings.Cut(path, " ")
		role, ok := access.RoleOfRoute(method, path)
		require.True(t, ok, path)
		require.Equal(t, access.Read, role, path)
	}
}

func TestHTTPAsksForTheRole(t *testing.T) {
	g := guard(t, access.Limits{})
	bearer := func(name string) string { return "Bearer " + g.tokens[name] }
	for _, tt := range []struct {
		call, authorization string
		code                int
		challenge, message  string
	}{
		{"GET /healthz", "", 200, "", ""},
		{"GET /readyz", "", 200, "", ""},
		{"GET /", "", 200, "", ""},
		{"GET /metrics", "", 401, `Bearer realm="footfall"`, "a token is needed"},
		{"GET /metrics", bearer("reader"), 200, "", ""},
		{"GET /openapi.json", "", 401, `Bearer realm="footfall"`, "a token is needed"},
		{"GET /openapi.json", bearer("reader"), 200, "", ""},
		{"GET /v1/cluster", "", 401, `Bearer realm="footfall"`, "a token is needed"},
		{"GET /v1/cluster", bearer("reader"), 200, "", ""},
		{"HEAD /v1/cluster", bearer("reader"), 200, "", ""},
		{"GET /v1/cluster", "bearer " + g.tokens["reader"], 200, "", ""},
		{"GET /v1/cluster", g.tokens["reader"], 401, `error="invalid_token"`, "of the form: Bearer TOKEN"},
		{"GET /v1/cluster", "Basic eDp5", 401, `error="invalid_token"`, "of the form: Bearer TOKEN"},
		{"GET /v1/cluster", bearer("reader") + "x", 401, `error="invalid_token"`, "not known"},
		{"GET /v1/cluster", bearer("old"), 401, `error="invalid_token"`, "has expired on"},
		{"GET /v1/cluster", bearer("publisher"), 403, `error="insufficient_scope", scope="read"`, "lacks the role read: it has ingest"},
		{"POST /v1/clock:tick", bearer("reader"), 403, `scope="operate"`, "lacks the role operate"},
		{"POST /v1/clock:tick", bearer("operator"), 400, "", "date"},
		{"POST /v1/events", bearer("reader"), 403, `scope="ingest"`, "lacks the role ingest"},
		{"POST /v1/events", bearer("publisher"), 400, "", "body"},
		{"GET /v2", "", 401, `Bearer realm="footfall"`, `{"error":"a token is needed`},
		{"GET /v2", bearer("publisher"), 403, `scope="read"`, `{"error":"the token lacks the role read`},
		{"GET /v2", bearer("reader"), 200, "", ""},
		{"GET /nothing", "", 401, `Bearer realm="footfall"`, "a token is needed"},
		{"GET /nothing", bearer("publisher"), 404, "", "/openapi.json lists all calls"},
		{"DELETE /v1/cluster", bearer("operator"), 405, "", "DELETE is not what /v1/cluster takes"},
	} {
		t.Run(tt.call+" "+fmt.Sprint(tt.code), func(t *testing.T) {
			method, path, _ := strings.Cut(tt.call, " ")
			r := g.do(t, method, path, tt.authorization, nil)
			require.Equal(t, tt.code, r.code, r.body)
			require.Contains(t, r.header.Get("WWW-Authenticate"), tt.challenge)
			require.Equal(t, tt.challenge == "", r.header.Get("WWW-Authenticate") == "")
			require.Contains(t, r.body, tt.message)
		})
	}
	for reason, n := range map[string]float64{"missing": 5, "malformed": 2, "unknown": 1, "expired": 1, "role": 4} {
		require.InDelta(t, n, g.count(t, "footfall_auth_refused_total", "transport=http", "reason="+reason), 0, reason)
	}
	g.silent(t)
}

// silent holds that no token is in the log.
func (g *guarded) silent(t *testing.T) {
	t.Helper()
	text := g.log.String()
	require.Contains(t, text, "call refused")
	for name, secret := range g.tokens {
		require.NotContains(t, text, secret, name)
		require.NotContains(t, text, strings.TrimPrefix(secret, "footfall_"), name)
	}
}

// What is refused is refused with nothing of its body read: an endless one would not end.
func TestRefusedBeforeTheBody(t *testing.T) {
	g := guard(t, access.Limits{})
	conn, err := tls.Dial("tcp", g.http, &tls.Config{RootCAs: g.roots, MinVersion: tls.VersionTLS13})
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)

	// A stream of gRPC that sends no message is refused all the same.
	ctx, cancel := context.WithTimeout(as(t, g.tokens["reader"]), 10*time.Second)
	defer cancel()
	stream, err := g.dial(t).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, footfallv1.IngestService_Publish_FullMethodName)
	require.NoError(t, err)
	require.Equal(t, codes.PermissionDenied, status.Code(stream.RecvMsg(&footfallv1.PublishResponse{})))
}

func TestGRPCAsksForTheRole(t *testing.T) {
	g := guard(t, access.Limits{})
	conn := g.dial(t)
	customers, admin := footfallv1.NewCustomerServiceClient(conn), footfallv1.NewAdminServiceClient(conn)
	get := func(ctx context.Context) error {
		_, err := customers.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: "a"})
		return err
	}
	for _, tt := range []struct {
		name string
		ctx  context.Context
		code codes.Code
		text string
	}{
		{"no token", as(t, ""), codes.Unauthenticated, "a token is needed"},
		{"no bearer", as(t, "", "authorization", g.tokens["reader"]), codes.Unauthenticated, "Bearer TOKEN"},
		{"two", as(t, g.tokens["reader"], "authorization", "Bearer x"), codes.Unauthenticated, "must be one"},
		{"unknown", as(t, "footfall_x"), codes.Unauthenticated, "not known"},
		{"expired", as(t, g.tokens["old"]), codes.Unauthenticated, "has expired"},
		{"wrong role", as(t, g.tokens["publisher"]), codes.PermissionDenied, "lacks the role read: it has ingest"},
		{"right role", as(t, g.tokens["reader"]), codes.NotFound, ""},
		{"forged mark", as(t, g.tokens["reader"], access.ForwardedKey, "b"), codes.PermissionDenied, "only a node"},
		{"forged mark without a token", as(t, "", access.ForwardedKey, "b"), codes.PermissionDenied, "only a node"},
	} {
		err := get(tt.ctx)
		require.Equal(t, tt.code, status.Code(err), "%s: %v", tt.name, err)
		require.Contains(t, err.Error(), tt.text, tt.name)
	}
	_, err := admin.Tick(as(t, g.tokens["reader"]), &footfallv1.TickRequest{})
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	_, err = admin.Tick(as(t, g.tokens["operator"]), &footfallv1.TickRequest{})
	require.Equal(t, codes.InvalidArgument, status.Code(err))

	health, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, health.GetStatus())
	for token, code := range map[string]codes.Code{"": codes.Unauthenticated, g.tokens["publisher"]: codes.PermissionDenied, g.tokens["reader"]: codes.OK} {
		_, err = inferencev2.NewGRPCInferenceServiceClient(conn).ServerLive(as(t, token), &inferencev2.ServerLiveRequest{})
		require.Equal(t, code, status.Code(err))
		stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(as(t, token))
		require.NoError(t, err)
		_ = stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}) // it may be refused already
		_, err = stream.Recv()
		require.Equal(t, code, status.Code(err))
	}
	err = conn.Invoke(as(t, g.tokens["reader"]), "/footfall.v1.CustomerService/NoSuch", &footfallv1.GetCustomerRequest{}, &footfallv1.Customer{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	for reason, n := range map[string]float64{"missing": 3, "malformed": 2, "unknown": 1, "expired": 1, "role": 4, "forged": 2} {
		require.InDelta(t, n, g.count(t, "footfall_auth_refused_total", "transport=grpc", "reason="+reason), 0, reason)
	}
	require.Contains(t, g.log.String(), `"msg":"operation allowed","call":"/footfall.v1.AdminService/Tick","caller":"operator"`)
	g.silent(t)
}

func TestNodesAreKnownByTheirCertificates(t *testing.T) {
	g := guard(t, access.Limits{})
	other, err := access.NewAuthority("other", time.Now())
	require.NoError(t, err)
	g.certify(t, g.ca, "b", time.Hour)
	g.certify(t, g.ca, "short", time.Minute)
	get := func(conn *grpc.ClientConn, ctx context.Context) error {
		_, err := footfallv1.NewCustomerServiceClient(conn).GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: "a"})
		return err
	}
	b := g.dial(t, g.pair(t, "b"))
	// It passes on in its own name, and in no other's.
	require.Equal(t, codes.NotFound, status.Code(get(b, as(t, "", access.ForwardedKey, "b"))))
	require.Equal(t, codes.NotFound, status.Code(get(b, as(t, ""))))
	err = get(b, as(t, "", access.ForwardedKey, "a"))
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	require.Equal(t, codes.PermissionDenied, status.Code(get(b, as(t, "", access.ForwardedKey, "b", access.ForwardedKey, "a"))))
	require.InDelta(t, 2, g.count(t, "footfall_auth_refused_total", "reason=forged"), 0)

	// One of another CA does not come in at all, whatever token it has.
	g.certify(t, other, "b", time.Hour)
	err = get(g.dial(t, g.pair(t, "b")), as(t, g.tokens["reader"]))
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.InDelta(t, 1, min(1, g.count(t, "footfall_auth_refused_total", "reason=certificate")), 0)

	// One of another trust domain of the same CA is no node.
	_, _, err = g.ca.SignFiles(g.dir, access.Issue{TrustDomain: "wholesale.example", Node: "c", From: time.Now(), For: time.Hour})
	require.NoError(t, err)
	c := g.dial(t, g.pair(t, "c"))
	require.Equal(t, codes.Unauthenticated, status.Code(get(c, as(t, ""))))
	require.Equal(t, codes.PermissionDenied, status.Code(get(c, as(t, "", access.ForwardedKey, "c"))))
	require.Equal(t, codes.NotFound, status.Code(get(c, as(t, g.tokens["reader"]))))

	// An open connection is worth no more than its certificate, and than the CA, are now.
	short := g.dial(t, g.pair(t, "short"))
	require.Equal(t, codes.NotFound, status.Code(get(short, as(t, ""))))
	g.clock.Store(120)
	err = get(short, as(t, ""))
	require.Equal(t, codes.Unauthenticated, status.Code(err))
	require.ErrorContains(t, err, "expired")
	g.clock.Store(0)
	require.Equal(t, codes.NotFound, status.Code(get(b, as(t, ""))))
	g.certify(t, other, "a", time.Hour)
	require.NoError(t, os.WriteFile(g.file("ca.pem"), other.Cert, 0o600))
	g.access.Reload()
	require.Eventually(t, func() bool { return status.Code(get(b, as(t, ""))) == codes.Unauthenticated }, 10*time.Second, time.Millisecond)
}

// Files that change are used at once, and those that cannot be used not at all.
func TestFilesAreReadAgain(t *testing.T) {
	g := guard(t, access.Limits{})
	code := func(name string) int {
		return g.do(t, http.MethodGet, "/v1/cluster", "Bearer "+g.tokens[name], nil).code
	}
	failures := func(file string) float64 { return g.count(t, "footfall_auth_reload_failures_total", "file="+file) }
	require.Equal(t, 200, code("reader"))
	old := g.tokens["reader"]

	// A new token beside the old one, then the old one goes.
	g.grant(t, "reader", time.Time{}, access.Read)
	g.access.Reload()
	require.Eventually(t, func() bool { return code("reader") == 200 }, 10*time.Second, time.Millisecond)
	g.tokens["reader"], old = old, g.tokens["reader"]
	require.Equal(t, 200, code("reader"))
	before, err := os.ReadFile(g.file("tokens.yaml"))
	require.NoError(t, err)
	require.NoError(t, access.WriteFile(g.file("tokens.yaml"), before[bytes.IndexByte(before, '\n')+1:], 0o600))
	g.access.Reload()
	require.Eventually(t, func() bool { return code("reader") == 401 }, 10*time.Second, time.Millisecond)
	g.tokens["reader"] = old
	require.Equal(t, 200, code("reader"))

	// What cannot be read changes nothing.
	require.NoError(t, os.WriteFile(g.file("tokens.yaml"), []byte("- {name: x, roles: [all], sha256: "+old+"}"), 0o600))
	g.access.Reload()
	require.Eventually(t, func() bool { return failures("tokens") == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, 200, code("reader"))
	require.NoError(t, os.Remove(g.file("tokens.yaml")))
	g.access.Reload()
	require.Eventually(t, func() bool { return failures("tokens") == 2 }, 10*time.Second, time.Millisecond)
	require.Equal(t, 200, code("reader"))
	require.Contains(t, g.log.String(), "what was before stays")
	// A file without tokens is a good one: nobody may call.
	require.NoError(t, os.WriteFile(g.file("tokens.yaml"), nil, 0o600))
	g.access.Reload()
	require.Eventually(t, func() bool { return code("reader") == 401 }, 10*time.Second, time.Millisecond)

	serial := func() string {
		conn, err := tls.Dial("tcp", g.http, &tls.Config{RootCAs: g.roots, MinVersion: tls.VersionTLS13})
		require.NoError(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	// A key without its certificate is a rotation under way.
	saved, err := os.ReadFile(g.file("a.pem"))
	require.NoError(t, err)
	g.certify(t, g.ca, "a", 2*time.Hour)
	next, err := os.ReadFile(g.file("a.pem"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(g.file("a.pem"), saved, 0o600))
	g.access.Reload()
	require.Eventually(t, func() bool { return failures("tls") == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, first, serial())
	require.NoError(t, os.WriteFile(g.file("a.pem"), next, 0o600))
	g.access.Reload()
	require.Eventually(t, func() bool { return serial() != first }, 10*time.Second, time.Millisecond)
	// Nor is a certificate taken that the other nodes would refuse.
	_, _, err = g.ca.SignFiles(g.dir, access.Issue{TrustDomain: "elsewhere", Node: "a", From: time.Now(), For: time.Hour})
	require.NoError(t, err)
	g.access.Reload()
	require.Eventually(t, func() bool { return failures("tls") == 2 }, 10*time.Second, time.Millisecond)
	require.Contains(t, g.log.String(), "must be of footfall://retail.example/node/a, as a URI among its names, and is of footfall://elsewhere/node/a")
	text := g.log.String()
	require.NotContains(t, text, old)
}

func TestCallersAreLimited(t *testing.T) {
	g := guard(t, access.Limits{RequestsPerSecond: 1, RequestBurst: 3})
	get := func(token string) error {
		_, err := footfallv1.NewAdminServiceClient(g.dial(t)).GetCluster(as(t, token), &footfallv1.GetClusterRequest{})
		return err
	}
	g.frozen.Store(true) // nothing refills
	for range 3 {
		require.NoError(t, get(g.tokens["reader"]))
	}
	err := get(g.tokens["reader"])
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.Contains(t, err.Error(), "limits.requests_per_second")
	r := g.do(t, http.MethodGet, "/v1/cluster", "Bearer "+g.tokens["reader"], nil)
	require.Equal(t, http.StatusTooManyRequests, r.code)
	require.Equal(t, "1", r.header.Get("Retry-After"))
	// Others have their own, and health has none.
	require.Equal(t, codes.PermissionDenied, status.Code(get(g.tokens["publisher"])))
	for range 5 {
		require.Equal(t, 200, g.do(t, http.MethodGet, "/healthz", "", nil).code)
	}
	// Who has no token is an address.
	var last error
	for range 4 {
		last = get("footfall_wrong")
	}
	require.Equal(t, codes.ResourceExhausted, status.Code(last))
	require.InDelta(t, 2, g.count(t, "footfall_requests_limited_total", "transport=grpc"), 0)
	require.InDelta(t, 1, g.count(t, "footfall_requests_limited_total", "transport=http"), 0)
}

func TestConnectionsAreBounded(t *testing.T) {
	g := guard(t, access.Limits{ConnectionsPerAddress: 2})
	var conns []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", g.http)
		require.NoError(t, err)
		conns = append(conns, c)
	}
	require.Eventually(t, func() bool { return g.count(t, "footfall_connections", "listener=http") == 2 }, 10*time.Second, time.Millisecond)
	c, err := net.Dial("tcp", g.http)
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err) // closed at once
	require.NoError(t, c.Close())
	require.InDelta(t, 1, g.count(t, "footfall_connections_refused_total", "listener=http"), 0)
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool { return g.count(t, "footfall_connections", "listener=http") == 0 }, 10*time.Second, time.Millisecond)
	require.Equal(t, 200, g.do(t, http.MethodGet, "/healthz", "", nil).code)
}

func TestOldTLSIsRefused(t *testing.T) {
	g := guard(t, access.Limits{})
	for _, addr := range []string{g.http, g.rpc} {
		_, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: g.roots, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}})
		require.ErrorContains(t, err, "protocol version")
	}
	resp, err := http.Get("http://" + g.http + "/healthz") //nolint:noctx // it is answered at once
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
}

// A node that asks nobody answers all, and lets its own machine's programs call as they like.
func TestWithoutTokensNobodyIsAsked(t *testing.T) {
	reg := prometheus.NewRegistry()
	a, err := access.New(access.Config{Limits: access.Limits{RequestsPerSecond: 1, RequestBurst: 1}, Logger: slog.New(slog.DiscardHandler), Registerer: reg})
	require.NoError(t, err)
	s := serve(t, &scripted{}, func(o *Options) { o.Access = a })
	for range 5 {
		require.Equal(t, 200, s.get(t, "/v1/cluster").code)
		require.Equal(t, 405, s.do(t, http.MethodDelete, "/v1/events", "", nil).code)
		_, err = s.GetCluster(metadata.AppendToOutgoingContext(t.Context(), access.ForwardedKey, "x"), &footfallv1.GetClusterRequest{})
		require.NoError(t, err)
	}
}
