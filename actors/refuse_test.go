package actors

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// A shard that has failed for good takes no more events where that is known; the others do.
func TestFailedForGoodTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		const id = "900"
		shard := messages.ShardOf(id, b.cfg.Shards)
		b.store.metas[shard] = &footfallv1.CheckpointMeta{NextOffset: 7} // of a log that had more
		var err error
		b.host, err = NewHost(b.cfg, b.log, b.store, nil)
		require.NoError(t, err)
		require.ErrorContains(t, b.host.Start(t.Context()), "log_regressed")
		defer func() { _ = b.host.Stop(t.Context()) }() // a shard of it has failed
		err = b.host.Append(t.Context(), shard, []*footfallv1.Event{purchase(id, "b-1", day1, "1.00")})
		var notActive *NotActiveError
		require.ErrorAs(t, err, &notActive)
		var regressed *messages.LogRegressedError
		require.ErrorAs(t, err, &regressed, "it says why")
		require.Empty(t, b.log.shards[shard])
		for other := range b.cfg.Shards {
			if other != shard {
				require.NoError(t, b.host.Append(t.Context(), other, []*footfallv1.Event{purchase("x", "b-1", day1, "1.00")}))
			}
		}
	})
}
