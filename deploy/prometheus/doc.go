// Package prometheus holds the configuration of Prometheus for Footfall, with rules that record and alert, and their tests. It has
// no code of its own. What it promises:
//
//   - prometheus.yml works as it is: for a cluster on this machine, and in compose.
//   - Each alert of rules/ says what is the matter, has a page of docs/runbooks that says what to do, fires in a test, and is silent in
//     another in which nodes do well.
//   - Rules ask for series that nodes have.
package prometheus
