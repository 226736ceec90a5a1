package pebblestore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cockroachdb/pebble/v2"

	"footfall/messages"
)

const (
	ownerKind      = 1
	metaKind       = 2
	customerKind   = 3
	deadKind       = 4
	deadCountsKind = 5
	outboxKind     = 6
	baseKind       = 7
	baseRowKind    = 8

	// shardBase leaves the keys that begin with a zero byte to the database's own.
	shardBase = 0x0100
	prefixLen = 3
	sumLen    = 4
)

// appendKey appends the prefix of a kind's keys.
func appendKey(b []byte, shard int, kind byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(shard)+shardBase)
	return append(b, kind)
}

func key(shard int, kind byte) []byte { return appendKey(make([]byte, 0, 16), shard, kind) }

func customerKey(b []byte, shard int, id string) []byte {
	return append(appendKey(b[:0], shard, customerKind), id...)
}

func deadKey(shard int, p messages.Position) []byte {
	b := binary.BigEndian.AppendUint64(key(shard, deadKind), p.Offset)
	return binary.BigEndian.AppendUint32(b, p.Index)
}

func deadPosition(k []byte) messages.Position {
	return messages.Position{Offset: binary.BigEndian.Uint64(k[prefixLen:]), Index: binary.BigEndian.Uint32(k[prefixLen+8:])}
}

func outboxKey(shard int, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(key(shard, outboxKind), seq)
}

func baseRowPrefix(shard int, generation uint64) []byte {
	return binary.BigEndian.AppendUint64(key(shard, baseRowKind), generation)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// set adds a sealed value to a batch.
func set(b *pebble.Batch, key, value []byte) error {
	d := b.SetDeferred(len(key), sumLen+len(value))
	copy(d.Key, key)
	binary.LittleEndian.PutUint32(d.Value, sum(key, value))
	copy(d.Value[sumLen:], value)
	return d.Finish()
}

// unseal returns the value, and in words why it is not what was written.
func unseal(key, sealed []byte) (value []byte, fault string) {
	if len(sealed) < sumLen {
		return nil, fmt.Sprintf("%d bytes are no value", len(sealed))
	}
	value = sealed[sumLen:]
	if have, want := sum(key, value), binary.LittleEndian.Uint32(sealed); have != want {
		return nil, fmt.Sprintf("value has checksum %08x, was written with %08x", have, want)
	}
	return value, ""
}
