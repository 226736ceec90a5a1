package api

import (
	"context"
	"net/http"
	"path"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// tracedGRPC has calls of our services in spans; nothing where provider is nil.
func tracedGRPC(provider trace.TracerProvider) []grpc.ServerOption {
	if provider == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(provider), otelgrpc.WithMeterProvider(noop.NewMeterProvider()), otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool {
			return strings.HasPrefix(info.FullMethodName, "/footfall.") || strings.HasPrefix(info.FullMethodName, "/inference.")
		}),
	))}
}

// DialTraced has calls to another node go on in the caller's trace; nothing where provider is nil.
func DialTraced(provider trace.TracerProvider) []grpc.DialOption {
	if provider == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(
		otelgrpc.WithTracerProvider(provider), otelgrpc.WithMeterProvider(noop.NewMeterProvider()), otelgrpc.WithPropagators(propagation.TraceContext{}),
	))}
}

// tracedHTTP has calls in spans, pages and scrapes not; next as it is where provider is nil.
func tracedHTTP(provider trace.TracerProvider, next http.Handler) http.Handler {
	if provider == nil {
		return next
	}
	return otelhttp.NewHandler(next, "http",
		otelhttp.WithTracerProvider(provider), otelhttp.WithMeterProvider(noop.NewMeterProvider()), otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithFilter(func(r *http.Request) bool {
			return strings.HasPrefix(r.URL.Path, "/v1/") || r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/")
		}),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + kindOfPath(r.URL.Path) }),
	)
}

// kindOfPath is a path without what clients put into it: span names are few.
func kindOfPath(p string) string {
	parts := strings.Split(path.Clean(p), "/")
	const kept = 3 // "", "v1", "customers:hot"
	name := strings.Join(parts[:min(len(parts), kept)], "/")
	if len(parts) > kept {
		name += "/…"
	}
	if len(name) > 40 {
		return "/" + parts[1] + "/…"
	}
	return name
}

// observe notes how long a call took, with its trace as an example where it is sampled.
func observe(ctx context.Context, o prometheus.Observer, seconds float64) {
	if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() {
		if e, ok := o.(prometheus.ExemplarObserver); ok {
			e.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": sc.TraceID().String()})
			return
		}
	}
	o.Observe(seconds)
}
