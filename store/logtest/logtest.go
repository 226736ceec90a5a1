package logtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// Log is actors.Log.
type Log interface {
	Append(ctx context.Context, shard int, records []messages.Record) error
	Open(ctx context.Context, shard int, at messages.Mark) (Reader, error)
	Bounds(ctx context.Context, shard int) (first, next uint64, err error)
	Seen(shard int) (next uint64)
}

// Reader is actors.Reader.
type Reader = interface {
	Next(ctx context.Context, into *messages.RecordBatch) error
	Close() error
}

// Harness is a log under test and what can be done to it. A nil function says that it
// cannot: the tests that need it are skipped.
type Harness struct {
	Log Log
	// Reopen closes the log and opens it again over the same data.
	Reopen func(t *testing.T) Log
	// Replace gives a new, empty log in place of the old one.
	Replace func(t *testing.T) Log
	// Trim removes the records before an offset. Logs that remove in larger steps may keep
	// more.
	Trim func(t *testing.T, shard int, before uint64)
	// Corrupt changes the stored body of a record.
	Corrupt func(t *testing.T, shard int, offset uint64)
	// Shards is how many shards the log has: at least 4.
	Shards int
}

// patience bounds what a test waits for something that must happen.
const patience = 30 * time.Second

// Run runs the suite. open gives a new, empty log, closed by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, h Harness)
	}{
		{"a new log is empty", testEmpty},
		{"records come back as they were", testRoundTrip},
		{"concurrent appends keep each caller's order", testConcurrent},
		{"shards are apart", testShards},
		{"an append of nothing is nothing", testAppendNothing},
		{"bodies may be empty or large", testBodies},
		{"reading begins at any mark", testMarks},
		{"a waiting reader is woken", testWake},
		{"every waiting reader is woken", testWakeAll},
		{"a reader gives up with its context", testCancelRead},
		{"an append gives up with its context", testCancelAppend},
		{"a batch is used again", testReuse},
		{"the end survives a restart", testReopen},
		{"a mark past the end is a regressed log", testShorter},
		{"a mark of another message is a regressed log", testOther},
		{"a replaced log is a regressed log", testReplaced},
		{"a trimmed message is a gap", testTrim},
		{"a reader that is overtaken by a trim finds a gap", testTrimUnderReader},
		{"offsets survive a trim of everything", testTrimAll},
		{"a changed message is an error", testCorrupt},
		{"shards out of range are errors", testRange},
		{"what is read is what was written", testOracle},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.test(t, open(t))
		})
	}
}

// Record returns a record whose content follows from its number. Its time is one of whole
// seconds, since some logs keep no more.
func Record(n int) messages.Record {
	return messages.Record{
		Type:     messages.RecordType(1 + n%3),
		FromNode: n%2 == 0,
		Time:     1_700_000_000_000 + 1000*int64(n),
		Body:     fmt.Appendf(nil, "message %d %s", n, bytes.Repeat([]byte{'a' + byte(n%26)}, n%300)),
	}
}

func recordsOf(from, to int) []messages.Record {
	var out []messages.Record
	for n := from; n < to; n++ {
		out = append(out, Record(n))
	}
	return out
}

// read returns n records from a reader.
func read(t *testing.T, r Reader, n int) []messages.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out []messages.Record
	var batch messages.RecordBatch
	for len(out) < n {
		require.NoError(t, r.Next(ctx, &batch))
		require.NotEmpty(t, batch.Records, "Next returned without a record")
		for _, rec := range batch.Records {
			rec.Body = bytes.Clone(rec.Body)
			out = append(out, rec)
		}
	}
	require.Len(t, out, n, "more records than were appended")
	return out
}

func openAt(t *testing.T, l Log, shard int, at messages.Mark) Reader {
	t.Helper()
	r, err := l.Open(t.Context(), shard, at)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func appendAll(t *testing.T, l Log, shard int, records []messages.Record) {
	t.Helper()
	require.NoError(t, l.Append(t.Context(), shard, records))
}

func requireBounds(t *testing.T, l Log, shard int, first, next uint64) {
	t.Helper()
	f, n, err := l.Bounds(t.Context(), shard)
	require.NoError(t, err)
	require.Equal(t, [2]uint64{first, next}, [2]uint64{f, n}, "bounds")
}

// requireSame compares what was read from an offset on with what was written.
func requireSame(t *testing.T, from uint64, want, have []messages.Record) {
	t.Helper()
	require.Len(t, have, len(want))
	for i := range want {
		w, h := want[i], have[i]
		require.Equal(t, from+uint64(i), h.Offset)
		require.Equal(t, w.Type, h.Type, "type at %d", h.Offset)
		require.Equal(t, w.FromNode, h.FromNode, "from node at %d", h.Offset)
		require.Equal(t, w.Time, h.Time, "time at %d", h.Offset)
		require.True(t, bytes.Equal(w.Body, h.Body), "body at %d", h.Offset)
		require.Equal(t, messages.RecordSum(w.Type, w.Body), h.Sum, "sum at %d", h.Offset)
	}
}

func testEmpty(t *testing.T, h Harness) {
	requireBounds(t, h.Log, 1, 0, 0)
	r := openAt(t, h.Log, 1, messages.Mark{})
	appendAll(t, h.Log, 1, recordsOf(0, 1))
	requireSame(t, 0, recordsOf(0, 1), read(t, r, 1))
}

func testRoundTrip(t *testing.T, h Harness) {
	want := recordsOf(0, 1000)
	appendAll(t, h.Log, 0, want[:1])
	appendAll(t, h.Log, 0, want[1:10])
	appendAll(t, h.Log, 0, want[10:])
	requireBounds(t, h.Log, 0, 0, 1000)
	requireSame(t, 0, want, read(t, openAt(t, h.Log, 0, messages.Mark{}), 1000))
}

func testConcurrent(t *testing.T, h Harness) {
	const writers, appends, each = 8, 25, 3
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for a := range appends {
				n := (w*appends + a) * each
				if err := h.Log.Append(t.Context(), 2, recordsOf(n, n+each)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	r := openAt(t, h.Log, 2, messages.Mark{})
	have := read(t, r, writers*appends*each)
	wg.Wait()
	number := map[string]int{}
	for n := range writers * appends * each {
		number[string(Record(n).Body)] = n
	}
	var next [writers]int
	for i, rec := range have {
		require.Equal(t, uint64(i), rec.Offset)
		n, known := number[string(rec.Body)]
		require.True(t, known, "a record that nobody appended")
		w := n / (appends * each)
		require.Equal(t, next[w], n%(appends*each), "a record of writer %d is missing, doubled or out of order", w)
		next[w]++
	}
}

func testShards(t *testing.T, h Harness) {
	for s := range h.Shards {
		appendAll(t, h.Log, s, recordsOf(s*100, s*100+10+s))
	}
	for s := range h.Shards {
		requireBounds(t, h.Log, s, 0, uint64(10+s))
		requireSame(t, 0, recordsOf(s*100, s*100+10+s), read(t, openAt(t, h.Log, s, messages.Mark{}), 10+s))
	}
}

func testAppendNothing(t *testing.T, h Harness) {
	appendAll(t, h.Log, 1, nil)
	requireBounds(t, h.Log, 1, 0, 0)
	appendAll(t, h.Log, 1, recordsOf(0, 2))
	appendAll(t, h.Log, 1, nil)
	requireBounds(t, h.Log, 1, 0, 2)
}

func testBodies(t *testing.T, h Harness) {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	var want []messages.Record
	for _, b := range [][]byte{
		nil,
		{},
		{0},
		bytes.Repeat([]byte("x"), 511), bytes.Repeat([]byte("x"), 512), bytes.Repeat([]byte("x"), 3<<20),
		noise[:511], noise[:512], noise[:100_000], noise, noise[:1], append(bytes.Clone(noise[:2000]), make([]byte, 2000)...),
	} {
		want = append(want, messages.Record{Type: messages.BatchRecord, Body: b})
	}
	appendAll(t, h.Log, 3, want)
	requireSame(t, 0, want, read(t, openAt(t, h.Log, 3, messages.Mark{}), len(want)))
}

func testMarks(t *testing.T, h Harness) {
	want := recordsOf(0, 50)
	appendAll(t, h.Log, 1, want)
	for at := range 51 {
		m := MarkAfter(want[:at])
		r := openAt(t, h.Log, 1, m)
		if at < 50 {
			requireSame(t, m.Next, want[at:], read(t, r, 50-at))
		}
	}
}

// MarkAfter returns the mark of a reader that has read records from offset 0.
func MarkAfter(records []messages.Record) messages.Mark {
	if len(records) == 0 {
		return messages.Mark{}
	}
	last := records[len(records)-1]
	return messages.Mark{Next: uint64(len(records)), Sum: messages.RecordSum(last.Type, last.Body)}
}

func testWake(t *testing.T, h Harness) {
	r := openAt(t, h.Log, 1, messages.Mark{})
	for n := range 100 {
		got := make(chan error, 1)
		var batch messages.RecordBatch
		go func() { got <- r.Next(t.Context(), &batch) }()
		appendAll(t, h.Log, 1, recordsOf(n, n+1))
		require.NoError(t, <-got)
		requireSame(t, uint64(n), recordsOf(n, n+1), batch.Records)
	}
}

func testWakeAll(t *testing.T, h Harness) {
	const readers = 8
	var wg sync.WaitGroup
	for range readers {
		r := openAt(t, h.Log, 2, messages.Mark{})
		wg.Go(func() {
			var batch messages.RecordBatch
			for next := 0; next < 20; {
				if err := r.Next(t.Context(), &batch); err != nil {
					t.Error(err)
					return
				}
				for _, rec := range batch.Records {
					if rec.Offset != uint64(next) {
						t.Errorf("offset %d instead of %d", rec.Offset, next)
						return
					}
					next++
				}
			}
		})
	}
	for n := range 20 {
		appendAll(t, h.Log, 2, recordsOf(n, n+1))
	}
	wg.Wait()
}

func testCancelRead(t *testing.T, h Harness) {
	r := openAt(t, h.Log, 1, messages.Mark{})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		var batch messages.RecordBatch
		got <- r.Next(ctx, &batch)
	}()
	cancel()
	require.ErrorIs(t, <-got, context.Canceled)
	// The reader is as good as before.
	appendAll(t, h.Log, 1, recordsOf(0, 1))
	requireSame(t, 0, recordsOf(0, 1), read(t, r, 1))
}

func testCancelAppend(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, h.Log.Append(ctx, 1, recordsOf(0, 1)), context.Canceled)
	requireBounds(t, h.Log, 1, 0, 0)
	_, err := h.Log.Open(ctx, 1, messages.Mark{})
	require.ErrorIs(t, err, context.Canceled)
	_, _, err = h.Log.Bounds(ctx, 1)
	require.ErrorIs(t, err, context.Canceled)
}

func testReuse(t *testing.T, h Harness) {
	r := openAt(t, h.Log, 1, messages.Mark{})
	batch := messages.RecordBatch{
		Records: []messages.Record{{Offset: 99, Sum: 1, Body: []byte("old")}},
		Buf:     []byte("what was there before"),
	}
	appendAll(t, h.Log, 1, recordsOf(0, 1))
	require.NoError(t, r.Next(t.Context(), &batch))
	requireSame(t, 0, recordsOf(0, 1), batch.Records)
}

func testReopen(t *testing.T, h Harness) {
	if h.Reopen == nil {
		t.Skip("this log is not reopened")
	}
	want := recordsOf(0, 300)
	appendAll(t, h.Log, 1, want[:100])
	r, err := h.Log.Open(t.Context(), 1, messages.Mark{})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	l := h.Reopen(t)
	requireBounds(t, l, 1, 0, 100)
	appendAll(t, l, 1, want[100:200])
	requireBounds(t, l, 1, 0, 200)
	l = h.Reopen(t)
	appendAll(t, l, 1, want[200:])
	requireSame(t, 0, want, read(t, openAt(t, l, 1, messages.Mark{}), 300))
	requireSame(t, 150, want[150:], read(t, openAt(t, l, 1, MarkAfter(want[:150])), 150))
}

func testShorter(t *testing.T, h Harness) {
	want := recordsOf(0, 10)
	appendAll(t, h.Log, 1, want[:9])
	_, err := h.Log.Open(t.Context(), 1, MarkAfter(want))
	var regressed *messages.LogRegressedError
	require.ErrorAs(t, err, &regressed)
	require.Equal(t, 1, regressed.Shard)
	require.Equal(t, uint64(10), regressed.Want)
	require.Equal(t, uint64(9), regressed.Next)
	require.NotEmpty(t, regressed.Reason)
}

func testOther(t *testing.T, h Harness) {
	want := recordsOf(0, 10)
	appendAll(t, h.Log, 1, want)
	m := MarkAfter(want[:5])
	m.Sum++
	_, err := h.Log.Open(t.Context(), 1, m)
	var regressed *messages.LogRegressedError
	require.ErrorAs(t, err, &regressed)
	require.Equal(t, uint64(5), regressed.Want)
}

func testReplaced(t *testing.T, h Harness) {
	if h.Replace == nil {
		t.Skip("this log is not replaced")
	}
	appendAll(t, h.Log, 1, recordsOf(0, 10))
	m := MarkAfter(recordsOf(0, 10))
	l := h.Replace(t)
	var regressed *messages.LogRegressedError
	_, err := l.Open(t.Context(), 1, m)
	require.ErrorAs(t, err, &regressed, "an empty log")
	appendAll(t, l, 1, recordsOf(100, 120))
	_, err = l.Open(t.Context(), 1, m)
	require.ErrorAs(t, err, &regressed, "a log of other messages")
}

func testTrim(t *testing.T, h Harness) {
	if h.Trim == nil {
		t.Skip("this log is not trimmed")
	}
	want := recordsOf(0, 100)
	appendAll(t, h.Log, 1, want)
	h.Trim(t, 1, 60)
	first, next, err := h.Log.Bounds(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, uint64(100), next)
	require.LessOrEqual(t, first, uint64(60), "more was trimmed than was asked for")
	if first == 0 {
		t.Skip("this log keeps so few records anyway")
	}
	for at := range int(first) {
		_, err := h.Log.Open(t.Context(), 1, MarkAfter(want[:at]))
		var gap *messages.LogGapError
		require.ErrorAs(t, err, &gap, "mark %d", at)
		require.Equal(t, messages.LogGapError{Shard: 1, Want: uint64(at), First: first}, *gap)
	}
	at := int(first) + 1
	requireSame(t, first+1, want[at:], read(t, openAt(t, h.Log, 1, MarkAfter(want[:at])), 100-at))
	// Trimming again, or less, changes nothing.
	h.Trim(t, 1, 60)
	h.Trim(t, 1, 10)
	requireBounds(t, h.Log, 1, first, 100)
}

func testTrimUnderReader(t *testing.T, h Harness) {
	if h.Trim == nil {
		t.Skip("this log is not trimmed")
	}
	appendAll(t, h.Log, 1, recordsOf(0, 100))
	r := openAt(t, h.Log, 1, messages.Mark{})
	h.Trim(t, 1, 60)
	first, _, err := h.Log.Bounds(t.Context(), 1)
	require.NoError(t, err)
	if first == 0 {
		t.Skip("this log keeps so few records anyway")
	}
	var batch messages.RecordBatch
	var gap *messages.LogGapError
	require.ErrorAs(t, r.Next(t.Context(), &batch), &gap)
	require.Equal(t, messages.LogGapError{Shard: 1, Want: 0, First: first}, *gap)
	require.Empty(t, batch.Records)
}

func testTrimAll(t *testing.T, h Harness) {
	if h.Trim == nil || h.Reopen == nil {
		t.Skip("this log is not trimmed or not reopened")
	}
	want := recordsOf(0, 30)
	appendAll(t, h.Log, 1, want[:20])
	h.Trim(t, 1, 1000)
	l := h.Reopen(t)
	first, next, err := l.Bounds(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, uint64(20), next, "offsets begin again")
	appendAll(t, l, 1, want[20:])
	requireBounds(t, l, 1, first, 30)
	if first < 20 {
		t.Skip("this log keeps so few records anyway")
	}
	// The proof may be gone with the message; another message must not pass for it.
	m := MarkAfter(want[:20])
	r, err := l.Open(t.Context(), 1, m)
	var gap *messages.LogGapError
	if err == nil {
		requireSame(t, 20, want[20:], read(t, r, 10))
		require.NoError(t, r.Close())
		m.Sum++
		_, err = l.Open(t.Context(), 1, m)
		var regressed *messages.LogRegressedError
		require.ErrorAs(t, err, &regressed)
	} else {
		require.ErrorAs(t, err, &gap)
	}
}

func testCorrupt(t *testing.T, h Harness) {
	if h.Corrupt == nil {
		t.Skip("this log cannot be corrupted")
	}
	want := recordsOf(0, 10)
	appendAll(t, h.Log, 1, want)
	h.Corrupt(t, 1, 7)
	r := openAt(t, h.Log, 1, messages.Mark{})
	var (
		batch messages.RecordBatch
		err   error
		seen  int
	)
	for err == nil {
		err = r.Next(t.Context(), &batch)
		for _, rec := range batch.Records {
			require.Less(t, rec.Offset, uint64(7), "a changed message was handed out")
			seen++
		}
	}
	var corrupt *messages.CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Contains(t, corrupt.What, "shard 1 offset 7")
	require.LessOrEqual(t, seen, 7)
	// Again: the reader does not pass over it.
	require.ErrorAs(t, r.Next(t.Context(), &batch), &corrupt)
}

func testRange(t *testing.T, h Harness) {
	for _, s := range []int{-1, messages.MaxShards} {
		err := h.Log.Append(t.Context(), s, recordsOf(0, 1))
		require.Error(t, err)
		_, err = h.Log.Open(t.Context(), s, messages.Mark{})
		require.Error(t, err)
		_, _, err = h.Log.Bounds(t.Context(), s)
		require.Error(t, err)
	}
}
