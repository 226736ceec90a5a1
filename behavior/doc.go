// Package behavior is the pure heart of Footfall: what is known of one customer ([Record]),
// how an event changes it ([Apply]), and what models and people are told of it
// ([Record.Features], [Record.Sequence], [Record.Lifetime]).
//
// It has no clock, no I/O and no randomness. A record is a function of the customer's events
// in log order and of the [Calendar]; the same events give the same bytes on every machine:
//
//   - money is an integer of ten-thousandths, sums saturate;
//   - float products are wrapped in float64(), so that no compiler fuses them;
//   - no map is walked.
//
// # Days
//
// A shopping day is a calendar day with at least one purchase. Its tile holds the sums of the
// day. Kept are the tiles of all shopping days that are at most 84 days before the latest one,
// and of the last ten however old they are; what drops out leaves its gap in the base of
// gap_ewma. A refund on a day without purchase has a tile, too, which counts in the spend of
// windows but is no shopping day; it is kept until it is more than 84 days before the latest
// tile of any kind.
//
// A late event goes into its own day's tile. A purchase on a day that would not be kept, and
// a refund on a day that is not, change the lifetime totals only: [TooLate].
package behavior
