// Package replay feeds events to a node over gRPC. A [Publisher] sends batches and survives a
// node that goes away; [Run] drives a whole history through one, day by day, and the node's
// clock with it.
//
// Three things hold, whatever is lost on the way:
//
//  1. Events of one shard are sent in the order they are given, one batch at a time: the
//     next goes out once the one before is acknowledged. A shard applies only sequences above
//     the highest that it has seen of a producer, so a batch that overtook another would make
//     it drop the other's events.
//  2. A batch whose answer was lost is sent again, whole. Events that carry a producer and a
//     sequence are applied once however often they are sent; that is also why a replay that
//     was cut short is resumed by running it again.
//  3. A day ends ([Run] sends its tick) only after every event of the day is acknowledged.
package replay
