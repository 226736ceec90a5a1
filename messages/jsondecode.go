package messages

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"footfall/messages/footfallv1"
)

// DecodeJSONEvent reads one event in its protobuf-JSON form. Field names are accepted as in the
// protobuf (snake_case) and in lowerCamelCase. A field that does not exist, that is given twice or
// that has a value of another type is a fault which names it. The rules of an event are not checked
// here: see [Validator].
func DecodeJSONEvent(raw []byte) (*footfallv1.Event, *Fault) {
	if len(raw) > MaxJSONEvent {
		return nil, &Fault{Reason: fmt.Sprintf("the event has %d bytes, more than %d", len(raw), MaxJSONEvent)}
	}
	ev := new(footfallv1.Event)
	err := protojson.Unmarshal(raw, ev)
	if err == nil {
		return ev, nil
	}
	return nil, explain(raw, err)
}

// PeekJSONEvent returns the event_id and customer_id of an event that may be faulty, for a report
// that names it; each empty where it cannot be told.
func PeekJSONEvent(raw []byte) (eventID, customerID string) {
	var id struct {
		Event         any `json:"event_id"`
		EventCamel    any `json:"eventId"`
		Customer      any `json:"customer_id"`
		CustomerCamel any `json:"customerId"`
	}
	if len(raw) > MaxJSONEvent || json.Unmarshal(raw, &id) != nil {
		return "", ""
	}
	pick := func(values ...any) string {
		for _, v := range values {
			if s, ok := v.(string); ok && len(s) <= MaxID {
				return s
			}
		}
		return ""
	}
	return pick(id.Event, id.EventCamel), pick(id.Customer, id.CustomerCamel)
}

// explain finds in words that a user understands what protojson did not like. Its own messages are
// unstable by intent and name neither path nor remedy, so they serve only where nothing is found.
func explain(raw []byte, err error) *Fault {
	if f := ExplainJSON(raw, (*footfallv1.Event)(nil).ProtoReflect().Descriptor(), "the event"); f != nil {
		return f
	}
	reason := err.Error()
	// "proto: (line 1:2): reason", with spaces that may be of any kind.
	if _, after, ok := strings.Cut(reason, "): "); ok {
		reason = after
	}
	return &Fault{Reason: "not an event: " + strings.ReplaceAll(reason, "\u00a0", " ")}
}

// ExplainJSON returns the first thing in raw that does not fit a message, with the path of its
// field; nil where nothing is found, which does not say that protojson takes it: the words of enums,
// for one, are not looked at. what names the whole in a reason: "the event".
func ExplainJSON(raw []byte, desc protoreflect.MessageDescriptor, what string) *Fault {
	if !utf8.Valid(raw) {
		return &Fault{Reason: what + " is not valid UTF-8"}
	}
	if f := syntaxFault(raw, what); f != nil {
		return f
	}
	return explainMessage(bytes.TrimSpace(raw), desc, "")
}

// explainMessage walks an object along a message's descriptor and returns its first fault. What it
// walks is valid JSON.
func explainMessage(raw []byte, desc protoreflect.MessageDescriptor, path string) *Fault {
	if raw[0] != '{' {
		return &Fault{path, "must be an object, not " + jsonKind(raw)}
	}
	var seen []protoreflect.Name
	for key, value := range jsonMembers(raw) {
		field := desc.Fields().ByName(protoreflect.Name(key))
		if field == nil {
			field = desc.Fields().ByJSONName(key)
		}
		at := joinPath(path, key)
		if field == nil {
			return &Fault{at, "no such field" + didYouMean(key, desc)}
		}
		at = joinPath(path, string(field.Name()))
		if slices.Contains(seen, field.Name()) {
			return &Fault{at, "is given twice"}
		}
		seen = append(seen, field.Name())
		if isNull(value) {
			continue
		}
		if one := field.ContainingOneof(); one != nil {
			if slices.Contains(seen, one.Name()) {
				return &Fault{string(one.Name()), "exactly one kind of event is required, and " + at + " is a second one"}
			}
			seen = append(seen, one.Name())
		}
		if f := explainField(value, field, at); f != nil {
			return f
		}
	}
	return nil
}

func explainField(raw []byte, field protoreflect.FieldDescriptor, path string) *Fault {
	switch {
	case field.IsList():
		if raw[0] != '[' {
			return &Fault{path, "must be an array, not " + jsonKind(raw)}
		}
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) != nil {
			return nil
		}
		for i, item := range items {
			if f := explainValue(bytes.TrimSpace(item), field, path+"["+strconv.Itoa(i)+"]"); f != nil {
				return f
			}
		}
		return nil
	case field.IsMap():
		if raw[0] != '{' {
			return &Fault{path, "must be an object, not " + jsonKind(raw)}
		}
		seen := map[string]bool{}
		for key, value := range jsonMembers(raw) {
			at := path + "[" + brief(key) + "]"
			if seen[key] {
				return &Fault{at, "is given twice"}
			}
			seen[key] = true
			if f := explainValue(value, field.MapValue(), at); f != nil {
				return f
			}
		}
		return nil
	default:
		return explainValue(raw, field, path)
	}
}

func explainValue(raw []byte, field protoreflect.FieldDescriptor, path string) *Fault {
	switch field.Kind() {
	case protoreflect.MessageKind:
		if field.Message().FullName() == "google.protobuf.Timestamp" {
			return explainTime(raw, path)
		}
		return explainMessage(raw, field.Message(), path)
	case protoreflect.StringKind:
		if raw[0] == '"' {
			return nil
		}
		example := ""
		if n := field.Name(); n == "amount" || n == "discount" {
			example = ` such as "0.50"`
		}
		return &Fault{path, "must be a string" + example + ", not " + jsonKind(raw)}
	case protoreflect.EnumKind:
		if raw[0] == '"' || raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' {
			return nil
		}
		return &Fault{path, "must be a word, not " + jsonKind(raw)}
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		bits := 32
		if field.Kind() == protoreflect.Uint64Kind {
			bits = 64
		}
		number := string(bytes.Trim(raw, `"`))
		if _, err := strconv.ParseUint(number, 10, bits); err == nil {
			return nil
		}
		// 1.0 and 1e3 are whole numbers, too.
		if f, err := strconv.ParseFloat(number, 64); err == nil && f >= 0 && f < 1<<32 && f == float64(uint64(f)) {
			return nil
		}
		return &Fault{path, fmt.Sprintf("must be a whole number from 0 to %d, not %s", uint64(1)<<(bits-1)*2-1, jsonKind(raw))}
	default:
		return nil
	}
}

func explainTime(raw []byte, path string) *Fault {
	const want = `must be a time such as "2017-01-01T11:53:26Z"`
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return &Fault{path, want + ", not " + jsonKind(raw)}
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil && t.UTC().Year() >= 1 && t.UTC().Year() <= 9999 {
		if _, frac, ok := strings.Cut(s, "."); ok && strings.IndexFunc(frac, func(r rune) bool { return r < '0' || r > '9' }) > 9 {
			return &Fault{path, "has a fraction finer than nanoseconds"}
		}
		return nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999"} {
		if _, err := time.Parse(layout, s); err == nil {
			return &Fault{path, want + ": " + brief(s) + " does not say in which time zone it is"}
		}
	}
	return &Fault{path, want + ", not " + brief(s)}
}

// jsonMembers yields the members of an object that is valid JSON, in order and with repetitions.
func jsonMembers(raw []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		dec := json.NewDecoder(bytes.NewReader(raw))
		if _, err := dec.Token(); err != nil {
			return
		}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return
			}
			var value json.RawMessage
			if dec.Decode(&value) != nil {
				return
			}
			name, _ := key.(string)
			if !yield(name, bytes.TrimSpace(value)) {
				return
			}
		}
	}
}

// didYouMean names the field that differs only in case or underscores.
func didYouMean(key string, desc protoreflect.MessageDescriptor) string {
	fold := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
	fields := desc.Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); fold(string(f.Name())) == fold(key) {
			return ": did you mean " + string(f.Name()) + "?"
		}
	}
	return ""
}

func joinPath(path, key string) string {
	for _, r := range key {
		if r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			key = brief(key)
			break
		}
	}
	if len(key) > MaxName {
		key = brief(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func isNull(raw []byte) bool { return string(raw) == "null" }

// jsonKind names a value for an error.
func jsonKind(raw []byte) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return "a string"
		}
		return "the string " + brief(s)
	case 't', 'f':
		return string(raw)
	case 'n':
		return "null"
	default:
		if len(raw) > 32 {
			return "the number " + string(raw[:32]) + "…"
		}
		return "the number " + string(raw)
	}
}
