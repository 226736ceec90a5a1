package api

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// An event that is shown can be sent again: it is the same event.
func TestAShownEventIsTheSameEvent(t *testing.T) {
	text := rapid.StringN(0, 20, 100)
	rapid.Check(t, func(t *rapid.T) {
		ev := &footfallv1.Event{
			EventId: text.Draw(t, "event"), CustomerId: text.Draw(t, "customer"),
			Time:     &timestamppb.Timestamp{Seconds: rapid.Int64Range(0, 7e9).Draw(t, "seconds"), Nanos: rapid.Int32Range(0, 999_999_999).Draw(t, "nanos")},
			Sequence: rapid.Uint64().Draw(t, "sequence"),
		}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			p := &footfallv1.Purchase{BasketId: text.Draw(t, "basket")}
			for range rapid.IntRange(0, 3).Draw(t, "lines") {
				p.Lines = append(p.Lines, &footfallv1.Line{ProductId: text.Draw(t, "product"), Quantity: rapid.Uint32().Draw(t, "quantity"), Amount: "0.50"})
			}
			ev.Kind = &footfallv1.Event_Purchase{Purchase: p}
		case 1:
			ev.Kind = &footfallv1.Event_PageView{PageView: &footfallv1.PageView{}}
		case 2:
			ev.Kind = &footfallv1.Event_Profile{Profile: &footfallv1.Profile{Attributes: rapid.MapOfN(text, text, 0, 4).Draw(t, "attributes")}}
		}
		b, err := Marshaler{}.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		again, fault := messages.DecodeJSONEvent(b)
		if fault != nil {
			t.Fatalf("%s: %v", b, fault)
		}
		if !proto.Equal(ev, again) {
			t.Fatalf("%v became %v by %s", ev, again, b)
		}
	})
}

func TestJSONNumbersAndWords(t *testing.T) {
	for _, tt := range []struct {
		m    proto.Message
		want string
	}{
		{&footfallv1.Score{Value: math.NaN(), Offset: -1 << 63}, `{"model":"","version":"","value":null,"offset":-9223372036854775808}`},
		{&footfallv1.Score{Value: 1e-7, Offset: 1}, `{"model":"","version":"","value":1e-07,"offset":1}`},
		{&footfallv1.Score{Value: 1e21}, `{"model":"","version":"","value":1e+21,"offset":0}`},
		{&footfallv1.Score{Value: decimal(0.1)}, `{"model":"","version":"","value":0.1,"offset":0}`},
		{&footfallv1.SetClockRequest{Mode: footfallv1.ClockMode_CLOCK_MODE_DRIVEN}, `{"mode":"driven"}`},
		{&footfallv1.SetClockRequest{}, `{"mode":"unspecified"}`},
		{&footfallv1.SetClockRequest{Mode: 17}, `{"mode":"17"}`},
		{&footfallv1.DeadLetter{Body: []byte{0, 255}, Reason: "a\"b\\\u2028<é\x00"}, `{"id":"","source":"","shard":0,"offset":0,"index":0,"field":"","reason":"a\"b\\\u2028\u003cé\u0000","event_id":"","customer_id":"","content_type":"","type":"","body":"AP8="}`},
		{&footfallv1.Customer{Features: map[string]float64{"overdue": 1, "zzz": 2, "recency_days": 3}}, `{"customer_id":"","shard":0,"owner":"","features":{"recency_days":3,"overdue":1,"zzz":2},"sequence":[],"segment":"","scores":[],"insights":[],"attributes":{},"identified_as":""}`},
		{&footfallv1.HistoryEntry{Event: &footfallv1.Event{EventId: "e", Kind: &footfallv1.Event_Erase{Erase: &footfallv1.Erase{}}}}, `{"offset":0,"index":0,"event":{"event_id":"e","erase":{}},"outcome":"","reason":""}`},
	} {
		got, err := Marshaler{}.Marshal(tt.m)
		require.NoError(t, err)
		require.Equal(t, tt.want+"\n", string(got))
		require.True(t, json.Valid(got))
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"mode":"wall"}`))
	f.Add([]byte(`{"mode":2}`))
	f.Add([]byte(`{"mode":["wall"]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m := new(footfallv1.SetClockRequest)
		if err := unmarshal(body, m); err != nil {
			var fault *messages.Fault
			require.ErrorAs(t, err, &fault)
			return
		}
		b, err := Marshaler{}.Marshal(m)
		require.NoError(t, err)
		require.True(t, json.Valid(b))
	})
}
