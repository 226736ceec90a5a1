package chaos

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/messages/footfallv1"
)

// TestPromises does to a cluster of three under load what its documents make promises about, one
// after the other; what holds of all of it is proved in the end.
func TestPromises(t *testing.T) {
	if !heavy() {
		t.Skip("a heavy suite: FOOTFALL_HEAVY=1")
	}
	w := newWorld(t, seedOf(t), 3)
	l := w.load()
	for _, promise := range []struct {
		name string
		keep func(*load)
	}{
		{"one is killed, and the others answer", kills},
		{"one stands still, and answers nothing of before", freezes},
		{"one loses the database in one direction", losesDatabase},
		{"one is not heard, or hears nobody", deaf},
		{"all hand over what they have", handOvers},
	} {
		if !t.Run(promise.name, func(t *testing.T) {
			w.t = t
			w.spread()
			promise.keep(l)
		}) {
			t.FailNow()
		}
		w.t = t
	}
	l.prove()
}

// spread waits until every node that runs has shards again.
func (w *world) spread() {
	w.t.Helper()
	w.everybodyAnswers(time.Minute)
	require.Eventually(w.t, func() bool {
		running := w.running()
		owners := w.owners(running[0])
		return !slices.ContainsFunc(running, func(m *member) bool { return !slices.Contains(owners, m.name) })
	}, 30*time.Second, 20*time.Millisecond)
}

// crowd are customers of every shard.
var crowd = sync.OnceValue(func() (ids []string) {
	for i := range 8 * shards {
		ids = append(ids, fmt.Sprintf("crowd-%d", i))
	}
	return ids
})

// answered asks some nodes for many customers at once, one by one and all together, and returns how
// long the last of them took to be answered.
func (w *world) answered(at []*member) time.Duration {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	var (
		work    sync.WaitGroup
		mu      sync.Mutex
		errs    []error
		slowest time.Duration
		which   string
	)
	note := func(what string, m *member, err error) {
		mu.Lock()
		defer mu.Unlock()
		if took := time.Since(began); took > slowest {
			slowest, which = took, what+" at "+m.name
		}
		if err != nil && status.Code(err) != codes.NotFound { // nobody knows them, and says so
			errs = append(errs, fmt.Errorf("%s at %s: %w", what, m.name, err))
		}
	}
	for _, m := range at {
		for _, id := range crowd() {
			work.Go(func() {
				_, err := m.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: id})
				note(id, m, err)
			})
		}
		work.Go(func() {
			_, err := m.BatchGetCustomers(ctx, &footfallv1.BatchGetCustomersRequest{CustomerIds: crowd()})
			note("all", m, err)
		})
	}
	work.Wait()
	require.Empty(w.t, errs)
	if slowest > time.Second {
		w.t.Logf("  the last answer was of %s", which)
	}
	return slowest
}

// kills ends one of three with kill -9, again and again. Every query that comes meanwhile is answered.
func kills(l *load) {
	w := l.w
	var slowest []time.Duration
	for i := range 3 {
		m := w.nodes[i]
		l.during(500 * time.Millisecond)
		w.kill(m)
		slowest = append(slowest, w.answered(w.running()).Round(10*time.Millisecond))
		w.start(m)
		w.spread()
		l.ok()
	}
	w.t.Logf("of a node that was killed every customer was answered again within %v", slowest)
}

// own are customers of ours, of shards that a node has, with one event each.
func (l *load) own(m *member, name string) (ids []string) {
	t := l.w.t
	t.Helper()
	for i := 0; len(ids) < 2*shards; i++ {
		id := fmt.Sprintf("%s-%d", name, i)
		l.put(id, 0, m)
		c, err := m.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: id, WaitFor: eventID(0)})
		require.NoError(t, err)
		if c.GetOwner() == m.name {
			ids = append(ids, id)
		}
	}
	return ids
}

// put publishes an event for certain.
func (l *load) put(id string, i int, m *member) {
	t := l.w.t
	t.Helper()
	l.past.write(id, 0, i)
	answer, err := m.Publish(t.Context(), &footfallv1.EventBatch{Events: []*footfallv1.Event{event(id, i)}})
	require.NoError(t, err)
	require.EqualValues(t, 1, answer.GetAccepted())
	l.past.confirm(id, i)
}

// freezes has an owner stand still for ten seconds. The others take its shards and fold on; what
// it is asked meanwhile it finds when it goes on, believing to be the owner: it must not answer out of what it knew.
func freezes(l *load) {
	w, t := l.w, l.w.t
	m, other := w.nodes[1], w.nodes[0]
	ids := l.own(m, "frozen")
	thaw := w.freeze(m)
	began := time.Now()
	w.everybodyAnswers(time.Minute)
	took := time.Since(began)
	for _, id := range ids {
		l.put(id, 1, other)
		c, err := other.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: id, WaitFor: eventID(1)})
		require.NoError(t, err)
		require.NotEqual(t, m.name, c.GetOwner())
	}

	var (
		work        sync.WaitGroup
		mu          sync.Mutex
		fresh, late int
		wrong       []string
	)
	ask := func(id string, stale bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		c, err := m.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: id, AllowStale: stale})
		mu.Lock()
		defer mu.Unlock()
		s, bad := seen(c)
		switch {
		case err != nil || bad != nil:
			wrong = append(wrong, fmt.Sprintf("%s: %v %v", id, err, bad))
		case s == 0b11:
			fresh++
		case stale && s == 0b01 && c.GetAsOf().GetStaleMs() > 0:
			late++
		default:
			wrong = append(wrong, fmt.Sprintf("%s: stale allowed %t: %b as of %v from %s", id, stale, s, c.GetAsOf(), c.GetOwner()))
		}
	}
	for _, id := range ids {
		for _, stale := range []bool{false, true} {
			work.Go(func() { ask(id, stale) })
		}
	}
	l.during(10*time.Second - time.Since(began))
	thaw()
	for range 3 { // and while it finds out
		for _, id := range ids {
			work.Go(func() { ask(id, false) })
		}
		l.during(50 * time.Millisecond)
	}
	work.Wait()
	require.Empty(t, wrong)
	t.Logf("the others answered for all after %.2f s; after ten the one that stood still gave %d answers of now, and %d that said how stale they were", took.Seconds(), fresh, late)
	w.everybodyAnswers(time.Minute)
}

// losesDatabase cuts a node off its database, in one direction after the other: it owns nothing
// any more, and the others take over while it lives on.
func losesDatabase(l *load) {
	w := l.w
	m, others := w.nodes[2], w.nodes[:2]
	for _, way := range [][]direction{{{postgres, m.name}}, both(m.name, postgres)} {
		heal := w.net.cut(way...)
		var slowest time.Duration
		for deadline := time.Now().Add(30 * time.Second); ; {
			slowest = max(slowest, w.answered(others))
			if !slices.Contains(w.owners(others[0]), m.name) {
				break
			}
			require.True(w.t, time.Now().Before(deadline), "it still owns shards")
			l.during(20 * time.Millisecond)
		}
		w.t.Logf("%v: every customer answered by the others within %v", way, slowest.Round(10*time.Millisecond))
		heal()
		w.spread()
		l.ok()
	}
}

// owners tells who has each shard, as a node sees it.
func (w *world) owners(m *member) (out []string) {
	w.t.Helper()
	list, err := m.ListShards(w.t.Context(), &footfallv1.ListShardsRequest{})
	require.NoError(w.t, err)
	for _, s := range list.GetShards() {
		out = append(out, s.GetOwner())
	}
	return out
}

// deaf cuts the network between a node and the others in one direction, then in the other, for
// longer than it takes them to miss it; and then lets two hear each other in turns.
func deaf(l *load) {
	w := l.w
	m := w.nodes[0].name
	for _, way := range [][]direction{
		toAll(m, others(m)),
		fromAll(m, others(m)),
		append(toAll(m, others(m)), fromAll(m, others(m))...),
		{{"n1", "n2"}, {"n2", "n3"}, {"n3", "n1"}},
	} {
		heal := w.net.cut(way...)
		l.during(3 * time.Second)
		heal()
		w.t.Logf("%v: all answer %v after", way, w.answered(w.running()).Round(10*time.Millisecond))
		l.ok()
	}
}

// handOvers restarts every node in order. No query that comes meanwhile at the others fails.
func handOvers(l *load) {
	w := l.w
	for i := range 3 {
		m := w.nodes[i]
		w.stop(m, true)
		w.answered(w.running())
		w.start(m)
		w.spread()
		l.ok()
	}
}
