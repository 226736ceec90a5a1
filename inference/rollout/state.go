// Package rollout decides which versions of models serve. Its main types are [State], what is decided about one model, with pure
// functions from one to the next, and [Controller], which keeps the states of all models in a store that nodes share, follows what
// others decide, and has a pool of devices serve it.
//
//	                   ┌──────── canary, shadow: another share or mode ────────┐
//	                   ▼                                                       │
//	champion ──canary, shadow──► champion + challenger ──promote──► champion (the challenger), previous
//	   ▲ ▲                             │                                       │
//	   │ └──────rollback, refuse───────┘                                       │
//	   └──────────────────────────rollback: the previous one serves again──────┘
//
// Invariants:
//
//  1. A change replaces the generation that it was made from; of several nodes one makes it.
//  2. A version that was rolled back or refused does not enter by itself again; who names it can have it tried again.
//  3. What is kept of the past is bounded.
//  4. Who wants something that the state does not allow is told what the state is.
package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Mode is how a challenger is tried.
type Mode string

// The modes of a challenger.
const (
	// Canary scores are what its share of the customers see.
	Canary Mode = "canary"
	// Shadow scores are compared, and nobody sees them.
	Shadow Mode = "shadow"
)

// format is of what is stored. Fields may be added without another one.
const format = 1

// maxEvents and maxRefusals bound what is kept of the past.
const maxEvents, maxRefusals = 20, 50

// State is what is decided about the versions of a model.
type State struct {
	Format int    `json:"format"`
	Model  string `json:"-"`
	// Generation is that under which it is stored, 0 where it is not yet.
	Generation uint64 `json:"-"`

	// Champion is the version whose scores customers see; Previous the one before it, to go back to.
	Champion string `json:"champion"`
	Previous string `json:"previous,omitempty"`
	// Challenger is tried beside it; nil where none is.
	Challenger *Challenger `json:"challenger,omitempty"`
	// Entered is the highest number that was ever tried or served: only higher ones enter by themselves.
	Entered int `json:"entered"`
	// Refused are versions that were rolled back or could not be loaded, the newest first.
	Refused []Refusal `json:"refused,omitempty"`
	// Events are what was decided, the newest first.
	Events []Event `json:"events,omitempty"`
}

// Challenger is a version that is tried.
type Challenger struct {
	Version string    `json:"version"`
	Mode    Mode      `json:"mode"`
	Share   float64   `json:"share"`
	Since   time.Time `json:"since"`
	Limits  Limits    `json:"limits"`
}

// Refusal is a version that is not to serve.
type Refusal struct {
	Version string    `json:"version"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
}

// Event is one decision.
type Event struct {
	At      time.Time `json:"at"`
	Action  string    `json:"action"`
	Version string    `json:"version"`
	Reason  string    `json:"reason,omitempty"`
	Node    string    `json:"node,omitempty"`
	Share   float64   `json:"share,omitempty"`
}

// By says who decides when, and why.
type By struct {
	Node   string
	At     time.Time
	Reason string
}

// StateError says that a state does not allow what somebody wants.
type StateError struct{ Model, Reason string }

func (e *StateError) Error() string { return e.Model + ": " + e.Reason }

func (s State) refuse(format string, args ...any) (State, error) {
	return s, &StateError{s.Model, fmt.Sprintf(format, args...)}
}

// Encode is what is stored.
func (s State) Encode() ([]byte, error) {
	s.Format = format
	return json.Marshal(s)
}

// Decode reads what is stored.
func Decode(model string, generation uint64, body []byte) (State, error) {
	s := State{}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("roll-out of %s, generation %d: %w", model, generation, err)
	}
	if s.Format != format {
		return s, fmt.Errorf("roll-out of %s, generation %d: format %d: this program reads format %d", model, generation, s.Format, format)
	}
	if c := s.Challenger; c != nil && (c.Mode != Canary && c.Mode != Shadow || !(c.Share > 0 && c.Share <= 1)) {
		return s, fmt.Errorf("roll-out of %s, generation %d: its challenger is at fault: %+v", model, generation, *c)
	}
	s.Model, s.Generation = model, generation
	return s, nil
}

// clone is a copy that shares nothing that a change touches.
func (s State) clone() State {
	if s.Challenger != nil {
		c := *s.Challenger
		s.Challenger = &c
	}
	s.Refused, s.Events = slices.Clone(s.Refused), slices.Clone(s.Events)
	return s
}

func (s *State) note(by By, action, version string, share float64) {
	s.Events = slices.Insert(s.Events, 0, Event{At: by.At.UTC(), Action: action, Version: version, Reason: by.Reason, Node: by.Node, Share: share})
	s.Events = s.Events[:min(len(s.Events), maxEvents)]
	if n, err := strconv.Atoi(version); err == nil {
		s.Entered = max(s.Entered, n)
	}
}

func (s *State) condemn(version string, by By) {
	s.forgive(version)
	s.Refused = slices.Insert(s.Refused, 0, Refusal{version, by.Reason, by.At.UTC()})
	s.Refused = s.Refused[:min(len(s.Refused), maxRefusals)]
}

func (s *State) forgive(version string) {
	s.Refused = slices.DeleteFunc(s.Refused, func(r Refusal) bool { return r.Version == version })
	if len(s.Refused) == 0 {
		s.Refused = nil // as it comes out of the store
	}
}

// Refusal returns why a version is refused.
func (s State) Refusal(version string) (Refusal, bool) {
	i := slices.IndexFunc(s.Refused, func(r Refusal) bool { return r.Version == version })
	if i < 0 {
		return Refusal{}, false
	}
	return s.Refused[i], true
}

// First is the state of a model that serves a version before anything was decided.
func First(model, champion string, by By) State {
	s := State{Model: model, Champion: champion}
	s.note(by, "first", champion, 0)
	return s
}

// Try has a version tried, or changes how. by.Reason is not needed.
func (s State) Try(version string, mode Mode, share float64, limits Limits, by By) (State, error) {
	switch c := s.Challenger; {
	case version == s.Champion:
		return s.refuse("version %s serves already", version)
	case c != nil && c.Version != version:
		return s.refuse("version %s is tried (%s): promote it or roll it back first", c.Version, c.Mode)
	case mode != Canary && mode != Shadow:
		return s.refuse("%q is neither %s nor %s", mode, Canary, Shadow)
	case !(share > 0 && share <= 1) || mode == Canary && share == 1:
		return s.refuse("a share of %g is not between 0 and 1: all customers get a version that is promoted", share)
	}
	if err := limits.Validate(); err != nil {
		return s.refuse("%v", err)
	}
	s = s.clone()
	s.forgive(version)
	since := by.At.UTC()
	if c := s.Challenger; c != nil && c.Mode == mode {
		since = c.Since
	}
	s.Challenger = &Challenger{Version: version, Mode: mode, Share: share, Since: since, Limits: limits}
	s.note(by, string(mode), version, share)
	return s, nil
}

// Enter has a version tried that nobody named, as a canary: it must be higher than all that were ever tried, and nothing else is.
func (s State) Enter(version int, share float64, limits Limits, by By) (State, error) {
	switch {
	case version <= s.Entered:
		return s.refuse("version %d is not above %d", version, s.Entered)
	case s.Challenger != nil:
		return s.refuse("version %s is tried", s.Challenger.Version)
	}
	return s.Try(strconv.Itoa(version), Canary, share, limits, by)
}

// Promote makes a version the champion: the challenger where none is named.
func (s State) Promote(version string, by By) (State, error) {
	if version == "" {
		if s.Challenger == nil {
			return s.refuse("no version is tried: name the one to promote")
		}
		version = s.Challenger.Version
	}
	switch c := s.Challenger; {
	case version == s.Champion:
		return s.refuse("version %s serves already", version)
	case c != nil && c.Version != version:
		return s.refuse("version %s is tried (%s): promote it or roll it back first", c.Version, c.Mode)
	}
	s = s.clone()
	s.forgive(version)
	s.Previous, s.Champion, s.Challenger = s.Champion, version, nil
	s.note(by, "promote", version, 0)
	return s, nil
}

// Rollback ends what is tried. Where nothing is, the version before the champion serves again.
func (s State) Rollback(by By) (State, error) {
	if by.Reason == "" {
		by.Reason = "rolled back"
	}
	next := s.clone()
	switch {
	case s.Challenger != nil:
		next.condemn(s.Challenger.Version, by)
		next.note(by, "rollback", s.Challenger.Version, 0)
		if next.Previous == s.Challenger.Version {
			next.Previous = "" // nobody goes back to what failed since
		}
		next.Challenger = nil
	case s.Previous != "":
		next.condemn(s.Champion, by)
		next.note(by, "rollback", s.Champion, 0)
		next.Champion, next.Previous = s.Previous, ""
	default:
		return s.refuse("nothing is tried, and no version served before %s", s.Champion)
	}
	return next, nil
}

// Refuse takes a version out that can't be loaded: the challenger, or a champion that has one before it. It does nothing to
// another.
func (s State) Refuse(version string, by By) (State, error) {
	if c := s.Challenger; c != nil && c.Version == version || version == s.Champion && s.Previous != "" && s.Challenger == nil {
		return s.Rollback(by)
	}
	return s.refuse("version %s is neither tried nor newly promoted", version)
}

// Limits end a trial by themselves. The zero value stands for the defaults.
type Limits struct {
	// MinRows is before how many rows nothing but errors is judged.
	MinRows uint64 `json:"min_rows,omitempty"`
	// ErrorShare is the share of rows that only the champion gives values for, from [leastErrors] on.
	ErrorShare float64 `json:"error_share,omitempty"`
	// Slowdown is how many times as long as the champion's its runs may take.
	Slowdown float64 `json:"slowdown,omitempty"`
	// Shift bounds [inference.Figures.Shift].
	Shift float64 `json:"shift,omitempty"`
}

// Defaults are the limits where none are given.
var Defaults = Limits{MinRows: 1000, ErrorShare: .01, Slowdown: 3, Shift: .25}

// Or fills what is 0 from others.
func (l Limits) Or(others Limits) Limits {
	if l.MinRows == 0 {
		l.MinRows = others.MinRows
	}
	for _, f := range []struct {
		p     *float64
		other float64
	}{{&l.ErrorShare, others.ErrorShare}, {&l.Slowdown, others.Slowdown}, {&l.Shift, others.Shift}} {
		if *f.p == 0 {
			*f.p = f.other
		}
	}
	return l
}

// Validate reports what no limit can be.
func (l Limits) Validate() error {
	var faults []error
	if !(l.ErrorShare >= 0 && l.ErrorShare <= 1) {
		faults = append(faults, fmt.Errorf("limits.error_share %g is not from 0 to 1", l.ErrorShare))
	}
	if !(l.Slowdown == 0 || l.Slowdown >= 1) {
		faults = append(faults, fmt.Errorf("limits.slowdown %g is below 1", l.Slowdown))
	}
	if !(l.Shift >= 0) {
		faults = append(faults, fmt.Errorf("limits.shift %g is below 0", l.Shift))
	}
	return errors.Join(faults...)
}
