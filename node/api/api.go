package api

import (
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"footfall/inference/oip"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/messages/inferencev2"
	"footfall/node/access"
)

// Options is what the API of a node is made of.
type Options struct {
	Identity Identity
	Limits   Limits
	Host     Host
	// Cluster is the way to the other nodes; nil for a node on its own.
	Cluster Cluster
	// Access is what callers are asked for; nil asks nobody.
	Access *access.Access
	// Models and DeadLetters may be nil.
	Models      Models
	DeadLetters DeadLetters
	Rates       *Rates
	// Ready tells whether the node can do its work, State where in its life it is: joining,
	// active or draining.
	Ready func() Readiness
	State func() string
	// Now is the clock; time.Now unless set.
	Now func() time.Time

	// Tracing makes the spans of calls; nil means that there are none.
	Tracing trace.TracerProvider

	Metrics  *Metrics
	Gatherer prometheus.Gatherer
	Logger   *slog.Logger
}

// API is both doors of a node. It serves nothing by itself: give GRPC and HTTP a listener.
type API struct {
	GRPC *grpc.Server
	HTTP *http.Server

	health     *health.Server
	endStreams func()
	patterns   []string
}

// New makes the API.
func New(o Options) (*API, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &chain{metrics: o.Metrics, logger: o.Logger, query: o.Limits.Query, ending: make(chan struct{})}
	var nodes *router
	if o.Cluster != nil {
		nodes = &router{o.Cluster, o.Identity.Name}
	}
	ingest := newIngest(o.Host, o.Identity, o.Limits, o.Metrics)
	customers := &Customers{
		host: o.Host, id: o.Identity, models: o.Models, nodes: nodes,
		validator: messages.Validator{Shards: o.Identity.Shards, Currency: o.Identity.Currency},
	}
	var inferenceServer *oip.Server // nil without models
	if o.Models != nil {
		customers.queries = o.Models.Queries()
		inferenceServer = &oip.Server{
			Backend: customers.queries, Version: o.Identity.Version, Timeout: o.Limits.Query, Metrics: o.Metrics.oip,
			Ready: func() bool { return o.State() != stateDraining },
		}
	}
	admin := &Admin{
		host: o.Host, id: o.Identity, models: o.Models, nodes: nodes, rates: o.Rates, state: o.State, now: o.Now,
		dead: newDeadLetters(o.DeadLetters, ingest, o.Logger),
	}

	gateway, err := newGateway(newInProcess(c, ingest, customers, admin))
	if err != nil {
		return nil, err
	}
	s := &server{
		id: o.Identity, limits: o.Limits, chain: c, ingest: ingest, logger: o.Logger,
		ready: o.Ready, gatherer: o.Gatherer, gateway: gateway,
		inference: inferenceHandler(inferenceServer, ingest, o.Limits, o.Logger),
		access:    o.Access,
	}
	handler, err := s.handler()
	if err != nil {
		return nil, err
	}
	a := &API{health: health.NewServer(), HTTP: newHTTP(tracedHTTP(o.Tracing, handler), o.Limits, o.Access, o.Logger), endStreams: sync.OnceFunc(func() { close(c.ending) })}
	a.GRPC = newGRPC(c, o.Limits, o.Access, o.Tracing, a.health, ingest, customers, admin)
	if nodes != nil {
		ingest.nodes = nodes
		footfallv1.RegisterNodeServiceServer(a.GRPC, &between{host: o.Host, nodes: o.Cluster})
	}
	if inferenceServer != nil {
		inferencev2.RegisterGRPCInferenceServiceServer(a.GRPC, inferenceServer)
	}
	reflection.Register(a.GRPC)
	a.patterns = s.patterns
	a.SetReady(false)
	return a, nil
}

// EndStreams ends the streams of gRPC, those that watch the node's health too. It is
// idempotent.
func (a *API) EndStreams() { a.endStreams() }

// SetReady tells the clients of gRPC's health service.
func (a *API) SetReady(ready bool) {
	s := healthpb.HealthCheckResponse_NOT_SERVING
	if ready {
		s = healthpb.HealthCheckResponse_SERVING
	}
	for _, name := range []string{
		"",
		footfallv1.IngestService_ServiceDesc.ServiceName,
		footfallv1.CustomerService_ServiceDesc.ServiceName,
		footfallv1.AdminService_ServiceDesc.ServiceName,
		inferencev2.GRPCInferenceService_ServiceDesc.ServiceName,
	} {
		a.health.SetServingStatus(name, s)
	}
}
