// Package chaos holds tests only: real nodes, a real broker and a real PostgreSQL, with a network
// between them that can be cut in one direction or in both, and everything that can end, stand
// still or run full doing so under load. docs/faults.md tells what is tried and how to run it
// longer.
package chaos
