package messages

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// HeaderTraceParent is the header of a message that says which trace it belongs to, as W3C Trace
// Context writes it.
const HeaderTraceParent = "traceparent"

// TraceParent writes a span as the header has it; "" for one that is not valid.
func TraceParent(sc trace.SpanContext) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), sc), carrier)
	return carrier[HeaderTraceParent]
}

// ParseTraceParent reads the header. Anything that is not of its form is no trace, and no fault:
// ok is false.
func ParseTraceParent(s string) (sc trace.SpanContext, ok bool) {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{HeaderTraceParent: s})
	sc = trace.SpanContextFromContext(ctx)
	return sc, sc.IsValid()
}
