package pebblelog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/s2"

	"footfall/messages"
)

const (
	// formatVersion is the first byte of a stored record.
	formatVersion = 1
	headerLen     = 24
	// compressAbove is the least body, in bytes, that is worth the try.
	compressAbove = 512
)

const (
	flagFromNode = 1 << iota
	flagCompressed
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header stands before every body:
//
//	0      format version
//	1      record type
//	2      flags
//	3      zero
//	4..8   CRC-32C of bytes 8..24 and 0..4
//	8..16  time, Unix milliseconds
//	16..20 messages.RecordSum of type and body
//	20..24 length of the body, uncompressed
type header struct {
	typ   messages.RecordType
	flags uint8
	time  int64
	sum   uint32
	size  uint32
}

func (h header) put(b []byte) {
	b[0], b[1], b[2], b[3] = formatVersion, byte(h.typ), h.flags, 0
	binary.BigEndian.PutUint64(b[8:], uint64(h.time))
	binary.BigEndian.PutUint32(b[16:], h.sum)
	binary.BigEndian.PutUint32(b[20:], h.size)
	binary.BigEndian.PutUint32(b[4:], headerSum(b))
}

func headerSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[8:headerLen], castagnoli), castagnoli, b[:4])
}

// parseHeader splits a stored record. A fault is told in words.
func parseHeader(v []byte) (h header, body []byte, fault string) {
	if len(v) < headerLen {
		return h, nil, fmt.Sprintf("%d bytes are no record", len(v))
	}
	if have, want := headerSum(v), binary.BigEndian.Uint32(v[4:]); have != want {
		return h, nil, fmt.Sprintf("header has checksum %08x, was written with %08x", have, want)
	}
	if v[0] != formatVersion {
		return h, nil, fmt.Sprintf("format %d is not known to this version", v[0])
	}
	h = header{
		typ:   messages.RecordType(v[1]),
		flags: v[2],
		time:  int64(binary.BigEndian.Uint64(v[8:])),
		sum:   binary.BigEndian.Uint32(v[16:]),
		size:  binary.BigEndian.Uint32(v[20:]),
	}
	if h.size > MaxBody {
		return h, nil, fmt.Sprintf("a body of %d bytes is larger than any", h.size)
	}
	return h, v[headerLen:], ""
}

// appendBody appends the uncompressed body to buf and proves it. A fault is told in words.
func (h header) appendBody(buf, stored []byte) (out []byte, fault string) {
	n := len(buf)
	if h.flags&flagCompressed == 0 {
		if len(stored) != int(h.size) {
			return buf, fmt.Sprintf("body has %d bytes, was written with %d", len(stored), h.size)
		}
		out = append(buf, stored...)
	} else {
		if l, err := s2.DecodedLen(stored); err != nil || l != int(h.size) {
			return buf, "compressed body is damaged"
		}
		out = slices.Grow(buf, int(h.size))[:n+int(h.size)]
		if d, err := s2.Decode(out[n:], stored); err != nil || len(d) != int(h.size) {
			return buf, "compressed body is damaged"
		}
	}
	if sum := messages.RecordSum(h.typ, out[n:]); sum != h.sum {
		return buf, fmt.Sprintf("body has checksum %08x, was written with %08x", sum, h.sum)
	}
	return out, ""
}

// encoder turns records into stored ones. It keeps its memory.
type encoder struct {
	// ends[i] is where the i-th stored record of buf ends, sums[i] its checksum.
	buf  []byte
	ends []int
	sums []uint32
}

func (e *encoder) reset() { e.buf, e.ends, e.sums = e.buf[:0], e.ends[:0], e.sums[:0] }

// add appends a stored record to the buffer.
func (e *encoder) add(r *messages.Record) {
	h := header{typ: r.Type, time: r.Time, sum: messages.RecordSum(r.Type, r.Body), size: uint32(len(r.Body))}
	if r.FromNode {
		h.flags |= flagFromNode
	}
	at := len(e.buf)
	body := at + headerLen
	if len(r.Body) >= compressAbove {
		most := s2.MaxEncodedLen(len(r.Body))
		e.buf = slices.Grow(e.buf, headerLen+most)[:body+most]
		packed := s2.Encode(e.buf[body:], r.Body)
		if len(packed) < len(r.Body)-len(r.Body)/8 {
			h.flags |= flagCompressed
			e.buf = e.buf[:body+len(packed)]
		}
	}
	if h.flags&flagCompressed == 0 {
		e.buf = slices.Grow(e.buf[:at], headerLen+len(r.Body))[:body]
		e.buf = append(e.buf, r.Body...)
	}
	h.put(e.buf[at:])
	e.ends = append(e.ends, len(e.buf))
	e.sums = append(e.sums, h.sum)
}

// Keys.

const (
	trimKind   = 0
	recordKind = 1
	keyLen     = 2 + 1 + 8
)

func putRecordKey(b []byte, shard int, offset uint64) {
	binary.BigEndian.PutUint16(b, uint16(shard)+shardBase)
	b[2] = recordKind
	binary.BigEndian.PutUint64(b[3:], offset)
}

func recordKey(shard int, offset uint64) []byte {
	b := make([]byte, keyLen)
	putRecordKey(b, shard, offset)
	return b
}

// recordsEnd sorts after every record of a shard.
func recordsEnd(shard int) []byte {
	b := make([]byte, 3)
	binary.BigEndian.PutUint16(b, uint16(shard)+shardBase)
	b[2] = recordKind + 1
	return b
}

func trimKey(shard int) []byte {
	b := make([]byte, 3)
	binary.BigEndian.PutUint16(b, uint16(shard)+shardBase)
	b[2] = trimKind
	return b
}

// shardBase leaves the keys that begin with a zero byte to the database's own.
const shardBase = 0x0100

func keyOffset(key []byte) uint64 { return binary.BigEndian.Uint64(key[3:]) }
