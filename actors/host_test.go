package actors

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

var newYork = func() *time.Location {
	loc, err := time.LoadLocation("America/New_York")
	if err != nil {
		panic(err)
	}
	return loc
}()

// bench is one node's worth of actors over a log and a store that outlive it.
type bench struct {
	t      *testing.T
	cfg    Config
	log    *memLog
	store  *memStore
	scorer Scorer
	host   *Host
}

func newBench(t *testing.T, scorer Scorer) *bench {
	return &bench{
		t: t, log: newMemLog(), store: newMemStore(), scorer: scorer,
		cfg: Config{
			Node: "n1", Shards: 4, Location: newYork, Currency: "USD",
			Clock: footfallv1.ClockMode_CLOCK_MODE_DRIVEN, Now: time.Now, CheckpointEvery: time.Second,
		},
	}
}

func (b *bench) start() {
	b.t.Helper()
	var err error
	b.host, err = NewHost(b.cfg, b.log, b.store, b.scorer)
	require.NoError(b.t, err)
	require.NoError(b.t, b.host.Start(b.t.Context()))
}

func (b *bench) stop() {
	b.t.Helper()
	require.NoError(b.t, b.host.Stop(context.WithoutCancel(b.t.Context())))
}

// crash leaves everything as it is, without a last checkpoint: as kill -9 does.
func (b *bench) crash() {
	b.store.mu.Lock()
	for shard := range b.store.epochs {
		b.store.epochs[shard] += 1000
	}
	b.store.mu.Unlock()
	_ = b.host.Stop(context.WithoutCancel(b.t.Context()))
}

func (b *bench) publish(events ...*footfallv1.Event) {
	b.t.Helper()
	byShard := map[int][]*footfallv1.Event{}
	for _, ev := range events {
		s := messages.ShardOf(ev.CustomerId, b.cfg.Shards)
		byShard[s] = append(byShard[s], ev)
	}
	for s, evs := range byShard {
		require.NoError(b.t, b.host.Append(b.t.Context(), s, evs))
	}
}

func (b *bench) verify() {
	b.t.Helper()
	for s := range b.cfg.Shards {
		v, err := b.host.Verify(b.t.Context(), s)
		require.NoError(b.t, err)
		require.Empty(b.t, v.Differences, "shard %d", s)
	}
}

var day1 = time.Date(2017, 1, 1, 12, 0, 0, 0, newYork)

func purchase(customer, id string, at time.Time, amount string) *footfallv1.Event {
	return &footfallv1.Event{
		EventId: id, CustomerId: customer, Time: timestamppb.New(at),
		Kind: &footfallv1.Event_Purchase{Purchase: &footfallv1.Purchase{
			BasketId: id, Lines: []*footfallv1.Line{{ProductId: "p", Department: "GROCERY", Quantity: 1, Amount: amount}},
		}},
	}
}

func TestAnswersAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.start()
		defer b.stop()

		_, err := b.host.Ask(t.Context(), "900")
		var notFound *NotFoundError
		require.ErrorAs(t, err, &notFound)

		b.publish(purchase("900", "b-1", day1, "10.00"), purchase("900", "b-1", day1, "10.00"))
		require.NoError(t, b.host.WaitFor(t.Context(), "900", "b-1"))
		require.NoError(t, b.host.WaitIdle(t.Context(), true))
		a, err := b.host.Ask(t.Context(), "900")
		require.NoError(t, err)
		require.EqualValues(t, 1, a.Record.Lifetime().Purchases)
		require.EqualValues(t, 10_0000, a.Record.Lifetime().Spend)
		require.Equal(t, day1.UnixMilli(), a.AsOf, "no tick yet: as of the latest event")

		appended, err := b.host.Tick(t.Context(), "2017-01-01")
		require.NoError(t, err)
		require.True(t, appended)
		appended, err = b.host.Tick(t.Context(), "2017-01-01")
		require.NoError(t, err)
		require.False(t, appended)
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		a, err = b.host.Ask(t.Context(), "900")
		require.NoError(t, err)
		require.Equal(t, time.Date(2017, 1, 2, 0, 0, 0, 0, newYork).UnixMilli()-1, a.AsOf)

		// An event two days ahead is refused at the door, and by the fold where it got in.
		future := purchase("900", "b-2", day1.AddDate(0, 0, 3), "1.00")
		require.NotNil(t, b.host.CheckTime(0, future.Time.AsTime().UnixMilli()))
		require.Nil(t, b.host.CheckTime(0, day1.AddDate(0, 0, 1).UnixMilli()))
		b.publish(future)
		var rejected *RejectedError
		require.ErrorAs(t, b.host.WaitFor(t.Context(), "900", "b-2"), &rejected)
		require.Equal(t, "time", rejected.Fault.Field)

		b.host.NoteRejected("900", "b-3", messages.Fault{Field: "currency", Reason: "no"})
		require.ErrorAs(t, b.host.WaitFor(t.Context(), "900", "b-3"), &rejected)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, b.host.WaitFor(ctx, "900", "never"), context.DeadlineExceeded)

		// Of another shard, unreadable, or a control record that no node wrote: dead letters.
		other := (messages.ShardOf("900", 4) + 1) % 4
		require.NoError(t, b.host.Append(t.Context(), other, []*footfallv1.Event{purchase("900", "b-4", day1, "1.00")}))
		tick, err := (&footfallv1.Control{Kind: &footfallv1.Control_Tick{Tick: &footfallv1.Tick{Date: "2030-01-01"}}}).MarshalVT()
		require.NoError(t, err)
		require.NoError(t, b.log.Append(t.Context(), 0, []messages.Record{
			{Type: messages.ControlRecord, Body: tick},
			{Type: messages.BatchRecord, Body: []byte("nonsense")},
			{Type: messages.EventRecord, Body: []byte{0xff}},
			{Type: 77, Body: tick},
			{Type: messages.UnknownRecord, Body: []byte("who knows")},
			{Type: messages.JSONRecord, Body: []byte(`[{"event_id":"j-1"`)},
			{Type: messages.JSONRecord, Body: []byte(`[{"event_id":"j-1"}]`)},
		}))
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		require.NoError(t, b.host.Checkpoint(t.Context()))
		require.Len(t, b.store.dead, 9, "with the future event")
		b.verify()
	})
}

// TestFoldsOnceWhateverCrashes publishes with duplicates, late events and ticks, crashes at
// random, keeps only a few customers in memory, and compares with the fold at each end.
func TestFoldsOnceWhateverCrashes(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crashes(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func crashes(t *testing.T, rnd *rand.Rand) {
	scorer := &echoScorer{}
	b := newBench(t, scorer)
	b.cfg.MemoryBudget = 1 // the least: most customers are passivated
	var failing atomic.Bool
	b.store.fault = func(*messages.Checkpoint) error {
		if failing.Load() {
			return errors.New("the store is away")
		}
		return nil
	}
	b.start()
	applied := map[string]map[string]bool{}
	now := day1
	sequence := uint64(0)
	var again []*footfallv1.Event
	for round := range 60 {
		var events []*footfallv1.Event
		for range rnd.IntN(400) {
			customer := fmt.Sprintf("c%d", rnd.IntN(3000))
			if rnd.IntN(10) == 0 {
				customer = "hot"
			}
			ev := purchase(customer, fmt.Sprintf("e%d", rnd.IntN(1<<40)), now.Add(-time.Duration(rnd.IntN(72))*time.Hour), "3.50")
			if rnd.IntN(2) == 0 {
				sequence++
				ev.Producer, ev.Sequence = "file", sequence
			}
			events = append(events, ev)
			if applied[customer] == nil {
				applied[customer] = map[string]bool{}
			}
			applied[customer][ev.EventId] = true
		}
		b.publish(events...)
		if rnd.IntN(3) == 0 {
			b.publish(again...)
		}
		again = nil
		for _, ev := range events {
			// Customers with few events know their duplicates by ID, the others by sequence.
			if ev.Sequence > 0 || ev.CustomerId != "hot" {
				again = append(again, ev)
			}
		}
		switch rnd.IntN(6) {
		case 0:
			_, err := b.host.Tick(t.Context(), now.Format("2006-01-02"))
			require.NoError(t, err)
			now = now.AddDate(0, 0, 1)
		case 1:
			b.crash()
			b.start()
		case 2:
			b.stop()
			b.start()
		case 3:
			failing.Store(round < 50)
			<-time.After(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			failing.Store(false)
		case 4:
			require.NoError(t, b.host.WaitIdle(t.Context(), true))
			b.verify()
		}
	}
	require.NoError(t, b.host.WaitIdle(t.Context(), true))
	b.verify()
	var events, want, resident uint64
	for _, st := range b.host.Status() {
		events += st.Events
		resident += st.Resident
	}
	for customer, ids := range applied {
		want += uint64(len(ids))
		a, err := b.host.Ask(t.Context(), customer)
		require.NoError(t, err)
		require.EqualValues(t, len(ids), a.Record.Lifetime().Events, customer)
		require.Len(t, a.Scores, 2)
		var f behavior.Features
		a.Record.Features(a.Scores[0].Time, behavior.NewCalendar(newYork), &f)
		require.InDelta(t, f[0], a.Scores[0].Value, 1e-4, "the score is that of the newest state")
	}
	require.Equal(t, want, events)
	require.Less(t, resident, uint64(len(applied)), "most are passivated")
	b.stop()
}

func TestSweepScoresEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scorer := &echoScorer{full: true}
		b := newBench(t, scorer)
		b.cfg.MemoryBudget = 1
		b.start()
		for i := range 8000 {
			b.publish(purchase(fmt.Sprintf("c%d", i), "e1", day1, "1.00"))
		}
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		scorer.mu.Lock()
		scorer.full = false
		scorer.mu.Unlock()
		require.NoError(t, b.host.WaitIdle(t.Context(), true))
		_, err := b.host.Tick(t.Context(), "2017-01-20")
		require.NoError(t, err)
		require.NoError(t, b.host.WaitIdle(t.Context(), true))
		b.crash()
		b.start()
		require.NoError(t, b.host.WaitIdle(t.Context(), true))
		tick := time.Date(2017, 1, 21, 0, 0, 0, 0, newYork).UnixMilli() - 1
		for i := range 8000 {
			a, err := b.host.Ask(t.Context(), fmt.Sprintf("c%d", i))
			require.NoError(t, err)
			require.Len(t, a.Scores, 2)
			for _, s := range a.Scores {
				require.Equal(t, tick, s.Time)
				require.InDelta(t, 19.5, s.Value, 1e-3, "recency at the tick")
			}
		}
		b.verify()
		b.stop()
	})
}

func TestPanicIsADeadShardThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.start()
		defer b.stop()
		b.publish(purchase("900", "b-1", day1, "10.00"))
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		shard := messages.ShardOf("900", 4)
		done := make(chan struct{})
		b.host.shards[shard].send(&visit{func([]byte, behavior.Record) { panic("a bug") }, done})
		<-done
		_, err := b.host.Ask(t.Context(), "900")
		var notActive *NotActiveError
		require.ErrorAs(t, err, &notActive)
		require.Equal(t, Failed, notActive.State)
		<-time.After(2 * retryAfter)
		a, err := b.host.Ask(t.Context(), "900")
		require.NoError(t, err)
		require.EqualValues(t, 1, a.Record.Lifetime().Purchases)
		b.verify()
	})
}

func TestStaleOwnerStepsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.start()
		old := b.host
		b.publish(purchase("900", "b-1", day1, "10.00"))
		b.start() // another owner, under a higher epoch
		b.publish(purchase("900", "b-2", day1, "10.00"))
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		<-time.After(5 * time.Second)
		for _, st := range old.Status() {
			require.Equal(t, Failed, st.State)
			var stale *messages.StaleEpochError
			require.ErrorAs(t, st.Err, &stale)
		}
		a, err := b.host.Ask(t.Context(), "900")
		require.NoError(t, err)
		require.EqualValues(t, 2, a.Record.Lifetime().Purchases)
		b.verify()
		b.stop()
		require.NoError(t, old.Stop(t.Context()))
	})
}

// TestLostStore folds everything again from the log, whose former epochs are higher than the
// new store's, before it answers.
func TestLostStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		for life := range 3 {
			b.start()
			for i := range 200 {
				b.publish(purchase("900", fmt.Sprintf("b-%d-%d", life, i), day1, "1.00"))
			}
			b.stop()
		}
		b.store = newMemStore()
		b.start()
		defer b.stop()
		a, err := b.host.Ask(t.Context(), "900")
		require.NoError(t, err)
		require.EqualValues(t, 600, a.Record.Lifetime().Purchases)
		b.verify()
	})
}

func TestWallClockTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, &echoScorer{})
		b.cfg.Clock = footfallv1.ClockMode_CLOCK_MODE_WALL
		b.cfg.Shards = 1
		b.start()
		defer b.stop()
		_, err := b.host.Tick(t.Context(), "2017-01-01")
		require.ErrorIs(t, err, ErrClock)
		<-time.After(time.Second)
		require.NoError(t, b.host.WaitIdle(t.Context(), true))
		yesterday := func() string { return time.Now().In(newYork).AddDate(0, 0, -1).Format("2006-01-02") }
		require.Equal(t, yesterday(), b.host.Status()[0].LastTick, "at creation")
		b.publish(purchase("900", "b-1", time.Now(), "10.00"))
		today := yesterday()
		for yesterday() == today {
			<-time.After(time.Hour)
		}
		require.NoError(t, b.host.WaitIdle(t.Context(), true))
		a, err := b.host.Ask(t.Context(), "900")
		require.NoError(t, err)
		require.Equal(t, time.Now().UnixMilli(), a.AsOf)
		require.Equal(t, yesterday(), b.host.Status()[0].LastTick, "after midnight")
		require.Less(t, time.Since(time.UnixMilli(a.Scores[0].Time)), time.Hour, "scored again at midnight")
	})
}

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.start()
		defer b.stop()
		for i := range 5 {
			b.publish(purchase("900", fmt.Sprintf("b-%d", i), day1.AddDate(0, 0, i), "10.00"), purchase("901", "x", day1, "1.00"))
		}
		again := purchase("900", "b-9", day1, "10.00")
		again.Producer, again.Sequence = "till", 7
		b.publish(again, again, purchase("900", "b-0", day1, "10.00"))
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		var got []string
		truncated, err := b.host.History(t.Context(), "900", 4, func(e HistoryEntry) error {
			got = append(got, fmt.Sprintf("%s %s %d", e.Event.GetEventId(), e.Outcome, e.Record.Lifetime().Purchases))
			return nil
		})
		require.NoError(t, err)
		require.True(t, truncated)
		require.Equal(t, []string{"b-4 applied 5", "b-9 applied 6", "b-9 duplicate 6", "b-0 duplicate 6"}, got)

		// The same fold, with the customers at each tick.
		_, err = b.host.Tick(t.Context(), "2017-01-05")
		require.NoError(t, err)
		var days []string
		err = Refold(t.Context(), b.cfg, messages.ShardOf("900", 4), b.log, b.store, func(day int32, each iter.Seq2[string, behavior.Record]) error {
			for id, rec := range each {
				if id == "900" {
					days = append(days, fmt.Sprintf("%s %d", behavior.FormatDate(day), rec.Lifetime().Purchases))
				}
			}
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, []string{"2017-01-05 6"}, days)
	})
}
