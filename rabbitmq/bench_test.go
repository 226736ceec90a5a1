package rabbitmq

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// benchLog is a log on the shared broker, or on the one that FOOTFALL_BENCH_AMQP names.
func benchLog(b *testing.B, shards, consumers, prefetch int) *Log {
	url := os.Getenv("FOOTFALL_BENCH_AMQP")
	if url == "" {
		url = sharedBroker(b).URL()
	}
	o := logOptions(b, url, newTopology(shards))
	o.Connection.Logger = nil
	o.Consumers, o.Prefetch = consumers, prefetch
	return openLog(b, o)
}

// load appends n records of a size to each shard.
func load(b *testing.B, l *Log, n, size int) {
	const each = 250
	records := make([]messages.Record, each)
	for i := range records {
		records[i] = messages.Record{Type: messages.EventRecord, FromNode: true, Time: 1, Body: make([]byte, size)}
	}
	var wg sync.WaitGroup
	for s := range l.shards {
		wg.Go(func() {
			for done := 0; done < n; done += each {
				if err := l.Append(b.Context(), s, records[:min(each, n-done)]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// consume reads n messages of each shard from an offset on: as amqp091-go gives them, with the
// connections, prefetch and ack rhythm of the log's readers, or through these.
func consume(b *testing.B, l *Log, from, n int, raw bool) {
	var wg sync.WaitGroup
	for s := range l.shards {
		wg.Go(func() {
			var err error
			if raw {
				err = consumeRaw(b, l, s, from, n)
			} else {
				err = consumeReader(b, l, s, from, n)
			}
			if err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
}

func consumeRaw(b *testing.B, l *Log, shard, from, n int) error {
	ch, err := l.conn(shard).Channel(b.Context())
	if err != nil {
		return err
	}
	defer ch.Close()
	if err := ch.Qos(l.o.Prefetch, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.Consume(l.o.Topology.StreamName(shard), "", false, false, false, false, amqp.Table{headerOffset: int64(from)})
	if err != nil {
		return err
	}
	for i := 1; i <= n; i++ {
		d := <-deliveries
		if i%(l.o.Prefetch/2) == 0 {
			if err := d.Ack(true); err != nil {
				return err
			}
		}
	}
	return nil
}

func consumeReader(b *testing.B, l *Log, shard, from, n int) error {
	var at messages.Mark
	if from > 0 {
		got, err := l.probe(b.Context(), shard, int64(from-1), 1)
		if err != nil {
			return err
		}
		at = messages.Mark{Next: uint64(from), Sum: got[0].sum}
	}
	r, err := l.Open(b.Context(), shard, at)
	if err != nil {
		return err
	}
	defer r.Close()
	var batch messages.RecordBatch
	for got := 0; got < n; got += len(batch.Records) {
		if err := r.Next(b.Context(), &batch); err != nil {
			return err
		}
	}
	return nil
}

// cpu is what processes have used of the processors: steadier than time where others use them,
// too.
func cpu(b *testing.B, l *Log) (client, broker time.Duration) {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	client = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	if shared.broker == nil || l.consume[0].Addr() != shared.broker.Address() {
		return client, 0
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", shared.broker.Pid()))
	if err != nil {
		return client, 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return client, time.Duration(user+system) * 10 * time.Millisecond
}

// measure runs f and reports messages per second, and processor time per message.
func measure(b *testing.B, l *Log, each int, f func()) {
	client, broker := cpu(b, l)
	f()
	client2, broker2 := cpu(b, l)
	n := float64(each) * float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(client2-client)/n, "client-ns/message")
	b.ReportMetric(float64(broker2-broker)/n, "broker-ns/message")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDrain compares readers with what amqp091-go can do, message by message.
func BenchmarkDrain(b *testing.B) {
	for _, c := range []struct{ size, total int }{{300, 128_000}, {30_000, 12_800}} {
		for _, shards := range []int{16, 64} {
			l := benchLog(b, shards, 2, 200)
			load(b, l, c.total/shards, c.size)
			for _, name := range []string{"raw", "reader"} {
				b.Run(fmt.Sprintf("bytes=%d/streams=%d/%s", c.size, shards, name), func(b *testing.B) {
					measure(b, l, c.total, func() {
						for range b.N {
							consume(b, l, 0, c.total/shards, name == "raw")
						}
					})
				})
			}
		}
	}
}

// BenchmarkAppend compares appends of one record by many callers with raw publishing, while all
// is read.
func BenchmarkAppend(b *testing.B) {
	const total = 64_000
	body := make([]byte, 300)
	raw := func(b *testing.B, l *Log, each int) {
		ch, err := l.publish.Channel(b.Context())
		require.NoError(b, err)
		defer ch.Close()
		require.NoError(b, ch.Confirm(false))
		window := make(chan *amqp.DeferredConfirmation, 1000)
		var wg sync.WaitGroup
		wg.Go(func() {
			for d := range window {
				d.Wait()
			}
		})
		for range each {
			for s := range l.shards {
				d, err := ch.PublishWithDeferredConfirm("", l.o.Topology.StreamName(s), true, false, amqp.Publishing{
					DeliveryMode: amqp.Persistent, ContentType: messages.ContentProtobuf, Type: messages.TypeEvent, UserId: l.user, Body: body,
				})
				require.NoError(b, err)
				window <- d
			}
		}
		close(window)
		wg.Wait()
	}
	appends := func(callers int) func(*testing.B, *Log, int) {
		return func(b *testing.B, l *Log, each int) { appendMany(b, l, each, callers) }
	}
	for _, shards := range []int{16, 64} {
		for _, c := range []struct {
			name    string
			publish func(*testing.B, *Log, int)
		}{{"raw", raw}, {"callers=512", appends(512)}, {"callers=4096", appends(4096)}} {
			b.Run(fmt.Sprintf("streams=%d/%s", shards, c.name), func(b *testing.B) {
				l := benchLog(b, shards, 2, 200)
				each := total / shards
				measure(b, l, total, func() {
					for i := range b.N {
						var wg sync.WaitGroup
						wg.Go(func() { consume(b, l, i*each, each, c.name == "raw") })
						c.publish(b, l, each)
						wg.Wait()
					}
				})
			})
		}
	}
}

// appendMany appends each records to each shard, one by one, by so many callers.
func appendMany(b *testing.B, l *Log, each, callers int) {
	records := []messages.Record{{Type: messages.EventRecord, FromNode: true, Body: make([]byte, 300)}}
	mine := callers / len(l.shards) // of each shard
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := c / len(l.shards); i < each; i += mine {
				if err := l.Append(b.Context(), c%len(l.shards), records); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
