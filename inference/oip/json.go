package oip

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// fromJSON reads so many numbers out of a list: flat, or nested as the shape is. The text is
// JSON already, so only its structure is looked at.
func fromJSON(data []byte, shape []int64, count int) ([]float32, error) {
	if len(data) == 0 {
		return nil, errors.New("is missing")
	}
	// A number takes two bytes at least, so that a shape cannot claim more memory than was sent.
	if count > len(data)/2 {
		return nil, fmt.Errorf("has fewer than the %d elements that the shape asks for", count)
	}
	n := &numbers{rest: string(data), values: make([]float32, 0, count)}
	n.space()
	if !strings.HasPrefix(n.rest, "[") {
		return nil, errors.New("must be a list of numbers")
	}
	if inner := strings.TrimLeft(n.rest[1:], whitespace); !strings.HasPrefix(inner, "[") {
		shape = []int64{int64(count)}
	}
	if err := n.list(shape); err != nil {
		return nil, err
	}
	return n.values, nil
}

const whitespace = " \t\r\n"

// numbers walks through nested lists.
type numbers struct {
	rest   string
	values []float32
}

func (n *numbers) space() { n.rest = strings.TrimLeft(n.rest, whitespace) }

// list reads a list of as many elements as the first dimension says.
func (n *numbers) list(shape []int64) error {
	n.space()
	if !strings.HasPrefix(n.rest, "[") {
		return fmt.Errorf("is neither flat nor nested as its shape: a list was expected at element %d", len(n.values))
	}
	n.rest = n.rest[1:]
	n.space()
	for i := int64(0); ; i++ {
		if strings.HasPrefix(n.rest, "]") {
			if i != shape[0] {
				return fmt.Errorf("has a list of %d elements, where the shape asks for %d", i, shape[0])
			}
			n.rest = n.rest[1:]
			return nil
		}
		if i >= shape[0] {
			return fmt.Errorf("has a list of more than the %d elements that the shape asks for", shape[0])
		}
		var err error
		if len(shape) > 1 {
			err = n.list(shape[1:])
		} else {
			err = n.number()
		}
		if err != nil {
			return err
		}
		n.space()
		n.rest = strings.TrimPrefix(n.rest, ",")
		n.space()
	}
}

func (n *numbers) number() error {
	end := strings.IndexAny(n.rest, ",]"+whitespace)
	if end < 0 {
		end = len(n.rest)
	}
	text := n.rest[:end]
	// Not the texts, infinities and hexadecimal forms that ParseFloat also takes.
	if text == "" || text[0] != '-' && (text[0] < '0' || text[0] > '9') {
		return fmt.Errorf("element %d is no number", len(n.values))
	}
	v, err := strconv.ParseFloat(text, 32)
	if err != nil {
		return fmt.Errorf("element %d, %.40s, is no number of 32 bits", len(n.values), text)
	}
	n.values = append(n.values, float32(v))
	n.rest = n.rest[end:]
	return nil
}

// toJSON is a flat list of the shortest decimals that mean the same 32-bit numbers.
func toJSON(values []float32) []byte {
	b := make([]byte, 0, 2+12*len(values))
	b = append(b, '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(v), 'g', -1, 32)
	}
	return append(b, ']')
}
