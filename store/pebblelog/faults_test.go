package pebblelog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"footfall/messages"
	"footfall/store/logtest"
)

// failing fails the n-th write operation from when it was set, and all after it.
type failing struct {
	left  atomic.Int64
	armed atomic.Bool
	cause error
	// only restricts it to files whose names match; empty is all.
	only string
}

func (f *failing) MaybeError(op errorfs.Op) error {
	if !f.armed.Load() || op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	switch op.Kind {
	case errorfs.OpRemove, errorfs.OpRemoveAll, errorfs.OpFileClose, errorfs.OpFilePreallocate, errorfs.OpLock:
		return nil
	}
	if f.only != "" {
		if ok, _ := filepath.Match(f.only, filepath.Base(op.Path)); !ok {
			return nil
		}
	}
	if f.left.Add(-1) >= 0 {
		return nil
	}
	return f.cause
}

func (f *failing) String() string { return "failing" }

func (f *failing) after(n int) {
	f.left.Store(int64(n))
	f.armed.Store(true)
}

// faults appends from several shards until a write fails, for every kind of file and many
// moments, and requires that what was acknowledged is there, before and after a restart.
func faults(t *testing.T, cause error) {
	for _, only := range []string{"", "*.log", "*.sst", "*.blob", "MANIFEST-*"} {
		for _, n := range []int{0, 1, 2, 3, 5, 8, 13, 40, 100} {
			t.Run(fmt.Sprintf("write %d of %q", n, only), func(t *testing.T) {
				disk := vfs.NewCrashableMem()
				inj := &failing{cause: cause, only: only}
				o := mem(errorfs.Wrap(disk, inj))
				o.MemTableBytes = 256 << 10 // so that there are flushes
				l := open(t, "log", o)
				rnd := rand.New(rand.NewPCG(1, uint64(n)))
				noise := make([]byte, 64<<10)
				for i := range noise {
					noise[i] = byte(rnd.Uint32())
				}
				inj.after(n)

				var acked [4]atomic.Uint64
				var wg sync.WaitGroup
				for s := range acked {
					wg.Go(func() {
						for i := range uint64(200) {
							r := messages.Record{Type: messages.EventRecord, Body: noise[:20<<10+i*64]}
							if err := l.Append(t.Context(), s, []messages.Record{r}); err != nil {
								requireUnavailable(t, err, cause)
								return
							}
							acked[s].Store(i + 1)
						}
					})
				}
				wg.Wait()
				if l.Err() == nil {
					require.NotEmpty(t, only, "no write failed")
					return
				}
				requireUnavailable(t, l.Err(), cause)
				check := func(l *Log, exact bool) {
					for s := range acked {
						_, next, err := l.Bounds(t.Context(), s)
						require.NoError(t, err)
						want := acked[s].Load()
						require.GreaterOrEqual(t, next, want)
						if exact {
							require.Equal(t, want, next)
						}
						r, err := l.Open(t.Context(), s, messages.Mark{})
						require.NoError(t, err)
						var batch messages.RecordBatch
						for at := uint64(0); at < want; {
							require.NoError(t, r.Next(t.Context(), &batch))
							for _, rec := range batch.Records {
								require.Equal(t, at, rec.Offset)
								require.Len(t, rec.Body, int(20<<10+at*64))
								at++
							}
						}
					}
				}
				// Reads go on.
				check(l, true)
				// Trims are refused, too.
				if acked[0].Load() > 0 {
					requireUnavailable(t, l.Trim(t.Context(), 0, 1), cause)
				}
				// So it is after a power failure now, and after a restart.
				crashed := disk.CrashClone(vfs.CrashCloneCfg{})
				require.NoError(t, l.Close())
				check(open(t, "log", mem(crashed)), false)
				check(open(t, "log", mem(disk)), false)
			})
		}
	}
}

// TestPowerFailure cuts the power again and again while shards append.
func TestPowerFailure(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	disk := vfs.NewCrashableMem()
	var want [3][]messages.Record
	number := 0
	for range 15 {
		o := mem(disk)
		o.MemTableBytes = 256 << 10
		l, err := Open("log", o)
		require.NoError(t, err)
		for s := range want {
			_, next, err := l.Bounds(t.Context(), s)
			require.NoError(t, err)
			require.GreaterOrEqual(t, next, uint64(len(want[s])))
			// What was not acknowledged may be there: then in order.
			var batch messages.RecordBatch
			r, err := l.Open(t.Context(), s, logtest.MarkAfter(want[s]))
			require.NoError(t, err)
			for uint64(len(want[s])) < next {
				require.NoError(t, r.Next(t.Context(), &batch))
				for _, rec := range batch.Records {
					require.Equal(t, uint64(len(want[s])), rec.Offset)
					rec.Body = append([]byte(nil), rec.Body...)
					want[s] = append(want[s], rec)
				}
			}
		}
		var (
			wg      sync.WaitGroup
			mu      sync.Mutex
			crashed *vfs.MemFS
			acked   [3][]messages.Record
		)
		stopAt := rnd.IntN(200)
		for s := range want {
			from := number + s*1000
			wg.Go(func() {
				for n := range 100 {
					rec := logtest.Record(from + n)
					rec.Body = append(rec.Body, make([]byte, 3000)...)
					if err := l.Append(t.Context(), s, []messages.Record{rec}); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if crashed == nil {
						acked[s] = append(acked[s], rec)
						if stopAt--; stopAt < 0 {
							// What the other shards have under way is in the clone or not.
							crashed = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rnd})
						}
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		number += 3000
		if crashed == nil {
			crashed = disk.CrashClone(vfs.CrashCloneCfg{})
		}
		require.NoError(t, l.Close())
		for s := range want {
			want[s] = append(want[s], acked[s]...)
		}
		disk = crashed
	}
	// At last, all of it once more.
	l := open(t, "log", mem(disk))
	for s := range want {
		r, err := l.Open(t.Context(), s, messages.Mark{})
		require.NoError(t, err)
		var batch messages.RecordBatch
		for at := 0; at < len(want[s]); {
			require.NoError(t, r.Next(t.Context(), &batch))
			for _, rec := range batch.Records {
				if at < len(want[s]) {
					require.Equal(t, string(want[s][at].Body), string(rec.Body))
				}
				at++
			}
		}
	}
}

// TestReserve refuses appends while the disk is short of space, and only so long.
func TestReserve(t *testing.T) {
	fs := vfs.NewMem()
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 10 << 30, TotalBytes: 20 << 30, UsedBytes: 10 << 30})
	o := mem(fs)
	o.Reserve = 1 << 30
	l := open(t, "log", o)
	rec := []messages.Record{{Body: make([]byte, 100)}}
	err := l.Append(t.Context(), 1, rec)
	require.NoError(t, err)

	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1<<30 - 1, TotalBytes: 20 << 30, UsedBytes: 10 << 30})
	big := []messages.Record{{Body: make([]byte, 2<<20)}}
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range big[0].Body {
		big[0].Body[i] = byte(rnd.Uint32())
	}
	for range 2 {
		err = l.Append(t.Context(), 1, big)
		requireUnavailable(t, err, nil)
		require.ErrorContains(t, err, "has 1023 MiB free, below the reserve of 1024 MiB")
		err = l.Append(t.Context(), 1, rec)
		requireUnavailable(t, err, nil)
	}
	require.NoError(t, l.Err(), "this passes")
	require.EqualValues(t, 4, l.Stats().Refused)
	// Trimming is what helps.
	require.NoError(t, l.Trim(t.Context(), 1, 1))

	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 2 << 30, TotalBytes: 20 << 30, UsedBytes: 10 << 30})
	require.NoError(t, l.Append(t.Context(), 1, big))
	require.EqualValues(t, 2, l.Seen(1))
}

// TestDamagedFiles flips bytes in files on disk: what is read is right or an error, and
// once it is noticed, appends are refused. In the last 32 KiB of Pebble's log a flip looks
// like a write that was cut off: only the mark of a
// checkpoint tells then that records are gone.
func TestDamagedFiles(t *testing.T) {
	const n = 200
	rnd := rand.New(rand.NewPCG(3, 3))
	noise := make([]byte, n*7+2000)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	for _, kind := range []string{".blob", ".sst", ".log"} {
		t.Run(kind, func(t *testing.T) {
			found := 0
			for part := range 10 {
				disk := vfs.NewCrashableMem()
				l := open(t, "log", mem(disk))
				var want []messages.Record
				for i := range n {
					r := logtest.Record(i)
					r.Body = append(r.Body, noise[i*7:i*7+2000]...)
					want = append(want, r)
					err := l.Append(t.Context(), 1, []messages.Record{r})
					require.NoError(t, err)
				}
				if kind != ".log" {
					require.NoError(t, l.db.Pebble.Flush())
				}
				disk = disk.CrashClone(vfs.CrashCloneCfg{})
				names, err := disk.List("log")
				require.NoError(t, err)
				for _, name := range names {
					if filepath.Ext(name) != kind {
						continue
					}
					buf, err := disk.UnsafeGetFileDataBuffer(disk.PathJoin("log", name))
					require.NoError(t, err)
					if len(buf) > 1000 {
						buf[(len(buf)-900)*part/10+part] ^= 0x10
					}
				}

				var damaged *messages.CorruptError
				var unavailable *messages.UnavailableError
				l, err = Open("log", mem(disk))
				if err != nil {
					require.True(t, errors.As(err, &unavailable) || errors.As(err, &damaged), "%v", err)
					found++
					continue
				}
				_, next, err := l.Bounds(t.Context(), 1)
				var r Reader
				if err == nil {
					r, err = l.Open(t.Context(), 1, messages.Mark{})
				}
				var batch messages.RecordBatch
				for at := 0; err == nil && at < int(next); {
					if err = r.Next(t.Context(), &batch); err == nil {
						for _, rec := range batch.Records {
							require.Equal(t, string(want[at].Body), string(rec.Body))
							at++
						}
					}
				}
				switch {
				case err != nil:
					require.ErrorAs(t, err, &damaged)
					err = l.Append(t.Context(), 1, want[:1])
					require.ErrorAs(t, err, &unavailable)
					require.ErrorContains(t, err, "damaged")
					found++
				default:
					require.EqualValues(t, n, next, "part %d: records are missing without a word", part)
				}
				require.NoError(t, l.Close())
			}
			t.Logf("%d of 10 flips were noticed", found)
			require.Positive(t, found)
		})
	}
}
