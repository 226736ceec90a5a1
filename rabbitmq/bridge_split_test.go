package rabbitmq

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

const testShards = 8

func testSplitter() *splitter {
	return newSplitter(messages.Validator{Shards: testShards, Currency: "USD"}, "footfall.unsharded")
}

// traffic makes events and messages for tests of the bridge. Each event has another ID.
type traffic struct {
	rng       *rand.Rand
	customers int
	// hot makes half of all events those of one customer.
	hot bool
	// seen counts the events that were made.
	seen int
}

// event makes one event; a faulty one breaks a rule, and its ID says so.
func (t *traffic) event(faulty bool) *footfallv1.Event {
	t.seen++
	ev := &footfallv1.Event{
		EventId:    fmt.Sprintf("e-%d", t.seen),
		CustomerId: fmt.Sprintf("c-%d", t.rng.IntN(t.customers)),
		Time:       &timestamppb.Timestamp{Seconds: 1_500_000_000 + int64(t.seen), Nanos: int32(t.rng.IntN(1e9))},
	}
	if t.hot && t.rng.IntN(2) == 0 {
		ev.CustomerId = "c-0"
	}
	switch t.rng.IntN(4) {
	case 0:
		ev.Kind = &footfallv1.Event_Purchase{Purchase: &footfallv1.Purchase{BasketId: "b", Lines: []*footfallv1.Line{{ProductId: "p", Quantity: 2, Amount: "1.25"}}}}
	case 1:
		ev.Kind = &footfallv1.Event_Profile{Profile: &footfallv1.Profile{Attributes: map[string]string{"a": "1", "b": "2", "c": "3", "d": "4"}}}
	case 2:
		ev.Kind = &footfallv1.Event_PageView{PageView: &footfallv1.PageView{Url: strings.Repeat("u", t.rng.IntN(300))}}
	default:
		ev.Kind = &footfallv1.Event_Erase{Erase: &footfallv1.Erase{}}
	}
	if !faulty {
		return ev
	}
	ev.EventId = "bad-" + ev.EventId
	switch t.rng.IntN(3) {
	case 0:
		ev.CustomerId += "/x"
	case 1:
		ev.Kind = nil
	default:
		ev.Time = nil
	}
	return ev
}

// message wraps events in one of the ways in which a publisher may send them. Protobuf events may
// have fields that this version does not know, which the answer shows as they must come out.
func (t *traffic) message(events []*footfallv1.Event) source {
	asJSON := func(ev *footfallv1.Event) []byte {
		raw, err := protojson.Marshal(ev)
		if err != nil {
			panic(err)
		}
		// protojson puts spaces where it likes.
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			panic(err)
		}
		return b.Bytes()
	}
	parts := make([][]byte, len(events))
	for i, ev := range events {
		parts[i] = asJSON(ev)
	}
	form := t.rng.IntN(5)
	if form == 0 && len(events) != 1 {
		form = 1
	}
	switch form {
	case 0:
		if t.rng.IntN(2) == 0 {
			return source{contentType: "application/json", body: parts[0]}
		}
		return source{contentType: messages.ContentProtobuf, name: messages.TypeEvent, body: t.encode(events[0])}
	case 1:
		return source{contentType: "application/json", name: "anything", body: slices.Concat([]byte("["), bytes.Join(parts, []byte(",\n")), []byte("]"))}
	case 2:
		return source{contentType: "application/json; charset=utf-8", encoding: "UTF-8", body: slices.Concat([]byte(`{"events":[`), bytes.Join(parts, []byte(",")), []byte("]}"))}
	default:
		var body []byte
		for _, ev := range events {
			body = protowire.AppendTag(body, 1, protowire.BytesType)
			body = protowire.AppendBytes(body, t.encode(ev))
			if t.rng.IntN(4) == 0 {
				body = protowire.AppendVarint(protowire.AppendTag(body, 99, protowire.VarintType), 7)
			}
		}
		return source{contentType: messages.ContentProtobuf, name: messages.TypeBatch, encoding: "identity", body: body}
	}
}

func (t *traffic) encode(ev *footfallv1.Event) []byte {
	raw, err := proto.Marshal(ev)
	if err != nil {
		panic(err)
	}
	if t.rng.IntN(3) == 0 {
		raw = protowire.AppendString(protowire.AppendTag(raw, 1000, protowire.BytesType), "of a later version")
	}
	return raw
}

// TestSplit holds splits of valid and faulty events in all forms against what went in: every
// event is in exactly one piece or letter, each customer's in order, with the bytes it came with.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := &traffic{rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), customers: rapid.IntRange(1, 50).Draw(t, "customers")}
		events := make([]*footfallv1.Event, rapid.SampledFrom([]int{1, 2, 10, 100, 1000, 1001, 2500}).Draw(t, "events"))
		faults := rapid.SampledFrom([]float64{0, 0.1, 1}).Draw(t, "faults")
		for i := range events {
			events[i] = gen.event(gen.rng.Float64() < faults)
		}
		m := gen.message(events)
		out := testSplitter().split(m)

		// What must come out, by place.
		shards := make([][]*footfallv1.Event, testShards)
		var bad []int
		for i, ev := range events {
			if strings.HasPrefix(ev.EventId, "bad-") {
				bad = append(bad, i)
				continue
			}
			n := messages.ShardOf(ev.CustomerId, testShards)
			shards[n] = append(shards[n], ev)
		}
		got := make([][]*footfallv1.Event, testShards)
		origins := map[messages.Origin]bool{}
		total := 0
		for _, p := range out.pieces {
			require.False(t, origins[p.origin])
			origins[p.origin] = true
			var batch footfallv1.EventBatch
			require.NoError(t, batch.UnmarshalVT(p.body))
			require.NotEmpty(t, batch.Events)
			require.LessOrEqual(t, len(batch.Events), maxPieceEvents)
			require.LessOrEqual(t, len(p.body), maxPieceBytes)
			total += len(batch.Events)
			for _, ev := range batch.Events {
				if len(ev.ProtoReflect().GetUnknown()) > 0 {
					require.Equal(t, messages.ContentProtobuf, m.contentType)
					messages.DropUnknown(ev)
				}
				got[p.shard] = append(got[p.shard], ev)
			}
		}
		require.Equal(t, total, out.events)
		for n := range shards {
			require.Len(t, got[n], len(shards[n]))
			for i := range shards[n] {
				require.True(t, proto.Equal(shards[n][i], got[n][i]), "%v is %v", shards[n][i], got[n][i])
			}
		}
		require.Len(t, out.rejects, len(bad))
		for i, r := range out.rejects {
			require.EqualValues(t, bad[i], r.letter.Index)
			require.Equal(t, events[bad[i]].EventId, r.letter.EventId)
			require.Equal(t, events[bad[i]].CustomerId, r.letter.CustomerId)
			require.Equal(t, rejectInvalid, r.why)
			require.NotEmpty(t, r.letter.Field)
			require.True(t, strings.HasPrefix(r.letter.Id, "unsharded-") && strings.HasSuffix(r.letter.Id, fmt.Sprintf("-%d", bad[i])))
			// The letter is a message of its own, and meets the same fate.
			alone := testSplitter().split(source{contentType: r.letter.ContentType, name: r.letter.Type, body: r.letter.Body})
			require.Empty(t, alone.pieces)
			require.Equal(t, r.letter.Reason, alone.rejects[0].letter.Reason)
		}
		sameSplit(t, m, out)
	})
}

// sameSplit requires that a message becomes the same in another process.
func sameSplit(t require.TestingT, m source, out *split) {
	again := testSplitter().split(m)
	require.Equal(t, out.pieces, again.pieces)
	require.Equal(t, out.events, again.events)
	require.Len(t, again.rejects, len(out.rejects))
	for i := range out.rejects {
		require.True(t, proto.Equal(out.rejects[i].letter, again.rejects[i].letter))
	}
}

// view is an event in as few bytes as possible, but for its customer.
func view(id, customer string, unknown int) []byte {
	ev := &footfallv1.Event{EventId: id, CustomerId: customer, Time: &timestamppb.Timestamp{}, Kind: &footfallv1.Event_Erase{Erase: &footfallv1.Erase{}}}
	raw, err := ev.MarshalVT()
	if err != nil {
		panic(err)
	}
	if unknown > 0 {
		raw = protowire.AppendBytes(protowire.AppendTag(raw, 1000, protowire.BytesType), make([]byte, unknown))
	}
	return raw
}

func batchOf(events ...[]byte) []byte {
	var b []byte
	for _, raw := range events {
		b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), raw)
	}
	return b
}

func TestSplitOfWhatIsWrong(t *testing.T) {
	good := `{"event_id":"e","customer_id":"900","time":"2017-01-01T12:00:00Z","page_view":{}}`
	huge := make([]byte, maxSource+1)
	for name, c := range map[string]struct {
		in     source
		why    rejection
		reason string
	}{
		"no content type":    {source{body: []byte(good)}, rejectContent, `content_type: must be application/x-protobuf or application/json, not ""`},
		"other content type": {source{contentType: "text/plain", body: []byte(good)}, rejectContent, `content_type: must be application/x-protobuf or application/json, not "text/plain"`},
		"binary content":     {source{contentType: "\xff\x00" + strings.Repeat("x", 200), body: []byte(good)}, rejectContent, `content_type: must be application/x-protobuf or application/json, not "\x00` + strings.Repeat("x", 62) + `"`},
		"packed":             {source{contentType: "application/json", encoding: "gzip", body: []byte(good)}, rejectContent, `content_encoding: must be empty, not "gzip"`},
		"no type":            {source{contentType: messages.ContentProtobuf, body: view("e", "900", 0)}, rejectContent, `type: must be footfall.v1.Event or footfall.v1.EventBatch with protobuf, not ""`},
		"control":            {source{contentType: messages.ContentProtobuf, name: messages.TypeControl, body: []byte{1}}, rejectContent, `type: control records are for nodes`},
		"empty":              {source{contentType: "application/json"}, rejectNoEvent, "the message is empty"},
		"empty array":        {source{contentType: "application/json", body: []byte(" [ ]")}, rejectNoEvent, "the message holds no event"},
		"batch of nothing":   {source{contentType: messages.ContentProtobuf, name: messages.TypeBatch, body: []byte{0x10, 1}}, rejectNoEvent, "the message holds no event"},
		"broken batch":       {source{contentType: messages.ContentProtobuf, name: messages.TypeBatch, body: append(batchOf(view("e", "900", 0)), 0x0a, 5)}, rejectUnread, "unreadable batch of events"},
		"event, not a batch": {
			source{contentType: messages.ContentProtobuf, name: messages.TypeBatch, body: view("31198459610", "900", 0)},
			rejectUnread, "the message is not the batch of events that its type says: one event goes with the type footfall.v1.Event",
		},
		"broken event":    {source{contentType: messages.ContentProtobuf, name: messages.TypeEvent, body: []byte{0x0a, 5}}, rejectUnread, "unreadable event: unexpected EOF"},
		"truncated JSON":  {source{contentType: "application/json", body: []byte("[" + good)}, rejectUnread, "line 1, byte 82: the body ends where , or ] was expected: it is truncated"},
		"not JSON":        {source{contentType: "application/json", body: []byte("purchase")}, rejectUnread, `line 1, byte 0: an event is a JSON object: expected { or [, not "p"`},
		"huge":            {source{contentType: "application/json", body: huge}, rejectTooLarge, "the message has 16777217 bytes, more than 16777216"},
		"too many events": {source{contentType: messages.ContentProtobuf, name: messages.TypeBatch, body: bytes.Repeat([]byte{0x0a, 0}, messages.MaxJSONEvents+1)}, rejectTooLarge, "the message holds 131073 events, more than 131072"},
		"too many of one shard": {
			source{contentType: messages.ContentProtobuf, name: messages.TypeBatch, body: bytes.Repeat(batchOf(view("e", "900", 0)), maxUnsettled*maxPieceEvents+1)},
			rejectTooLarge, "the message holds too many events of shard 2, more than 64 messages of the log: send it in parts",
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := testSplitter().split(c.in)
			require.Empty(t, out.pieces)
			require.Zero(t, out.events)
			require.Len(t, out.rejects, 1)
			r := out.rejects[0]
			require.Equal(t, c.why, r.why)
			require.Equal(t, c.reason, (&messages.Fault{Field: r.letter.Field, Reason: r.letter.Reason}).Error())
			require.Equal(t, c.in.body, r.letter.Body)
			require.Equal(t, "footfall.unsharded", r.letter.Source)
			require.Equal(t, c.in.name, r.letter.Type)
			require.NoError(t, proto.CheckInitialized(r.letter))
			_, err := proto.Marshal(r.letter) // all of its text is UTF-8
			require.NoError(t, err)
			sameSplit(t, c.in, out)
		})
	}
}

func TestSplitBySize(t *testing.T) {
	s := testSplitter()
	shard := messages.ShardOf("900", testShards)
	whole := func(events ...[]byte) *split {
		return s.split(source{contentType: messages.ContentProtobuf, name: messages.TypeBatch, body: batchOf(events...)})
	}
	sizes := func(out *split) (sizes []int) {
		for _, p := range out.pieces {
			require.Equal(t, shard, p.shard)
			sizes = append(sizes, len(p.body))
		}
		return sizes
	}
	// Two that just fit, and two that do not by a byte.
	half := maxPieceBytes/2 - eventField(len(view("e", "900", 1<<16))) + 1<<16
	require.Equal(t, []int{maxPieceBytes}, sizes(whole(view("e", "900", half), view("f", "900", half))))
	require.Equal(t, []int{maxPieceBytes / 2, maxPieceBytes/2 + 1}, sizes(whole(view("e", "900", half), view("f", "900", half+1))))
	// One that is larger alone.
	out := whole(view("a", "900", 0), view("b", "900", 5<<20), view("c", "900", 0))
	require.Len(t, out.pieces, 3)
	require.Empty(t, out.rejects)
	// One for which a message of the log is too small by a byte.
	fits := maxSource - eventField(len(view("e", "900", 4<<20))) + 4<<20
	one := func(unknown int) *split {
		return s.split(source{contentType: messages.ContentProtobuf, name: messages.TypeEvent, body: view("e", "900", unknown)})
	}
	require.Equal(t, []int{maxSource}, sizes(one(fits)))
	out = one(fits + 1)
	require.Empty(t, out.pieces)
	require.Equal(t, rejectTooLarge, out.rejects[0].why)
	// As many of one shard as possible.
	out = s.split(source{contentType: messages.ContentProtobuf, name: messages.TypeBatch, body: bytes.Repeat(batchOf(view("e", "900", 0)), maxUnsettled*maxPieceEvents)})
	require.Len(t, out.pieces, maxUnsettled)
	require.Empty(t, out.rejects)
}

// TestOriginsOfPieces pins what nodes of all versions must agree about.
func TestOriginsOfPieces(t *testing.T) {
	body := batchOf(view("e", "900", 0), view("e", "901", 0), view("f", "900", maxPieceBytes))
	out := testSplitter().split(source{contentType: messages.ContentProtobuf, name: messages.TypeBatch, body: body})
	var got, want []messages.Origin
	for _, p := range out.pieces {
		got = append(got, p.origin)
	}
	for _, place := range [][]byte{{0, 0, 0, 2, 0, 0, 0, 0}, {0, 0, 0, 2, 0, 0, 0, 1}, {0, 0, 0, 4, 0, 0, 0, 0}} {
		sum := sha256.Sum256(slices.Concat(body, place))
		want = append(want, messages.Origin(sum[:16]))
	}
	require.Equal(t, want, got)
}

func FuzzSplit(f *testing.F) {
	gen := &traffic{rng: rand.New(rand.NewPCG(1, 2)), customers: 3}
	for range 20 {
		m := gen.message([]*footfallv1.Event{gen.event(false), gen.event(true), gen.event(false)})
		f.Add(m.contentType, m.name, m.encoding, m.body)
	}
	f.Add(messages.ContentProtobuf, messages.TypeEvent, "", view("e", "900", 3))
	f.Add(messages.ContentJSON, "", "", []byte("{}\n{}"))
	rules := messages.Validator{Shards: testShards, Currency: "USD"}
	f.Fuzz(func(t *testing.T, contentType, name, encoding string, body []byte) {
		m := source{contentType: contentType, name: name, encoding: encoding, body: body}
		out := testSplitter().split(m)
		require.NotZero(t, len(out.pieces)+len(out.rejects))
		events := 0
		for _, p := range out.pieces {
			var batch footfallv1.EventBatch
			require.NoError(t, batch.UnmarshalVT(p.body))
			events += len(batch.Events)
			for _, ev := range batch.Events {
				require.Nil(t, rules.ValidateIn(p.shard, ev), "a reader refuses it")
			}
		}
		require.Equal(t, events, out.events)
		for _, r := range out.rejects {
			_, err := proto.Marshal(r.letter)
			require.NoError(t, err)
			require.NotEmpty(t, r.letter.Reason)
		}
		sameSplit(t, m, out)
	})
}
