// Package transfer carries the state of shards to another log and store: into a file and back ([Archive]), or into twice as many
// shards ([Split]). Nothing may run on either side meanwhile. Its main functions are [Write] and [Compare], which promise:
//
//  1. What is read is not changed.
//  2. Each folded byte of each customer arrives, and of no other customer; Compare proves it by reading both sides again.
//  3. The new log of a shard begins with one message of a node, which names its clock, and the shard's base snapshot and checkpoint
//     stand behind it: whoever folds the shard again begins there. Messages of the old log do not come along.
//  4. A shard that is not whole yet cannot be served: its checkpoint is ahead of its log, which stops it with log_regressed.
//  5. After a crash at any point, Write goes on with the shards that are not whole.
package transfer
