package pebblelog

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"footfall/messages"
	"footfall/store/logtest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirKey); dir != "" {
		appendUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// mem are the options of a log in a file system of the test.
func mem(fs vfs.FS) Options {
	return Options{FS: fs, Reserve: -1, MemTableBytes: 1 << 20, CacheBytes: 1 << 20}
}

func open(t *testing.T, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func TestConformance(t *testing.T) {
	logtest.Run(t, func(t *testing.T) logtest.Harness {
		fs := vfs.NewMem()
		l := open(t, "log", mem(fs))
		return logtest.Harness{
			Log:    l,
			Shards: 64,
			Reopen: func(t *testing.T) logtest.Log {
				require.NoError(t, l.Close())
				l = open(t, "log", mem(fs))
				return l
			},
			Replace: func(t *testing.T) logtest.Log { return open(t, "other", mem(vfs.NewMem())) },
			Trim: func(t *testing.T, shard int, before uint64) {
				require.NoError(t, l.Trim(t.Context(), shard, before))
			},
			Corrupt: func(t *testing.T, shard int, offset uint64) { corrupt(t, l, shard, offset, headerLen+1) },
		}
	})
}

// forget empties a shard's tail, as a restart does: what follows is read from the disk.
func forget(l *Log, shard int) {
	s := l.shards[shard]
	s.ends.Lock()
	defer s.ends.Unlock()
	s.tail = tail{}
}

// corrupt flips a byte of a stored record.
func corrupt(t *testing.T, l *Log, shard int, offset uint64, at int) {
	t.Helper()
	k := recordKey(shard, offset)
	v, err := l.db.GetCopy(k)
	require.NoError(t, err)
	v[at] ^= 1
	require.NoError(t, l.db.Pebble.Set(k, v, pebble.Sync))
	forget(l, shard)
}

// TestEveryByteIsProven flips each byte of a stored record in turn.
func TestEveryByteIsProven(t *testing.T) {
	record := messages.Record{Type: messages.EventRecord, FromNode: true, Time: 5, Body: []byte("an event")}
	for at := range headerLen + len(record.Body) {
		l := open(t, "log", mem(vfs.NewMem()))
		err := l.Append(t.Context(), 1, []messages.Record{record})
		require.NoError(t, err)
		corrupt(t, l, 1, 0, at)
		r, err := l.Open(t.Context(), 1, messages.Mark{})
		require.NoError(t, err)
		var batch messages.RecordBatch
		var damaged *messages.CorruptError
		require.ErrorAs(t, r.Next(t.Context(), &batch), &damaged, "byte %d", at)
		// A disk that changes bytes is not trusted with more.
		err = l.Append(t.Context(), 1, []messages.Record{record})
		var unavailable *messages.UnavailableError
		require.ErrorAs(t, err, &unavailable)
		require.ErrorAs(t, err, &damaged)
	}
}

func TestLostRecordIsAnError(t *testing.T) {
	l := open(t, "log", mem(vfs.NewMem()))
	for n := range 5 {
		err := l.Append(t.Context(), 1, []messages.Record{logtest.Record(n)})
		require.NoError(t, err)
	}
	require.NoError(t, l.db.Pebble.Delete(recordKey(1, 2), pebble.Sync))
	forget(l, 1)
	r, err := l.Open(t.Context(), 1, messages.Mark{})
	require.NoError(t, err)
	var batch messages.RecordBatch
	var damaged *messages.CorruptError
	require.ErrorAs(t, r.Next(t.Context(), &batch), &damaged)
	require.Empty(t, batch.Records)
}

// TestTail reads with readers that keep up and readers that lag: both get the same.
func TestTail(t *testing.T) {
	l := open(t, "log", mem(vfs.NewMem()))
	body := func(i int) []byte { return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 1000+i%5000) }
	const n = 700 // several times what a tail holds
	for i := range n {
		err := l.Append(t.Context(), 1, []messages.Record{{Type: messages.BatchRecord, Body: body(i)}})
		require.NoError(t, err)
	}
	held := l.shards[1].tail
	require.Less(t, len(held.records)-held.head, n/2)
	require.LessOrEqual(t, held.bytes, tailBytes)
	for _, forgotten := range []bool{false, true} {
		if forgotten {
			forget(l, 1)
		}
		for _, from := range []uint64{0, n / 2, n - 1} {
			r := &reader{log: l, shard: l.shards[1], next: from}
			var batch messages.RecordBatch
			for next := from; next < n; {
				require.NoError(t, r.Next(t.Context(), &batch))
				for _, rec := range batch.Records {
					require.Equal(t, next, rec.Offset)
					require.Equal(t, body(int(next)), rec.Body)
					require.Equal(t, messages.RecordSum(rec.Type, rec.Body), rec.Sum)
					next++
				}
			}
		}
	}
}

func TestTooLargeBody(t *testing.T) {
	l := open(t, "log", mem(vfs.NewMem()))
	err := l.Append(t.Context(), 1, []messages.Record{{Body: []byte("small")}, {Body: make([]byte, MaxBody+1)}})
	require.ErrorContains(t, err, "record 1 of the append has 16777217 bytes")
	_, next, err := l.Bounds(t.Context(), 1)
	require.NoError(t, err)
	require.Zero(t, next)
	err = l.Append(t.Context(), 1, []messages.Record{{Body: make([]byte, MaxBody)}})
	require.NoError(t, err)
}

func TestInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "log")
	l := open(t, dir, Options{Reserve: -1})
	_, err := Open(dir, Options{Reserve: -1})
	var unavailable *messages.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.ErrorContains(t, err, "is in use by another node")
	require.NoError(t, l.Close())
	open(t, dir, Options{Reserve: -1})
}

func TestIdentity(t *testing.T) {
	fs := vfs.NewMem()
	id := messages.Identity{FoldVersion: 1, Shards: 64, Timezone: "UTC", TimezoneSum: "abc", Currency: "USD"}
	l := open(t, "log", mem(fs))
	uuid := l.UUID()
	require.Len(t, uuid, 36)
	require.NoError(t, l.CheckIdentity(id))
	require.NoError(t, l.CheckIdentity(id))
	require.NoError(t, l.Close())
	l = open(t, "log", mem(fs))
	require.Equal(t, uuid, l.UUID())
	require.NotEqual(t, uuid, open(t, "log", mem(vfs.NewMem())).UUID())
	for field, change := range map[string]func(*messages.Identity){
		"fold version":   func(i *messages.Identity) { i.FoldVersion++ },
		"shards":         func(i *messages.Identity) { i.Shards = 128 },
		"timezone":       func(i *messages.Identity) { i.Timezone = "Europe/Berlin" },
		"time zone data": func(i *messages.Identity) { i.TimezoneSum = "def" },
		"currency":       func(i *messages.Identity) { i.Currency = "EUR" },
	} {
		other := id
		change(&other)
		var wrong *messages.IdentityError
		require.ErrorAs(t, l.CheckIdentity(other), &wrong)
		require.Equal(t, field, wrong.Field)
	}
	require.NoError(t, l.CheckIdentity(id))
}

func TestClosed(t *testing.T) {
	l := open(t, "log", mem(vfs.NewMem()))
	r, err := l.Open(t.Context(), 1, messages.Mark{})
	require.NoError(t, err)
	got := make(chan error, 1)
	go func() {
		var batch messages.RecordBatch
		got <- r.Next(context.WithoutCancel(t.Context()), &batch)
	}()
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-got, os.ErrClosed)
	require.NoError(t, l.Close())
	err = l.Append(t.Context(), 1, []messages.Record{logtest.Record(1)})
	require.ErrorIs(t, err, os.ErrClosed)
	_, _, err = l.Bounds(t.Context(), 1)
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorIs(t, l.Trim(t.Context(), 1, 5), os.ErrClosed)
	require.Zero(t, l.Stats().DiskBytes)
}

func TestStats(t *testing.T) {
	l := open(t, "log", mem(vfs.NewMem()))
	body := make([]byte, 10_000)
	err := l.Append(t.Context(), 1, []messages.Record{{Body: body}, {Body: body}})
	require.NoError(t, err)
	r, err := l.Open(t.Context(), 1, messages.Mark{})
	require.NoError(t, err)
	var batch messages.RecordBatch
	require.NoError(t, r.Next(t.Context(), &batch))
	s := l.Stats()
	require.EqualValues(t, 1, s.Appends)
	require.EqualValues(t, 2, s.Records)
	require.EqualValues(t, 20_000, s.RawBytes)
	require.Less(t, s.StoredBytes, uint64(2_000), "zeros are compressed")
	require.EqualValues(t, 2, s.Read)
	require.EqualValues(t, 2, s.Commits, "the log's name and the append")
	require.False(t, s.Failed)
}

func TestRetain(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	hour := func(n int) int64 { return now.Add(time.Duration(n-99) * time.Hour).UnixMilli() }
	fill := func(t *testing.T) *Log {
		l := open(t, "log", mem(vfs.NewMem()))
		noise := make([]byte, 10_000)
		for n := range 100 {
			for i := range noise {
				noise[i] = byte(n*i) ^ byte(i>>3*n)
			}
			err := l.Append(t.Context(), 1, []messages.Record{{Time: hour(n), Body: noise}})
			require.NoError(t, err)
			if n%10 == 9 {
				require.NoError(t, l.db.Pebble.Flush())
			}
		}
		return l
	}
	for _, c := range []struct {
		name   string
		policy TrimPolicy
		limit  uint64
		first  uint64
	}{
		{"no bound keeps all", TrimPolicy{}, 100, 0},
		{"by age", TrimPolicy{MaxAge: 24 * time.Hour}, 100, 75},
		{"by age, all but the last", TrimPolicy{MaxAge: time.Millisecond}, 100, 99},
		{"never past the limit", TrimPolicy{MaxAge: 24 * time.Hour}, 30, 30},
		{"nothing where all is needed", TrimPolicy{MaxAge: 24 * time.Hour, MaxBytes: 1}, 0, 0},
		{"by a size that is not reached", TrimPolicy{MaxBytes: 1 << 40}, 100, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := fill(t)
			first, err := l.Retain(t.Context(), 1, c.policy, now, c.limit)
			require.NoError(t, err)
			require.Equal(t, c.first, first)
			again, err := l.Retain(t.Context(), 1, c.policy, now, c.limit)
			require.NoError(t, err)
			require.Equal(t, first, again)
		})
	}
	t.Run("by size", func(t *testing.T) {
		l := fill(t)
		end := recordsEnd(1)
		before, err := l.db.Pebble.EstimateDiskUsage(recordKey(1, 0), end)
		require.NoError(t, err)
		first, err := l.Retain(t.Context(), 1, TrimPolicy{MaxBytes: int64(before / 2)}, now, 100)
		require.NoError(t, err)
		require.Positive(t, first)
		require.Less(t, first, uint64(90))
		after, err := l.db.Pebble.EstimateDiskUsage(recordKey(1, first), end)
		require.NoError(t, err)
		require.LessOrEqual(t, after, before/2)
	})
	t.Run("other shards are left alone", func(t *testing.T) {
		l := fill(t)
		err := l.Append(t.Context(), 2, []messages.Record{{Time: 1, Body: []byte("old")}})
		require.NoError(t, err)
		_, err = l.Retain(t.Context(), 1, TrimPolicy{MaxAge: time.Hour}, now, 100)
		require.NoError(t, err)
		first, next, err := l.Bounds(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, [2]uint64{0, 1}, [2]uint64{first, next})
	})
}

// TestTrimFreesTheDisk writes more than it keeps.
func TestTrimFreesTheDisk(t *testing.T) {
	l := open(t, "log", mem(vfs.NewMem()))
	noise := make([]byte, 50_000)
	for i := range noise {
		noise[i] = byte(i * i >> 3)
	}
	for n := range uint64(400) {
		err := l.Append(t.Context(), 1, []messages.Record{{Body: noise}, {Body: noise}})
		require.NoError(t, err)
		require.NoError(t, l.Trim(t.Context(), 1, 2*n))
	}
	require.NoError(t, l.db.Pebble.Flush())
	require.NoError(t, l.db.Pebble.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	m := l.db.Pebble.Metrics()
	live := m.DiskSpaceUsage() - m.WAL.PhysicalSize - m.WAL.ObsoletePhysicalSize
	require.Less(t, live, l.Stats().StoredBytes/4)
}

var errDisk = fmt.Errorf("the disk is on fire")

func TestAppendAfterFailureOfEveryWrite(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, errDisk} {
		t.Run(cause.Error(), func(t *testing.T) { faults(t, cause) })
	}
}

func requireUnavailable(t *testing.T, err error, cause error) {
	t.Helper()
	var unavailable *messages.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.Equal(t, "log", unavailable.What)
	require.NotEmpty(t, unavailable.Reason)
	if cause != nil {
		require.ErrorIs(t, err, cause)
	}
}
