package rabbitmq

import (
	"bytes"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

func TestParseRecord(t *testing.T) {
	origin := messages.Origin{1, 2, 3, 15: 16}
	of := func(change func(*amqp.Delivery)) amqp.Delivery {
		d := amqp.Delivery{
			Headers: amqp.Table{headerOffset: int64(7)}, ContentType: messages.ContentProtobuf, Type: messages.TypeEvent, UserId: "node", Body: []byte("body"),
		}
		change(&d)
		return d
	}
	node := messages.Record{Type: messages.EventRecord, FromNode: true}
	other := func(typ messages.RecordType) messages.Record { return messages.Record{Type: typ, FromNode: true} }
	for name, c := range map[string]struct {
		d    amqp.Delivery
		node string
		want messages.Record
	}{
		"event":               {of(func(*amqp.Delivery) {}), "node", node},
		"batch":               {of(func(d *amqp.Delivery) { d.Type = messages.TypeBatch }), "node", other(messages.BatchRecord)},
		"control":             {of(func(d *amqp.Delivery) { d.Type = messages.TypeControl }), "node", other(messages.ControlRecord)},
		"unknown type":        {of(func(d *amqp.Delivery) { d.Type = "footfall.v1.Customer" }), "node", other(messages.UnknownRecord)},
		"no type":             {of(func(d *amqp.Delivery) { d.Type = "" }), "node", other(messages.UnknownRecord)},
		"JSON":                {of(func(d *amqp.Delivery) { d.ContentType = messages.ContentJSON }), "node", other(messages.JSONRecord)},
		"JSON with charset":   {of(func(d *amqp.Delivery) { d.ContentType = "Application/JSON; charset=utf-8" }), "node", other(messages.JSONRecord)},
		"text":                {of(func(d *amqp.Delivery) { d.ContentType = "text/plain" }), "node", other(messages.UnknownRecord)},
		"no content type":     {of(func(d *amqp.Delivery) { d.ContentType = "" }), "node", other(messages.UnknownRecord)},
		"compressed":          {of(func(d *amqp.Delivery) { d.ContentEncoding = "gzip" }), "node", other(messages.UnknownRecord)},
		"identity encoding":   {of(func(d *amqp.Delivery) { d.ContentEncoding = "identity" }), "node", node},
		"another user":        {of(func(d *amqp.Delivery) { d.UserId = "shop" }), "node", messages.Record{Type: messages.EventRecord}},
		"no user":             {of(func(d *amqp.Delivery) { d.UserId = "" }), "node", messages.Record{Type: messages.EventRecord}},
		"no user, no nodes":   {of(func(d *amqp.Delivery) { d.UserId = "" }), "", messages.Record{Type: messages.EventRecord}},
		"time":                {of(func(d *amqp.Delivery) { d.Timestamp = time.Unix(5, 0) }), "node", messages.Record{Type: messages.EventRecord, FromNode: true, Time: 5000}},
		"origin":              {of(func(d *amqp.Delivery) { d.Headers[HeaderOrigin] = origin[:] }), "node", messages.Record{Type: messages.EventRecord, FromNode: true, Origin: origin}},
		"origin as text":      {of(func(d *amqp.Delivery) { d.Headers[HeaderOrigin] = string(origin[:]) }), "node", messages.Record{Type: messages.EventRecord, FromNode: true, Origin: origin}},
		"origin of a liar":    {of(func(d *amqp.Delivery) { d.Headers[HeaderOrigin], d.UserId = origin[:], "shop" }), "node", messages.Record{Type: messages.EventRecord}},
		"origin too short":    {of(func(d *amqp.Delivery) { d.Headers[HeaderOrigin] = origin[:15] }), "node", node},
		"origin too long":     {of(func(d *amqp.Delivery) { d.Headers[HeaderOrigin] = append(origin[:], 1) }), "node", node},
		"origin is a number":  {of(func(d *amqp.Delivery) { d.Headers[HeaderOrigin] = int64(1) }), "node", node},
		"origin is a table":   {of(func(d *amqp.Delivery) { d.Headers[HeaderOrigin] = amqp.Table{} }), "node", node},
		"nothing in the body": {of(func(d *amqp.Delivery) { d.Body = nil }), "node", node},
	} {
		t.Run(name, func(t *testing.T) {
			have := messages.Record{Origin: messages.Origin{9}, Time: 9} // a reused one
			parseRecord(&c.d, c.node, &have)
			c.want.Body = c.d.Body
			c.want.Sum = messages.RecordSum(c.want.Type, c.d.Body)
			require.Equal(t, c.want, have)
		})
	}
}

func TestOffsetOf(t *testing.T) {
	for name, c := range map[string]struct {
		headers amqp.Table
		want    uint64
		ok      bool
	}{
		"none":     {nil, 0, false},
		"zero":     {amqp.Table{headerOffset: int64(0)}, 0, true},
		"some":     {amqp.Table{headerOffset: int64(1) << 40}, 1 << 40, true},
		"negative": {amqp.Table{headerOffset: int64(-1)}, 0, false},
		"text":     {amqp.Table{headerOffset: "17"}, 0, false},
		"small":    {amqp.Table{headerOffset: int32(17)}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			offset, ok := offsetOf(&amqp.Delivery{Headers: c.headers})
			require.Equal(t, c.ok, ok)
			if ok {
				require.Equal(t, c.want, offset)
			}
		})
	}
}

// A record is read as it was published, by way of what AMQP carries.
func FuzzRecord(f *testing.F) {
	f.Add(uint8(1), true, int64(5000), []byte("0123456789abcdef"), []byte("body"), "application/json", "gzip", "shop")
	f.Add(uint8(4), false, int64(0), []byte{}, []byte{}, "", "", "")
	f.Fuzz(func(t *testing.T, typ uint8, fromNode bool, ms int64, origin, body []byte, content, encoding, user string) {
		r := messages.Record{Type: messages.RecordType(typ % 5), FromNode: fromNode, Time: ms / 1000 % 1e12 * 1000, TraceParent: user, Body: body}
		copy(r.Origin[:], origin)
		p := publishing(&r, "node")
		require.NoError(t, checkMessage("", "stream", &p))
		d := amqp.Delivery{Headers: p.Headers, ContentType: p.ContentType, Type: p.Type, UserId: p.UserId, Timestamp: p.Timestamp, Body: p.Body}
		if d.Headers != nil {
			d.Headers[headerOffset] = int64(1)
		}
		var have messages.Record
		parseRecord(&d, "node", &have)
		want := r
		want.Sum = messages.RecordSum(r.Type, body)
		if !fromNode {
			want.Origin = messages.Origin{}
		}
		require.Equal(t, want, have)

		// Whatever others publish is some record, and never from a node.
		d = amqp.Delivery{
			Headers: amqp.Table{HeaderOrigin: origin, headerOffset: content, messages.HeaderTraceParent: user}, ContentType: content, ContentEncoding: encoding, Type: user, UserId: user, Body: body,
		}
		parseRecord(&d, "node", &have)
		require.Equal(t, user == "node", have.FromNode)
		require.Equal(t, user, have.TraceParent)
		require.LessOrEqual(t, have.Type, messages.JSONRecord)
		require.True(t, bytes.Equal(body, have.Body))
		_, ok := offsetOf(&d)
		require.False(t, ok)
	})
}

// A filler says nothing to any fold, and tells its predecessor.
func TestFiller(t *testing.T) {
	f := filler(10, 8, 77)
	require.Equal(t, uint64(10), f.Offset)
	require.True(t, f.FromNode)
	require.Equal(t, messages.RecordSum(f.Type, f.Body), f.Sum)
	var c footfallv1.Control
	require.NoError(t, c.UnmarshalVT(f.Body))
	require.Nil(t, c.GetKind())
	require.Empty(t, c.GetNode())
	require.Equal(t, f, filler(10, 8, 77))
	require.NotEqual(t, f.Sum, filler(10, 8, 78).Sum)
	require.NotEqual(t, f.Sum, filler(10, 7, 77).Sum)
}
