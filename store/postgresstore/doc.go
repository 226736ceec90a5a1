// Package postgresstore keeps the checkpoints of a cluster's shards, and its leases, in one or
// more PostgreSQL databases, or others that speak its protocol and SQL. [Store] promises:
//
//  1. A checkpoint is written whole and durably, or not at all.
//  2. Only the shard's present epoch writes or reads: every other gets
//     *messages.StaleEpochError, and epochs only grow. The check is part of the statement that
//     reads, and of the transaction that writes.
//  3. A shard is acquired only where it was released or its owner's lease has lapsed, by the
//     database's clock, else the error is *messages.HeldError.
//  4. A value that is read is the one that was written in that row, else *messages.CorruptError.
//  5. Dead letters are bounded in number and bytes; the oldest are dropped, and counted. One
//     that was dropped or removed does not come back.
//  6. A base snapshot is a whole checkpoint, kept apart: a new one replaces the old one in one
//     step.
//  7. A lost connection, a server that restarts or fails over, and a conflict of transactions
//     are no errors: the call is tried again, for a bounded time, then the error is
//     *messages.UnavailableError. No call takes effect after a later one of the same epoch has.
//  8. A password appears in no error and no log.
//
// # Writing under the fence
//
// A write is a transaction of two steps. The first locks the shard's row and compares the epoch;
// only with its answer are the changes sent. So whoever has sent changes holds the lock, and of a
// connection that was lost there are three cases: it did not get the lock, then it never
// writes, since nobody sends its changes any more; it has the lock, then the next try waits for
// the lock until the database has decided about it; or it is decided. The next try is therefore
// never overtaken by an earlier one, and by the random number that each checkpoint carries it
// sees whether that took place.
//
// The locks are PostgreSQL's row locks, in three strengths: FOR KEY SHARE for rows of the outbox
// and dead letters beside a checkpoint, FOR NO KEY UPDATE for one checkpoint at a time, FOR
// UPDATE for acquiring, which waits for all of them, and for tries after the first. Who acquires does
// not wait for ever: of an owner without a lease it ends the server processes that hold the row.
//
// Customers travel as two arrays that one INSERT ... ON CONFLICT unpacks. COPY into a temporary table and an INSERT from there
// was between as fast and a third faster, but not every database that speaks the protocol has temporary tables
// that are quick, and a staging table that is none doubles what is written.
//
// # Several databases
//
// Shard s lives in database s mod n of the list. Everything about a shard is in its own
// database, its owner's lease too: each member renews its lease in every database, so that
// the lease and the epoch are compared in one transaction. Number and order of the databases
// are fixed at creation.
//
// # What the databases must do
//
// Commit durably (synchronous_commit is switched on where it is off), and keep commits over a
// failover: with asynchronous replicas the last epochs may be lost with the primary. Such an
// epoch is told from the one given later under the same number, so that no two owners of
// this program write; but checkpoints may be gone, and the shards then fold again from the log.
// Their clocks may differ by less than a lease between primary and standby.
package postgresstore
