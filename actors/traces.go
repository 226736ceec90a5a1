package actors

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"footfall/messages"
)

// A trace follows an event from the call that brought it, or the message that a publisher sent,
// through the log to the scores of its customer:
//
//	call ─► append ─ ─ the log ─ ─► fold ─► score
//
// Across the log a record carries its trace where the log has room for that (the headers of a
// broker). Where it has none, the process that appends is the one that folds, and handed knows by
// the record's checksum. Only what is sampled goes that way: anything else costs a comparison.
type handed struct {
	n  atomic.Int32
	mu sync.Mutex // guards what follows
	by map[handedKey]string
	// ring has the keys in order, so that what is never folded here makes room.
	ring [mostHanded]handedKey
	next int
}

type handedKey struct {
	shard int
	sum   uint32
}

// mostHanded bounds the traces that are in a log, not folded yet.
const mostHanded = 256

func (h *handed) put(shard int, sum uint32, parent string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by == nil {
		h.by = make(map[handedKey]string, mostHanded)
	}
	delete(h.by, h.ring[h.next])
	key := handedKey{shard, sum}
	h.ring[h.next], h.by[key] = key, parent
	h.next = (h.next + 1) % mostHanded
	h.n.Store(int32(len(h.by)))
}

func (h *handed) take(shard int, sum uint32) string {
	if h.n.Load() == 0 {
		return ""
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	key := handedKey{shard, sum}
	parent := h.by[key]
	delete(h.by, key)
	h.n.Store(int32(len(h.by)))
	return parent
}

// beginAppend begins the span of an append where its call is traced, and marks the records.
func (h *Host) beginAppend(ctx context.Context, shard, events int, records []messages.Record) (context.Context, trace.Span) {
	if h.cfg.Tracer == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, nil
	}
	ctx, span := h.cfg.Tracer.Start(ctx, "append", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.Int("shard", shard), attribute.Int("events", events), attribute.Int("messages", len(records))))
	parent := messages.TraceParent(span.SpanContext())
	for i := range records {
		records[i].TraceParent = parent
		h.handed.put(shard, messages.RecordSum(records[i].Type, records[i].Body), parent)
	}
	return ctx, span
}

// end ends a span, with what went wrong; it may be nil.
func end(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// traced is a record that was folded and whose customers are not with the scorer yet.
type traced struct {
	parent trace.SpanContext
	offset uint64
	// mark is how many customers must have been taken for scoring until those of the record are.
	mark uint64
}

// mostTraced bounds those of a shard.
const mostTraced = 16

// foldRecord folds a record, in a span where it is traced.
func (s *shard) foldRecord(rec *messages.Record) error {
	if s.cfg.Tracer == nil {
		return s.fold.record(rec, s)
	}
	parent := s.handed.take(s.id, rec.Sum)
	if rec.TraceParent != "" {
		parent = rec.TraceParent
	}
	if parent == "" {
		return s.fold.record(rec, s)
	}
	sc, ok := messages.ParseTraceParent(parent)
	if !ok || !sc.IsSampled() {
		return s.fold.record(rec, s)
	}
	began := s.fold.events + s.fold.duplicates
	_, span := s.cfg.Tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), sc), "fold",
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attribute.Int("shard", s.id), attribute.Int64("epoch", int64(s.epoch)), attribute.Int64("offset", int64(rec.Offset))))
	err := s.fold.record(rec, s)
	span.SetAttributes(attribute.Int64("events", int64(s.fold.events+s.fold.duplicates-began)))
	end(span, err)
	if of := span.SpanContext(); of.IsSampled() {
		s.exemplar = of.TraceID().String()
		if s.scorer != nil && len(s.scoring.traced) < mostTraced {
			s.scoring.traced = append(s.scoring.traced, traced{of, rec.Offset, s.scoring.pushed})
		}
	}
	return err
}

// beginScores begins the spans of a request to the scorer that has customers of traced records.
func (s *shard) beginScores(job *scoreJob) {
	c := &s.scoring
	for len(c.traced) > 0 && c.traced[0].mark <= c.taken {
		t := c.traced[0]
		c.traced = c.traced[:copy(c.traced, c.traced[1:])]
		_, span := s.cfg.Tracer.Start(trace.ContextWithSpanContext(context.Background(), t.parent), "score",
			trace.WithAttributes(attribute.Int("shard", s.id), attribute.Int64("epoch", int64(s.epoch)),
				attribute.Int64("offset", int64(t.offset)), attribute.Int("rows", job.request.Rows)))
		job.spans = append(job.spans, span)
	}
	if n := len(job.spans); n > 0 { // of several, the youngest goes on with the scorer
		job.request.Context = under(job.spans[n-1]) //nolint:fatcontext // it is a new request's: nothing grows
	}
}

// under is a context whose work belongs to a span.
func under(span trace.Span) context.Context {
	return trace.ContextWithSpan(context.Background(), span)
}

// endScores ends them once the scores are with the customers.
func endScores(job *scoreJob, reply *ScoreReply) {
	for _, span := range job.spans {
		for _, m := range reply.Models {
			span.AddEvent("scored", trace.WithAttributes(attribute.String("model", m.Model), attribute.String("version", m.Version)))
		}
		end(span, reply.Err)
	}
	job.spans = nil
}

// observeTraced observes a value with the trace that it is an example of, "" for none.
func observeTraced(o prometheus.Observer, v float64, traceID string) {
	if e, ok := o.(prometheus.ExemplarObserver); ok && traceID != "" {
		e.ObserveWithExemplar(v, prometheus.Labels{"trace_id": traceID})
		return
	}
	o.Observe(v)
}

// traceOf is the sampled trace of a call; "" where there is none.
func traceOf(span trace.Span) string {
	if span == nil || !span.SpanContext().IsSampled() {
		return ""
	}
	return span.SpanContext().TraceID().String()
}

// beginQuery begins the span of a query where its call is traced.
func (s *shard) beginQuery(ctx context.Context, customers int) trace.Span {
	if s.cfg.Tracer == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return nil
	}
	_, span := s.cfg.Tracer.Start(ctx, "query", trace.WithAttributes(
		attribute.Int("shard", s.id), attribute.String("customers", strconv.Itoa(customers))))
	return span
}
