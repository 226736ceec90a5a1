package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/node/storage"
	"footfall/rabbitmq"
)

// TestPublishToBroker publishes without a node: to the streams, and to the queue of those that
// name no shard.
func TestPublishToBroker(t *testing.T) {
	b := local.TestBroker(t, local.BrokerOptions{})
	file := filepath.Join(t.TempDir(), "events.ndjson")
	lines := `{"event_id":"1","customer_id":"900","time":"2026-03-01T10:00:00Z","page_view":{}}
{"event_id":"2","customer_id":"901","time":"2026-03-01T10:00:00Z","page_view":{}}
{"event_id":"3","customer_id":"900","time":"2026-03-01T10:00:00Z"}
{"event_id":"4","customer_id":"900","time":"2026-03-01T10:00:00Z","purchase":{"currency":"EUR","lines":[{"amount":"1.00"}]}}
`
	require.NoError(t, os.WriteFile(file, []byte(lines), 0o600))

	r := footfall(t, "", "publish", file, "--broker", b.URL())
	require.Equal(t, 1, r.code)
	require.Contains(t, r.err, "start a node on it first")
	r = footfall(t, "", "publish", file, "--broker", b.URL(), "--shards", "-1")
	require.Equal(t, 2, r.code)

	conn, err := rabbitmq.Open(t.Context(), rabbitmq.Options{URL: b.URL()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	topology := rabbitmq.Topology{Identity: storage.Identity(4, time.UTC, "USD")}
	require.NoError(t, topology.Declare(t.Context(), conn))
	ch, err := conn.Channel(t.Context())
	require.NoError(t, err)

	r = footfall(t, "", "publish", file, "--broker", b.URL(), "--shards", "4")
	require.Equal(t, 1, r.code, r.err)
	require.Regexp(t, `^line 3 \(3\): kind: .*\n3 accepted, 1 rejected\n$`, r.out)
	require.NoError(t, ch.Qos(100, 0, false))
	got := map[int]int{}
	for _, id := range []string{"900", "901"} {
		shard := messages.ShardOf(id, 4)
		deliveries, err := ch.Consume(topology.StreamName(shard), "", false, false, false, false, amqp.Table{"x-stream-offset": "first"})
		require.NoError(t, err)
		d := <-deliveries
		require.Equal(t, messages.ContentProtobuf, d.ContentType)
		require.Equal(t, messages.TypeBatch, d.Type)
		got[shard]++
	}
	require.Len(t, got, 2)

	r = footfall(t, lines, "publish", "-", "--broker", b.URL())
	require.Equal(t, 1, r.code, r.err)
	unsharded, err := ch.Consume(topology.UnshardedName(), "", false, false, false, false, nil)
	require.NoError(t, err)
	d := <-unsharded
	require.Equal(t, messages.TypeBatch, d.Type)

	// More shards than there are: what has no stream goes to the nodes as well.
	r = footfall(t, "", "publish", file, "--broker", b.URL(), "--shards", "4096")
	require.Equal(t, 1, r.code, r.err)
	require.Contains(t, r.out, "3 accepted, 1 rejected\n")
	for range 2 {
		<-unsharded
	}
}
