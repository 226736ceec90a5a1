// Package pebbledb opens the Pebble databases that hold a log or a store. [DB] promises
// what Pebble alone does not:
//
//  1. A commit that returned nil is on disk. Whatever the disk answers, the process lives:
//     Pebble ends it when a write of its log fails.
//  2. After the first failed write nothing in the directory changes any more, so what was
//     accepted before is found at the next start.
//  3. A failed database refuses writes with *messages.UnavailableError, which says what to
//     do, and goes on reading where the files allow it.
//  4. Writes are refused before the disk is full: a reserve is left for Pebble's own work.
//  5. One process at a time has a directory open.
//  6. A database belongs to one identity; another configuration is refused.
package pebbledb
