// Package node joins the rooms of Footfall into one process: log, store, shards, models and
// the API. Its main type is [Node].
//
// It promises:
//
//  1. [New] either gives a node that holds its ports, its log and its store, or an error that
//     says what to do, and then holds nothing.
//  2. A node is ready only while every shard is active, log and store take writes, and the
//     models, where it runs them, are loaded; it stops being ready before it stops answering.
//  3. [Node.Run] ends in the order that stands in it, within the drain timeout, and leaves a
//     checkpoint of every shard. What ends without it (kill -9) loses nothing accepted either:
//     it only takes longer to start.
//
// TensorFlow is not linked here: whoever makes a node gives it the [inference.Runner].
package node
