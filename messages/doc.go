// Package messages is the language that all rooms of Footfall speak: the protobuf
// messages (generated into footfallv1), the one Validator of events, [ShardOf],
// and the plain values that travel between a log, a store and the shards: [Record],
// [Mark], [Position], [Checkpoint] and their typed errors.
//
// It imports none of the other rooms and does no I/O.
package messages
