// Package logtest is the conformance suite of logs: what the shards rely on, whichever log
// they read. [Run] runs all of it against a log that is opened anew for each test.
//
// The interfaces here are those that the actors declare. They are repeated because store
// imports none of the other rooms.
package logtest
