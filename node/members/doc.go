// Package members makes a node one of a cluster: [Members] holds together gossip, the lease in
// the store, the loop that decides which shards this node owns, and connections to the others.
//
// What it promises:
//
//  1. The shards of this process are opened, closed and dropped by nobody else, and what the
//     store may have for this member is let go of before it leaves.
//  2. A member that leaves to come back keeps its place: its shards return to it. One that leaves
//     for good gives it up, and its shards are spread anew.
//  3. Gossip and lease go on while shards are handed over, so that those that have not gone yet
//     are answered for.
package members
