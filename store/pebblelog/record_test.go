package pebblelog

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"footfall/messages"
)

func TestEncoderRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var (
			e    encoder
			want []messages.Record
		)
		e.add(&messages.Record{Body: []byte("left over")})
		e.reset()
		for range rapid.IntRange(1, 5).Draw(rt, "records") {
			body := rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(rt, "body")
			r := messages.Record{
				Type:     messages.RecordType(rapid.Uint8().Draw(rt, "type")),
				FromNode: rapid.Bool().Draw(rt, "from node"),
				Time:     rapid.Int64().Draw(rt, "time"),
				Body:     bytes.Repeat(body, rapid.IntRange(1, 10).Draw(rt, "repeats")),
			}
			e.add(&r)
			want = append(want, r)
		}
		at := 0
		buf := []byte("before")
		for i, end := range e.ends {
			h, stored, fault := parseHeader(e.buf[at:end])
			require.Empty(rt, fault)
			n := len(buf)
			buf, fault = h.appendBody(buf, stored)
			require.Empty(rt, fault)
			var got messages.Record
			h.fill(&got, 0)
			got.Body = buf[n:]
			w := want[i]
			w.Sum = messages.RecordSum(w.Type, w.Body)
			require.True(rt, bytes.Equal(w.Body, got.Body))
			w.Body, got.Body = nil, nil
			require.Equal(rt, w, got)
			at = end
		}
		require.Equal(rt, len(e.buf), at)
	})
}

// FuzzRecord decodes anything: it must not panic, nor take what was not written.
func FuzzRecord(f *testing.F) {
	var e encoder
	for _, r := range []messages.Record{
		{Type: messages.EventRecord, Body: []byte("an event")},
		{Type: messages.ControlRecord, FromNode: true, Time: -1},
		{Type: messages.BatchRecord, Body: bytes.Repeat([]byte("many events "), 100)},
	} {
		e.reset()
		e.add(&r)
		f.Add(bytes.Clone(e.buf), false)
		f.Add(bytes.Clone(e.buf), true)
	}
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, v []byte, reseal bool) {
		if reseal && len(v) >= headerLen {
			// A header that is proven lets the rest be reached.
			binary.BigEndian.PutUint32(v[4:], headerSum(v))
		}
		h, stored, fault := parseHeader(v)
		if fault != "" {
			return
		}
		out, fault := h.appendBody([]byte("before"), stored)
		require.True(t, bytes.HasPrefix(out, []byte("before")))
		if fault == "" {
			require.Equal(t, h.sum, messages.RecordSum(h.typ, out[len("before"):]))
		}
	})
}
