package actors

import (
	"context"
	"slices"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// HistoryEntry is one event of a customer and the state right after it.
type HistoryEntry struct {
	Position messages.Position
	Event    *footfallv1.Event
	// Outcome is applied, duplicate, too_late or rejected; Reason tells why it was rejected.
	Outcome string
	Reason  string
	// Record is the folded state after the event; AsOf the time of its latest event.
	Record behavior.Record
	AsOf   int64
}

// History folds a customer's events from the log again and calls each with the newest
// limit of them, oldest first. truncated tells that there are older ones.
func (h *Host) History(ctx context.Context, customerID string, limit int, each func(HistoryEntry) error) (truncated bool, err error) {
	s := h.shardOf(customerID)
	var kept []HistoryEntry
	re := refold{cfg: &h.cfg, shard: s.id, log: h.log, store: h.store, only: customerID, poison: map[messages.Position]string{}}
	re.applied = func(at messages.Position, out behavior.Outcome, reason string, kind messages.RecordType, body []byte) {
		e := HistoryEntry{Position: at, Outcome: "rejected", Reason: reason, Event: &footfallv1.Event{}}
		if reason == "" {
			e.Outcome = out.String()
		}
		if kind == messages.JSONRecord {
			e.Event, _ = messages.DecodeJSONEvent(body)
		} else if err := e.Event.UnmarshalVT(body); err != nil {
			e.Event = nil
		}
		if rec := re.customers[customerID]; rec != nil {
			e.Record = slices.Clone(*rec)
		}
		e.AsOf = e.Record.Lifetime().LastEvent
		if len(kept) == limit {
			kept = kept[:copy(kept, kept[1:])]
			truncated = true
		}
		kept = append(kept, e)
	}
	if err := re.runAll(ctx, s.seen().Next, func() { kept, truncated = nil, false }); err != nil {
		return false, err
	}
	for _, e := range kept {
		if err := each(e); err != nil {
			return false, err
		}
	}
	return truncated || re.first > 0, nil
}
