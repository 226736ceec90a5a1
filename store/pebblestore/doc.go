// Package pebblestore keeps the checkpoints of all shards of one node in one Pebble
// database. [Store] promises:
//
//  1. A checkpoint is written whole and durably, or not at all.
//  2. Only the shard's present epoch writes or reads: every other gets
//     *messages.StaleEpochError, and epochs only grow. The check and the write are one
//     step under the shard's mutex.
//  3. A value that is read is the one that was written under that key, else
//     *messages.CorruptError.
//  4. Dead letters are bounded in number and bytes; the oldest are dropped, and counted. One
//     that was dropped or removed does not come back.
//  5. A base snapshot is a whole checkpoint, kept apart: a new one replaces the old one in
//     one step.
//  6. A full or damaged disk refuses writes with *messages.UnavailableError and loses
//     nothing that was written before.
//
// # Layout
//
// Keys begin with the shard (2 bytes, big endian) and a kind (1 byte):
//
//	0x01                         owner: epoch (8 bytes) and name
//	0x02                         footfall.v1.CheckpointMeta
//	0x03 customer ID             the customer's value
//	0x04 offset (8) index (4)    footfall.v1.DeadLetter
//	0x05                         count, bytes, dropped and floor of the dead letters
//	0x06 sequence (8)            outbox row
//	0x07                         base snapshot: generation (8) and footfall.v1.CheckpointMeta
//	0x08 generation (8) ID       a customer of the base snapshot
//
// Every value stands behind the CRC-32C of its key and itself.
package pebblestore
