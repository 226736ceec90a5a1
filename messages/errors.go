package messages

import "fmt"

// LogGapError says that messages which a shard has not folded yet are gone from its log.
// The shard must stop: passing over them would lose events.
type LogGapError struct {
	Shard int
	// Want is the offset that was needed, First the oldest that the log still has.
	Want, First uint64
}

func (e *LogGapError) Error() string {
	return fmt.Sprintf("log_gap: shard %d needs offset %d, but its log begins at %d", e.Shard, e.Want, e.First)
}

// LogRegressedError says that a shard's log is shorter than, or other than, what was
// checkpointed: a lost or replaced log.
type LogRegressedError struct {
	Shard int
	// Want is the offset that the checkpoint names, Next the end of the log.
	Want, Next uint64
	// Reason tells in words what does not fit.
	Reason string
}

func (e *LogRegressedError) Error() string {
	return fmt.Sprintf("log_regressed: shard %d was checkpointed through offset %d, the log ends before %d: %s", e.Shard, e.Want, e.Next, e.Reason)
}

// CorruptError says that stored bytes do not have the checksum they were written with, or
// cannot be read as what they should be.
type CorruptError struct {
	// What names the thing: "log shard 3 offset 17".
	What   string
	Reason string
}

func (e *CorruptError) Error() string { return fmt.Sprintf("corrupt: %s: %s", e.What, e.Reason) }

// StaleEpochError says that a shard has been acquired under a higher epoch: whoever gets it
// is not the owner any more and must drop the shard.
type StaleEpochError struct {
	Shard         int
	Epoch, Stored uint64
}

func (e *StaleEpochError) Error() string {
	return fmt.Sprintf("stale_epoch: shard %d is at epoch %d in the store, not %d", e.Shard, e.Stored, e.Epoch)
}

// IdentityError says that a log or store was created for another fold.
type IdentityError struct {
	Field      string
	Have, Want string
}

func (e *IdentityError) Error() string {
	return fmt.Sprintf("%s is fixed at creation: stored %s, configured %s", e.Field, e.Have, e.Want)
}

// Fault is a rule of an event that was broken.
type Fault struct {
	// Field is the path of the field in snake case: "purchase.lines[2].amount".
	Field  string
	Reason string
}

func (f *Fault) Error() string {
	if f.Field == "" {
		return f.Reason
	}
	return f.Field + ": " + f.Reason
}

// BlockedError says that a log takes nothing for now, since its server asks all publishers to
// wait. What was on its way as it began may be written all the same; the same call will be
// taken once that is over.
type BlockedError struct {
	// What is the room that refuses: "log".
	What string
	// Reason is what the server says.
	Reason string
}

func (e *BlockedError) Error() string { return fmt.Sprintf("blocked: %s: %s", e.What, e.Reason) }

// UnavailableError says that a log or a store takes no writes, or cannot read: a full or
// failing disk, damaged files, or closed. Nothing that was accepted before is lost.
type UnavailableError struct {
	// What is the room that refuses: "log" or "store".
	What string
	// Reason says what happened and what to do about it.
	Reason string
	// Err is the cause.
	Err error
}

func (e *UnavailableError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("unavailable: %s: %s", e.What, e.Reason)
	}
	return fmt.Sprintf("unavailable: %s: %s: %v", e.What, e.Reason, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }
