package tracing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"footfall/node/config"
)

// Options says where traces go.
type Options struct {
	// Endpoint is where, as [config.ParseTraceEndpoint] reads it: OTLP over HTTP or gRPC, or lines
	// of JSON in a file. Empty means that there are none.
	Endpoint string
	// Sample is the share, from 0 to 1, of calls without a trace of their own that get one.
	Sample float64
	// Node and Version name the process.
	Node, Version string
	Logger        *slog.Logger
	Registry      prometheus.Registerer
	// Now is the clock.
	Now func() time.Time
}

// Tracing is where the spans of a process go. A nil one has none.
type Tracing struct {
	provider *sdktrace.TracerProvider
	file     io.Closer
	metrics  *metrics
}

// Open begins to send spans. It returns nil where o names no endpoint. It does not wait for the
// collector: what cannot be sent is dropped, and counted.
func Open(ctx context.Context, o Options) (*Tracing, error) {
	if o.Endpoint == "" {
		return nil, nil
	}
	scheme, rest, err := config.ParseTraceEndpoint(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("trace.endpoint: %w", err)
	}
	t := &Tracing{}
	if t.metrics, err = newMetrics(o.Registry); err != nil {
		return nil, err
	}
	var exporter sdktrace.SpanExporter
	switch scheme {
	case "file":
		file, err := os.OpenFile(rest, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("trace.endpoint: %w", err)
		}
		t.file = file
		exporter, err = stdouttrace.New(stdouttrace.WithWriter(file))
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
	case "http", "https":
		host, path, _ := strings.Cut(rest, "/")
		options := []otlptracehttp.Option{otlptracehttp.WithEndpoint(host), otlptracehttp.WithTimeout(sendWithin)}
		if path != "" {
			options = append(options, otlptracehttp.WithURLPath("/"+path))
		}
		if scheme == "http" {
			options = append(options, otlptracehttp.WithInsecure())
		}
		exporter, err = otlptracehttp.New(ctx, options...)
	default:
		options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(rest), otlptracegrpc.WithTimeout(sendWithin)}
		if scheme == "grpc" {
			options = append(options, otlptracegrpc.WithInsecure())
		}
		exporter, err = otlptracegrpc.New(ctx, options...)
	}
	if err != nil {
		return nil, fmt.Errorf("trace.endpoint: %w", err)
	}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&counted{SpanExporter: exporter, metrics: t.metrics, logger: o.Logger}),
		sdktrace.WithSampler(newLimited(o.Sample, o.Now, t.metrics.limited)),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "footfall"),
			attribute.String("service.instance.id", o.Node),
			attribute.String("service.version", o.Version),
		)),
	)
	return t, nil
}

// sendWithin bounds one attempt to send spans.
const sendWithin = 5 * time.Second

// Provider is what instrumentation makes its tracers with; nil where there are none.
func (t *Tracing) Provider() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.provider
}

// Tracer makes spans; nil where there are none.
func (t *Tracing) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.provider.Tracer("footfall")
}

// Close sends what is left, for as long as ctx lasts.
func (t *Tracing) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	err := t.provider.Shutdown(ctx)
	if t.file != nil {
		err = errors.Join(err, t.file.Close())
	}
	return err
}

// counted counts what becomes of spans. That a collector is away is told once, not each time.
type counted struct {
	sdktrace.SpanExporter
	metrics *metrics
	logger  *slog.Logger
	failing atomic.Bool
}

// ExportSpans implements sdktrace.SpanExporter.
func (c *counted) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		c.metrics.failed.Add(float64(len(spans)))
		if !c.failing.Swap(true) {
			c.logger.Warn("traces cannot be sent, and are dropped", "error", err)
		}
		return nil // the SDK would print it
	}
	c.metrics.sent.Add(float64(len(spans)))
	if c.failing.Swap(false) {
		c.logger.Info("traces are sent again")
	}
	return nil
}
