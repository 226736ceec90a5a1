package api

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// DeadLetters is where what could not be accepted is kept.
type DeadLetters interface {
	// Visit calls do with the letters, oldest first as far as the place has an order, until it
	// says StopVisit or returns an error, and removes those for which it said RemoveLetter. A
	// removal may be lost in a crash: then the letter comes again. One that is there twice with
	// the same ID is visited once, and removing it removes both.
	Visit(ctx context.Context, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error
}

const (
	defaultDeadLetters = 100
	maxDeadLetters     = 10_000
	// maxLetterBytes bounds the bodies in one answer.
	maxLetterBytes = 16 << 20
	// maxRefusals are told of; the others are counted.
	maxRefusals = 1_000
)

// deadLetters lists and repairs what could not be accepted.
//
// Invariants:
//  1. A letter is removed only once all its events are durable in the log, or because it was
//     dropped. A crash between the two leaves the letter: its events are in the log, and
//     recognised by their IDs when it is replayed again.
//  2. All events of a letter are good by the rules of the door, or none is published.
//  3. One call at a time changes letters, so that none is published by two.
type deadLetters struct {
	place  DeadLetters // may be nil
	ingest *Ingest
	logger *slog.Logger
	// changing holds a token while a call changes letters.
	changing chan struct{}
}

func newDeadLetters(place DeadLetters, ingest *Ingest, logger *slog.Logger) *deadLetters {
	return &deadLetters{place: place, ingest: ingest, logger: logger, changing: make(chan struct{}, 1)}
}

// change begins a call that changes letters; done ends it.
func (d *deadLetters) change(ctx context.Context) (done func(), err error) {
	select {
	case d.changing <- struct{}{}:
		return func() { <-d.changing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// list returns the letters of a filter: at most limit of them, and no more than one beyond
// maxLetterBytes.
func (d *deadLetters) list(ctx context.Context, f letterFilter, limit int) (letters []*footfallv1.DeadLetter, more bool, err error) {
	var size int
	err = d.visit(ctx, &selection{all: true, filter: f}, func(l *footfallv1.DeadLetter) (messages.Decision, error) {
		if len(letters) == limit || size > maxLetterBytes {
			more = true
			return messages.StopVisit, nil
		}
		size += len(l.GetBody())
		letters = append(letters, l)
		return messages.KeepLetter, nil
	})
	return letters, more, err
}

// find returns the letter of an ID.
func (d *deadLetters) find(ctx context.Context, id string) (*footfallv1.DeadLetter, error) {
	sel, err := selectOne(id)
	if err != nil {
		return nil, err
	}
	var found *footfallv1.DeadLetter
	err = d.visit(ctx, sel, func(l *footfallv1.DeadLetter) (messages.Decision, error) {
		found = l
		return messages.StopVisit, nil
	})
	if err == nil && found == nil {
		err = noLetter(id)
	}
	return found, err
}

// replay publishes letters as they are.
func (d *deadLetters) replay(ctx context.Context, sel *selection) (*footfallv1.ReplayDeadLettersResponse, error) {
	done, err := d.change(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	answer := &footfallv1.ReplayDeadLettersResponse{}
	refuse := func(r *footfallv1.DeadLetterRefusal) {
		if answer.Refused++; len(answer.Refusals) < maxRefusals {
			answer.Refusals = append(answer.Refusals, r)
		}
	}
	err = d.visit(ctx, sel, func(l *footfallv1.DeadLetter) (messages.Decision, error) {
		items, err := eventsOf(l)
		if err != nil {
			refuse(&footfallv1.DeadLetterRefusal{Id: l.GetId(), EventId: l.GetEventId(), Reason: err.Error() + ": give it events of its own (fix), or drop it"})
			return messages.KeepLetter, nil
		}
		bad, err := d.ingest.publishAgain(ctx, items)
		if err != nil {
			return messages.KeepLetter, err
		}
		if bad >= 0 {
			it := &items[bad]
			refuse(&footfallv1.DeadLetterRefusal{Id: l.GetId(), EventId: clip(it.eventID), Field: fieldOf(items, bad), Reason: it.fault.Reason})
			return messages.KeepLetter, nil
		}
		answer.Replayed++
		return messages.RemoveLetter, nil
	})
	d.changed("replayed", int(answer.GetReplayed()))
	if err != nil {
		return nil, midway(err, answer.GetReplayed(), "replayed")
	}
	for _, id := range sel.missing() {
		refuse(&footfallv1.DeadLetterRefusal{Id: id, Reason: "there is no such dead letter"})
	}
	return answer, nil
}

// fix publishes events in place of a letter.
func (d *deadLetters) fix(ctx context.Context, id string, events []*footfallv1.Event) error {
	sel, err := selectOne(id)
	if err != nil {
		return err
	}
	done, err := d.change(ctx)
	if err != nil {
		return err
	}
	defer done()
	items := make([]item, len(events))
	for i, ev := range events {
		items[i].event = ev
	}
	fixed := false
	err = d.visit(ctx, sel, func(*footfallv1.DeadLetter) (messages.Decision, error) {
		switch bad, err := d.ingest.publishAgain(ctx, items); {
		case err != nil:
			return messages.KeepLetter, err
		case bad >= 0:
			return messages.KeepLetter, &messages.Fault{Field: fieldOf(items, bad), Reason: items[bad].fault.Reason}
		}
		fixed = true
		return messages.RemoveLetter, nil
	})
	switch {
	case fixed:
		d.changed("fixed", 1)
		return err
	case err != nil:
		return err
	}
	return noLetter(id)
}

// drop removes letters.
func (d *deadLetters) drop(ctx context.Context, sel *selection) (*footfallv1.DropDeadLettersResponse, error) {
	done, err := d.change(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	answer := &footfallv1.DropDeadLettersResponse{}
	err = d.visit(ctx, sel, func(*footfallv1.DeadLetter) (messages.Decision, error) {
		answer.Dropped++
		return messages.RemoveLetter, nil
	})
	d.changed("dropped", int(answer.GetDropped()))
	if err != nil {
		return nil, midway(err, answer.GetDropped(), "dropped")
	}
	answer.Missing = sel.missing()
	return answer, nil
}

// visit calls do with the letters of a selection.
func (d *deadLetters) visit(ctx context.Context, sel *selection, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error {
	if d.place == nil {
		return nil
	}
	return d.place.Visit(ctx, func(l *footfallv1.DeadLetter) (messages.Decision, error) {
		if err := ctx.Err(); err != nil {
			return messages.KeepLetter, err
		}
		switch {
		case sel.done():
			return messages.StopVisit, nil
		case !sel.take(l):
			return messages.KeepLetter, nil
		}
		return do(l)
	})
}

// changed leaves a trace of what people did to letters.
func (d *deadLetters) changed(how string, n int) {
	if n > 0 {
		d.logger.Info("dead letters left", "how", how, "letters", n)
	}
}

// midway says how far a call came that an error ended.
func midway(err error, n uint32, what string) error {
	if n == 0 {
		return err
	}
	return fmt.Errorf("%d letters were %s, then: %w", n, what, err)
}

func noLetter(id string) error {
	return status.Errorf(codes.NotFound, "there is no dead letter %q", brief(id))
}

// fieldOf names the field of a fault; of several events also which one.
func fieldOf(items []item, i int) string {
	field := items[i].fault.Field
	if len(items) == 1 {
		return field
	}
	of := fmt.Sprintf("events[%d]", i)
	if field == "" {
		return of
	}
	return of + "." + field
}

// letterFilter holds for letters that have all of what is not empty.
type letterFilter struct{ reason, customerID, source string }

func (f *letterFilter) empty() bool { return *f == letterFilter{} }

func (f *letterFilter) holds(l *footfallv1.DeadLetter) bool {
	if f.customerID != "" && f.customerID != l.GetCustomerId() || f.source != "" && f.source != l.GetSource() {
		return false
	}
	if f.reason == "" {
		return true
	}
	fault := messages.Fault{Field: l.GetField(), Reason: l.GetReason()}
	return strings.Contains(strings.ToLower(fault.Error()), strings.ToLower(f.reason))
}

// selection says which letters a call is about: those of IDs, or all that a filter leaves.
type selection struct {
	all    bool
	filter letterFilter
	// order are the IDs as they were given, left those that were not met yet.
	order []string
	left  map[string]bool
}

// selectLetters reads a selection from a request.
func selectLetters(ids []string, all bool, f letterFilter) (*selection, error) {
	switch {
	case all && len(ids) > 0:
		return nil, &messages.Fault{Field: "ids", Reason: "must be empty where all is set"}
	case all:
		return &selection{all: true, filter: f}, nil
	case !f.empty():
		return nil, &messages.Fault{Field: "all", Reason: "must be set where letters are chosen by reason, customer_id or source"}
	case len(ids) == 0 || len(ids) > maxDeadLetters:
		return nil, &messages.Fault{Field: "ids", Reason: fmt.Sprintf("must name 1 to %d letters, not %d; or all must be set", maxDeadLetters, len(ids))}
	}
	s := &selection{order: ids, left: make(map[string]bool, len(ids))}
	for i, id := range ids {
		if id == "" {
			return nil, &messages.Fault{Field: fmt.Sprintf("ids[%d]", i), Reason: "is empty"}
		}
		s.left[id] = true
	}
	return s, nil
}

func selectOne(id string) (*selection, error) {
	if id == "" {
		return nil, &messages.Fault{Field: "id", Reason: "is required"}
	}
	return selectLetters([]string{id}, false, letterFilter{})
}

// done reports whether no letter can be of the selection any more.
func (s *selection) done() bool { return !s.all && len(s.left) == 0 }

// take reports whether a letter is of the selection, once.
func (s *selection) take(l *footfallv1.DeadLetter) bool {
	if s.all {
		return s.filter.holds(l)
	}
	if !s.left[l.GetId()] {
		return false
	}
	delete(s.left, l.GetId())
	return true
}

// missing are the IDs that no letter had.
func (s *selection) missing() []string {
	var out []string
	for _, id := range s.order {
		if s.left[id] {
			delete(s.left, id)
			out = append(out, id)
		}
	}
	return out
}
