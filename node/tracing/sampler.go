package tracing

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// MostTraces is how many traces a second begin here or come in, at most; each message of the log
// that is traced counts. It is far above what a node is asked to sample: it keeps a publisher that
// marks everything from costing more than that.
const MostTraces = 500

// limited samples a share of what has no trace, all of what has one that is sampled, and no more
// than MostTraces a second of both.
type limited struct {
	roots   sdktrace.Sampler
	now     func() time.Time
	refused prometheus.Counter

	mu     sync.Mutex // guards what follows
	second int64
	begun  int
}

func newLimited(share float64, now func() time.Time, refused prometheus.Counter) *limited {
	return &limited{roots: sdktrace.TraceIDRatioBased(share), now: now, refused: refused}
}

// ShouldSample implements sdktrace.Sampler.
func (l *limited) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	drop := sdktrace.SamplingResult{Decision: sdktrace.Drop, Tracestate: parent.TraceState()}
	switch {
	case parent.IsValid() && !parent.IsSampled():
		return drop
	case parent.IsValid() && !parent.IsRemote():
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample, Tracestate: parent.TraceState()}
	case !parent.IsValid():
		if r := l.roots.ShouldSample(p); r.Decision != sdktrace.RecordAndSample {
			return r
		}
	}
	if !l.take() {
		l.refused.Inc()
		return drop
	}
	return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample, Tracestate: parent.TraceState()}
}

func (l *limited) take() bool {
	second := l.now().Unix()
	l.mu.Lock()
	defer l.mu.Unlock()
	if second != l.second {
		l.second, l.begun = second, 0
	}
	l.begun++
	return l.begun <= MostTraces
}

// Description implements sdktrace.Sampler.
func (l *limited) Description() string {
	return fmt.Sprintf("Limited{%s,%d/s}", l.roots.Description(), MostTraces)
}
