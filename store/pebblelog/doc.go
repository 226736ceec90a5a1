// Package pebblelog keeps the logs of all shards of one node in one Pebble database.
// [Log] promises:
//
//  1. Append returns after its records are on disk, with offsets that follow each other
//     without gap. Appends that meet share one sync of the disk.
//  2. A reader sees a record only once it is durable, in order, each with the bytes it was
//     written with; anything else is an error.
//  3. Offsets are never used again: first and next survive a trim of everything.
//  4. A log that has been opened at a mark continues the very log that was marked.
//  5. A full or damaged disk refuses appends with *messages.UnavailableError and loses
//     nothing that was appended before.
//
// # Layout
//
//	key    shard (2 bytes) 0x01 offset (8 bytes)     big endian
//	value  header (24 bytes, see header) body        the body compressed with S2 where that pays
//
//	key    shard (2 bytes) 0x00                      where the shard's log has been trimmed
//	value  first (8 bytes) sum of first-1 (4 bytes)
//
// Keys only grow within a shard, and bodies go to Pebble's blob files when they are
// flushed, so compactions move keys and leave bodies where they are: a body is written
// twice, to Pebble's log and to a blob file.
package pebblelog
