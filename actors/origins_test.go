package actors

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// TestOrigins holds the memory against a plain list of all that were ever seen.
func TestOrigins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var o origins
		var fresh []messages.Origin // those that were not known as they came
		require.False(t, o.seen(messages.Origin{}))
		for _, n := range rapid.SliceOfN(rapid.IntRange(1, 100), 0, 300).Draw(t, "origins") {
			origin := messages.Origin(sha256.New().Sum(fmt.Appendf(nil, "%016d", n))[:16])
			want := false
			for _, f := range fresh[max(0, len(fresh)-rememberedOrigins):] {
				want = want || f == origin
			}
			require.Equal(t, want, o.seen(origin))
			if !want {
				fresh = append(fresh, origin)
			}
			var again origins
			require.NoError(t, again.restore(o.bytes()))
			require.Equal(t, o.bytes(), again.bytes())
			o = again
		}
	})
	var o origins
	require.Error(t, o.restore(make([]byte, 17)))
	require.Error(t, o.restore(make([]byte, 65*16)))
}

// TestRepublished folds a message once that a node has republished twice, of however many
// events of one customer; the same origin from anybody else means nothing.
func TestRepublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.start()
		defer b.stop()
		shard := messages.ShardOf("900", b.cfg.Shards)
		record := func(id string, fromNode bool) messages.Record {
			batch := &footfallv1.EventBatch{}
			for i := range 100 {
				batch.Events = append(batch.Events, purchase("900", fmt.Sprintf("%s-%d", id, i), day1, "1.00"))
			}
			body, err := batch.MarshalVT()
			require.NoError(t, err)
			return messages.Record{Type: messages.BatchRecord, FromNode: fromNode, Body: body, Origin: messages.Origin{byte(id[0])}}
		}
		require.NoError(t, b.log.Append(t.Context(), shard, []messages.Record{record("a", true), record("b", true), record("a", true)}))
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		a, err := b.host.Ask(t.Context(), "900")
		require.NoError(t, err)
		require.EqualValues(t, 200, a.Record.Lifetime().Purchases)
		b.verify()

		// What is remembered is in the checkpoint.
		b.crash()
		b.start()
		require.NoError(t, b.log.Append(t.Context(), shard, []messages.Record{record("b", true), record("c", false), record("c", true)}))
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		a, err = b.host.Ask(t.Context(), "900")
		require.NoError(t, err)
		require.EqualValues(t, 400, a.Record.Lifetime().Purchases, "the first c is another's, and 100 events are more than a customer remembers")
		b.verify()
	})
}

// TestJSONRecords folds events that a publisher has put into the log as JSON, the good ones
// beside the bad.
func TestJSONRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.start()
		defer b.stop()
		view := func(id string) string {
			return `{"event_id":"` + id + `","customer_id":"900","time":"2017-01-01T12:00:00Z","page_view":{}}`
		}
		bad := strings.Replace(view("v-3"), "2017-01-01T12:00:00Z", "yesterday", 1)
		var records []messages.Record
		for _, body := range []string{
			view("v-1"),
			"[" + view("v-2") + "," + bad + "," + view("v-4") + "," + view("v-2") + "]",
			`{"events":[` + view("v-5") + "]}",
			"not JSON",
		} {
			records = append(records, messages.Record{Type: messages.JSONRecord, Body: []byte(body)})
		}
		require.NoError(t, b.log.Append(t.Context(), messages.ShardOf("900", b.cfg.Shards), records))
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		var got []string
		_, err := b.host.History(t.Context(), "900", 10, func(e HistoryEntry) error {
			got = append(got, fmt.Sprintf("%s %s %s %d/%d", e.Event.GetEventId(), e.Outcome, e.Reason, e.Position.Offset, e.Position.Index))
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, []string{
			"v-1 applied  1/0",
			"v-2 applied  2/0",
			` rejected time: must be a time such as "2017-01-01T11:53:26Z", not "yesterday" 2/1`,
			"v-4 applied  2/2",
			"v-2 duplicate  2/3",
			"v-5 applied  3/0",
		}, got)
		b.verify()
		require.Len(t, b.store.dead, 2)
		require.Equal(t, "v-3", b.store.dead[0].EventID)
		require.Equal(t, messages.JSONRecord, b.store.dead[0].Type)
		require.Equal(t, bad, string(b.store.dead[0].Body))
		require.Equal(t, "not JSON", string(b.store.dead[1].Body))
	})
}
