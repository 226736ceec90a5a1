package chaos

import (
	"io"
	"maps"
	"math/bits"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages/footfallv1"
)

// seedOf returns the seed of a test: that of FOOTFALL_CHAOS_SEED, or any.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64() >> 32
	if text := os.Getenv("FOOTFALL_CHAOS_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "FOOTFALL_CHAOS_SEED")
	}
	t.Logf("FOOTFALL_CHAOS_SEED=%d", seed)
	return seed
}

// roundsOf returns how many rounds there are to be: FOOTFALL_CHAOS_ROUNDS, or as the time allows.
func roundsOf(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("FOOTFALL_CHAOS_ROUNDS"); text != "" {
		rounds, err := strconv.Atoi(text)
		require.NoError(t, err, "FOOTFALL_CHAOS_ROUNDS")
		return rounds
	}
	if heavy() {
		return 20
	}
	return 2
}

// TestChaos does to a cluster under load whatever can be done to it, in rounds.
func TestChaos(t *testing.T) {
	w := newWorld(t, seedOf(t), 3)
	l := w.load()
	for i, fs := range w.strikes(roundsOf(t)) {
		t.Logf("round %d, after %.1f s", i+1, time.Duration(l.past.now()).Seconds())
		w.strike(l, fs)
	}
	l.prove()
}

// prove ends the load and looks at everything: in the end every confirmed event is there, each
// once; the folded logs say the same; no answer on the way there was one that could not be; and the database has
// never taken a checkpoint of a former owner.
func (l *load) prove() {
	w, t := l.w, l.w.t
	t.Helper()
	l.during(time.Second)
	l.end()
	l.ok()
	w.everybodyAnswers(time.Minute)
	m := w.running()[0]
	l.bridged(m)
	_, err := m.WaitIdle(t.Context(), &footfallv1.WaitIdleRequest{})
	require.NoError(t, err)

	final := l.final(m)
	for _, other := range w.running()[1:] {
		require.Equal(t, final, l.final(other), "%s and %s differ", m.name, other.name)
	}
	total := 0
	for _, s := range final {
		total += bits.OnesCount64(uint64(s))
	}
	require.Equal(t, total+l.bridging, w.verified(m), "the logs fold to other events than are served")
	l.past.judge(t, final)
	w.proveFence()
	writes, confirmed, reads := l.past.counts()
	t.Logf("%d events sent, %d confirmed, %d there; %d answers in the history; calls answered %d, not answered %d; published %d, not published %d",
		writes, confirmed, total, reads, l.answered.Load(), l.unanswered.Load(), l.published.Load(), l.unpublished.Load())
}

// final asks a node for every customer.
func (l *load) final(m *member) map[string]set {
	t := l.w.t
	t.Helper()
	out := map[string]set{}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(l.past.customers)), 500) {
		called := l.past.now()
		all, err := m.BatchGetCustomers(t.Context(), &footfallv1.BatchGetCustomersRequest{CustomerIds: ids})
		require.NoError(t, err)
		for _, c := range all.GetCustomers() {
			s, err := seen(c)
			require.NoError(t, err)
			out[c.GetCustomerId()] = s
			l.past.read(c.GetCustomerId(), 0, called, s)
		}
		for _, id := range all.GetNotFound() {
			out[id] = 0
			l.past.read(id, 0, called, 0)
		}
	}
	return out
}

// verified folds every log again, compares, and returns how many events that were.
func (w *world) verified(m *member) (events int) {
	t := w.t
	t.Helper()
	stream, err := m.Verify(t.Context(), &footfallv1.VerifyRequest{})
	require.NoError(t, err)
	for {
		p, err := stream.Recv()
		if err == io.EOF { //nolint:errorlint // gRPC's own, never wrapped
			return events
		}
		require.NoError(t, err)
		require.Empty(t, p.GetDifferences())
		events += int(p.GetEvents())
		require.EqualValues(t, shards, p.GetTotal())
	}
}
