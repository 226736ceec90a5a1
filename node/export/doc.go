// Package export turns a history of events into training data: [Fold] replays it through the
// very fold that serves ([behavior.Apply]), and at the end of days hands out what is to be
// known of every customer then. [Features] writes the features, [Lifetimes] the totals that
// models of customer lifetime are fitted to.
//
// A snapshot at the end of a day is taken at the day's last millisecond: a moment later the
// instant would belong to the next day, and every window of calendar days would have moved.
package export
