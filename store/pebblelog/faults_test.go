package pebblelog

import (
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
							first, err := l.Append(t.Context(), s, []messages.Record{r})
							if err != nil {
								requireUnavailable(t, err, cause)
								return
							}
							if first != i {
								t.Errorf("offset %d instead of %d", first, i)
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
					if _, err := l.Append(t.Context(), s, []messages.Record{rec}); err != nil {
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
	_, err := l.Append(t.Context(), 1, rec)
	require.NoError(t, err)

	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1<<30 - 1, TotalBytes: 20 << 30, UsedBytes: 10 << 30})
	big := []messages.Record{{Body: make([]byte, 2<<20)}}
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range big[0].Body {
		big[0].Body[i] = byte(rnd.Uint32())
	}
	for range 2 {
		_, err = l.Append(t.Context(), 1, big)
		requireUnavailable(t, err, nil)
		require.ErrorContains(t, err, "has 1023 MiB free, below the reserve of 1024 MiB")
		_, err = l.Append(t.Context(), 1, rec)
		requireUnavailable(t, err, nil)
	}
	require.NoError(t, l.Err(), "this passes")
	require.EqualValues(t, 4, l.Stats().Refused)
	// Trimming is what helps.
	require.NoError(t, l.Trim(t.Context(), 1, 1))

	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 2 << 30, TotalBytes: 20 << 30, UsedBytes: 10 << 30})
	first, err := l.Append(t.Context(), 1, big)
	require.NoError(t, err)
	require.EqualValues(t, 1, first)
}
