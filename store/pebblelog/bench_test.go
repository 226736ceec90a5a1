package pebblelog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// benchShards and benchEvents shape the load: shards that append at once, and the events
// of a message.
const (
	benchShards = 16
	benchEvents = 100
)

// benchBody returns a batch of events of about 300 bytes each, as a till would write them.
func benchBody(tb testing.TB, seed uint64) []byte {
	tb.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	departments := []string{"GROCERY", "DRUG GM", "PRODUCE", "MEAT-PCKGD", "DELI", "PASTRY", "NUTRITION", "FLORAL"}
	b := &footfallv1.EventBatch{}
	for range benchEvents {
		e := &footfallv1.Event{
			EventId:    fmt.Sprintf("b-%d", rnd.Uint64N(1e11)),
			CustomerId: fmt.Sprintf("customer-%07d", rnd.IntN(1e6)),
			Time:       timestamppb.New(timestamppb.Now().AsTime()),
			Producer:   "till-17",
			Sequence:   rnd.Uint64N(1e9),
		}
		p := &footfallv1.Purchase{BasketId: e.EventId[2:], Currency: "USD", StoreId: fmt.Sprint(rnd.IntN(500))}
		for range 3 {
			p.Lines = append(p.Lines, &footfallv1.Line{
				ProductId:  fmt.Sprint(800000 + rnd.IntN(900000)),
				Department: departments[rnd.IntN(len(departments))],
				Quantity:   uint32(1 + rnd.IntN(3)),
				Amount:     fmt.Sprintf("%d.%02d", rnd.IntN(20), rnd.IntN(100)),
				Discount:   fmt.Sprintf("0.%02d", rnd.IntN(100)),
			})
		}
		e.Kind = &footfallv1.Event_Purchase{Purchase: p}
		b.Events = append(b.Events, e)
	}
	out, err := proto.Marshal(b)
	require.NoError(tb, err)
	return out
}

func benchBodies(tb testing.TB) [][]byte {
	out := make([][]byte, 256)
	for i := range out {
		out[i] = benchBody(tb, uint64(i))
	}
	return out
}

// concurrently shares b.N calls among goroutines, one for each shard.
func concurrently(b *testing.B, do func(shard, i int) error) {
	var wg sync.WaitGroup
	next := make(chan int, 4*benchShards)
	for s := range benchShards {
		wg.Go(func() {
			for i := range next {
				if err := do(s, i); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range b.N {
		next <- i
	}
	close(next)
	wg.Wait()
}

// cpu returns the CPU time of the process: a figure that does not depend on who else runs.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func reportEvents(b *testing.B, bytes int, began time.Duration) {
	b.ReportMetric(float64(cpu()-began)/float64(b.N)/benchEvents, "cpu-ns/event")
	b.SetBytes(int64(bytes))
	b.ReportMetric(float64(b.N)*benchEvents/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkAppend(b *testing.B) {
	bodies := benchBodies(b)
	l, err := Open(b.TempDir(), Options{})
	require.NoError(b, err)
	began := cpu()
	b.ResetTimer()
	concurrently(b, func(shard, i int) error {
		err := l.Append(b.Context(), shard, []messages.Record{{Type: messages.BatchRecord, Body: bodies[i%len(bodies)]}})
		return err
	})
	b.StopTimer()
	reportEvents(b, len(bodies[0]), began)
	s := l.Stats()
	b.ReportMetric(float64(s.StoredBytes)/float64(s.RawBytes), "stored/raw")
	b.ReportMetric(float64(s.WALBytes+s.WrittenBytes)/float64(s.StoredBytes), "written/stored")
	b.ReportMetric(float64(s.ReadAmplification), "tables/read")
	require.NoError(b, l.Close())
}

func quiet() *pebble.Options {
	o := tune(&Options{})
	o.LoggerAndTracer = silent{}
	return o
}

type silent struct{ pebble.LoggerAndTracer }

func (silent) Infof(string, ...any)                   {}
func (silent) Errorf(string, ...any)                  {}
func (silent) Fatalf(string, ...any)                  {}
func (silent) Eventf(context.Context, string, ...any) {}
func (silent) IsTracingEnabled(context.Context) bool  { return false }

// BenchmarkCommitter is the other way to group commits: one goroutine that gathers what
// waits into one batch of Pebble's and syncs it.
func BenchmarkCommitter(b *testing.B) {
	bodies := benchBodies(b)
	db, err := pebble.Open(b.TempDir(), quiet())
	require.NoError(b, err)
	type request struct {
		key, value []byte
		done       chan error
	}
	requests := make(chan request, benchShards)
	var wg sync.WaitGroup
	wg.Go(func() {
		var waiting []request
		for r := range requests {
			batch := db.NewBatch()
			for waiting = append(waiting[:0], r); ; {
				err := batch.Set(r.key, r.value, nil)
				if err != nil {
					b.Error(err)
				}
				if len(requests) == 0 {
					break
				}
				r = <-requests
				waiting = append(waiting, r)
			}
			err := batch.Commit(pebble.Sync)
			for _, r := range waiting {
				r.done <- err
			}
		}
	})
	began := cpu()
	b.ResetTimer()
	concurrently(b, func(shard, i int) error {
		e := encoders.Get().(*encoder)
		defer encoders.Put(e)
		e.reset()
		e.add(&messages.Record{Type: messages.BatchRecord, Body: bodies[i%len(bodies)]})
		done := make(chan error, 1)
		requests <- request{recordKey(shard, uint64(i)), e.buf, done}
		return <-done
	})
	b.StopTimer()
	reportEvents(b, len(bodies[0]), began)
	close(requests)
	wg.Wait()
	require.NoError(b, db.Close())
}

// BenchmarkRawPebble writes the same bodies, uncompressed, one batch each.
func BenchmarkRawPebble(b *testing.B) {
	bodies := benchBodies(b)
	db, err := pebble.Open(b.TempDir(), quiet())
	require.NoError(b, err)
	began := cpu()
	b.ResetTimer()
	concurrently(b, func(shard, i int) error {
		return db.Set(recordKey(shard, uint64(i)), bodies[i%len(bodies)], pebble.Sync)
	})
	b.StopTimer()
	reportEvents(b, len(bodies[0]), began)
	require.NoError(b, db.Close())
}

// BenchmarkRawFile writes the same bodies to one file with a sync for every 16.
func BenchmarkRawFile(b *testing.B) {
	bodies := benchBodies(b)
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	require.NoError(b, err)
	began := cpu()
	for i := 0; b.Loop(); i++ {
		_, err := f.Write(bodies[i%len(bodies)])
		require.NoError(b, err)
		if i%benchShards == 0 {
			require.NoError(b, f.Sync())
		}
	}
	reportEvents(b, len(bodies[0]), began)
	require.NoError(b, f.Close())
}

func BenchmarkRead(b *testing.B) {
	bodies := benchBodies(b)
	for _, where := range []string{"memory", "disk"} {
		b.Run(where, func(b *testing.B) {
			l, err := Open(b.TempDir(), Options{})
			require.NoError(b, err)
			const messagesEach = 100
			for s := range benchShards {
				recs := make([]messages.Record, messagesEach)
				for i := range recs {
					recs[i] = messages.Record{Type: messages.BatchRecord, Body: bodies[(i+s)%len(bodies)]}
				}
				err := l.Append(b.Context(), s, recs)
				require.NoError(b, err)
			}
			if where == "disk" {
				require.NoError(b, l.db.Pebble.Flush())
			}
			var batch messages.RecordBatch
			read := 0
			began := cpu()
			for b.Loop() {
				for s := range benchShards {
					r, err := l.Open(b.Context(), s, messages.Mark{})
					require.NoError(b, err)
					for n := 0; n < messagesEach; {
						require.NoError(b, r.Next(b.Context(), &batch))
						n += len(batch.Records)
					}
					read += messagesEach
				}
			}
			b.SetBytes(int64(len(bodies[0])) * messagesEach * benchShards)
			b.ReportMetric(float64(read)*benchEvents/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(cpu()-began)/float64(read)/benchEvents, "cpu-ns/event")
			require.NoError(b, l.Close())
		})
	}
}
