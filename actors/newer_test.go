package actors

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// field is a protobuf field that no version knows yet.
func field(number protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), text)
}

// metric reads a counter of a registry; -1 where there is none.
func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	at := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == name })
	if at < 0 {
		return -1
	}
	return families[at].GetMetric()[0].GetCounter().GetValue()
}

// What newer nodes write must neither stop an older one nor be lost by it: what it cannot fold are dead letters, whole;
// control records of other kinds stay in the log, counted; fields of a checkpoint go on into the next one.
func TestNewerNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		reg := prometheus.NewRegistry()
		var err error
		b.cfg.Metrics, err = NewMetrics(reg)
		require.NoError(t, err)
		b.start()
		const id = "900"
		shard := messages.ShardOf(id, b.cfg.Shards)
		write := func(kind messages.RecordType, fromNode bool, body []byte) {
			require.NoError(t, b.log.Append(t.Context(), shard, []messages.Record{{Type: kind, FromNode: fromNode, Body: body}}))
		}
		encode := func(m interface{ MarshalVT() ([]byte, error) }, more ...byte) []byte {
			body, err := m.MarshalVT()
			require.NoError(t, err)
			return append(body, more...)
		}
		known := purchase(id, "b-1", day1, "10.00")
		unknownKind := &footfallv1.Event{EventId: "b-2", CustomerId: id, Time: known.GetTime()}

		write(messages.EventRecord, true, encode(known, field(900, "a field of a known kind")...))
		write(messages.EventRecord, true, encode(unknownKind, field(901, "an event of a new kind")...))
		write(messages.RecordType(77), true, []byte("a record of a new type"))
		write(messages.UnknownRecord, false, []byte("a content type that nobody knows"))
		write(messages.ControlRecord, true, encode(&footfallv1.Control{Node: "newer"}, field(902, "a control record of a new kind")...))
		write(messages.ControlRecord, true, encode(&footfallv1.Control{
			Node: "newer", Kind: &footfallv1.Control_Epoch{Epoch: &footfallv1.EpochBegin{Epoch: 0}},
		}, field(903, "a field of a control record")...))
		write(messages.EventRecord, true, encode(purchase(id, "b-3", day1, "2.50")))
		require.NoError(t, b.host.WaitIdle(t.Context(), false))

		a, err := b.host.Ask(t.Context(), id)
		require.NoError(t, err)
		require.EqualValues(t, 125_000, a.Record.Lifetime().Spend)
		b.verify()
		require.NoError(t, b.host.Checkpoint(t.Context()))
		var letters []string
		for _, d := range b.store.dead {
			letters = append(letters, string(d.Body))
		}
		require.Equal(t, []string{
			string(encode(unknownKind, field(901, "an event of a new kind")...)), "a record of a new type", "a content type that nobody knows",
		}, letters, "dead letters, whole")
		synctest.Wait()
		require.EqualValues(t, 1, metric(t, reg, "footfall_newer_records_total"))

		// A newer node had the shard for a while, and left more in its checkpoint.
		b.stop()
		extra := field(904, "a field of a checkpoint")
		b.store.metas[shard].ProtoReflect().SetUnknown(extra)
		b.cfg.Metrics = nil
		b.start()
		b.publish(purchase(id, "b-4", day1, "1.00"))
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		b.stop()
		require.Equal(t, extra, []byte(b.store.metas[shard].ProtoReflect().GetUnknown()))
		require.EqualValues(t, 3, b.store.metas[shard].GetEvents())
	})
}

// The counters of a process count what it did: they stay where they are when a shard leaves, fails and comes again.
func TestCountersNeverGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		reg := prometheus.NewRegistry()
		var err error
		b.cfg.Metrics, err = NewMetrics(reg)
		require.NoError(t, err)
		b.start()
		defer b.stop()
		const id, name = "900", "footfall_duplicate_events_total"
		shard := messages.ShardOf(id, b.cfg.Shards)
		require.Zero(t, metric(t, reg, name))
		again := func() {
			b.publish(purchase(id, "b-1", day1, "10.00"))
			require.NoError(t, b.host.WaitShardIdle(t.Context(), shard, false))
			synctest.Wait() // who waits is answered a moment before it is counted
		}
		again()
		again()
		again()
		require.EqualValues(t, 2, metric(t, reg, name))

		b.host.Close(shard, 0, func(Change) {})
		synctest.Wait()
		require.EqualValues(t, 2, metric(t, reg, name), "the shard is gone")
		b.host.Open(shard, func(Change) {})
		synctest.Wait()
		require.EqualValues(t, 2, metric(t, reg, name), "what the checkpoint has was counted before")
		again()
		require.EqualValues(t, 3, metric(t, reg, name))
	})
}
