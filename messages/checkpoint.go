package messages

import "footfall/messages/footfallv1"

// CustomerRecord is a customer as a store keeps it. The value is opaque to the store.
type CustomerRecord struct {
	ID    string
	Value []byte
}

// DeadLetter is an event, or a whole message, that could not be folded.
type DeadLetter struct {
	Position   Position
	Field      string
	Reason     string
	EventID    string
	CustomerID string
	// Type says how Body is to be read: EventRecord and JSONRecord are one event, as it stood
	// in the log; anything else is a whole message that could not be taken apart.
	Type RecordType
	Body []byte
}

// OutboxRow is an insight on its way out: written under the fence, published after.
type OutboxRow struct {
	// Seq grows within a shard and is chosen by its owner.
	Seq  uint64
	Body []byte
}

// Checkpoint is one step of a shard's durable state. A store writes all of it or nothing,
// and refuses it with [StaleEpochError] where a higher epoch has been acquired.
type Checkpoint struct {
	Shard     int
	Epoch     uint64
	Meta      *footfallv1.CheckpointMeta
	Customers []CustomerRecord
	// Dead letters are keyed by position and come in its order, also from one checkpoint to the
	// next: whatever is not after the last one that a checkpoint has written was written by an
	// earlier one. Writing it again changes nothing, also where it was dropped or removed since.
	Dead   []DeadLetter
	Outbox []OutboxRow
	// Release gives the shard up with it: it is its owner's last.
	Release bool
}

// Identity is what folded state depends on beside the log. It is stored at creation and
// must be equal at every start.
type Identity struct {
	FoldVersion int    `json:"fold_version"`
	Shards      int    `json:"shards"`
	Timezone    string `json:"timezone"`
	// TimezoneSum is a digest of the zone's transitions, so that new time zone data are noticed.
	TimezoneSum string `json:"timezone_sum"`
	Currency    string `json:"currency"`
}
