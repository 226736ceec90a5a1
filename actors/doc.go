// Package actors hosts the customers: one protoactor actor per shard, see Shard.
//
// It declares the small interfaces that it needs ([Log], [Store], [Scorer]) and is given
// them; it reads no clock but the one it is given.
package actors
