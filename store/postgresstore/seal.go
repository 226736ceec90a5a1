package postgresstore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"footfall/messages"
)

// Every value stands behind the CRC-32C of what it is the value of and itself: not every database keeps
// checksums of its own, and a value in the wrong row is found, too.

const sumLen = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Kinds of values: part of what is summed, so that one is not taken for another. Numbers are stored.
const (
	metaKind     = 1
	customerKind = 2
	deadKind     = 3
	outboxKind   = 4
)

func sum(kind byte, shard int, key, value []byte) uint32 {
	head := [...]byte{kind, byte(shard >> 8), byte(shard)}
	return crc32.Update(crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, key), castagnoli, value)
}

// appendSealed appends a value behind its checksum.
func appendSealed(b []byte, kind byte, shard int, key, value []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, sum(kind, shard, key, value))
	return append(b, value...)
}

func sealed(kind byte, shard int, key, value []byte) []byte {
	return appendSealed(make([]byte, 0, sumLen+len(value)), kind, shard, key, value)
}

// unseal returns the value; what names it in the error, which is *messages.CorruptError.
func unseal(kind byte, shard int, key, sealed []byte, what func() string) ([]byte, error) {
	if len(sealed) < sumLen {
		return nil, &messages.CorruptError{What: what(), Reason: fmt.Sprintf("%d bytes are no value", len(sealed))}
	}
	value := sealed[sumLen:]
	if have, want := sum(kind, shard, key, value), binary.LittleEndian.Uint32(sealed); have != want {
		return nil, &messages.CorruptError{What: what(), Reason: fmt.Sprintf("value has checksum %08x, was written with %08x", have, want)}
	}
	return value, nil
}

// numberKey is the key of what is numbered.
func numberKey(numbers ...uint64) []byte {
	b := make([]byte, 0, 8*len(numbers))
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}
