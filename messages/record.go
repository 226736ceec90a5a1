package messages

import "hash/crc32"

// RecordType says how the body of a [Record] is to be read.
type RecordType uint8

// The record types. Numbers are stored: never reuse one.
const (
	// UnknownRecord is a message of which nobody can tell how it is to be read.
	UnknownRecord RecordType = 0
	// EventRecord holds one footfall.v1.Event.
	EventRecord RecordType = 1
	// BatchRecord holds one footfall.v1.EventBatch.
	BatchRecord RecordType = 2
	// ControlRecord holds one footfall.v1.Control.
	ControlRecord RecordType = 3
	// JSONRecord holds events as SplitJSONEvents reads them.
	JSONRecord RecordType = 4
)

// Record is one message of a shard's log.
type Record struct {
	// Offset is given by the log on append; offsets of a shard follow each other without gap.
	Offset uint64
	Type   RecordType
	// FromNode is set by the log where it vouches that a node of the cluster wrote the record.
	FromNode bool
	// Origin names the message that a node has republished as this record, so that it counts
	// once however often it was republished; all zero for any other record.
	Origin Origin
	// Time is the writer's clock at append, Unix milliseconds. It serves retention only:
	// nothing of it enters the fold.
	Time int64
	// TraceParent is the trace that the record belongs to, as [HeaderTraceParent] has it, "" for
	// none. A log keeps it where it has room for it, and it counts for nothing else.
	TraceParent string
	// Sum is RecordSum of type and body.
	Sum  uint32
	Body []byte
}

// Origin is a digest of a message that a node took from elsewhere and republished.
type Origin [16]byte

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// RecordSum is the checksum by which a log proves that a message is the one that was
// checkpointed: CRC-32C over the type and the body.
func RecordSum(t RecordType, body []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte{byte(t)}, castagnoli), castagnoli, body)
}

// Mark is how far a shard's log has been folded, with the proof. The zero Mark is the
// beginning of a log.
type Mark struct {
	// Next is the offset to read next.
	Next uint64
	// Sum is the checksum of message Next-1; 0 where Next is 0.
	Sum uint32
}

// RecordBatch is a reusable bundle of records that a log reader fills. Its owner may
// hand it to another goroutine, and gives it back to the reader when the records have
// been folded.
type RecordBatch struct {
	Records []Record
	// Buf backs the bodies of Records.
	Buf []byte
}

// Reset empties the batch and keeps its memory.
func (b *RecordBatch) Reset() {
	clear(b.Records)
	b.Records, b.Buf = b.Records[:0], b.Buf[:0]
}
