// Package tracing has a node's traces: its main type, [Tracing], makes spans, samples them, and
// sends them to an OpenTelemetry collector or a file.
//
// What it promises: a node whose traces are off has no tracer at all; one that cannot reach its
// collector works on, drops spans, and counts them; and whoever calls, or publishes, cannot have
// more traced than [MostTraces] a second.
package tracing
