package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// foreign writes messages into a shard's log as a publisher that goes past the door does, and
// waits until what is refused of them is in the store.
func (r *running) foreign(t *testing.T, shard int, records ...messages.Record) {
	t.Helper()
	require.NoError(t, r.storage.Log.Append(t.Context(), shard, records))
	r.idle(t)
	require.NoError(t, r.host.Checkpoint(t.Context()))
}

func eventRecord(t *testing.T, ev *footfallv1.Event) messages.Record {
	t.Helper()
	body, err := ev.MarshalVT()
	require.NoError(t, err)
	return messages.Record{Type: messages.EventRecord, Body: body}
}

func (r *running) letters(t *testing.T) []*footfallv1.DeadLetter {
	t.Helper()
	got, err := r.ListDeadLetters(t.Context(), &footfallv1.ListDeadLettersRequest{Limit: 1000})
	require.NoError(t, err)
	require.False(t, got.GetMore())
	return got.GetLetters()
}

// lifetime is how many events of a customer are folded once waitFor is.
func (r *running) lifetime(t *testing.T, customer, waitFor string) uint64 {
	t.Helper()
	c, err := r.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: waitFor})
	require.NoError(t, err)
	return c.GetLifetime().GetEvents()
}

// Whoever wrote it into the log: what cannot be folded is listed with its reason, and the
// rest goes on.
func TestDeadLettersAreListed(t *testing.T) {
	n := launch(t, testConfig(t.TempDir()))
	other := "1"
	home := messages.ShardOf(other, n.cfg.Shards)
	var want []string
	for shard := range n.cfg.Shards {
		if shard == home {
			continue
		}
		n.foreign(t, shard, eventRecord(t, view(other, fmt.Sprint("e", shard), monday)), messages.Record{Type: messages.EventRecord, Body: []byte("\xff")})
		want = append(want, fmt.Sprint(shard), fmt.Sprint(shard))
	}
	n.publish(t, view(other, "good", monday))
	n.idle(t)

	var got struct {
		Letters []struct {
			ID            string
			Shard         int
			Field, Reason string
			EventID       string `json:"event_id"`
			Body          []byte
		}
		More bool
	}
	require.Equal(t, http.StatusOK, n.get(t, "/v1/deadletters", &got))
	require.False(t, got.More)
	require.Equal(t, "customer_id", got.Letters[0].Field)
	require.Contains(t, got.Letters[0].Reason, "belongs to shard")
	require.Equal(t, []byte("\xff"), got.Letters[1].Body)
	var shards []string
	ids := map[string]bool{}
	for _, l := range got.Letters {
		shards = append(shards, fmt.Sprint(l.Shard))
		ids[l.ID] = true
	}
	require.Equal(t, want, shards, "in order")
	require.Len(t, ids, 6)
	require.Equal(t, http.StatusOK, n.get(t, "/v1/deadletters?limit=4", &got))
	require.Len(t, got.Letters, 4)
	require.True(t, got.More)
	require.Equal(t, http.StatusOK, n.get(t, "/v1/deadletters?reason=unreadable", &got))
	require.Len(t, got.Letters, 3)

	require.EqualValues(t, 1, n.lifetime(t, other, "good"))
	n.verified(t)
}

// A letter goes the way of any event once it is replayed or fixed: to its own shard, and once.
func TestDeadLettersAreRepaired(t *testing.T) {
	dir := t.TempDir()
	n := launch(t, testConfig(dir))
	home := messages.ShardOf("900", n.cfg.Shards)
	away := (home + 1) % n.cfg.Shards
	// Of a till whose numbers went on meanwhile, in the log of another shard.
	lost := view("900", "lost", monday)
	lost.Producer, lost.Sequence = "till", 3
	wrong := purchase("900", "wrong", monday, "1.50")
	wrong.GetPurchase().Lines[0].Amount = "1,50"
	later := view("900", "later", monday)
	later.Producer, later.Sequence = "till", 4
	n.publish(t, later)
	n.foreign(t, away, eventRecord(t, lost), eventRecord(t, wrong), messages.Record{Type: messages.EventRecord, Body: []byte("\xff")},
		messages.Record{Type: messages.ControlRecord, Body: []byte("\x0a\x00")})
	letters := n.letters(t)
	require.Len(t, letters, 4)
	id := func(i int) string { return letters[i].GetId() }
	require.Equal(t, "lost", letters[0].GetEventId())

	// As they are: only the one that was but in the wrong place is good.
	answer, err := n.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{All: true})
	require.NoError(t, err)
	require.EqualValues(t, 1, answer.GetReplayed())
	require.EqualValues(t, 3, answer.GetRefused())
	require.Equal(t, id(1), answer.GetRefusals()[0].GetId())
	require.Equal(t, "purchase.lines[0].amount", answer.GetRefusals()[0].GetField())
	require.EqualValues(t, 2, n.lifetime(t, "900", "lost"))

	fixed := proto.CloneOf(wrong)
	fixed.GetPurchase().Lines[0].Amount = "1.50"
	_, err = n.FixDeadLetter(t.Context(), &footfallv1.FixDeadLetterRequest{Id: id(1), Events: []*footfallv1.Event{wrong}})
	require.ErrorContains(t, err, "purchase.lines[0].amount: ")
	_, err = n.FixDeadLetter(t.Context(), &footfallv1.FixDeadLetterRequest{Id: id(1), Events: []*footfallv1.Event{fixed}})
	require.NoError(t, err)
	require.EqualValues(t, 3, n.lifetime(t, "900", "wrong"))
	dropped, err := n.DropDeadLetters(t.Context(), &footfallv1.DropDeadLettersRequest{Ids: []string{id(2), id(0)}})
	require.NoError(t, err)
	require.EqualValues(t, 1, dropped.GetDropped())
	require.Equal(t, []string{id(0)}, dropped.GetMissing(), "it was replayed")

	left := n.letters(t)
	require.Len(t, left, 1)
	require.Equal(t, id(3), left[0].GetId())
	n.verified(t)
	n.halt(t)

	// What was repaired stays repaired.
	n = launch(t, testConfig(dir))
	n.idle(t)
	require.Equal(t, id(3), n.letters(t)[0].GetId())
	require.Len(t, n.letters(t), 1)
	require.EqualValues(t, 3, n.lifetime(t, "900", "wrong"))
	n.verified(t)
}

// A crash after the event is in the log, and before the letter is removed, leaves the letter. To
// replay it again changes nothing but that.
func TestCrashBetweenReplayAndRemoval(t *testing.T) {
	dir := t.TempDir()
	n := launch(t, testConfig(dir))
	away := (messages.ShardOf("900", n.cfg.Shards) + 1) % n.cfg.Shards
	n.foreign(t, away, eventRecord(t, view("900", "a", monday)), eventRecord(t, view("900", "b", monday)))
	crash := errors.New("the power failed")
	seen := 0
	err := n.storage.DeadLetters().Visit(t.Context(), func(l *footfallv1.DeadLetter) (messages.Decision, error) {
		ev := &footfallv1.Event{}
		require.NoError(t, ev.UnmarshalVT(l.GetBody()))
		n.publish(t, ev)
		if seen++; seen == 2 {
			return messages.KeepLetter, crash
		}
		return messages.RemoveLetter, nil
	})
	require.ErrorIs(t, err, crash)
	n.halt(t)

	n = launch(t, testConfig(dir))
	require.Len(t, n.letters(t), 1, "what was said before the error is done")
	answer, err := n.ReplayDeadLetters(t.Context(), &footfallv1.ReplayDeadLettersRequest{All: true})
	require.NoError(t, err)
	require.EqualValues(t, 1, answer.GetReplayed())
	require.Empty(t, n.letters(t))
	n.idle(t)
	require.EqualValues(t, 2, n.lifetime(t, "900", "b"))
	n.verified(t)
}

// The letters are gone through in order, in pages, and no more than asked for.
func TestVisitOfManyLetters(t *testing.T) {
	n := launch(t, testConfig(t.TempDir()))
	const each = 50
	for shard := range n.cfg.Shards {
		var records []messages.Record
		for range each {
			records = append(records, messages.Record{Type: messages.EventRecord, Body: []byte("\xff")})
		}
		n.foreign(t, shard, records...)
	}
	visit := func(do func(i int) messages.Decision) (ids []string) {
		i := 0
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		require.NoError(t, n.storage.DeadLetters().Visit(ctx, func(l *footfallv1.DeadLetter) (messages.Decision, error) {
			ids = append(ids, l.GetId())
			i++
			return do(i - 1), nil
		}))
		return ids
	}
	keep := func(int) messages.Decision { return messages.KeepLetter }
	all := visit(keep)
	require.Len(t, all, each*n.cfg.Shards)
	require.Equal(t, all[:77], visit(func(i int) messages.Decision {
		if i == 76 {
			return messages.StopVisit
		}
		return messages.KeepLetter
	}))
	require.Len(t, visit(func(i int) messages.Decision { return messages.Decision(i % 2) }), len(all))
	var want []string
	for i := 0; i < len(all); i += 2 {
		want = append(want, all[i])
	}
	require.Equal(t, want, visit(keep))
	// What was said before the end of the visit is done.
	visit(func(i int) messages.Decision {
		if i == 3 {
			return messages.StopVisit
		}
		return messages.RemoveLetter
	})
	require.Equal(t, want[3:], visit(keep))
}
