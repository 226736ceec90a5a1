package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Event is what an [Ownership] is told. The types below are all there are.
type Event interface{ event() }

// What the node and the members do.
type (
	// MembersChanged is everybody whom gossip knows to be there, with or without this node.
	MembersChanged struct{ Members []Member }
	// PlacesRead are the members that keep their place, whether they are there or not; and of
	// those the ones whose lease ended a while ago, by the store's clock: they may be there, but
	// do not get through to the store.
	PlacesRead struct{ Names, Lapsed []string }
	// Ready says that the node could serve shards: its log and its store answer, and it has
	// tried to join.
	Ready struct{}
	// DrainAsked says that the node shall give up all its shards and leave.
	DrainAsked struct{}
	// Ticked says that time has passed. It should come every [TickEvery].
	Ticked struct{}
)

// What the store says of the lease.
type (
	// LeaseRenewed says until when this member has its lease at least, in each database: the
	// instant at which the request was sent, plus what was asked for. The zero time says that
	// it was not renewed there.
	LeaseRenewed struct{ Until []time.Time }
	// LeaseLost says that another process has this member's name and lease. Nothing is owned
	// any more.
	LeaseLost struct{}
	// HeldRead answers a Verify: the shards that the store has for this member, with their
	// epochs. Nil says that they could not be read.
	HeldRead struct {
		Seq  uint64
		Held map[int]uint64
	}
)

// What happened to a shard.
type (
	// Refused answers an Acquire: another member has the shard.
	Refused struct {
		Shard  int
		Holder string
		// For is what is left of the holder's lease, unless it is renewed.
		For time.Duration
	}
	// Acquired answers an Acquire: the store has the shard for this member now.
	Acquired struct {
		Shard int
		Epoch uint64
	}
	// Activated says that a shard has caught up and serves.
	Activated struct{ Shard int }
	// Released answers a Drain: the shard is given up, nothing of it runs here.
	Released struct{ Shard int }
	// ShardFailed says that a shard could not be acquired, recovered, drained or kept. Nothing
	// of it runs here, but the store may still have it for this member.
	ShardFailed struct {
		Shard int
		// ForGood: another try would end the same, a person must look at it.
		ForGood bool
	}
	// SteppedDown says that a higher epoch was met: another member has the shard.
	SteppedDown struct{ Shard int }
	// ReleasedElsewhere says that another member has given the shard up just now.
	ReleasedElsewhere struct{ Shard int }
)

func (MembersChanged) event()    {}
func (PlacesRead) event()        {}
func (Ready) event()             {}
func (DrainAsked) event()        {}
func (Ticked) event()            {}
func (LeaseRenewed) event()      {}
func (LeaseLost) event()         {}
func (HeldRead) event()          {}
func (Refused) event()           {}
func (Acquired) event()          {}
func (Activated) event()         {}
func (Released) event()          {}
func (ShardFailed) event()       {}
func (SteppedDown) event()       {}
func (ReleasedElsewhere) event() {}

// Command is what an [Ownership] wants done. The types below are all there are.
type Command interface {
	command()
	fmt.Stringer
}

type (
	// Acquire asks the host to take a shard. It answers Refused, ShardFailed, or Acquired and
	// then Activated.
	Acquire struct{ Shard int }
	// Drain asks the host to stop reading, checkpoint and release a shard, whatever it does at
	// the moment, even nothing. It answers Released, ShardFailed or SteppedDown.
	Drain struct {
		Shard int
		// Epoch is the one under which it was acquired; 0 where that is not known: the store
		// may have the shard for this member all the same.
		Epoch uint64
	}
	// Drop tells the host to forget a shard without a word to the store: another member has
	// it. There is no answer.
	Drop struct{ Shard int }
	// Announce tells the others of this node's state.
	Announce struct{ State MemberState }
	// TellReleased tells a member that a shard waits for it.
	TellReleased struct {
		Shard int
		To    string
	}
	// LeaseLapsed says that the node does not answer as owner of a database's shards any more.
	LeaseLapsed struct{ Database int }
	// Verify asks the store which shards it has for this member: HeldRead with the same Seq.
	Verify struct{ Seq uint64 }
	// LeaseRestored says that it does again, for the shards that nobody took.
	LeaseRestored struct{ Database int }
	// Drained says that nothing is left: the node may leave.
	Drained struct{}
)

func (Acquire) command()       {}
func (Drain) command()         {}
func (Drop) command()          {}
func (Announce) command()      {}
func (TellReleased) command()  {}
func (LeaseLapsed) command()   {}
func (LeaseRestored) command() {}
func (Verify) command()        {}
func (Drained) command()       {}

func (c Acquire) String() string       { return fmt.Sprintf("acquire %d", c.Shard) }
func (c Drain) String() string         { return fmt.Sprintf("drain %d", c.Shard) }
func (c Drop) String() string          { return fmt.Sprintf("drop %d", c.Shard) }
func (c Announce) String() string      { return "announce " + c.State.String() }
func (c TellReleased) String() string  { return fmt.Sprintf("tell %s of %d", c.To, c.Shard) }
func (c LeaseLapsed) String() string   { return "lease lapsed" + inDatabase(c.Database) }
func (c LeaseRestored) String() string { return "lease restored" + inDatabase(c.Database) }
func (Verify) String() string          { return "verify" }
func (Drained) String() string         { return "drained" }

// inDatabase names a database where there may be several.
func inDatabase(i int) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprintf(" in database %d", i)
}

// MemberState is how far a member is.
type MemberState uint8

// The states, in their order. Only an active member is given shards.
const (
	// MemberJoining is there, but not ready.
	MemberJoining MemberState = iota
	MemberActive
	// MemberDraining gives up its shards and will leave.
	MemberDraining
)

var memberStates = [...]string{"joining", "active", "draining"}

func (s MemberState) String() string {
	if int(s) < len(memberStates) {
		return memberStates[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// ShardState is where a shard is, as this node sees it.
type ShardState uint8

// The states: see [Ownership].
const (
	Idle ShardState = iota
	Acquiring
	Recovering
	Active
	Draining
	Failed
)

var shardStates = [...]string{"idle", "acquiring", "recovering", "active", "draining", "failed"}

func (s ShardState) String() string { return shardStates[s] }

// NotOwnerError says that this node does not answer for a shard, and who might.
type NotOwnerError struct {
	Shard int
	// Owner is the member that probably does, empty where nobody is known; Address is where
	// its gRPC API listens.
	Owner, Address string
}

func (e *NotOwnerError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("not_owner: shard %d has no known owner", e.Shard)
	}
	return fmt.Sprintf("not_owner: shard %d is with %s at %s", e.Shard, e.Owner, e.Address)
}

// Location is where a shard is to be found.
type Location struct {
	Shard int
	// State is that of the shard on this node.
	State ShardState
	// Here: this node answers as owner now.
	Here bool
	// Leaving: it is to be handed over, and nobody else can have it yet as far as the lease goes.
	// It may be answered for until the host has stopped it.
	Leaving bool
	// Coming: it does not yet, but will unless things change. Wait, within the deadline.
	Coming bool
	// Owner is the member that has the shard or should have it soon; Address its gRPC API.
	Owner, Address string
}

// Err is nil where the shard is here, else *NotOwnerError.
func (l Location) Err() error {
	if l.Here {
		return nil
	}
	return &NotOwnerError{l.Shard, l.Owner, l.Address}
}

// describe writes shard numbers as ranges: "0-3,7".
func describe(shards []int) string {
	if len(shards) == 0 {
		return "-"
	}
	shards = slices.Sorted(slices.Values(shards))
	var b strings.Builder
	for i := 0; i < len(shards); {
		j := i
		for j+1 < len(shards) && shards[j+1] == shards[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, shards[i])
		if j > i {
			fmt.Fprintf(&b, "-%d", shards[j])
		}
		i = j + 1
	}
	return b.String()
}
