// Package storetest is the conformance suite of stores: what the shards rely on, whichever
// store keeps their checkpoints. [Run] runs all of it against a store that is opened anew
// for each test.
//
// The interfaces here are those that the actors and the node declare. They are repeated
// because store imports none of the other rooms.
package storetest
