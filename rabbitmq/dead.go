package rabbitmq

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// DeadQueue is the queue of what could not be accepted. All methods may be called from any
// goroutine.
//
// Invariants:
//
//  1. A letter is in the queue until a visitor has said that it can go, and that is acked. A
//     failure at any line leaves it there, or brings it there twice with the same ID.
//  2. Letters keep their order, whatever visitors did between: who visits consumes them without
//     ack, and gives those that stay back by closing the channel. (Where a visitor dies, those
//     in different windows of its visit may change places.)
//  3. Letters that others put there, a policy of the broker among them, are shown with what
//     can be known of them. Only what a node has put there is believed to have the ID that it
//     says; the ID of any other is a digest.
type DeadQueue struct {
	o DeadQueueOptions
	// visiting is held by who visits: two at once would see parts.
	visiting chan struct{}
}

// DeadQueueOptions says where the queue is.
type DeadQueueOptions struct {
	Topology Topology
	// Publisher is for Put, Conn for visits, with the nodes' user both. A broker that answers
	// nothing loses the connection.
	Publisher *Publisher
	Conn      *Conn
	// Now and After are time.Now and time.After where they are nil.
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
}

// NewDeadQueue makes a queue of one that has been declared.
func NewDeadQueue(o DeadQueueOptions) *DeadQueue {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.After == nil {
		o.After = time.After
	}
	return &DeadQueue{o: o, visiting: make(chan struct{}, 1)}
}

// Put adds letters, in order, and returns nil once the broker has confirmed all. After an error
// some may be there: putting them again is right, since each counts once by its ID. The
// letters must not be changed until it returns.
func (q *DeadQueue) Put(ctx context.Context, letters ...*footfallv1.DeadLetter) error {
	confirmations := make([]*Confirmation, 0, len(letters))
	for _, l := range letters {
		if l.GetId() == "" || len(l.GetId()) > maxShort {
			return fmt.Errorf("dead letter: the ID must have 1 to %d bytes, not %d", maxShort, len(l.GetId()))
		}
		c, err := q.o.Publisher.Publish(ctx, q.o.Topology.DeadName(), "", deadMessage(l, q.o.Conn.User(), q.o.Now()))
		if err != nil {
			return err
		}
		confirmations = append(confirmations, c)
	}
	for _, c := range confirmations {
		if err := c.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// deadMessage is a dead letter as a message of a node.
func deadMessage(l *footfallv1.DeadLetter, user string, now time.Time) amqp.Publishing {
	fault := messages.Fault{Field: clip(l.GetField(), maxReason), Reason: clip(l.GetReason(), maxReason)}
	position := strconv.FormatUint(uint64(l.GetIndex()), 10)
	if _, ok := shardOfSource(l.GetSource()); ok {
		position = strconv.FormatInt(l.GetOffset(), 10) + "/" + position
	}
	headers := amqp.Table{
		HeaderReason:   fault.Error(),
		HeaderSource:   clip(l.GetSource(), maxShort),
		HeaderPosition: position,
	}
	for key, value := range map[string]string{
		HeaderField:      fault.Field,
		HeaderEventID:    clip(l.GetEventId(), maxShort),
		HeaderCustomerID: clip(l.GetCustomerId(), maxShort),
	} {
		if value != "" {
			headers[key] = value
		}
	}
	return amqp.Publishing{
		Headers:      headers,
		ContentType:  clip(l.GetContentType(), maxShort),
		Type:         clip(l.GetType(), maxShort),
		MessageId:    l.GetId(),
		UserId:       user,
		DeliveryMode: amqp.Persistent,
		Timestamp:    now,
		Body:         l.GetBody(),
	}
}

// deadLetter is the other way round, with what can be known of a message.
func deadLetter(d *amqp.Delivery, user string) *footfallv1.DeadLetter {
	l := &footfallv1.DeadLetter{
		Id:          d.MessageId,
		Field:       header(d.Headers, HeaderField),
		Reason:      header(d.Headers, HeaderReason),
		Source:      header(d.Headers, HeaderSource),
		EventId:     header(d.Headers, HeaderEventID),
		CustomerId:  header(d.Headers, HeaderCustomerID),
		ContentType: clip(d.ContentType, maxShort),
		Type:        clip(d.Type, maxShort),
		Body:        d.Body,
	}
	if l.Field != "" {
		l.Reason = strings.TrimPrefix(l.Reason, l.Field+": ")
	}
	offset, index, ok := strings.Cut(header(d.Headers, HeaderPosition), "/")
	if !ok {
		offset, index = "", offset
	}
	if n, err := strconv.ParseInt(offset, 10, 64); err == nil {
		l.Offset = n
	}
	if n, err := strconv.ParseUint(index, 10, 32); err == nil {
		l.Index = uint32(n)
	}
	if l.Reason == "" {
		l.Reason, l.Source = foreignReason(d)
	}
	if shard, ok := shardOfSource(l.Source); ok {
		l.Shard = uint32(shard)
	}
	if d.UserId != user || l.Id == "" {
		l.Id = foreignID(d)
	}
	return l
}

// foreignReason tells of a message without our headers why it is among the dead, and where it
// was before.
func foreignReason(d *amqp.Delivery) (reason, from string) {
	deaths, _ := d.Headers["x-death"].([]any)
	if len(deaths) == 0 {
		return "the publisher gave no reason", ""
	}
	death, _ := deaths[0].(amqp.Table)
	return "the broker moved it here: " + header(death, "reason"), header(death, "queue")
}

// foreignID names a message that is not from a node: equal ones have the same.
func foreignID(d *amqp.Delivery) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(d.MessageId), []byte(d.ContentType), []byte(d.Type), d.Body} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	return "foreign-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// header returns a header that is text, or "".
func header(t amqp.Table, key string) string {
	switch v := t[key].(type) {
	case string:
		return clip(v, 2*maxReason+2)
	case []byte:
		return clip(string(v), 2*maxReason+2)
	default:
		return ""
	}
}

// shardOfSource finds the shard in the name of a stream.
func shardOfSource(name string) (int, bool) {
	i := strings.LastIndex(name, ".events.")
	if i < 0 {
		return 0, false
	}
	shard, err := strconv.ParseUint(name[i+len(".events."):], 10, 32)
	return int(shard), err == nil && shard < messages.MaxShards
}
