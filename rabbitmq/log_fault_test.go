package rabbitmq

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages"
)

// heavy says whether the long suites run.
func heavy() bool { return os.Getenv("FOOTFALL_HEAVY") == "1" }

// rounds of a fault.
func rounds(quick int) int {
	if heavy() {
		return 10
	}
	return quick
}

// soak appends and reads while something happens to the broker or the way to it, and then
// compares: everything confirmed is there, each writer's in order, and nothing else.
func soak(t *testing.T, l *Log, disturb func()) {
	const shards, writers = 4, 3 // of each shard
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		appending, reading sync.WaitGroup
		confirmed          [shards][writers]atomic.Int64
		failed             atomic.Int64
		read               [shards][writers][]int64
		ends               [shards]chan uint64
	)
	body := func(writer, n int64) []byte {
		b := make([]byte, 300)
		binary.BigEndian.PutUint64(b, uint64(writer))
		binary.BigEndian.PutUint64(b[8:], uint64(n))
		return b
	}
	for s := range shards {
		ends[s] = make(chan uint64, 1)
		for w := range writers {
			appending.Go(func() {
				for n := int64(0); ctx.Err() == nil; {
					var records []messages.Record
					for i := range int64(5) {
						records = append(records, messages.Record{Type: messages.EventRecord, FromNode: true, Body: body(int64(w), n+i)})
					}
					err := l.Append(t.Context(), s, records)
					var unavailable *messages.UnavailableError
					switch {
					case err == nil:
						n += 5
						confirmed[s][w].Store(n)
					case errors.As(err, &unavailable):
						failed.Add(1)
						select { // sent again, as soon as there is a connection
						case <-l.publish.Changed():
						case <-time.After(10 * time.Millisecond):
						}
					default:
						t.Errorf("append: %v", err)
						return
					}
				}
			})
		}
		reading.Go(func() {
			r, err := l.Open(t.Context(), s, messages.Mark{})
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			var (
				batch     messages.RecordBatch
				next, end uint64 = 0, 1 << 62
			)
			waits, wake := context.WithCancel(t.Context())
			defer wake()
			go func() {
				select {
				case end := <-ends[s]:
					ends[s] <- end
				case <-waits.Done():
				}
				wake()
			}()
			for next < end {
				err := r.Next(waits, &batch)
				if errors.Is(err, context.Canceled) && t.Context().Err() == nil && end == 1<<62 {
					end, waits = <-ends[s], t.Context()
					continue
				}
				if err != nil {
					t.Errorf("shard %d: %v", s, err)
					return
				}
				for _, m := range batch.Records {
					if m.Offset != next || !m.FromNode {
						t.Errorf("shard %d: offset %d after %d, from a node: %v", s, m.Offset, next, m.FromNode)
						return
					}
					next++
					w := binary.BigEndian.Uint64(m.Body)
					read[s][w] = append(read[s][w], int64(binary.BigEndian.Uint64(m.Body[8:])))
				}
			}
		})
	}
	disturb()
	stop()
	appending.Wait()
	for s := range shards {
		_, next, err := l.Bounds(t.Context(), s)
		require.NoError(t, err)
		ends[s] <- next
	}
	reading.Wait()
	var total int64
	for s := range shards {
		for w := range writers {
			// What was sent again may be there twice, from anywhere in an append of five; a new number
			// comes after all before it.
			want := int64(0)
			for _, n := range read[s][w] {
				require.LessOrEqual(t, n, want, "shard %d: a hole in what writer %d has written", s, w)
				require.Greater(t, n, want-10)
				if n == want {
					want++
				}
			}
			require.GreaterOrEqual(t, want, confirmed[s][w].Load(), "a confirmed record is lost")
			require.Positive(t, want)
			total += want
		}
	}
	t.Logf("%d records, %d appends failed and were sent again", total, failed.Load())
}

func TestKillOfTheBroker(t *testing.T) {
	broker := local.TestBroker(t, local.BrokerOptions{})
	o := logOptions(t, broker.URL(), newTopology(5))
	o.Patience = 30 * time.Second
	l := openLog(t, o)
	require.NoError(t, broker.Settle(t.Context()))
	soak(t, l, func() {
		for range rounds(1) {
			progress(t, l)
			require.NoError(t, broker.Kill())
			require.NoError(t, broker.Restart(t.Context()))
		}
		progress(t, l)
	})
}

func TestCutOfTheConnection(t *testing.T) {
	broker := sharedBroker(t)
	p := newProxy(t, broker.Address())
	l := openLog(t, logOptions(t, p.url(broker), newTopology(5)))
	soak(t, l, func() {
		for range rounds(5) {
			progress(t, l)
			p.cut()
		}
		progress(t, l)
	})
	until(t, l.consume[0], func() bool { return l.consume[0].Err() == nil })
}

// progress waits until the log takes what is appended, by a shard that soak leaves alone.
func progress(t *testing.T, l *Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for n := 0; n < 200; {
		err := l.Append(ctx, 4, []messages.Record{{Type: messages.EventRecord, FromNode: true, Body: []byte("progress")}})
		require.NoError(t, ctx.Err(), "%v", err)
		if err == nil {
			n++
			continue
		}
		select {
		case <-l.publish.Changed():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestAlarm(t *testing.T) {
	broker := local.TestBroker(t, local.BrokerOptions{})
	l := openLog(t, logOptions(t, broker.URL(), newTopology(4)))
	record := []messages.Record{{Type: messages.EventRecord, FromNode: true, Body: make([]byte, 1<<20)}}
	require.NoError(t, l.Append(t.Context(), 1, record))
	r, err := l.Open(t.Context(), 1, messages.Mark{})
	require.NoError(t, err)
	defer r.Close()

	_, err = broker.Control(t.Context(), "set_vm_memory_high_watermark", "0")
	require.NoError(t, err)
	var blocked *messages.BlockedError
	for range 3 {
		// The first one that is sent brings the news: it may be in the log later.
		require.ErrorAs(t, l.Append(t.Context(), 1, record), &blocked)
		require.Contains(t, blocked.Reason, "memory")
		require.ErrorAs(t, l.Append(t.Context(), 2, nil), &blocked)
		require.ErrorAs(t, l.Err(), &blocked)
	}
	var batch messages.RecordBatch
	require.NoError(t, r.Next(t.Context(), &batch), "who only reads is not blocked")

	// A log can be left in the midst of that, even while its writer hangs.
	other := openLog(t, l.o)
	for range 64 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		require.Error(t, other.Append(ctx, 3, record))
		cancel()
	}
	require.NoError(t, other.Close())
	require.ErrorContains(t, other.Append(t.Context(), 1, record), "closed")

	// Whose channel is just being opened as the news comes is told, too, and does not wait for the answer.
	fresh := openLog(t, l.o)
	answers := make(chan error)
	for shard := range 4 {
		go func() { answers <- fresh.Append(t.Context(), shard, record) }()
	}
	for range 4 {
		require.ErrorAs(t, <-answers, &blocked)
	}

	_, err = broker.Control(t.Context(), "set_vm_memory_high_watermark", "0.8")
	require.NoError(t, err)
	until(t, l.publish, func() bool { _, blocked := l.publish.Blocked(); return !blocked })
	require.NoError(t, l.Append(t.Context(), 1, record))
	require.NoError(t, l.Err())
}

func TestTrim(t *testing.T) {
	o := logOptions(t, sharedBroker(t).URL(), newTopology(2))
	o.Topology.Retention = Retention{MaxBytes: 400_000, SegmentBytes: 100_000}
	o.Prefetch = 10
	l := openLog(t, o)
	write := func(from, to int) {
		for n := from; n < to; n += 20 {
			var records []messages.Record
			for i := range 20 {
				b := make([]byte, 1000)
				binary.BigEndian.PutUint64(b, uint64(n+i))
				records = append(records, messages.Record{Type: messages.EventRecord, FromNode: true, Body: b})
			}
			require.NoError(t, l.Append(t.Context(), 1, records))
		}
	}
	write(0, 100)
	slow, err := l.Open(t.Context(), 1, messages.Mark{})
	require.NoError(t, err)
	defer slow.Close()
	var batch messages.RecordBatch
	require.NoError(t, slow.Next(t.Context(), &batch))
	write(100, 2000)

	first, next, err := l.Bounds(t.Context(), 1)
	require.NoError(t, err)
	require.Greater(t, first, uint64(1000))
	require.Greater(t, next, uint64(2000), "the broker uses offsets of its own")

	var gap *messages.LogGapError
	for at := batch.Records[len(batch.Records)-1].Offset + 1; err == nil; {
		require.Less(t, at, uint64(300), "what was trimmed was passed over")
		err = slow.Next(t.Context(), &batch)
		for _, m := range batch.Records {
			require.Equal(t, at, m.Offset)
			at++
		}
	}
	require.ErrorAs(t, err, &gap, "a reader that was overtaken")
	require.Equal(t, first, gap.First)
	require.ErrorAs(t, slow.Next(t.Context(), &batch), &gap, "and again")

	_, err = l.Open(t.Context(), 1, messages.Mark{})
	require.ErrorAs(t, err, &gap, "the beginning")
	require.Equal(t, messages.LogGapError{Shard: 1, Want: 0, First: first}, *gap)
	_, err = l.Open(t.Context(), 1, messages.Mark{Next: 50, Sum: 1})
	require.ErrorAs(t, err, &gap)
	require.Equal(t, messages.LogGapError{Shard: 1, Want: 50, First: first}, *gap)

	// What is left reads on without a hole, whatever the broker keeps between.
	got, err := l.probe(t.Context(), 1, "first", 1)
	require.NoError(t, err)
	marks := []messages.Mark{{Next: first + 1, Sum: got[0].sum}}
	r, err := l.Open(t.Context(), 1, marks[0])
	require.NoError(t, err)
	defer r.Close()
	number, fillers := uint64(0), 0
	for at := first + 1; at < next; {
		require.NoError(t, r.Next(t.Context(), &batch))
		for _, m := range batch.Records {
			require.Equal(t, at, m.Offset)
			require.Equal(t, messages.RecordSum(m.Type, m.Body), m.Sum)
			at++
			if m.Type == messages.ControlRecord || at%32 == 0 || at == next {
				marks = append(marks, messages.Mark{Next: at, Sum: m.Sum})
			}
			if m.Type == messages.ControlRecord {
				fillers++
				continue
			}
			n := binary.BigEndian.Uint64(m.Body)
			require.True(t, number == 0 || n == number+1, "message %d after %d", n, number)
			number = n
		}
	}
	require.Equal(t, uint64(1999), number)
	require.Positive(t, fillers)
	require.Equal(t, next, l.Seen(1))

	// And can be opened at each place, at the broker's, too.
	for _, m := range marks {
		r, err := l.Open(t.Context(), 1, m)
		require.NoError(t, err, "mark %d", m.Next)
		if m.Next < next {
			require.NoError(t, r.Next(t.Context(), &batch))
			require.Equal(t, m.Next, batch.Records[0].Offset)
		}
		require.NoError(t, r.Close())
		m.Sum++
		_, err = l.Open(t.Context(), 1, m)
		var regressed *messages.LogRegressedError
		require.ErrorAs(t, err, &regressed, "mark %d", m.Next)
	}
}
