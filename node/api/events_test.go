package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// visit is an event as JSON.
func visit(event, customer string) string {
	return fmt.Sprintf(`{"event_id":%q,"customer_id":%q,"time":"2017-01-01T11:53:26Z","page_view":{"url":"/"}}`, event, customer)
}

func parsed(t *testing.T, text string) *footfallv1.Event {
	t.Helper()
	ev := new(footfallv1.Event)
	require.NoError(t, protojson.Unmarshal([]byte(text), ev))
	return ev
}

func wire(t *testing.T, m proto.Message) string {
	t.Helper()
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return string(b)
}

func zipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(s))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.String()
}

func TestEveryFormOfABody(t *testing.T) {
	one, two := visit("e1", "900"), visit("e2", "901")
	batch := &footfallv1.EventBatch{Events: []*footfallv1.Event{parsed(t, one), parsed(t, two)}}
	for _, tt := range []struct {
		name, contentType, body string
		accepted                int
		header                  []string
	}{
		{"object", "application/json", one, 1, nil},
		{"object without a type", "", one, 1, nil},
		{"array", "application/json; charset=utf-8", "[" + one + ", " + two + "]", 2, nil},
		{"NDJSON", "application/x-ndjson", one + "\n\n" + two + "\n", 2, nil},
		{"NDJSON called JSON", "application/json", one + "\n" + two, 2, nil},
		{"batch", "application/json", `{"events":[` + one + "," + two + `]}`, 2, nil},
		{"object as curl calls it", "application/x-www-form-urlencoded", "\n " + one, 1, nil},
		{"array as curl calls it", "application/x-www-form-urlencoded", "[" + one + "," + two + "]", 2, nil},
		{"protobuf event", "application/x-protobuf", wire(t, parsed(t, one)), 1, nil},
		{"protobuf batch", "application/x-protobuf", wire(t, batch), 2, nil},
		{"gzip", "application/json", zipped(t, "["+one+","+two+"]"), 2, []string{"Content-Encoding", "gzip"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &scripted{}
			s := serve(t, h)
			r := s.do(t, http.MethodPost, "/v1/events", tt.contentType, strings.NewReader(tt.body), tt.header...)
			require.Equal(t, http.StatusOK, r.code, r.body)
			require.JSONEq(t, fmt.Sprintf(`{"accepted":%d,"rejected":[]}`, tt.accepted), r.body)
			got := h.appended[messages.ShardOf("900", shardsOfTest)]
			require.NotEmpty(t, got)
			require.True(t, proto.Equal(parsed(t, one), got[0]))
		})
	}
}

func TestEachFaultNamesItsElement(t *testing.T) {
	h := &scripted{}
	s := serve(t, h)
	body := strings.Join([]string{
		visit("e0", "900"),
		`{"event_id":"e1","customer_id":"900","time":"yesterday","page_view":{}}`,
		`{"event_id":"e2","customer_id":"a/b","time":"2017-01-01T11:53:26Z","page_view":{}}`,
		`{"event_id":"e3","customer_id":"900","time":"2017-01-01T11:53:26Z"}`,
		`{"event_id":"e4","customer_id":"900","time":"2017-01-01T11:53:26Z","purchase":{"currency":"EUR","lines":[{"amount":"1"}]}}`,
		`{"event_id":"e5","customer_id":"900","time":"2017-01-01T11:53:26Z","purchase":{"lines":[{"amount":"0.50"},{"amount":"1.23456"}]}}`,
		`{"event_id":"e6","customer_id":"900","time":"2150-01-01T11:53:26Z","page_view":{}}`,
		`{"event_id":"e7","customer_id":"900","tmie":"2017-01-01T11:53:26Z","page_view":{}}`,
		`17`,
		`{"event_id":}`,
		visit("e10", "901"),
	}, ",\n")
	r := s.post(t, "/v1/events", "["+body+"]")
	require.Equal(t, http.StatusOK, r.code)
	golden(t, "faults.json", indent(t, []byte(r.body)))

	// Who waits for one of them is told, where its names are an event's.
	require.Contains(t, h.rejected, "900 e1")
	require.Contains(t, h.rejected, "900 e6")
	require.NotContains(t, h.rejected, "a/b e2")

	require.Equal(t, map[string]float64{
		"customer_id": 1, "event_id": 0, "kind": 1, "other": 1, "producer": 0, "sequence": 0, "time": 2, "unreadable": 2,
		"purchase": 2, "refund": 0, "page_view": 0, "cart_add": 0, "cart_remove": 0, "campaign_received": 0,
		"coupon_redeemed": 0, "profile": 0, "identify": 0, "erase": 0,
	}, s.series(t, "footfall_events_rejected_total"))
}

func TestBodiesThatAreRefused(t *testing.T) {
	large := "[" + strings.Repeat(" ", 1<<20) + "]"
	full := errors.New("no space left on device")
	for _, tt := range []struct {
		name, contentType, body string
		code                    int
		word, field, message    string
		header                  []string
	}{
		{"nothing", "application/json", "", 400, "invalid_argument", "body", "holds no event", nil},
		{"no event", "application/json", "[]", 400, "invalid_argument", "body", "holds no event", nil},
		{"no event as protobuf", "application/x-protobuf", "", 400, "invalid_argument", "body", "holds no event", nil},
		{"not JSON", "application/json", "hello", 400, "invalid_argument", "body", "line 1, byte 0", nil},
		{"truncated", "application/json", "[" + visit("e", "1"), 400, "invalid_argument", "body", "truncated", nil},
		{"all rejected", "application/json", "[{},{}]", 400, "invalid_argument", "event_id", "none of 2 events was accepted; the first: event_id: is required", nil},
		{"one rejected", "application/json", "{}", 400, "invalid_argument", "event_id", "event_id: is required", nil},
		{"not protobuf", "application/x-protobuf", "\xff\xff\xff", 400, "invalid_argument", "body", "no protobuf", nil},
		{"a broken event", "application/x-protobuf", "\x0a\x02\x0a\x7f", 400, "invalid_argument", "", "no protobuf of an event", nil},
		{"too large", "application/json", large, 413, "too_large", "", "more than 1048576 bytes", nil},
		{"too large, length unknown", "application/json", large, 413, "too_large", "", "more than 1048576 bytes", []string{"chunked", ""}},
		{"too large unpacked", "application/json", zipped(t, large), 413, "too_large", "", "more than 1048576 bytes", []string{"Content-Encoding", "gzip"}},
		{"not gzip", "application/json", "{}", 400, "invalid_argument", "body", "is not gzip", []string{"Content-Encoding", "gzip"}},
		{"truncated gzip", "application/json", zipped(t, visit("e", "1"))[:40], 400, "invalid_argument", "body", "unexpected EOF", []string{"Content-Encoding", "gzip"}},
		{"brotli", "application/json", "{}", 415, "unsupported_media_type", "", "gzip", []string{"Content-Encoding", "br"}},
		{"a form", "application/x-www-form-urlencoded", "event_id=e&customer_id=1", 415, "unsupported_media_type", "", `must be application/json, application/x-ndjson or application/x-protobuf, not "application/x-www-form-urlencoded"`, nil},
		{"lines that curl joined", "application/x-www-form-urlencoded", visit("e", "1") + visit("f", "1"), 400, "invalid_argument", "body", "--data-binary keeps them", nil},
		{"text", "text/plain", visit("e", "1"), 415, "unsupported_media_type", "", `not "text/plain"`, nil},
		{"Latin 1", "application/json; charset=latin1", visit("e", "1"), 415, "unsupported_media_type", "", "utf-8", nil},
		{"no media type", ";", visit("e", "1"), 415, "unsupported_media_type", "", "cannot be read", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &scripted{appendErr: func(int) error { return full }}
			s := serve(t, h)
			var body interface {
				Read([]byte) (int, error)
			} = strings.NewReader(tt.body)
			if len(tt.header) > 0 && tt.header[0] == "chunked" {
				body, tt.header = struct{ *bytes.Buffer }{bytes.NewBufferString(tt.body)}, nil
			}
			r := s.do(t, http.MethodPost, "/v1/events", tt.contentType, body, tt.header...)
			require.Equal(t, tt.code, r.code, r.body)
			e := r.err(t)
			require.Equal(t, tt.word, e.Code)
			require.Equal(t, tt.field, e.Field)
			require.Contains(t, e.Message, tt.message)
			require.Empty(t, h.appended)
		})
	}
	r := serve(t, &scripted{}).get(t, "/v1/events")
	require.Equal(t, http.StatusMethodNotAllowed, r.code)
	require.Equal(t, "method_not_allowed", r.err(t).Code)
	require.Equal(t, "POST", r.header.Get("Allow"))
}

// A client that sends all of a body before it reads the answer hears what is wrong with it.
func TestClientsThatReadLateHearWhatIsWrong(t *testing.T) {
	const chunked = "Transfer-Encoding: chunked"
	body := strings.Repeat(" ", 40<<20)
	for _, c := range []struct {
		name, header string
		ingest       int64
		code         int
	}{
		{"too large, announced", "Content-Length: 41943040", 64 << 20, http.StatusRequestEntityTooLarge},
		{"too large", chunked, 64 << 20, http.StatusRequestEntityTooLarge},
		{"too much at once", chunked, 1 << 20, http.StatusTooManyRequests},
		{"not JSON", chunked + "\r\nContent-Type: text/plain", 64 << 20, http.StatusUnsupportedMediaType},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, &scripted{}, func(o *Options) { o.Limits.Message, o.Limits.Ingest = 16<<20, c.ingest })
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			require.NoError(t, err)
			defer conn.Close()
			sent := body
			if strings.HasPrefix(c.header, chunked) {
				sent = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
			}
			_, err = io.WriteString(conn, "POST /v1/events HTTP/1.1\r\nHost: x\r\n"+c.header+"\r\n\r\n"+sent)
			require.NoError(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.Equal(t, c.code, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
		})
	}
}

func TestWhatTheLogRefuses(t *testing.T) {
	// Customers of every shard.
	var events []string
	for i := range 20 {
		events = append(events, visit(fmt.Sprint("e", i), fmt.Sprint(i)))
	}
	body := "[" + strings.Join(events, ",") + "]"
	closed := &messages.UnavailableError{What: "log", Reason: "the disk is full"}
	for _, tt := range []struct {
		name    string
		err     func(int) error
		code    int
		message string
	}{
		{"full disk", func(int) error { return closed }, 503, "the disk is full"},
		{"one shard fails", func(shard int) error {
			if shard == 2 {
				return closed
			}
			return nil
		}, 503, "1 of 4 shards could not take their events (send all again"},
		{"the broker is blocked", func(int) error {
			return fmt.Errorf("wrapped: %w", &messages.BlockedError{What: "log", Reason: "low on memory"})
		}, 429, "low on memory"},
		{"not active", func(int) error { return &actors.NotActiveError{Shard: 1, State: actors.Failed} }, 503, "shard 1 is failed"},
		{"a bug", func(int) error { return errors.New("surprise") }, 500, "surprise"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := serve(t, &scripted{appendErr: tt.err}).post(t, "/v1/events", body)
			require.Equal(t, tt.code, r.code, r.body)
			require.Contains(t, r.err(t).Message, tt.message)
			if tt.code != 500 {
				require.Equal(t, "1", r.header.Get("Retry-After"))
			}
		})
	}
}

func TestTooMuchAtOnceIsTurnedAway(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h := &scripted{appendErr: func(int) error {
		once.Do(func() { close(entered) })
		<-release
		return nil
	}}
	body := "[" + visit("e", "1") + strings.Repeat(" ", 1000) + "]"
	s := serve(t, h, func(o *Options) { o.Limits.Ingest = 1500 })
	first := make(chan int, 1)
	go func() {
		resp, err := http.Post(s.url+"/v1/events", typeJSON, strings.NewReader(body)) //nolint:noctx // it is answered
		if err == nil {
			err = resp.Body.Close()
		}
		if err != nil {
			t.Error(err)
			first <- 0
			return
		}
		first <- resp.StatusCode
	}()
	<-entered
	r := s.post(t, "/v1/events", body)
	require.Equal(t, http.StatusTooManyRequests, r.code, r.body)
	require.Equal(t, "1", r.header.Get("Retry-After"))
	require.Equal(t, "resource_exhausted", r.err(t).Code)
	close(release)
	require.Equal(t, http.StatusOK, <-first)
	require.Equal(t, http.StatusOK, s.post(t, "/v1/events", body).code, "what was held is given back")
}

func TestGateHoldsItsLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := gate{limit: rapid.Int64Range(0, 100).Draw(t, "limit")}
		var held []int64
		var sum int64
		for _, n := range rapid.SliceOf(rapid.Int64Range(0, 60)).Draw(t, "sizes") {
			if err := g.enter(n); (err == nil) != (sum+n <= g.limit) {
				t.Fatalf("%d on top of %d of %d: %v", n, sum, g.limit, err)
			} else if err == nil {
				held, sum = append(held, n), sum+n
			}
			if len(held) > 0 && rapid.Bool().Draw(t, "leave") {
				g.leave(held[0])
				held, sum = held[1:], sum-held[0]
			}
		}
		if g.used.Load() != sum {
			t.Fatalf("used %d, held %d", g.used.Load(), sum)
		}
	})
}

// However many there are, each element is decoded once and stands in its place.
func TestManyEventsKeepTheirOrder(t *testing.T) {
	for _, n := range []int{1, stride, stride + 1, 10*stride + 7} {
		var body strings.Builder
		for i := range n {
			if i%5 == 3 {
				fmt.Fprintf(&body, "{\"event_id\":\"e%d\",\"customer_id\":900}\n", i)
			} else {
				fmt.Fprintln(&body, visit(fmt.Sprint("e", i), "900"))
			}
		}
		items, err := decodeJSON([]byte(body.String()))
		require.NoError(t, err)
		require.Len(t, items, n)
		for i, it := range items {
			id := it.eventID
			if i%5 == 3 {
				require.Equal(t, "customer_id", it.fault.Field)
			} else {
				id = it.event.GetEventId()
			}
			require.Equal(t, fmt.Sprint("e", i), id)
		}
	}
}

// A bug in a goroutine must not end the node: it comes out where the call's guard is.
func TestPanicInParallel(t *testing.T) {
	require.PanicsWithValue(t, "a bug", func() {
		inParallel(10*stride, func(i int) {
			if i == 5*stride {
				panic("a bug")
			}
		})
	})
}

func BenchmarkDecodeJSON(b *testing.B) {
	line := `{"event_id":"b-1","customer_id":"900","time":"2017-01-01T11:53:26Z","purchase":{"lines":[{"product_id":"1095275","department":"PASTRY","quantity":1,"amount":"0.50"},{"product_id":"1095276","department":"GROCERY","quantity":2,"amount":"10.50","discount":"0.10"}]}}` + "\n"
	const n = 10_000
	body := []byte(strings.Repeat(line, n))
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if items, err := decodeJSON(body); err != nil || len(items) != n {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// What comes of any body is an answer, and what it counts as accepted is in the log.
func FuzzBody(f *testing.F) {
	for i, contentType := range []string{typeJSON, typeNDJSON, typeProtobuf, typeForm} {
		f.Add(contentType, []byte(visit("e", "1")))
		f.Add(contentType, []byte("["+visit("e", "1")+",{}]"))
		f.Add(contentType, []byte{0x0a, byte(i), 0x0a})
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		_, decode, err := decoderFor(contentType)
		if err != nil {
			return
		}
		items, err := decode(body)
		if err != nil {
			return
		}
		for _, it := range items {
			require.NotEqual(t, it.event == nil, it.fault == nil)
			if it.fault != nil {
				require.NotEmpty(t, it.fault.Reason)
			}
		}
	})
}
