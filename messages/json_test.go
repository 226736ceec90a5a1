package messages

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "footfall/messages/footfallv1"
)

const documented = `{"event_id":"b-31198459610","customer_id":"900","time":"2017-01-01T11:53:26Z","purchase":{"basket_id":"31198459610","currency":"USD","lines":[{"product_id":"1095275","department":"PASTRY","quantity":1,"amount":"0.50","discount":"0.00"}]}}`

func TestDecodeJSONEvent(t *testing.T) {
	want := &pb.Event{
		EventId: "b-31198459610", CustomerId: "900", Time: at(1_483_271_606),
		Kind: &pb.Event_Purchase{Purchase: &pb.Purchase{BasketId: "31198459610", Currency: "USD", Lines: []*pb.Line{
			{ProductId: "1095275", Department: "PASTRY", Quantity: 1, Amount: "0.50", Discount: "0.00"},
		}}},
	}
	camel := strings.NewReplacer("event_id", "eventId", "customer_id", "customerId", "basket_id", "basketId", "product_id", "productId").Replace(documented)
	for _, raw := range []string{documented, camel, "\n\t" + documented + " ", strings.Replace(documented, "11:53:26Z", "06:53:26-05:00", 1), strings.Replace(documented, `:1,`, `:"1",`, 1)} {
		ev, f := DecodeJSONEvent([]byte(raw))
		require.Nil(t, f)
		require.True(t, proto.Equal(want, ev), "%v", ev)
		require.Nil(t, testValidator.Validate(ev))
	}
}

func TestDecodeJSONEventFaults(t *testing.T) {
	change := func(from, to string) string {
		require.Contains(t, documented, from)
		return strings.Replace(documented, from, to, 1)
	}
	for _, c := range []struct{ raw, field, reason string }{
		{``, "", "truncated"},
		{`   `, "", "truncated"},
		{documented[:len(documented)-1], "", "truncated"},
		{`{"event_id":"a",}`, "", "malformed JSON at byte 17"},
		{documented + "x", "", "malformed JSON"},
		{`7`, "", "must be an object, not the number 7"},
		{`[]`, "", "must be an object, not an array"},
		{`null`, "", "must be an object, not null"},
		{"{\"event_id\":\"\xff\"}", "", "UTF-8"},
		{`{"eventid":"a"}`, "eventid", "no such field: did you mean event_id?"},
		{`{"colour":"a"}`, "colour", "no such field"},
		{`{"a b\u0000":1}`, `"a b\x00"`, "no such field"},
		{change(`"department"`, `"departement"`), "purchase.lines[0].departement", "no such field"},
		{change(`"b-31198459610"`, `7`), "event_id", "must be a string, not the number 7"},
		{change(`"0.50"`, `0.50`), "purchase.lines[0].amount", `must be a string such as "0.50", not the number 0.50`},
		{change(`"0.50"`, `null`), "", ""},
		{change(`"quantity":1`, `"quantity":-1`), "purchase.lines[0].quantity", "whole number from 0 to 4294967295"},
		{change(`"quantity":1`, `"quantity":1.5`), "purchase.lines[0].quantity", "whole number"},
		{change(`"quantity":1`, `"quantity":"many"`), "purchase.lines[0].quantity", `not the string "many"`},
		{change(`"quantity":1`, `"quantity":4294967296`), "purchase.lines[0].quantity", "whole number"},
		{change(`"quantity":1`, `"quantity":true`), "purchase.lines[0].quantity", "not true"},
		{change(`"time"`, `"sequence":18446744073709551616,"time"`), "sequence", "from 0 to 18446744073709551615"},
		{change(`[{`, `{"x":{`) + "}", "", "malformed"},
		{change(`"lines":[`, `"lines":[null,`), "purchase.lines[0]", "must be an object, not null"},
		{change(`"lines":[`, `"lines":["x",`), "purchase.lines[0]", `must be an object, not the string "x"`},
		{`{"purchase":{"lines":{}}}`, "purchase.lines", "must be an array, not an object"},
		{`{"purchase":[]}`, "purchase", "must be an object, not an array"},
		{`{"profile":{"attributes":[]}}`, "profile.attributes", "must be an object, not an array"},
		{`{"profile":{"attributes":{"age":44}}}`, `profile.attributes["age"]`, "must be a string, not the number 44"},
		{`{"profile":{"attributes":{"age":null}}}`, `profile.attributes["age"]`, "must be a string, not null"},
		{`{"profile":{"attributes":{"age":"1","age":"2"}}}`, `profile.attributes["age"]`, "given twice"},
		{change("2017-01-01T11:53:26Z", "yesterday"), "time", `must be a time such as "2017-01-01T11:53:26Z", not "yesterday"`},
		{change("2017-01-01T11:53:26Z", "2017-01-01T11:53:26"), "time", "does not say in which time zone"},
		{change("2017-01-01T11:53:26Z", "2017-02-30T11:53:26Z"), "time", "must be a time"},
		{change("26Z", "26.0000000001Z"), "time", "finer than nanoseconds"},
		{change(`"2017-01-01T11:53:26Z"`, "1483271606"), "time", "not the number 1483271606"},
		{change(`"time"`, `"event_id":"x","time"`), "event_id", "given twice"},
		{change(`"time"`, `"eventId":"x","time"`), "event_id", "given twice"},
		{change(`"time"`, `"erase":{},"time"`), "kind", "purchase is a second one"},
		{`{"event_id":"\ud800"}`, "", "not an event"},
		{strings.Repeat(" ", MaxJSONEvent) + documented, "", "more than 1048576"},
		{strings.Repeat(`{"purchase":`, 20_000) + strings.Repeat("}", 20_000), "", "malformed JSON"},
	} {
		ev, f := DecodeJSONEvent([]byte(c.raw))
		if c.reason == "" {
			require.Nil(t, f)
			require.Equal(t, "purchase.lines[0].amount", testValidator.Validate(ev).Field)
			continue
		}
		require.NotNil(t, f, "%.200s", c.raw)
		require.Nil(t, ev)
		require.Equal(t, c.field, f.Field, "%.200s: %s", c.raw, f.Reason)
		require.Contains(t, f.Reason, c.reason, "%.200s", c.raw)
	}
}

func TestPeekJSONEvent(t *testing.T) {
	for _, c := range []struct{ raw, event, customer string }{
		{documented, "b-31198459610", "900"},
		{`{"eventId":"a","customerId":"b","x":[1]}`, "a", "b"},
		{`{"event_id":7,"customer_id":"b"}`, "", "b"},
		{`{"event_id":"a"`, "", ""},
		{`[1]`, "", ""},
	} {
		event, customer := PeekJSONEvent([]byte(c.raw))
		require.Equal(t, [2]string{c.event, c.customer}, [2]string{event, customer})
	}
}

func TestSplitJSONEvents(t *testing.T) {
	for _, c := range []struct {
		body string
		want []string
	}{
		{`{"a":1}`, []string{`{"a":1}`}},
		{"\xef\xbb\xbf {\"a\":1}\n", []string{`{"a":1}`}},
		{"{\n  \"a\": {\n    \"b\": [1]\n  }\n}\n", []string{"{\n  \"a\": {\n    \"b\": [1]\n  }\n}"}},
		{`[]`, []string{}},
		{` [ {"a":1} , {"b":"]},\"\\"} ] `, []string{`{"a":1}`, `{"b":"]},\"\\"}`}},
		{`[{"a":1},7, "x" ,null]`, []string{`{"a":1}`, `7`, `"x"`, `null`}},
		{`[{"a":tru},{"b":1}]`, []string{`{"a":tru}`, `{"b":1}`}},
		{"{\"a\":1}\n{\"b\":2}", []string{`{"a":1}`, `{"b":2}`}},
		{"\n{\"a\":1}\r\n\r\n  {\"b\":2}\t\r\n\n", []string{`{"a":1}`, `{"b":2}`}},
		{"{\"a\":1}\n{\"b\":\n7\n", []string{`{"a":1}`, `{"b":`, `7`}},
		{"{\"a\":tru}\n{\"b\":1}\n", []string{`{"a":tru}`, `{"b":1}`}},
		{"{\"a\":1\n{\"b\":1}\n", []string{`{"a":1`, `{"b":1}`}},
		{`{"events":[{"a":1},{"b":2}]}`, []string{`{"a":1}`, `{"b":2}`}},
		{"{ \"events\" :\n[ ]\n}\n", []string{}},
		{`{"events":7}`, []string{`{"events":7}`}},
	} {
		parts, err := SplitJSONEvents([]byte(c.body))
		require.NoError(t, err, c.body)
		got := []string{}
		for _, p := range parts {
			got = append(got, string(p))
		}
		require.Equal(t, c.want, got, c.body)
	}
}

func TestSplitJSONEventsFaults(t *testing.T) {
	for _, c := range []struct {
		body         string
		line, offset int
		reason       string
	}{
		{"", 1, 0, "no event"},
		{" \n ", 2, 3, "no event"},
		{"<event/>", 1, 0, `expected { or [, not "<"`},
		{"\xff\xfe", 1, 0, `not "\xff"`},
		{"event_id,customer_id\n", 1, 0, "expected { or ["},
		{`{"a":1`, 1, 6, "truncated"},
		{"{\n\"a\": \"x", 2, 9, "inside of the string that begins at byte 7"},
		{"[{\"a\":1},\n{\"b\":", 2, 15, "inside of the value that begins at byte 10"},
		{`[{"a":1}`, 1, 8, "the body ends where , or ] was expected"},
		{`[{"a":1},`, 1, 9, "the body ends where a value was expected"},
		{`[{"a":1},]`, 1, 9, `expected a value, not "]"`},
		{`[,]`, 1, 1, `expected a value, not ","`},
		{`[{"a":1} {"b":1}]`, 1, 9, `expected , or ], not "{"`},
		{`[{"a":1]}`, 1, 7, "expected }, not ]"},
		{`[{"a":1}] x`, 1, 10, "expected the end of the body"},
		{`{"a":1} x`, 1, 8, "expected the end of the body"},
		{`{"events":[],"x":1}`, 1, 12, "expected } after the events"},
		{`{"events":[]`, 1, 12, "truncated"},
		{strings.Repeat("[", 100), 1, 65, "nested deeper"},
		{"[" + strings.Repeat("1,", MaxJSONEvents) + "1]", 1, 2*MaxJSONEvents + 2, "more than 131072 events"},
		{"[\"a\\", 1, 4, "truncated"},
	} {
		parts, err := SplitJSONEvents([]byte(c.body))
		require.Nil(t, parts)
		framing := new(FramingError)
		require.ErrorAs(t, err, &framing, "%.60s", c.body)
		require.Contains(t, framing.Reason, c.reason, "%.60s", c.body)
		require.Equal(t, [2]int{c.line, c.offset}, [2]int{framing.Line, framing.Offset}, "%.60s: %s", c.body, framing.Reason)
	}
}

func seedJSON(f *testing.F) {
	for _, s := range []string{
		documented, `[` + documented + `,7]`, documented + "\n" + documented, `{"events":[` + documented + `]}`,
		`{"profile":{"attributes":{"a":"b","a":1}}}`, `{"time":"2017-01-01T11:53:26"}`, `{"sequence":"18446744073709551616"}`,
		`[[[[]]]]`, `{"a":"\ud800"}`, "{\n}\n{", `{"purchase":null,"refund":{"amount":1e400}}`, `{"sequence":"`,
	} {
		f.Add([]byte(s))
	}
}

// A decoder never panics, and takes exactly what the standard one takes.
func FuzzDecodeJSONEvent(f *testing.F) {
	seedJSON(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		ev, fault := DecodeJSONEvent(raw)
		std := protojson.Unmarshal(raw, new(pb.Event))
		if fault == nil {
			require.NoError(t, std)
			_ = testValidator.Validate(ev)
			return
		}
		require.Error(t, std)
		require.Nil(t, ev)
		require.NotEmpty(t, fault.Reason)
		// A report of the fault can be sent.
		_, err := proto.Marshal(&pb.Rejection{Field: fault.Field, Reason: fault.Reason})
		require.NoError(t, err)
		PeekJSONEvent(raw)
	})
}

// Splitting loses nothing: a valid array comes apart into what the standard decoder sees, and the
// parts lie in the body in order, with nothing between them but punctuation.
func FuzzSplitJSONEvents(f *testing.F) {
	seedJSON(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		parts, err := SplitJSONEvents(body)
		if err != nil {
			framing := new(FramingError)
			require.ErrorAs(t, err, &framing)
			require.LessOrEqual(t, framing.Offset, len(body))
			require.Nil(t, parts)
			var items []json.RawMessage
			if json.Unmarshal(body, &items) == nil && items != nil {
				require.Contains(t, framing.Reason, "nested deeper")
			}
			return
		}
		at := 0
		for _, p := range parts {
			require.NotEmpty(t, p)
			i := strings.Index(string(body[at:]), string(p))
			require.GreaterOrEqual(t, i, 0)
			at += i + len(p)
			_, _ = DecodeJSONEvent(p)
		}
		var items []json.RawMessage
		if json.Unmarshal(body, &items) == nil && items != nil {
			require.Len(t, parts, len(items))
			for i := range items {
				require.JSONEq(t, string(items[i]), string(parts[i]))
			}
		}
	})
}

func BenchmarkDecodeJSONEvent(b *testing.B) {
	raw, err := protojson.Marshal(goodPurchase())
	require.NoError(b, err)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, f := DecodeJSONEvent(raw); f != nil {
			b.Fatal(f)
		}
	}
}

func BenchmarkSplitJSONEvents(b *testing.B) {
	body := []byte(strings.Repeat(documented+"\n", 1000))
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if parts, err := SplitJSONEvents(body); err != nil || len(parts) != 1000 {
			b.Fatal(fmt.Sprint(len(parts), err))
		}
	}
}
