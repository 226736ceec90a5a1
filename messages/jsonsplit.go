package messages

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of events as JSON.
const (
	// MaxJSONEvent is the most bytes that one event may take.
	MaxJSONEvent = 1 << 20
	// MaxJSONEvents is the most events that one body may hold.
	MaxJSONEvents = 1 << 17
	// maxJSONDepth is how deep arrays and objects may be nested; an event needs five.
	maxJSONDepth = 64
)

// FramingError says that a body cannot be cut into events: nothing of it was read.
type FramingError struct {
	// Line counts from 1, Offset in bytes from 0.
	Line   int
	Offset int
	Reason string
}

func (e *FramingError) Error() string {
	return fmt.Sprintf("line %d, byte %d: %s", e.Line, e.Offset, e.Reason)
}

// SplitJSONEvents cuts a body into the JSON of its events, each to be given to [DecodeJSONEvent].
// The body is one object, an array, NDJSON (one object a line; blank lines are skipped), or an
// object {"events": […]}, which is a footfall.v1.EventBatch. Which of them it is is seen from the
// body.
//
// It looks at no more than it takes to find where an event ends, so that a bad event is refused
// alone. Where that cannot be told (a truncated array, a brace too many) the error is a
// *[FramingError]. The parts are slices of body.
func SplitJSONEvents(body []byte) ([][]byte, error) {
	s := scanner{body: body}
	// A byte order mark is no part of JSON, but some editors leave one.
	if bytes.HasPrefix(body, []byte("\xef\xbb\xbf")) {
		s.at = 3
	}
	s.space()
	if s.at == len(body) {
		return nil, s.errorf(s.at, "the body holds no event")
	}
	switch body[s.at] {
	case '[':
		return s.whole((*scanner).array)
	case '{':
	default:
		return nil, s.errorf(s.at, "an event is a JSON object: expected { or [, not %s", brief(string(body[s.at:min(s.at+1, len(body))])))
	}
	if s.lines() {
		return s.split()
	}
	if batch := s; batch.enterBatch() {
		return batch.whole(func(s *scanner) ([][]byte, error) {
			parts, err := s.array()
			if err != nil {
				return nil, err
			}
			s.space()
			if s.at == len(s.body) || s.body[s.at] != '}' {
				return nil, s.unexpected("} after the events")
			}
			s.at++
			return parts, nil
		})
	}
	return s.whole(func(s *scanner) ([][]byte, error) {
		part, err := s.value()
		return [][]byte{part}, err
	})
}

// scanner finds the ends of JSON values. It knows strings and brackets, and nothing else.
type scanner struct {
	body []byte
	at   int
}

func (s *scanner) errorf(at int, format string, args ...any) error {
	return &FramingError{
		Line:   1 + bytes.Count(s.body[:at], []byte{'\n'}),
		Offset: at,
		Reason: fmt.Sprintf(format, args...),
	}
}

func (s *scanner) unexpected(want string) error {
	if s.at >= len(s.body) {
		return s.errorf(len(s.body), "the body ends where %s was expected: it is truncated", want)
	}
	return s.errorf(s.at, "expected %s, not %s", want, brief(string(s.body[s.at:s.at+1])))
}

func (s *scanner) space() {
	for s.at < len(s.body) && isSpace(s.body[s.at]) {
		s.at++
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// whole runs a part of the grammar and requires that nothing follows it.
func (s *scanner) whole(parse func(*scanner) ([][]byte, error)) ([][]byte, error) {
	parts, err := parse(s)
	if err != nil {
		return nil, err
	}
	if s.space(); s.at < len(s.body) {
		return nil, s.unexpected("the end of the body")
	}
	return parts, nil
}

func (s *scanner) array() ([][]byte, error) {
	s.at++
	parts := [][]byte{}
	if s.space(); s.at < len(s.body) && s.body[s.at] == ']' {
		s.at++
		return parts, nil
	}
	for {
		part, err := s.value()
		if err != nil {
			return nil, err
		}
		if len(parts) == MaxJSONEvents {
			return nil, s.errorf(s.at, "the body holds more than %d events", MaxJSONEvents)
		}
		parts = append(parts, part)
		s.space()
		if s.at == len(s.body) {
			return nil, s.unexpected(", or ]")
		}
		switch s.body[s.at] {
		case ',':
			s.at++
		case ']':
			s.at++
			return parts, nil
		default:
			return nil, s.unexpected(", or ]")
		}
	}
}

// value passes over one value and returns it without the space around it.
func (s *scanner) value() ([]byte, error) {
	s.space()
	start := s.at
	var closing [maxJSONDepth]byte
	depth := 0
	for s.at < len(s.body) {
		switch c := s.body[s.at]; c {
		case '"':
			if err := s.text(); err != nil {
				return nil, err
			}
			if depth == 0 {
				return s.body[start:s.at], nil
			}
			continue
		case '{', '[':
			if depth == maxJSONDepth {
				return nil, s.errorf(s.at, "nested deeper than %d levels", maxJSONDepth)
			}
			closing[depth] = c + 2 // In ASCII } follows { and ] follows [ by two.
			depth++
		case '}', ']':
			if depth == 0 {
				if s.at == start {
					return nil, s.unexpected("a value")
				}
				return bytes.TrimRight(s.body[start:s.at], " \n\r\t"), nil
			}
			if depth--; c != closing[depth] {
				return nil, s.errorf(s.at, "expected %c, not %c", closing[depth], c)
			}
			if depth == 0 {
				s.at++
				return s.body[start:s.at], nil
			}
		case ',':
			if depth == 0 {
				if s.at == start {
					return nil, s.unexpected("a value")
				}
				return bytes.TrimRight(s.body[start:s.at], " \n\r\t"), nil
			}
		}
		s.at++
	}
	if depth > 0 {
		return nil, s.errorf(len(s.body), "the body ends inside of the value that begins at byte %d: it is truncated", start)
	}
	if s.at == start {
		return nil, s.unexpected("a value")
	}
	return bytes.TrimRight(s.body[start:s.at], " \n\r\t"), nil
}

// text passes over a string.
func (s *scanner) text() error {
	start := s.at
	for s.at++; s.at < len(s.body); s.at++ {
		switch s.body[s.at] {
		case '\\':
			s.at++
		case '"':
			s.at++
			return nil
		}
	}
	s.at = len(s.body)
	return s.errorf(len(s.body), "the body ends inside of the string that begins at byte %d: it is truncated", start)
}

// lines reports whether the body is NDJSON: either its first line that is not blank is a whole
// value and more lines follow, or it is no JSON and yet every line begins as an object, so that
// what is broken is one of the lines.
func (s *scanner) lines() bool {
	rest := s.body[s.at:]
	first, more, found := bytes.Cut(rest, []byte{'\n'})
	if !found || len(bytes.TrimSpace(more)) == 0 {
		return false
	}
	if json.Valid(first) {
		return true
	}
	if json.Valid(rest) {
		return false
	}
	for line := range bytes.Lines(rest) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '{' {
			return false
		}
	}
	return true
}

// split cuts NDJSON. Every line stands for itself, also a broken one.
func (s *scanner) split() ([][]byte, error) {
	parts := [][]byte{}
	for s.at < len(s.body) {
		line, _, _ := bytes.Cut(s.body[s.at:], []byte{'\n'})
		end := s.at + len(line)
		if line = bytes.Trim(line, " \r\t"); len(line) > 0 {
			if len(parts) == MaxJSONEvents {
				return nil, s.errorf(s.at, "the body holds more than %d events", MaxJSONEvents)
			}
			parts = append(parts, line)
		}
		s.at = end + 1
	}
	return parts, nil
}

// enterBatch moves into the array of {"events": […]} and reports whether that is what stands
// there. An event has no field of that name.
func (s *scanner) enterBatch() bool {
	s.at++
	s.space()
	const key = `"events"`
	if !bytes.HasPrefix(s.body[s.at:], []byte(key)) {
		return false
	}
	s.at += len(key)
	if s.space(); s.at == len(s.body) || s.body[s.at] != ':' {
		return false
	}
	s.at++
	s.space()
	return s.at < len(s.body) && s.body[s.at] == '['
}

// syntaxFault says where and why raw is not JSON; nil where it is. what names raw.
func syntaxFault(raw []byte, what string) *Fault {
	var value json.RawMessage
	err := json.Unmarshal(raw, &value)
	if err == nil {
		return nil
	}
	at := ""
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		at = fmt.Sprintf(" at byte %d", syntax.Offset)
	}
	reason := strings.TrimPrefix(err.Error(), "json: ")
	if errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(reason, "unexpected end") {
		reason = what + " is truncated"
	}
	return &Fault{Reason: "malformed JSON" + at + ": " + reason}
}
