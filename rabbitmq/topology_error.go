package rabbitmq

import (
	"fmt"
	"regexp"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TopologyError says that something could not be declared: mostly since it exists as something
// else.
type TopologyError struct {
	// Kind is "exchange", "queue", "stream" or "binding".
	Kind, Name string
	// Argument differs: it is Have on the broker, and Want was asked for ("none" for absent).
	// All three are empty where the broker complains of something else.
	Argument, Have, Want string
	// Err is the broker's answer.
	Err *amqp.Error
}

func (e *TopologyError) Error() string {
	switch {
	case e.Argument != "":
		return fmt.Sprintf("%s %s exists with %s %s, wanted %s: configure what is there, or use another prefix or virtual host; "+
			"it can only be changed by deleting it with all that it holds", e.Kind, e.Name, e.Argument, e.Have, e.Want)
	case e.Err.Code == amqp.AccessRefused:
		return fmt.Sprintf("%s %s: the user needs the permissions configure, write and read on it: %s", e.Kind, e.Name, e.Err.Reason)
	default:
		return fmt.Sprintf("%s %s: %s", e.Kind, e.Name, e.Err.Reason)
	}
}

func (e *TopologyError) Unwrap() error { return e.Err }

var inequivalent = regexp.MustCompile(`inequivalent arg '([^']*)' for .*: received (.*) but current is (.*)$`)

// parseInequivalent reads what the broker says of a declaration that differs:
//
//	PRECONDITION_FAILED - inequivalent arg 'x-max-age' for queue 'q' in vhost '/': received the value '1D' of type 'longstr' but current is none
//
// The text is cut off at 255 bytes, so that an end may be missing.
func parseInequivalent(text string) (argument, have, want string) {
	m := inequivalent.FindStringSubmatch(text)
	if m == nil {
		return "", "", ""
	}
	return m[1], inequivalentValue(m[3]), inequivalentValue(m[2])
}

// inequivalentValue takes the value out of "the value '1D' of type 'longstr'", "'direct'" or
// "none".
func inequivalentValue(s string) string {
	s = strings.TrimPrefix(strings.TrimSpace(s), "the value ")
	if i := strings.LastIndex(s, " of type "); i >= 0 {
		s = s[:i]
	}
	return strings.Trim(s, "'")
}
