// Package api is how people and programs reach a node: the gRPC services, the same calls as
// REST, and POST /v1/events.
//
//	gRPC ──────────────────────► interceptors ──► services ──► Host
//	REST ──► gateway ──► inProcess ──┘                 │
//	POST /v1/events ──► decode, per element ──► [Ingest]┘
//
// Every call takes the same way through the interceptors, whichever door it came in by, so
// deadlines, metrics, panics and the meaning of errors are decided once: a service answers
// the typed errors of the rooms behind it, statusOf says which code each one is, and
// writeError how that code looks in HTTP.
//
// JSON is written by [Marshaler]: snake_case, numbers as numbers, lists always there.
package api
