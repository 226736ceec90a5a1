package api

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Marshaler writes protobuf as the JSON that REST clients see, and reads their bodies.
//
// It differs from the canonical protobuf JSON, which puts 64-bit integers into strings:
//   - names are snake_case and every number is a number;
//   - enums are lower-case words without their prefix: "driven";
//   - fields that are numbers, words, lists or maps are always there, messages only where
//     they are set; within an event only what its publisher wrote;
//   - features stand in the order of behavior.FeatureNames, other maps are sorted.
//
// Bodies are read in either form.
type Marshaler struct{}

var _ runtime.Marshaler = Marshaler{}

// ContentType implements runtime.Marshaler.
func (Marshaler) ContentType(any) string { return "application/json" }

// Marshal implements runtime.Marshaler.
func (Marshaler) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return json.Marshal(v)
	}
	return append(appendMessage(make([]byte, 0, 1024), m.ProtoReflect(), false), '\n'), nil
}

// Unmarshal implements runtime.Marshaler.
func (Marshaler) Unmarshal(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return json.Unmarshal(data, v)
	}
	return unmarshal(data, m)
}

// NewDecoder implements runtime.Marshaler. The decoder takes the whole of r as one message.
func (m Marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if len(body) == 0 {
			return io.EOF
		}
		return m.Unmarshal(body, v)
	})
}

// NewEncoder implements runtime.Marshaler.
func (m Marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		b, err := m.Marshal(v)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
}

var (
	eventName    = (*footfallv1.Event)(nil).ProtoReflect().Descriptor().FullName()
	timeName     = (*timestamppb.Timestamp)(nil).ProtoReflect().Descriptor().FullName()
	featuresName = (*footfallv1.Customer)(nil).ProtoReflect().Descriptor().Fields().ByName("features").FullName()
)

// appendMessage writes a message; sparse leaves out what has its zero value.
func appendMessage(b []byte, m protoreflect.Message, sparse bool) []byte {
	desc := m.Descriptor()
	if desc.FullName() == timeName {
		return appendTime(b, m)
	}
	sparse = sparse || desc.FullName() == eventName
	b = append(b, '{')
	fields, first := desc.Fields(), true
	for i := range fields.Len() {
		fd := fields.Get(i)
		if (sparse || fd.HasPresence()) && !m.Has(fd) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, fd.Name()...)
		b = append(b, '"', ':')
		b = appendField(b, fd, m.Get(fd), sparse)
	}
	return append(b, '}')
}

func appendField(b []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value, sparse bool) []byte {
	switch {
	case fd.IsList():
		b = append(b, '[')
		list := v.List()
		for i := range list.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, fd, list.Get(i), sparse)
		}
		return append(b, ']')
	case fd.IsMap():
		b = append(b, '{')
		for i, key := range mapKeys(fd, v.Map()) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, key.String())
			b = append(b, ':')
			b = appendValue(b, fd.MapValue(), v.Map().Get(key), sparse)
		}
		return append(b, '}')
	default:
		return appendValue(b, fd, v, sparse)
	}
}

// mapKeys orders the keys of a map: features as models take them, all else by name.
func mapKeys(fd protoreflect.FieldDescriptor, m protoreflect.Map) []protoreflect.MapKey {
	keys := make([]protoreflect.MapKey, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	rank := func(k protoreflect.MapKey) int {
		if fd.FullName() != featuresName {
			return 0
		}
		if i := slices.Index(behavior.FeatureNames[:], k.String()); i >= 0 {
			return i
		}
		return len(behavior.FeatureNames)
	}
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a.String(), b.String())
	})
	return keys
}

func appendValue(b []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value, sparse bool) []byte {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return strconv.AppendInt(b, v.Int(), 10)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(b, v.Uint(), 10)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return appendFloat(b, v.Float())
	case protoreflect.StringKind:
		return appendString(b, v.String())
	case protoreflect.BytesKind:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, v.Bytes())
		return append(b, '"')
	case protoreflect.EnumKind:
		return appendString(b, enumWord(fd.Enum(), v.Enum()))
	default:
		return appendMessage(b, v.Message(), sparse)
	}
}

// appendFloat writes the shortest decimal that gives f again. JSON knows no NaN.
func appendFloat(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(b, "null"...)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(b, f, 'f', -1, 64)
}

// appendString writes a JSON string; what is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendTime(b []byte, m protoreflect.Message) []byte {
	fields := m.Descriptor().Fields()
	t := time.Unix(m.Get(fields.ByName("seconds")).Int(), m.Get(fields.ByName("nanos")).Int()).UTC()
	b = append(b, '"')
	b = t.AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

// enumWord is a value's name without the name of its enum: CLOCK_MODE_DRIVEN is "driven".
func enumWord(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := e.Values().ByNumber(n)
	if v == nil {
		return strconv.Itoa(int(n))
	}
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), enumPrefix(e)))
}

// enumPrefix is what the names of an enum's values begin with: the name of its zero value,
// which ends with UNSPECIFIED, says it.
func enumPrefix(e protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(e.Values().Get(0).Name()), "UNSPECIFIED")
}

func enumWords(e protoreflect.EnumDescriptor) []string {
	words := make([]string, 0, e.Values().Len())
	for i := 1; i < e.Values().Len(); i++ {
		words = append(words, enumWord(e, e.Values().Get(i).Number()))
	}
	return words
}

// unmarshal reads a request's body. The error is a *messages.Fault that names the field.
func unmarshal(body []byte, m proto.Message) error {
	err := protojson.Unmarshal(body, m)
	if err == nil {
		return nil
	}
	desc := m.ProtoReflect().Descriptor()
	if fault := messages.ExplainJSON(body, desc, "the body"); fault != nil {
		fault.Field = cmp.Or(fault.Field, "body")
		return fault
	}
	// What is left are the words of enums.
	body, fault := expandEnums(body, desc)
	if fault != nil {
		return fault
	}
	if err = protojson.Unmarshal(body, m); err == nil {
		return nil
	}
	// "proto: (line 1:2): reason", with spaces that may be of any kind.
	reason := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	if _, after, ok := strings.Cut(reason, "): "); ok {
		reason = after
	}
	return &messages.Fault{Field: "body", Reason: reason}
}

// expandEnums puts the protobuf names in place of words. Requests have enums at the top only.
func expandEnums(body []byte, desc protoreflect.MessageDescriptor) ([]byte, *messages.Fault) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return nil, &messages.Fault{Field: "body", Reason: err.Error()}
	}
	for i := range desc.Fields().Len() {
		fd := desc.Fields().Get(i)
		if fd.Kind() != protoreflect.EnumKind {
			continue
		}
		for _, name := range []string{string(fd.Name()), fd.JSONName()} {
			var word string
			if json.Unmarshal(members[name], &word) != nil {
				continue
			}
			full := protoreflect.Name(strings.ToUpper(word))
			if fd.Enum().Values().ByName(full) == nil {
				full = protoreflect.Name(enumPrefix(fd.Enum())) + full
			}
			if fd.Enum().Values().ByName(full) == nil {
				return nil, &messages.Fault{Field: string(fd.Name()), Reason: fmt.Sprintf("must be %s, not %q", strings.Join(enumWords(fd.Enum()), " or "), brief(word))}
			}
			members[name] = json.RawMessage(strconv.Quote(string(full)))
		}
	}
	expanded, err := json.Marshal(members)
	if err != nil {
		return nil, &messages.Fault{Field: "body", Reason: err.Error()}
	}
	return expanded, nil
}
