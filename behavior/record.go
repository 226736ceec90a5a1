// Package behavior is pure: a customer's [Record], the fold of events into it ([Apply]), and
// what is read from it: the ten [Features] and the sequence.
package behavior

// FoldVersion changes whenever the same log would give other records.
const FoldVersion = 1

// Record is the canonical encoding of one customer's folded state. nil is a customer of whom
// nothing was ever heard.
type Record []byte

// Outcome is what became of an event.
type Outcome uint8

// The outcomes.
const (
	// Applied: the event is in the record.
	Applied Outcome = iota + 1
	// Duplicate: its ID is among the customer's last 32; the record is unchanged.
	Duplicate
	// TooLate: its day is not kept any more; it counts in the lifetime totals only.
	TooLate
)

// String is the outcome as answers name it.
func (o Outcome) String() string {
	switch o {
	case Applied:
		return "applied"
	case Duplicate:
		return "duplicate"
	case TooLate:
		return "too_late"
	}
	return "unknown"
}

// Apply folds ev into rec and returns the new record. It owns rec: it may write into rec[:len]
// and use the capacity up to cap(rec); only where that does not suffice it returns a new
// slice. rec must be nil, empty, or come from Apply or Load.
func Apply(rec Record, ev *Event, cal *Calendar) (Record, Outcome) { panic("not yet") }

// Load takes stored bytes as a record: it checks them and brings older versions up to date.
// The record may share memory with b. Errors are *messages.CorruptError.
func Load(b []byte) (Record, error) { panic("not yet") }

// Validate checks all invariants of a record.
func (r Record) Validate() error { panic("not yet") }

// Exists reports whether anything is known of the customer: false for an empty record, and
// from an erase until the next event.
func (r Record) Exists() bool { panic("not yet") }

// HasEvent reports whether the ID is among the last 32 that were applied.
func (r Record) HasEvent(id uint64) bool { panic("not yet") }

// Lifetime sums over everything that was ever applied.
type Lifetime struct {
	Events           uint64
	Purchases        uint64
	ShoppingDays     uint64
	Refunds          uint64
	PageViews        uint64
	CartAdds         uint64
	CartRemoves      uint64
	Campaigns        uint64
	Redemptions      uint64
	Updates          uint64 // profile and identify
	TooLate          uint64
	Spend            int64 // ten-thousandths: all purchases
	Refunded         int64 // ten-thousandths: all refunds
	Discount         int64 // ten-thousandths
	FirstDaySpend    int64 // ten-thousandths: the purchases of the first shopping day
	FirstShoppingDay int32 // days since 1970-01-01, valid where Purchases > 0
	LastShoppingDay  int32
	LastPurchase     int64 // Unix milliseconds, valid where Purchases > 0
	LastEvent        int64 // Unix milliseconds, the latest time of any event
	LastPageView     int64 // Unix milliseconds, valid where PageViews > 0
	LastCartAdd      int64
	LastCampaign     int64
	CampaignUntil    int64 // Unix milliseconds: the latest end of a received campaign; 0 if none is known
	LastRedemption   int64
}

// Lifetime reads the totals.
func (r Record) Lifetime() Lifetime { panic("not yet") }

// Attributes reads the profile, sorted by key.
func (r Record) Attributes() []Attribute { panic("not yet") }

// KnownAs is the name that an identify gave, or empty.
func (r Record) KnownAs() string { panic("not yet") }
