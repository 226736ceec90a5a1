// Package broker holds together what a node has on RabbitMQ. Its main type is [Broker]: the
// connections, the topology, the log on streams, the bridge for publishers that do not know
// shards, and the queue of dead letters. It promises:
//
//  1. The topology is declared on every connection that comes back, and [Broker.Reasons] names
//     what is missing until it is.
//  2. What a shard has refused is in the queue of dead letters before it is gone from the
//     store ([Mover]).
package broker
