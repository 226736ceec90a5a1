// Package bench measures Footfall against the raw limit of the same machine in the same
// run: its main type is [Suite]. Machines are noisy and differ; a ratio of two figures of
// one run says more than either.
//
// A rate per core is events over the CPU time of the whole process, so that it counts what
// garbage collection, compaction and the log's background work cost, and does not count what
// other processes took.
package bench
