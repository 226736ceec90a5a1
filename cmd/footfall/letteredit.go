package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// edit is a correction of an event's JSON: a place and what is to be there.
type edit struct {
	path  string
	steps []step
	value any // taken for out
}

// step goes from a value to one within it: a member of an object, or an element of an array.
type step struct {
	key string
	// index is the element, -1 where the step can only be a member.
	index int
	// bracket says that the key is one of a map, such as an attribute's name, not of a message.
	bracket bool
}

// out is the value of a field that is to go.
type out struct{}

// parseEdits reads --set FIELD=VALUE and --unset FIELD, in this order.
func parseEdits(sets, unsets []string) ([]edit, error) {
	var edits []edit
	for _, set := range sets {
		steps, rest, err := parsePath(set)
		switch {
		case err != nil:
			return nil, usagef("--set %s: %w", set, err)
		case !strings.HasPrefix(rest, "="):
			return nil, usagef("--set %s: it is FIELD=VALUE", set)
		}
		value, _ := strings.CutPrefix(rest, "=")
		edits = append(edits, edit{set[:len(set)-len(rest)], steps, parseValue(value)})
	}
	for _, unset := range unsets {
		steps, rest, err := parsePath(unset)
		if err == nil && rest != "" {
			err = fmt.Errorf("%q is no part of a field", rest)
		}
		if err != nil {
			return nil, usagef("--unset %s: %w", unset, err)
		}
		edits = append(edits, edit{unset, steps, out{}})
	}
	return edits, nil
}

// parseValue is an object or an array where the text is the JSON of one, and else text: the
// decoder of events takes numbers as text, too.
func parseValue(s string) any {
	if strings.HasPrefix(s, "{") || strings.HasPrefix(s, "[") {
		if v, err := decodeAny([]byte(s)); err == nil {
			return v
		}
	}
	return s
}

// parsePath reads a field as faults write it, such as purchase.lines[2].amount or
// profile.attributes["home store"], up to its end or to an equals sign.
func parsePath(s string) (steps []step, rest string, err error) {
	name := func(s string) (string, string) {
		end := strings.IndexAny(s, ".[=")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:]
	}
	first, rest := name(s)
	if first == "" {
		return nil, "", fmt.Errorf("a field is missing, such as purchase.lines[0].amount")
	}
	steps = append(steps, step{key: first, index: -1})
	for rest != "" && rest[0] != '=' {
		var next step
		if rest[0] == '.' {
			next.index = -1
			if next.key, rest = name(rest[1:]); next.key == "" {
				return nil, "", fmt.Errorf("a field is missing after the dot")
			}
		} else if next, rest, err = parseBrackets(rest); err != nil {
			return nil, "", err
		}
		steps = append(steps, next)
	}
	return steps, rest, nil
}

// parseBrackets reads [2], ["key"] or [key].
func parseBrackets(s string) (step, string, error) {
	inner := s[1:]
	if quoted, err := strconv.QuotedPrefix(inner); err == nil {
		key, err := strconv.Unquote(quoted)
		if rest, ok := strings.CutPrefix(inner[len(quoted):], "]"); ok && err == nil {
			return step{key, -1, true}, rest, nil
		}
		return step{}, "", fmt.Errorf("a bracket is not closed")
	}
	key, rest, ok := strings.Cut(inner, "]")
	if !ok || key == "" {
		return step{}, "", fmt.Errorf("brackets hold a number, such as lines[0], or a name")
	}
	index, err := strconv.Atoi(key)
	if err != nil || index < 0 {
		index = -1
	}
	return step{key, index, true}, rest, nil
}

// applyEdits corrects the JSON of an event.
func applyEdits(raw []byte, edits []edit) ([]byte, error) {
	v, err := decodeAny(raw)
	if err != nil {
		return nil, err
	}
	for _, e := range edits {
		if v, err = put(v, e.steps, e.value); err != nil {
			return nil, fmt.Errorf("%s: %w", e.path, err)
		}
	}
	return json.Marshal(v)
}

// put returns v with value at the end of steps; what is missing on the way is made.
func put(v any, steps []step, value any) (any, error) {
	if len(steps) == 0 {
		return value, nil
	}
	s, last := steps[0], len(steps) == 1
	_, remove := value.(out)
	switch c := v.(type) {
	case nil:
		if remove {
			return nil, nil
		}
		if s.index >= 0 {
			return put([]any{}, steps, value)
		}
		return put(map[string]any{}, steps, value)
	case map[string]any:
		key := memberOf(c, s)
		if last && remove {
			delete(c, key)
			return c, nil
		}
		child, err := put(c[key], steps[1:], value)
		if child != nil && err == nil {
			c[key] = child
		}
		return c, err
	case []any:
		switch {
		case s.index < 0:
			return nil, fmt.Errorf("%q is asked of an array: say of which of its %s, such as [0]", s.key, things(len(c), "element"))
		case s.index > len(c) || remove && s.index == len(c):
			return nil, fmt.Errorf("there is no [%d] in an array of %s", s.index, things(len(c), "element"))
		case last && remove:
			return slices.Delete(c, s.index, s.index+1), nil
		case s.index == len(c):
			c = append(c, nil)
		}
		child, err := put(c[s.index], steps[1:], value)
		c[s.index] = child
		return c, err
	default:
		return nil, fmt.Errorf("%q is asked of a value that has no fields", s.key)
	}
}

// memberOf is the name that an object has for a field: JSON may write eventId for event_id.
func memberOf(object map[string]any, s step) string {
	if _, ok := object[s.key]; ok || s.bracket {
		return s.key
	}
	words := strings.Split(s.key, "_")
	for i, word := range words[1:] {
		if word != "" {
			words[i+1] = strings.ToUpper(word[:1]) + word[1:]
		}
	}
	if camel := strings.Join(words, ""); camel != s.key {
		if _, ok := object[camel]; ok {
			return camel
		}
	}
	return s.key
}

// decodeAny reads JSON with its numbers as they are written.
func decodeAny(raw []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err = d.Decode(&v); err == nil && d.More() {
		err = fmt.Errorf("more than one value")
	}
	return v, err
}
