// Package cluster decides which node owns which shard, and moves shards without losing one.
//
// [Place] says who should own each shard: a pure function of the members' names.
// [Ownership] is the state machine of one node: what it should own against what it owns,
// inside which lease it may answer. It is pure, too: events in, commands out.
// [Reconciler] is the one loop that feeds it and carries out what it says, through the
// interfaces [Host], [Leases] and [Gossip]. [Membership] is the gossip: who is there.
//
// What this package promises:
//
//   - Gossip is only a hint. Two nodes may believe that a shard is theirs; the store gives
//     it to one, and only once it was released or its owner's lease has lapsed.
//   - A shard moves only when the set of members changes, and then few do: a member that
//     is away for a while keeps its place, so that its return moves the same shards back.
//   - An owner says so only inside its lease, and after a lapse only once the store has
//     confirmed that nobody took the shard meanwhile.
package cluster
