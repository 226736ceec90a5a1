package config

import (
	"errors"
	"fmt"
	"strings"
)

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	// Key is the key's name in the file: "http.listen".
	Key string
	// Source is where the value was written: "footfall.yaml:3", "FOOTFALL_HTTP_LISTEN",
	// "--http-listen"; empty for a default.
	Source string
	Reason string
}

func (f Fault) String() string {
	if f.Source == "" {
		return f.Key + ": " + f.Reason
	}
	return fmt.Sprintf("%s (%s): %s", f.Key, f.Source, f.Reason)
}

// IsFault reports whether err tells of a configuration, not of the machine.
func IsFault(err error) bool {
	_, ok := errors.AsType[Faults](err)
	return ok
}

// Faults is the error that a configuration with at least one fault gives.
type Faults []Fault

func (f Faults) Error() string {
	if len(f) == 1 {
		return "configuration: " + f[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "configuration has %d faults:", len(f))
	for _, fault := range f {
		b.WriteString("\n  ")
		b.WriteString(fault.String())
	}
	return b.String()
}
