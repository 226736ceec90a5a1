package rabbitmq

import (
	"encoding/binary"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
)

// headerOffset is set by the broker on what it delivers from a stream; a publisher's own header
// of that name does not get through.
const headerOffset = "x-stream-offset"

// offsetOf returns where in its stream a delivery stands.
func offsetOf(d *amqp.Delivery) (offset uint64, ok bool) {
	o, ok := d.Headers[headerOffset].(int64)
	return uint64(o), ok && o >= 0
}

// parseRecord reads a delivery: whatever it is, it is some record. The body is not copied. node
// is the name that nodes have on the broker, which lets nobody else use it; "" for none.
func parseRecord(d *amqp.Delivery, node string, r *messages.Record) {
	r.Type = recordType(d)
	r.FromNode = node != "" && d.UserId == node
	r.Origin = messages.Origin{}
	if r.FromNode && len(d.Headers) > 1 {
		switch v := d.Headers[HeaderOrigin].(type) {
		case []byte:
			if len(v) == len(r.Origin) {
				copy(r.Origin[:], v)
			}
		case string:
			if len(v) == len(r.Origin) {
				copy(r.Origin[:], v)
			}
		}
	}
	r.TraceParent = ""
	if len(d.Headers) > 1 {
		r.TraceParent, _ = d.Headers[messages.HeaderTraceParent].(string)
	}
	r.Time = 0
	if !d.Timestamp.IsZero() {
		r.Time = d.Timestamp.UnixMilli()
	}
	r.Body = d.Body
	r.Sum = messages.RecordSum(r.Type, r.Body)
}

// recordType says how the body of a delivery is to be read.
func recordType(d *amqp.Delivery) messages.RecordType {
	if !plainEncoding(d.ContentEncoding) {
		return messages.UnknownRecord
	}
	content := d.ContentType
	if content != messages.ContentProtobuf && content != messages.ContentJSON {
		content = mediaType(content)
	}
	switch content {
	case messages.ContentProtobuf:
		switch d.Type {
		case messages.TypeEvent:
			return messages.EventRecord
		case messages.TypeBatch:
			return messages.BatchRecord
		case messages.TypeControl:
			return messages.ControlRecord
		}
	case messages.ContentJSON:
		return messages.JSONRecord
	}
	return messages.UnknownRecord
}

// publishing makes a message of a record.
func publishing(r *messages.Record, node string) amqp.Publishing {
	p := amqp.Publishing{Body: r.Body, DeliveryMode: amqp.Persistent}
	p.ContentType, p.Type = r.Type.Content()
	if r.FromNode {
		p.UserId = node
	}
	if r.Origin != (messages.Origin{}) {
		p.Headers = amqp.Table{HeaderOrigin: r.Origin[:]}
	}
	if r.TraceParent != "" {
		if p.Headers == nil {
			p.Headers = amqp.Table{}
		}
		p.Headers[messages.HeaderTraceParent] = r.TraceParent
	}
	if r.Time != 0 {
		p.Timestamp = time.UnixMilli(r.Time)
	}
	return p
}

// filler is the record that stands for an offset that holds no message: the broker uses some for
// notes of its own, one at the beginning of each segment. It is a control record that says
// nothing, so that the offsets of records follow each other. Its body names the message
// before, with its checksum: so a mark at a filler proves that message.
//
//	0x7a 16       a field that no version of Control has, of 16 bytes
//	offset (8)    of the message before
//	sum (4)       its checksum
//	0 (4)
func filler(offset, before uint64, sum uint32) messages.Record {
	body := make([]byte, 18)
	body[0], body[1] = 15<<3|2, 16
	binary.BigEndian.PutUint64(body[2:], before)
	binary.BigEndian.PutUint32(body[10:], sum)
	return messages.Record{Offset: offset, Type: messages.ControlRecord, FromNode: true, Sum: messages.RecordSum(messages.ControlRecord, body), Body: body}
}
