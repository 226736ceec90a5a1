package messages

import (
	"fmt"
	"time"
)

// HeldError says that a shard cannot be acquired: its owner has not released it, and holds its
// lease.
type HeldError struct {
	Shard int
	// Owner is the member that has the shard, Epoch the one it has it under.
	Owner string
	Epoch uint64
	// For is how long the owner's lease lasts from now on, unless it is renewed.
	For time.Duration
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("held: shard %d belongs to %s under epoch %d, whose lease lasts for another %s", e.Shard, e.Owner, e.Epoch, e.For)
}

// LeaseHeldError says that another process of the same name holds the member's lease: it ends by
// itself, or two members have one name.
type LeaseHeldError struct {
	Member string
	// Incarnation is the one that holds the lease.
	Incarnation string
	// For is how long it lasts from now on, unless it is renewed.
	For time.Duration
}

func (e *LeaseHeldError) Error() string {
	return fmt.Sprintf("lease_held: incarnation %s of %s holds the lease for another %s: two members may not have one name", e.Incarnation, e.Member, e.For)
}
