package messages

import (
	"hash/crc32"
	"unsafe"
)

// MaxShards bounds the number of shards of a cluster.
const MaxShards = 1 << 14

// ShardOf returns the shard of a customer: crc32_ieee(customerID) mod shards. Any
// language can compute it. shards must be above zero.
func ShardOf(customerID string, shards int) int {
	return int(crc32.ChecksumIEEE(unsafe.Slice(unsafe.StringData(customerID), len(customerID))) % uint32(shards))
}

// Position is a place in a shard's log: an event within a message.
type Position struct {
	Offset uint64
	Index  uint32
}

// Before reports whether p comes before q.
func (p Position) Before(q Position) bool {
	return p.Offset < q.Offset || p.Offset == q.Offset && p.Index < q.Index
}
