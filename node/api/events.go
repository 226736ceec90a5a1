package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

const (
	typeJSON     = "application/json"
	typeNDJSON   = "application/x-ndjson"
	typeProtobuf = "application/x-protobuf"
	// typeForm is what curl -d calls whatever it sends.
	typeForm = "application/x-www-form-urlencoded"
)

// serveEvents is POST /v1/events: an object, an array, NDJSON, {"events": […]}, or protobuf.
// It answers 200 where at least one event is accepted, and 400 where none is.
func (g *Ingest) serveEvents(c *chain, limit int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer readOn(r, 4*limit)
		kind, decode, err := decoderFor(r.Header.Get("Content-Type"))
		if err != nil {
			fail(w, http.StatusUnsupportedMediaType, "unsupported_media_type", err.Error())
			return
		}
		body, leave, err := g.body(w, r, limit)
		if err != nil {
			writeBodyError(w, err, limit)
			return
		}
		defer leave()
		if kind == typeForm && !looksLikeJSON(body) {
			fail(w, http.StatusUnsupportedMediaType, "unsupported_media_type", (&mediaTypeError{kind}).Error())
			return
		}
		var answer *footfallv1.PublishResponse
		err = c.call(r.Context(), "POST /v1/events", func() error {
			items, err := decode(body)
			if err != nil {
				return &messages.Fault{Field: "body", Reason: err.Error()}
			}
			if len(items) == 0 {
				return &messages.Fault{Field: "body", Reason: "holds no event"}
			}
			answer, err = g.publish(r.Context(), items)
			return err
		})
		if err != nil {
			writeError(w, status.Convert(err))
			return
		}
		writeAnswer(w, answer)
	}
}

// writeAnswer tells what became of the events.
func writeAnswer(w http.ResponseWriter, answer *footfallv1.PublishResponse) {
	body := appendMessage(nil, answer.ProtoReflect(), false)
	code := http.StatusOK
	if answer.GetAccepted() == 0 {
		code = http.StatusBadRequest
		first := answer.GetRejected()[0]
		f := messages.Fault{Field: first.GetField(), Reason: first.GetReason()}
		message := f.Error()
		if n := len(answer.GetRejected()); n > 1 {
			message = fmt.Sprintf("none of %d events was accepted; the first: %s", n, message)
		}
		// The same list, and beside it the error that every answer but 2xx has.
		body = append(body[:len(body)-1], `,"error":{"code":"`+codeWord(codes.InvalidArgument)+`","message":`...)
		body = appendString(body, message)
		if f.Field != "" {
			body = append(body, `,"field":`...)
			body = appendString(body, f.Field)
		}
		body = append(body, "}}"...)
	}
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

// readOn takes what is left of a body that was not read to its end, up to a bound, before the answer
// goes out: most clients read none before they have sent all, and would hear of a broken connection
// in its place. Who asks first, with Expect, is told at once.
func readOn(r *http.Request, bound int64) {
	if r.Header.Get("Expect") == "" {
		_, _ = io.CopyN(io.Discard, r.Body, bound) // the answer is the same
	}
}

// errEncoding says that a body comes in an encoding that is not known.
var errEncoding = errors.New("the Content-Encoding must be gzip or identity")

// body reads a request's body, at most limit bytes of it, also once it is unpacked. Its
// bytes count against the gate until leave.
func (g *Ingest) body(w http.ResponseWriter, r *http.Request, limit int64) (body []byte, leave func(), err error) {
	if r.ContentLength > limit {
		return nil, nil, &http.MaxBytesError{Limit: limit}
	}
	var from io.Reader = http.MaxBytesReader(w, r.Body, limit)
	switch strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))) {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(from)
		if err != nil {
			return nil, nil, fmt.Errorf("is not gzip: %w", err)
		}
		from = &limited{from: z, left: limit, limit: limit}
	default:
		return nil, nil, errEncoding
	}
	p := &pass{Reader: from, gate: &g.gate}
	body, err = io.ReadAll(p)
	if err != nil {
		p.leave()
		return nil, nil, err
	}
	return body, p.leave, nil
}

// limited fails once more than its limit comes out of from.
type limited struct {
	from        io.Reader
	left, limit int64
}

func (l *limited) Read(b []byte) (int, error) {
	n, err := l.from.Read(b)
	if l.left -= int64(n); l.left < 0 {
		return 0, &http.MaxBytesError{Limit: l.limit}
	}
	return n, err
}

func writeBodyError(w http.ResponseWriter, err error, limit int64) {
	var (
		large    *http.MaxBytesError
		overload *OverloadError
	)
	switch {
	case errors.As(err, &large):
		fail(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body has more than %d bytes: send the events in several", limit))
	case errors.As(err, &overload):
		writeError(w, statusOf(err))
	case errors.Is(err, errEncoding):
		fail(w, http.StatusUnsupportedMediaType, "unsupported_media_type", err.Error())
	default:
		writeError(w, statusOf(&messages.Fault{Field: "body", Reason: "cannot be read: " + err.Error()}))
	}
}

// mediaTypeError says that bodies of a media type are not read.
type mediaTypeError struct{ kind string }

func (e *mediaTypeError) Error() string {
	return fmt.Sprintf("the Content-Type must be %s, %s or %s, not %q: send it as a header", typeJSON, typeNDJSON, typeProtobuf, brief(e.kind))
}

// decoderFor returns what reads a body of a content type, and its media type.
func decoderFor(contentType string) (kind string, decode func([]byte) ([]item, error), err error) {
	if contentType == "" {
		return typeJSON, decodeJSON, nil
	}
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", nil, fmt.Errorf("the Content-Type %q cannot be read: %w", brief(contentType), err)
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return "", nil, fmt.Errorf("the charset must be utf-8, not %q", brief(charset))
	}
	switch kind {
	case typeJSON, typeNDJSON, "application/ndjson", "application/jsonl":
		return kind, decodeJSON, nil
	case typeProtobuf, "application/protobuf":
		return kind, decodeProtobuf, nil
	case typeForm:
		return kind, decodeForm, nil
	default:
		return "", nil, &mediaTypeError{kind}
	}
}

// looksLikeJSON reports whether a body begins as one or more events do. No form does.
func looksLikeJSON(body []byte) bool {
	body = bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), " \t\r\n")
	return len(body) > 0 && (body[0] == '{' || body[0] == '[')
}

// decodeForm reads JSON that is called a form: nobody who types curl -d means one.
func decodeForm(body []byte) ([]item, error) {
	items, err := decodeJSON(body)
	if err != nil && bytes.IndexByte(body, '\n') < 0 {
		err = fmt.Errorf("%w (curl -d takes the line breaks out of a file: --data-binary keeps them)", err)
	}
	return items, err
}

func decodeJSON(body []byte) ([]item, error) {
	parts, err := messages.SplitJSONEvents(body)
	if err != nil {
		return nil, err
	}
	items := make([]item, len(parts))
	inParallel(len(parts), func(i int) {
		it, raw := &items[i], parts[i]
		if it.event, it.fault = messages.DecodeJSONEvent(raw); it.fault != nil {
			it.eventID, it.customerID = messages.PeekJSONEvent(raw)
		}
	})
	return items, nil
}

// stride is how many elements a goroutine takes at once: about a millisecond of JSON.
const stride = 64

// inParallel calls do for 0 to n-1, on all cores where there is enough of it, and returns when
// all are done. A panic of do comes out here, where the call's guard is.
func inParallel(n int, do func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), (n+stride-1)/stride)
	if workers <= 1 {
		for i := range n {
			do(i)
		}
		return
	}
	var (
		wg       sync.WaitGroup
		next     atomic.Int64
		panicked atomic.Pointer[any]
	)
	work := func() {
		defer func() {
			if p := recover(); p != nil {
				panicked.CompareAndSwap(nil, &p)
			}
		}()
		for {
			end := int(next.Add(stride))
			for i := end - stride; i < min(end, n); i++ {
				do(i)
			}
			if end >= n {
				return
			}
		}
	}
	for range workers {
		wg.Go(work)
	}
	wg.Wait()
	if p := panicked.Load(); p != nil {
		panic(*p)
	}
}

// decodeProtobuf reads an EventBatch or one Event. They can be told apart: a batch has field
// 1 only, and an event without any other field is faulty anyway.
func decodeProtobuf(body []byte) ([]item, error) {
	var parts [][]byte
	for rest := body; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return nil, fmt.Errorf("is no protobuf: %w", protowire.ParseError(n))
		}
		if num != 1 || typ != protowire.BytesType {
			return []item{decodeEvent(body)}, nil
		}
		part, m := protowire.ConsumeBytes(rest[n:])
		if m < 0 {
			return nil, fmt.Errorf("is no protobuf: %w", protowire.ParseError(m))
		}
		if parts = append(parts, part); len(parts) > messages.MaxJSONEvents {
			return nil, fmt.Errorf("holds more than %d events", messages.MaxJSONEvents)
		}
		rest = rest[n+m:]
	}
	items := make([]item, len(parts))
	for i, part := range parts {
		items[i] = decodeEvent(part)
	}
	return items, nil
}

func decodeEvent(b []byte) item {
	ev := new(footfallv1.Event)
	if err := ev.UnmarshalVT(b); err != nil {
		return item{fault: &messages.Fault{Reason: "is no protobuf of an event: " + err.Error()}}
	}
	return item{event: ev}
}
