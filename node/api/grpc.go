package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"footfall/messages/footfallv1"
	"footfall/node/access"
)

// chain is what every call goes through.
type chain struct {
	metrics *Metrics
	logger  *slog.Logger
	// query ends a query that has no deadline.
	query time.Duration
	// ending is closed when streams are to end: some clients watch a node's health for ever.
	ending chan struct{}
}

var queryService = footfallv1.CustomerService_ServiceDesc.ServiceName

func (c *chain) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	service, method := path.Split(info.FullMethod)
	if service == "/"+queryService+"/" {
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.timeout(method))
			defer cancel()
		}
		start := time.Now()
		var elsewhere *atomic.Bool
		ctx, elsewhere = withWhere(ctx)
		defer func() {
			answered := whereOwner
			if elsewhere.Load() {
				answered = whereForwarded
			}
			observe(ctx, c.metrics.query.WithLabelValues(method, answered), time.Since(start).Seconds())
		}()
	}
	err = c.call(ctx, info.FullMethod, func() (err error) {
		resp, err = handler(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// timeout ends a query that has no deadline. A history folds a shard's log again.
func (c *chain) timeout(method string) time.Duration {
	if method == "GetHistory" {
		return 6 * c.query
	}
	return c.query
}

func (c *chain) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-c.ending:
			cancel(errStopping)
		case <-ended:
		}
	}()
	return c.call(ctx, info.FullMethod, func() error {
		err := handler(srv, &boundStream{ss, ctx})
		if err != nil && errors.Is(context.Cause(ctx), errStopping) {
			return errStopping
		}
		return err
	})
}

var errStopping = status.Error(codes.Unavailable, "the node is stopping")

// boundStream is a stream that ends with ctx.
type boundStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *boundStream) Context() context.Context { return s.ctx }

// call runs a call and answers a status.
func (c *chain) call(ctx context.Context, method string, f func() error) error {
	err := c.guard(ctx, method, f)
	s := statusOf(err)
	switch s.Code() {
	case codes.Internal, codes.DataLoss, codes.Unknown:
		c.logger.ErrorContext(ctx, "call failed", "method", method, "code", s.Code().String(), "error", err)
	default:
	}
	return s.Err()
}

// guard turns a panic of f into an error: one bad call is not to end a node.
func (c *chain) guard(ctx context.Context, what string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.metrics.panics.Inc()
			c.logger.ErrorContext(ctx, "call panicked", "method", what, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "the node failed on this call; its log says more")
		}
	}()
	return f()
}

// newGRPC makes the server, with the services that every node has.
func newGRPC(c *chain, limits Limits, guard *access.Access, tracing trace.TracerProvider, hs *health.Server, ingest *Ingest, customers *Customers, admin *Admin) *grpc.Server {
	limits = limits.withDefaults()
	doors := tracedGRPC(tracing)
	if guard != nil {
		doors = append(doors, grpc.Creds(guard.ServerCredentials()), grpc.InTapHandle(guard.Tap))
	}
	s := grpc.NewServer(append(doors,
		grpc.ChainUnaryInterceptor(c.unary),
		grpc.ChainStreamInterceptor(c.stream),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(int(limits.Message)),
		grpc.MaxConcurrentStreams(limits.Streams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(limits.Headers),
		// A connection ends in order once a day: then the other side shows its certificate again.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 10 * time.Second, MaxConnectionAge: 24 * time.Hour}),
		// Clients may ask every ten seconds, also between calls.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	)...)
	footfallv1.RegisterIngestServiceServer(s, ingest)
	footfallv1.RegisterCustomerServiceServer(s, customers)
	footfallv1.RegisterAdminServiceServer(s, admin)
	healthpb.RegisterHealthServer(s, hs)
	return s
}

// inProcess is a client connection to the services of this process: REST calls go through
// it, and so through the same interceptors, without a socket.
type inProcess struct {
	chain    *chain
	services map[string]service
}

type service struct {
	methods map[string]grpc.MethodDesc
	impl    any
}

func newInProcess(c *chain, ingest *Ingest, customers *Customers, admin *Admin) *inProcess {
	p := &inProcess{chain: c, services: map[string]service{}}
	for desc, impl := range map[*grpc.ServiceDesc]any{
		&footfallv1.IngestService_ServiceDesc:   ingest,
		&footfallv1.CustomerService_ServiceDesc: customers,
		&footfallv1.AdminService_ServiceDesc:    admin,
	} {
		s := service{methods: map[string]grpc.MethodDesc{}, impl: impl}
		for _, m := range desc.Methods {
			s.methods[m.MethodName] = m
		}
		p.services["/"+desc.ServiceName+"/"] = s
	}
	return p
}

// Invoke implements grpc.ClientConnInterface.
func (p *inProcess) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	serviceName, name := path.Split(method)
	s := p.services[serviceName]
	m, ok := s.methods[name]
	if !ok {
		return status.Error(codes.Unimplemented, "no method "+method)
	}
	decode := func(into any) error { return copyInto(into, args) }
	resp, err := m.Handler(s.impl, ctx, decode, p.chain.unary)
	if err != nil {
		return err
	}
	return copyInto(reply, resp)
}

// NewStream implements grpc.ClientConnInterface; no REST call streams.
func (*inProcess) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}
