package rabbitmq

import (
	"flag"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
	"footfall/store/logtest"
)

var prefixes atomic.Int64

// newTopology has names that no test had before: a name that was deleted is not used again.
func newTopology(shards int) Topology {
	return Topology{
		Prefix:   fmt.Sprintf("t%d-%d", time.Now().UnixNano()%1e12, prefixes.Add(1)),
		Identity: messages.Identity{Shards: shards, Timezone: "UTC", TimezoneSum: "0123456789abcdef", Currency: "USD"},
	}
}

func logOptions(t testing.TB, url string, topology Topology) LogOptions {
	return LogOptions{
		Connection: Options{URL: url, BackoffMax: 200 * time.Millisecond, Logger: testLogger(t)},
		Topology:   topology,
		Patience:   100 * time.Millisecond,
	}
}

func openLog(t testing.TB, o LogOptions) *Log {
	t.Helper()
	l, err := OpenLog(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func TestConformance(t *testing.T) {
	broker := sharedBroker(t)
	if checks := flag.Lookup("rapid.checks"); !heavy() {
		was := checks.Value.String()
		require.NoError(t, checks.Value.Set("8")) // each opens readers, some 20 ms each
		t.Cleanup(func() { require.NoError(t, checks.Value.Set(was)) })
	}
	logtest.Run(t, func(t *testing.T) logtest.Harness {
		o := logOptions(t, broker.URL(), newTopology(4))
		l := openLog(t, o)
		return logtest.Harness{
			Log:    l,
			Shards: 4,
			Reopen: func(t *testing.T) logtest.Log {
				require.NoError(t, l.Close())
				l = openLog(t, o)
				return l
			},
			Replace: func(t *testing.T) logtest.Log {
				o.Topology = newTopology(4)
				l = openLog(t, o)
				return l
			},
		}
	})
}

// What the broker sends ahead is bounded in bytes, however large messages are.
func TestReadAhead(t *testing.T) {
	o := logOptions(t, sharedBroker(t).URL(), newTopology(2))
	o.ReadAhead = 1 << 20
	l := openLog(t, o)
	write := func(n, size int) {
		records := make([]messages.Record, n)
		for i := range records {
			records[i] = messages.Record{Type: messages.BatchRecord, FromNode: true, Body: make([]byte, size)}
		}
		require.NoError(t, l.Append(t.Context(), 1, records))
	}
	write(100, 100<<10)
	write(2000, 100)
	opened, err := l.Open(t.Context(), 1, messages.Mark{})
	require.NoError(t, err)
	r := opened.(*reader)
	defer r.Close()
	var (
		batch messages.RecordBatch
		seen  []int
	)
	for next := uint64(0); next < 2100; {
		require.NoError(t, r.Next(t.Context(), &batch))
		for _, m := range batch.Records {
			require.Equal(t, next, m.Offset)
			next++
		}
		if n := len(seen); n == 0 || seen[n-1] != r.prefetch {
			seen = append(seen, r.prefetch)
		}
	}
	require.Equal(t, firstPrefetch, seen[0], "10 of 100 KiB are 1 MiB: not worth another consumer")
	// How far it grows depends on how far behind the reader is: at most to the 200 that are the limit.
	require.Greater(t, seen[len(seen)-1], 2*firstPrefetch, "small ones are sent ahead by many")
	write(100, 1<<20)
	for range 100 {
		require.NoError(t, r.Next(t.Context(), &batch))
	}
	require.Equal(t, leastPrefetch, r.prefetch)
}

// A message that came back costs the shard's channel: see Log.discard.
func TestReturnedAppend(t *testing.T) {
	o := logOptions(t, sharedBroker(t).URL(), newTopology(2))
	l := openLog(t, o)
	record := []messages.Record{logtest.Record(1)}
	require.NoError(t, l.Append(t.Context(), 0, record))
	require.NoError(t, l.Append(t.Context(), 1, record))
	ch, err := l.publish.Channel(t.Context())
	require.NoError(t, err)
	_, err = ch.QueueDelete(o.Topology.StreamName(1), false, false, false)
	require.NoError(t, err)

	var away *messages.UnavailableError
	var returned *ReturnedError
	for range 2 { // the second on another channel
		err = l.Append(t.Context(), 1, record)
		require.ErrorAs(t, err, &away)
		require.ErrorAs(t, err, &returned)
		require.Nil(t, l.shards[1].publisher.Load())
	}
	require.NoError(t, l.Append(t.Context(), 0, record))
}
