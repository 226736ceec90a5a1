package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// shelf keeps dead letters in memory.
type shelf struct {
	mu      sync.Mutex
	letters []*footfallv1.DeadLetter
	// forget loses the removals of a visit, as a crash does; fail ends it after so many letters.
	forget bool
	fail   int
}

var errShelf = errors.New("the shelf fell")

func newShelf(letters ...*footfallv1.DeadLetter) *shelf { return &shelf{letters: letters, fail: -1} }

func (s *shelf) Visit(_ context.Context, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error {
	s.mu.Lock()
	all := slices.Clone(s.letters)
	s.mu.Unlock()
	var gone []string
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.forget {
			s.letters = slices.DeleteFunc(s.letters, func(l *footfallv1.DeadLetter) bool { return slices.Contains(gone, l.GetId()) })
		}
	}()
	for i, l := range all {
		if i == s.fail {
			return errShelf
		}
		switch d, err := do(l); {
		case err != nil || d == messages.StopVisit:
			return err
		case d == messages.RemoveLetter:
			gone = append(gone, l.GetId())
		}
	}
	return nil
}

func (s *shelf) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, len(s.letters))
	for i, l := range s.letters {
		ids[i] = l.GetId()
	}
	return ids
}

func with(s *shelf) func(*Options) { return func(o *Options) { o.DeadLetters = s } }

func pageView(id, customer string) *footfallv1.Event {
	return &footfallv1.Event{
		EventId: id, CustomerId: customer, Time: timestamppb.New(time.Unix(1483272000, 0)),
		Kind: &footfallv1.Event_PageView{PageView: &footfallv1.PageView{Url: "/"}},
	}
}

// letterOf is a letter with a body of a record type.
func letterOf(t *testing.T, id string, kind messages.RecordType, body any) *footfallv1.DeadLetter {
	t.Helper()
	l := &footfallv1.DeadLetter{Id: id, Field: "kind", Reason: "was refused", Source: "footfall.events.1", CustomerId: "900"}
	l.ContentType, l.Type = kind.Content()
	switch b := body.(type) {
	case string:
		l.Body = []byte(b)
	case proto.Message:
		l.Body = []byte(wire(t, b))
	}
	return l
}

// sent are the events of a host, in order of ID.
func (h *scripted) sent() []*footfallv1.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*footfallv1.Event
	for _, events := range h.appended {
		all = append(all, events...)
	}
	slices.SortFunc(all, func(a, b *footfallv1.Event) int { return strings.Compare(a.GetEventId(), b.GetEventId()) })
	return all
}

func sentIDs(h *scripted) []string {
	ids := []string{}
	for _, ev := range h.sent() {
		ids = append(ids, ev.GetEventId())
	}
	return ids
}

const viewJSON = `{"event_id":%q,"customer_id":"900","time":"2017-01-01T12:00:00Z","page_view":{"url":"/"}}`

// What a body holds decides what becomes of its letter: all its events are published, or none.
func TestReplayByBody(t *testing.T) {
	good, faulty := pageView("e", "900"), pageView("f", "900")
	faulty.Time = nil
	batch := func(events ...*footfallv1.Event) *footfallv1.EventBatch {
		return &footfallv1.EventBatch{Events: events}
	}
	j := func(id string) string { return fmt.Sprintf(viewJSON, id) }
	for _, tt := range []struct {
		name string
		kind messages.RecordType
		body any
		// sent are the IDs of what is published; lines how many events the letter shows.
		sent          []string
		lines         int
		field, reason string
	}{
		{"event", messages.EventRecord, good, []string{"e"}, 1, "", ""},
		{"faulty event", messages.EventRecord, faulty, nil, 1, "time", "is required"},
		{"unreadable event", messages.EventRecord, "\xff\xff", nil, 0, "", "is no protobuf of an event"},
		{"batch", messages.BatchRecord, batch(good, pageView("g", "901")), []string{"e", "g"}, 2, "", ""},
		{"batch with one faulty event", messages.BatchRecord, batch(good, faulty), nil, 2, "events[1].time", "is required"},
		{"unreadable batch", messages.BatchRecord, "\x0a\xff", nil, 0, "", "no protobuf of a batch"},
		{"event called a batch", messages.BatchRecord, good, []string{"e"}, 1, "", ""},
		{"batch called an event", messages.EventRecord, batch(good, pageView("g", "901")), []string{"e", "g"}, 2, "", ""},
		{"empty batch", messages.BatchRecord, "", nil, 0, "", "holds no event"},
		{"control", messages.ControlRecord, &footfallv1.Control{}, nil, 0, "", "control record"},
		{"JSON event", messages.JSONRecord, j("e"), []string{"e"}, 1, "", ""},
		{"JSON array", messages.JSONRecord, "[" + j("e") + ",\n" + j("g") + "]", []string{"e", "g"}, 2, "", ""},
		{"JSON batch", messages.JSONRecord, `{"events":[` + j("e") + "]}", []string{"e"}, 1, "", ""},
		{"JSON with a field that is none", messages.JSONRecord, strings.Replace(j("e"), "time", "tyme", 1), nil, 1, "tyme", "no such field"},
		{"JSON array with one faulty event", messages.JSONRecord, "[" + j("e") + `,{"event_id":"x"}]`, nil, 2, "events[1].customer_id", "is required"},
		{"JSON that is cut off", messages.JSONRecord, j("e")[:40], nil, 0, "", "no JSON of events"},
		{"not known: event", messages.UnknownRecord, good, []string{"e"}, 1, "", ""},
		{"not known: event with a long ID", messages.UnknownRecord, pageView(strings.Repeat("x", '{'), "900"), []string{strings.Repeat("x", '{')}, 1, "", ""},
		{"not known: batch", messages.UnknownRecord, batch(good), []string{"e"}, 1, "", ""},
		{"not known: JSON", messages.UnknownRecord, " " + j("e"), []string{"e"}, 1, "", ""},
		{"not known: text", messages.UnknownRecord, "hello", nil, 0, "", "neither JSON nor protobuf"},
		{"not known: control", messages.UnknownRecord, &footfallv1.Control{Kind: &footfallv1.Control_Tick{Tick: &footfallv1.Tick{Date: "2017-01-01"}}}, nil, 0, "", "neither JSON nor protobuf"},
		{"nothing", messages.UnknownRecord, "", nil, 0, "", "neither JSON nor protobuf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &scripted{}
			letter := letterOf(t, "1-7-0", tt.kind, tt.body)
			shelf := newShelf(letter)
			s := serve(t, h, with(shelf))

			shown, err := s.GetDeadLetter(t.Context(), &footfallv1.GetDeadLetterRequest{Id: "1-7-0"})
			require.NoError(t, err)
			require.True(t, proto.Equal(letter, shown.GetLetter()))
			lines := strings.FieldsFunc(shown.GetEventsJson(), func(r rune) bool { return r == '\n' })
			require.Len(t, lines, tt.lines)
			for _, line := range lines {
				require.True(t, json.Valid([]byte(line)), line)
			}
			require.Equal(t, tt.lines == 0, shown.GetUnreadable() != "")

			answer, err := s.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{Ids: []string{"1-7-0"}})
			require.NoError(t, err)
			require.ElementsMatch(t, tt.sent, sentIDs(h))
			if tt.sent != nil {
				require.True(t, proto.Equal(&footfallv1.ReplayDeadLettersResponse{Replayed: 1}, answer), answer)
				require.Empty(t, shelf.ids())
				return
			}
			require.Equal(t, []string{"1-7-0"}, shelf.ids(), "it stays")
			require.EqualValues(t, 1, answer.GetRefused())
			require.Equal(t, "1-7-0", answer.GetRefusals()[0].GetId())
			require.Equal(t, tt.field, answer.GetRefusals()[0].GetField())
			require.Contains(t, answer.GetRefusals()[0].GetReason(), tt.reason)
		})
	}
}

// A publisher's content type may have parameters, or be anything.
func TestContentTypeOfAPublisher(t *testing.T) {
	h := &scripted{}
	shelf := newShelf()
	for i, contentType := range []string{"application/json; charset=utf-8", "text/plain", "text/json", "", "no/media/type"} {
		l := letterOf(t, fmt.Sprint("unsharded-", i), messages.UnknownRecord, fmt.Sprintf(viewJSON, fmt.Sprint(i)))
		l.ContentType = contentType
		shelf.letters = append(shelf.letters, l)
	}
	s := serve(t, h, with(shelf))
	answer, err := s.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{All: true})
	require.NoError(t, err)
	require.EqualValues(t, 5, answer.GetReplayed())
	require.Equal(t, []string{"0", "1", "2", "3", "4"}, sentIDs(h))
}

// The producer's number must not make a letter the duplicate of what came after it.
func TestReplayTakesTheProducersNumberOff(t *testing.T) {
	ev := pageView("e", "900")
	ev.Producer, ev.Sequence = "till", 7
	fixed := pageView("f", "900")
	fixed.Producer, fixed.Sequence = "till", 8
	h := &scripted{}
	s := serve(t, h, with(newShelf(letterOf(t, "1-7-0", messages.EventRecord, ev), letterOf(t, "1-8-0", messages.EventRecord, ev))))
	_, err := s.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{Ids: []string{"1-7-0"}})
	require.NoError(t, err)
	_, err = s.FixDeadLetter(t.Context(), &footfallv1.FixDeadLetterRequest{Id: "1-8-0", Events: []*footfallv1.Event{fixed}})
	require.NoError(t, err)
	require.Len(t, h.sent(), 2)
	for _, ev := range h.sent() {
		require.Empty(t, ev.GetProducer())
		require.Zero(t, ev.GetSequence())
	}
}

func letterIDs(letters []*footfallv1.DeadLetter) []string {
	ids := []string{}
	for _, l := range letters {
		ids = append(ids, l.GetId())
	}
	return ids
}

func TestListAndFilters(t *testing.T) {
	shelf := newShelf()
	for i := range 10 {
		l := letterOf(t, fmt.Sprintf("1-%d-0", i), messages.UnknownRecord, "x")
		l.CustomerId = fmt.Sprint("c", i%3)
		if i >= 5 {
			l.Field, l.Reason, l.Source = "purchase.lines[0].amount", "Must not be below zero", "footfall.unsharded"
		}
		shelf.letters = append(shelf.letters, l)
	}
	s := serve(t, &scripted{}, with(shelf))
	for _, tt := range []struct {
		name string
		ask  *footfallv1.ListDeadLettersRequest
		want []int
		more bool
	}{
		{"all", &footfallv1.ListDeadLettersRequest{}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, false},
		{"the first", &footfallv1.ListDeadLettersRequest{Limit: 2}, []int{0, 1}, true},
		{"exactly all", &footfallv1.ListDeadLettersRequest{Limit: 10}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, false},
		{"reason", &footfallv1.ListDeadLettersRequest{Reason: "AMOUNT: must not"}, []int{5, 6, 7, 8, 9}, false},
		{"customer", &footfallv1.ListDeadLettersRequest{CustomerId: "c1"}, []int{1, 4, 7}, false},
		{"source", &footfallv1.ListDeadLettersRequest{Source: "footfall.unsharded", CustomerId: "c0", Limit: 1}, []int{6}, true},
		{"none", &footfallv1.ListDeadLettersRequest{CustomerId: "c"}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.ListDeadLetters(t.Context(), tt.ask)
			require.NoError(t, err)
			want := []string{}
			for _, i := range tt.want {
				want = append(want, fmt.Sprintf("1-%d-0", i))
			}
			require.Equal(t, want, letterIDs(got.GetLetters()))
			require.Equal(t, tt.more, got.GetMore())
		})
	}
	t.Run("replay and drop by filter", func(t *testing.T) {
		answer, err := s.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{All: true, Source: "footfall.unsharded"})
		require.NoError(t, err)
		require.EqualValues(t, 5, answer.GetRefused())
		dropped, err := s.DropDeadLetters(t.Context(), &footfallv1.DropDeadLettersRequest{All: true, Reason: "below zero"})
		require.NoError(t, err)
		require.EqualValues(t, 5, dropped.GetDropped())
		dropped, err = s.DropDeadLetters(t.Context(), &footfallv1.DropDeadLettersRequest{Ids: []string{"1-0-0", "no", "1-4-0", "no", "1-0-0"}})
		require.NoError(t, err)
		require.EqualValues(t, 2, dropped.GetDropped())
		require.Equal(t, []string{"no"}, dropped.GetMissing())
		require.Equal(t, []string{"1-1-0", "1-2-0", "1-3-0"}, shelf.ids())
	})
}

// An answer is bounded in bytes, too: one letter is always given.
func TestListIsBoundedInBytes(t *testing.T) {
	shelf := newShelf()
	for i := range 5 {
		shelf.letters = append(shelf.letters, &footfallv1.DeadLetter{Id: fmt.Sprint(i), Body: make([]byte, 9<<20)})
	}
	got, more, err := newDeadLetters(shelf, nil, nil).list(t.Context(), letterFilter{}, 100)
	require.NoError(t, err)
	require.True(t, more)
	require.Len(t, got, 2)
}

func TestRefusalsAreBounded(t *testing.T) {
	shelf := newShelf()
	for i := range maxRefusals + 5 {
		shelf.letters = append(shelf.letters, letterOf(t, fmt.Sprint(i), messages.UnknownRecord, "x"))
	}
	answer, err := serve(t, &scripted{}, with(shelf)).ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{All: true})
	require.NoError(t, err)
	require.EqualValues(t, maxRefusals+5, answer.GetRefused())
	require.Len(t, answer.GetRefusals(), maxRefusals)
}

// What takes the place of a letter must be good as a whole; until it is, the letter stays.
func TestFix(t *testing.T) {
	faulty := pageView("f", "900")
	faulty.CustomerId = ""
	shelf := newShelf(letterOf(t, "unsharded-00ff-0", messages.UnknownRecord, "hello"), letterOf(t, "1-8-0", messages.EventRecord, faulty))
	h := &scripted{}
	s := serve(t, h, with(shelf))
	fix := func(id string, events ...*footfallv1.Event) error {
		_, err := s.FixDeadLetter(t.Context(), &footfallv1.FixDeadLetterRequest{Id: id, Events: events})
		return err
	}
	err := fix("1-8-0", faulty)
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.Equal(t, "customer_id: is required", status.Convert(err).Message())
	err = fix("1-8-0", pageView("e", "900"), faulty)
	require.Equal(t, "events[1].customer_id: is required", status.Convert(err).Message())
	require.Equal(t, codes.NotFound, status.Code(fix("1-9-0", pageView("e", "900"))))
	require.Empty(t, h.sent())
	require.Len(t, shelf.ids(), 2)
	// A whole message becomes several events.
	require.NoError(t, fix("unsharded-00ff-0", pageView("e", "900"), pageView("g", "901")))
	require.Equal(t, []string{"e", "g"}, sentIDs(h))
	require.Equal(t, []string{"1-8-0"}, shelf.ids())
	require.Equal(t, codes.NotFound, status.Code(fix("unsharded-00ff-0", pageView("e", "900"))), "it is fixed")
}

func TestLettersByREST(t *testing.T) {
	h := &scripted{}
	shelf := newShelf(letterOf(t, "1-7-0", messages.UnknownRecord, "x"), letterOf(t, "1-8-0", messages.EventRecord, pageView("e", "900")),
		letterOf(t, "1-9-0", messages.UnknownRecord, "x"))
	s := serve(t, h, with(shelf))
	r := s.post(t, "/v1/deadletters/1-7-0:fix", `{"events":[`+fmt.Sprintf(viewJSON, "a")+`]}`)
	require.Equal(t, http.StatusOK, r.code, r.body)
	require.JSONEq(t, `{"accepted":1}`, r.body)
	r = s.post(t, "/v1/deadletters:replay", `{"all":true}`)
	require.Equal(t, http.StatusOK, r.code, r.body)
	require.JSONEq(t, `{"replayed":1,"refused":1,"refusals":[{"id":"1-9-0","event_id":"","field":"",
		"reason":"the body is neither JSON nor protobuf of events: give it events of its own (fix), or drop it"}]}`, r.body)
	r = s.post(t, "/v1/deadletters:drop", `{"ids":["1-9-0","1-7-0"]}`)
	require.Equal(t, http.StatusOK, r.code, r.body)
	require.JSONEq(t, `{"dropped":1,"missing":["1-7-0"]}`, r.body)
	require.Equal(t, []string{"a", "e"}, sentIDs(h))
	for _, tt := range []struct {
		method, path, body string
		code               int
		want               Error
	}{
		{"GET", "/v1/deadletters/1-7-0", "", 404, Error{"not_found", `there is no dead letter "1-7-0"`, ""}},
		{"GET", "/v1/deadletters?limit=-1", "", 400, Error{"invalid_argument", `limit: must be a whole number, 0 or more, not "-1"`, "limit"}},
		{"POST", "/v1/deadletters:replay", `{}`, 400, Error{"invalid_argument", "ids: must name 1 to 10000 letters, not 0; or all must be set", "ids"}},
		{"POST", "/v1/deadletters:replay", `{"ids":["1"],"all":true}`, 400, Error{"invalid_argument", "ids: must be empty where all is set", "ids"}},
		{"POST", "/v1/deadletters:drop", `{"reason":"time"}`, 400, Error{"invalid_argument", "all: must be set where letters are chosen by reason, customer_id or source", "all"}},
		{"POST", "/v1/deadletters:drop", `{"ids":["1",""]}`, 400, Error{"invalid_argument", "ids[1]: is empty", "ids[1]"}},
		{"POST", "/v1/deadletters/1-7-0:fix", `{"events":[]}`, 400, Error{"invalid_argument", "events: must hold 1 to 131072 events, not 0", "events"}},
		{"POST", "/v1/deadletters/1-7-0:fix", `{"events":[{"event_id":7}]}`, 400, Error{"invalid_argument", "events[0].event_id: must be a string, not the number 7", "events[0].event_id"}},
	} {
		t.Run(tt.path+" "+tt.body, func(t *testing.T) {
			r := s.do(t, tt.method, tt.path, typeJSON, strings.NewReader(tt.body))
			require.Equal(t, tt.code, r.code, r.body)
			require.Equal(t, tt.want, r.err(t))
		})
	}
}

// A node without a place of dead letters has none.
func TestNoPlaceOfLetters(t *testing.T) {
	s := serve(t, &scripted{})
	got, err := s.ListDeadLetters(t.Context(), &footfallv1.ListDeadLettersRequest{})
	require.NoError(t, err)
	require.Empty(t, got.GetLetters())
	answer, err := s.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{Ids: []string{"1-7-0"}})
	require.NoError(t, err)
	require.EqualValues(t, 1, answer.GetRefused())
	_, err = s.GetDeadLetter(t.Context(), &footfallv1.GetDeadLetterRequest{Id: "1-7-0"})
	require.Equal(t, codes.NotFound, status.Code(err))
}

// What fails on the way leaves the letter that it failed at, and those after it.
func TestLettersStayWhereSomethingFails(t *testing.T) {
	three := func() *shelf {
		return newShelf(letterOf(t, "0", messages.EventRecord, pageView("0", "900")),
			letterOf(t, "1", messages.EventRecord, pageView("1", "900")), letterOf(t, "2", messages.EventRecord, pageView("2", "900")))
	}
	t.Run("the log", func(t *testing.T) {
		shelf, h, appends := three(), &scripted{}, 0
		h.appendErr = func(int) error {
			if appends++; appends == 2 {
				return &messages.UnavailableError{What: "log", Reason: "the disk is full"}
			}
			return nil
		}
		s := serve(t, h, with(shelf))
		_, err := s.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{All: true})
		require.Equal(t, codes.Unavailable, status.Code(err))
		require.Contains(t, err.Error(), "1 letters were replayed, then: ")
		require.Equal(t, []string{"1", "2"}, shelf.ids())
		require.Equal(t, []string{"0"}, sentIDs(h))
	})
	t.Run("the place", func(t *testing.T) {
		shelf, h := three(), &scripted{}
		shelf.fail = 2
		s := serve(t, h, with(shelf))
		_, err := s.DropDeadLetters(t.Context(), &footfallv1.DropDeadLettersRequest{All: true})
		require.ErrorContains(t, err, "2 letters were dropped, then: the shelf fell")
		require.Equal(t, []string{"2"}, shelf.ids())
	})
	t.Run("a crash before the removal", func(t *testing.T) {
		shelf, h := three(), &scripted{}
		shelf.forget = true
		s := serve(t, h, with(shelf))
		for range 2 {
			answer, err := s.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{All: true})
			require.NoError(t, err)
			require.EqualValues(t, 3, answer.GetReplayed())
		}
		// The same IDs again: the fold knows them.
		require.Equal(t, []string{"0", "0", "1", "1", "2", "2"}, sentIDs(h))
	})
	t.Run("more than fits", func(t *testing.T) {
		shelf, h := three(), &scripted{}
		s := serve(t, h, with(shelf), func(o *Options) { o.Limits.Ingest = 8 })
		_, err := s.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{All: true})
		require.Equal(t, codes.ResourceExhausted, status.Code(err))
		require.Len(t, shelf.ids(), 3)
	})
}

// However many replay at once, a letter is published once.
func TestReplaysTakeTurns(t *testing.T) {
	h, shelf := &scripted{}, newShelf()
	var want []string
	for i := range 50 {
		id := fmt.Sprintf("%02d", i)
		shelf.letters = append(shelf.letters, letterOf(t, id, messages.EventRecord, pageView(id, "900")))
		want = append(want, id)
	}
	s := serve(t, h, with(shelf))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{All: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, want, sentIDs(h))
	require.Empty(t, shelf.ids())
}
