package rabbitmq

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Limits of what one message of the queue for unsharded publishers becomes.
const (
	// maxSource is the largest message that is taken apart, in bytes: as much as a log takes.
	maxSource = 16 << 20
	// maxPieceEvents and maxPieceBytes bound a piece. An event that is larger alone is a
	// piece of its own.
	maxPieceEvents = 1000
	maxPieceBytes  = 1 << 20
	// maxUnsettled is how many pieces of one shard may be under way. Readers of a log
	// remember as many origins, so that a piece that comes again is always among them.
	maxUnsettled = 64
	// maxName bounds what is told of a rejected event: a header must fit into one frame.
	maxName, maxReason = messages.MaxID, 1024
)

// rejection is why something was rejected, as metrics tell it.
type rejection uint8

const (
	rejectContent  rejection = iota // neither protobuf nor JSON, or packed
	rejectTooLarge                  // the message, an event, or the number of events
	rejectNoEvent                   // an empty message
	rejectUnread                    // cannot be decoded
	rejectInvalid                   // breaks a rule of events
	rejections
)

func (r rejection) String() string {
	return [...]string{"content", "too_large", "no_event", "unreadable", "invalid"}[r]
}

// rejectCounts counts by reason.
type rejectCounts [rejections]uint32

func (c *rejectCounts) total() (n uint32) {
	for _, more := range c {
		n += more
	}
	return n
}

// source is a message of the queue, as far as it matters.
type source struct {
	contentType, encoding, name string
	body                        []byte
}

// split is what becomes of a message: every event of it is in one piece or one rejection, or
// the message as a whole is a rejection. It depends on nothing but the message.
type split struct {
	pieces  []piece
	rejects []reject
	// events is how many the pieces hold.
	events int
}

// piece is a batch of events of one shard, in the order of the message.
type piece struct {
	shard  int
	origin messages.Origin
	// body is a footfall.v1.EventBatch, good until the next message is split.
	body []byte
}

// reject is a letter for the dead, and why, for metrics.
type reject struct {
	why    rejection
	letter *footfallv1.DeadLetter
}

// splitter takes messages apart. It belongs to one goroutine.
//
// Events keep the bytes that they came with, so that fields which this version does not know
// pass through; of JSON they are encoded, always in the same way.
type splitter struct {
	rules messages.Validator
	// from is the name of the queue, for dead letters.
	from string

	// The message at work.
	src    source
	digest hash.Hash
	out    split
	good   []goodEvent
	// encoded holds the events of JSON, bodies the pieces.
	encoded, bodies []byte
}

// goodEvent is an event that broke no rule, encoded.
type goodEvent struct {
	shard int
	raw   []byte
}

func newSplitter(rules messages.Validator, queue string) *splitter {
	return &splitter{rules: rules, from: queue, digest: sha256.New()}
}

// split takes a message apart. What it returns is good until the next call.
func (s *splitter) split(m source) *split {
	s.src = m
	s.out.pieces, s.out.rejects, s.out.events = s.out.pieces[:0], s.out.rejects[:0], 0
	s.good, s.encoded, s.bodies = s.good[:0], s.encoded[:0], s.bodies[:0]
	s.digest.Reset()
	s.digest.Write(m.body)
	if why, f := s.read(); f != nil {
		return s.whole(why, f)
	}
	if f := s.cut(); f != nil {
		return s.whole(rejectTooLarge, f)
	}
	return &s.out
}

// read decodes and validates the events. A fault is one of the message as a whole.
func (s *splitter) read() (why rejection, f *messages.Fault) {
	m := &s.src
	// Anyone may have put another million bytes into each of these.
	switch {
	case len(m.body) > maxSource:
		return rejectTooLarge, &messages.Fault{Reason: fmt.Sprintf("the message has %d bytes, more than %d", len(m.body), maxSource)}
	case !plainEncoding(m.encoding):
		return rejectContent, &messages.Fault{Field: "content_encoding", Reason: fmt.Sprintf("must be empty, not %s", quoted(m.encoding))}
	case len(m.body) == 0:
		return rejectNoEvent, &messages.Fault{Reason: "the message is empty"}
	}
	switch mediaType(m.contentType) {
	case messages.ContentJSON:
		return s.readJSON()
	case messages.ContentProtobuf:
	default:
		return rejectContent, &messages.Fault{Field: "content_type", Reason: fmt.Sprintf("must be %s or %s, not %s", messages.ContentProtobuf, messages.ContentJSON, quoted(m.contentType))}
	}
	switch m.name {
	case messages.TypeEvent:
		s.readProtobuf(0, m.body)
		return 0, nil
	case messages.TypeBatch:
		return s.readBatch()
	case messages.TypeControl:
		return rejectContent, &messages.Fault{Field: "type", Reason: "control records are for nodes"}
	default:
		return rejectContent, &messages.Fault{Field: "type", Reason: fmt.Sprintf("must be %s or %s with protobuf, not %s", messages.TypeEvent, messages.TypeBatch, quoted(m.name))}
	}
}

// plainEncoding reports whether a body is what it seems. Some libraries for JSON name a
// charset here.
func plainEncoding(encoding string) bool {
	switch strings.ToLower(clip(encoding, 16)) {
	case "", "identity", "utf-8", "utf8":
		return true
	default:
		return false
	}
}

// mediaType is a content type without its parameters: "application/json; charset=utf-8".
func mediaType(contentType string) string {
	word, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(word))
}

func (s *splitter) readJSON() (why rejection, f *messages.Fault) {
	parts, err := messages.SplitJSONEvents(s.src.body)
	if err != nil {
		return rejectUnread, &messages.Fault{Reason: err.Error()}
	}
	if len(parts) == 0 {
		return rejectNoEvent, noEvent
	}
	for i, raw := range parts {
		ev, f := messages.DecodeJSONEvent(raw)
		why := rejectUnread
		if f == nil {
			why, f = rejectInvalid, s.rules.Validate(ev)
		}
		if f != nil {
			eventID, customerID := messages.PeekJSONEvent(raw)
			s.reject(why, f, i, raw, messages.ContentJSON, "", eventID, customerID)
			continue
		}
		s.add(ev.CustomerId, s.encode(ev))
	}
	return 0, nil
}

// encode is deterministic: the order of maps, which only profiles have, is not left to chance.
func (s *splitter) encode(ev *footfallv1.Event) []byte {
	start, size := len(s.encoded), ev.SizeVT()
	if ev.GetProfile() != nil {
		s.encoded, _ = proto.MarshalOptions{Deterministic: true}.MarshalAppend(s.encoded, ev) // its strings are UTF-8: that was validated
		return s.encoded[start:]
	}
	s.encoded = slices.Grow(s.encoded, size)[:start+size]
	_, _ = ev.MarshalToSizedBufferVT(s.encoded[start:]) // fails for fields of a kind that ours do not have
	return s.encoded[start:]
}

// readBatch takes a batch as the readers of a log do: fields beside the events mean nothing,
// and a batch that cannot be read to its end is unreadable as a whole.
func (s *splitter) readBatch() (why rejection, f *messages.Fault) {
	events, f := messages.CheckBatch(s.src.body)
	switch {
	case f != nil:
		return rejectUnread, f
	case events == 0:
		return rejectNoEvent, noEvent
	case events > messages.MaxJSONEvents:
		return rejectTooLarge, &messages.Fault{Reason: fmt.Sprintf("the message holds %d events, more than %d", events, messages.MaxJSONEvents)}
	}
	index := 0
	for b := s.src.body; len(b) > 0; {
		raw, n := messages.NextInBatch(b)
		if raw != nil {
			s.readProtobuf(index, raw)
			index++
		}
		b = b[n:]
	}
	return 0, nil
}

var noEvent = &messages.Fault{Reason: "the message holds no event"}

// batchEvents is the field of an EventBatch that holds events.
const batchEvents = messages.BatchEvents

func (s *splitter) readProtobuf(index int, raw []byte) {
	// Its strings point into the message: what outlives it must be cloned.
	ev := &footfallv1.Event{}
	why, f := rejectUnread, (*messages.Fault)(nil)
	if err := ev.UnmarshalVTUnsafe(raw); err != nil {
		f = &messages.Fault{Reason: "unreadable event: " + err.Error()}
	} else {
		why, f = rejectInvalid, s.rules.Validate(ev)
	}
	if f == nil && eventField(len(raw)) > maxSource {
		why, f = rejectTooLarge, &messages.Fault{Reason: fmt.Sprintf("the event has %d bytes, more than a message of the log takes", len(raw))}
	}
	if f != nil {
		s.reject(why, f, index, raw, messages.ContentProtobuf, messages.TypeEvent, ev.EventId, ev.CustomerId)
		return
	}
	s.add(ev.CustomerId, raw)
}

func (s *splitter) add(customerID string, raw []byte) {
	s.good = append(s.good, goodEvent{messages.ShardOf(customerID, s.rules.Shards), raw})
}

// cut makes pieces of the good events. A fault is one of the message as a whole: readers of
// the log could not tell all of its pieces again.
func (s *splitter) cut() *messages.Fault {
	if len(s.good) > 1 {
		slices.SortStableFunc(s.good, func(a, b goodEvent) int { return cmp.Compare(a.shard, b.shard) })
	}
	size := 0
	for _, ev := range s.good {
		size += eventField(len(ev.raw))
	}
	s.bodies = slices.Grow(s.bodies, size)
	number := 0
	for rest := s.good; len(rest) > 0; {
		shard, n, size := rest[0].shard, 0, 0
		for n < len(rest) && rest[n].shard == shard && n < maxPieceEvents {
			more := eventField(len(rest[n].raw))
			if n > 0 && size+more > maxPieceBytes {
				break
			}
			size += more
			n++
		}
		if number == maxUnsettled {
			return &messages.Fault{Reason: fmt.Sprintf("the message holds too many events of shard %d, more than %d messages of the log: send it in parts", shard, maxUnsettled)}
		}
		start := len(s.bodies)
		for _, ev := range rest[:n] {
			s.bodies = protowire.AppendTag(s.bodies, batchEvents, protowire.BytesType)
			s.bodies = protowire.AppendBytes(s.bodies, ev.raw)
		}
		s.out.pieces = append(s.out.pieces, piece{shard: shard, origin: s.origin(shard, number), body: s.bodies[start:len(s.bodies):len(s.bodies)]})
		s.out.events += n
		number++
		if rest = rest[n:]; len(rest) > 0 && rest[0].shard != shard {
			number = 0
		}
	}
	return nil
}

// eventField is how many bytes an event of so many takes in a batch.
func eventField(n int) int { return protowire.SizeTag(batchEvents) + protowire.SizeBytes(n) }

// origin names a piece: the first 16 bytes of SHA-256(body ‖ shard ‖ number), both numbers of
// 4 bytes, big endian. The number counts the pieces of the shard.
func (s *splitter) origin(shard, number int) messages.Origin {
	h := s.digest
	if len(s.good) > 1 {
		// Only a message of one event is sure to need its digest no more.
		h = clone(h)
	}
	var b [8]byte
	binary.BigEndian.PutUint32(b[:4], uint32(shard))
	binary.BigEndian.PutUint32(b[4:], uint32(number))
	h.Write(b[:])
	var sum [sha256.Size]byte
	return messages.Origin(h.Sum(sum[:0])[:16])
}

// clone copies a digest of what was written so far.
func clone(h hash.Hash) hash.Hash {
	to, err := h.(hash.Cloner).Clone()
	if err != nil {
		panic("a digest of the standard library cannot be copied: " + err.Error())
	}
	return to
}

// whole rejects the message as it is.
func (s *splitter) whole(why rejection, f *messages.Fault) *split {
	s.out.pieces, s.out.rejects, s.out.events = s.out.pieces[:0], s.out.rejects[:0], 0
	s.reject(why, f, 0, s.src.body, s.src.contentType, s.src.name, "", "")
	return &s.out
}

func (s *splitter) reject(why rejection, f *messages.Fault, index int, body []byte, contentType, name, eventID, customerID string) {
	var sum [sha256.Size]byte
	s.out.rejects = append(s.out.rejects, reject{why, &footfallv1.DeadLetter{
		Id:          fmt.Sprintf("unsharded-%s-%d", hex.EncodeToString(s.digest.Sum(sum[:0])[:16]), index),
		Source:      s.from,
		Index:       uint32(index),
		Field:       clip(f.Field, maxReason),
		Reason:      clip(f.Reason, maxReason),
		EventId:     clip(eventID, maxName),
		CustomerId:  clip(customerID, maxName),
		ContentType: clip(contentType, 255),
		Type:        clip(name, 255),
		Body:        body,
	}})
}

// clip copies what a publisher gave: valid UTF-8 of at most limit bytes.
func clip(s string, limit int) string { return strings.Clone(messages.ClipText(s, limit)) }

// quoted shows a word of a publisher in a reason.
func quoted(s string) string { return fmt.Sprintf("%q", clip(s, 64)) }
