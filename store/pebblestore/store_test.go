package pebblestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mem are the options of a store in a file system of the test.
func mem(fs vfs.FS) Options {
	return Options{FS: fs, Reserve: -1, MemTableBytes: 1 << 20, CacheBytes: 1 << 20, DeadLetters: 20}
}

func open(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		fs := vfs.NewMem()
		s := open(t, "store", mem(fs))
		return storetest.Harness{
			Store:       s,
			DeadLetters: 20,
			Reopen: func(t *testing.T) storetest.Store {
				require.NoError(t, s.Close())
				s = open(t, "store", mem(fs))
				return s
			},
			Corrupt: func(t *testing.T, shard int, id string) { flip(t, s, customerKey(nil, shard, id), -1) },
		}
	})
}

// flip changes a byte of a stored value; -1 is the last.
func flip(t *testing.T, s *Store, key []byte, at int) {
	t.Helper()
	v, err := s.db.GetCopy(key)
	require.NoError(t, err)
	v[(at+len(v))%len(v)] ^= 1
	require.NoError(t, s.db.Pebble.Set(key, v, pebble.Sync))
}

// full is a store with something of every kind in it.
func full(t *testing.T, fs vfs.FS) (s *Store, epoch uint64) {
	t.Helper()
	s = open(t, "store", mem(fs))
	epoch, err := s.Acquire(t.Context(), 1, "node-a")
	require.NoError(t, err)
	require.NoError(t, s.Checkpoint(t.Context(), &messages.Checkpoint{
		Shard: 1, Epoch: epoch, Meta: storetest.Meta(3),
		Customers: []messages.CustomerRecord{{ID: "c", Value: []byte("state")}},
		Dead:      []messages.DeadLetter{{Position: messages.Position{Offset: 2}, Reason: "bad"}},
		Outbox:    []messages.OutboxRow{{Seq: 1, Body: []byte("row")}},
	}))
	require.NoError(t, s.SnapshotBase(t.Context(), 1, epoch))
	return s, epoch
}

// readAll reads everything that full has written.
func readAll(t *testing.T, s *Store, epoch uint64) error {
	ctx := t.Context()
	_, err0 := s.Load(ctx, 1, epoch)
	_, err1 := s.Get(ctx, 1, epoch, []string{"c"})
	_, err2 := s.DeadLetters(ctx, 1, messages.Position{}, 10)
	_, err3 := s.Outbox(ctx, 1, epoch, 0, 10)
	generation, meta, err4 := s.Base(ctx, 1)
	var err5 error
	if meta != nil {
		_, err5 = s.ScanBase(ctx, 1, generation, "", 10)
	}
	return errors.Join(err0, err1, err2, err3, err4, err5)
}

// TestEveryByteIsProven flips each byte of every stored value in turn.
func TestEveryByteIsProven(t *testing.T) {
	s, _ := full(t, vfs.NewMem())
	sizes := map[string]int{}
	it, err := s.db.Pebble.NewIter(nil)
	require.NoError(t, err)
	for ok := it.First(); ok; ok = it.Next() {
		sizes[string(it.Key())] = len(it.Value())
	}
	require.NoError(t, it.Close())
	require.Len(t, sizes, 8, "a kind of key is not tested")
	for k, size := range sizes {
		for at := range size {
			fs := vfs.NewMem()
			s, epoch := full(t, fs)
			require.NoError(t, readAll(t, s, epoch))
			flip(t, s, []byte(k), at)
			// Some are read once and kept.
			require.NoError(t, s.Close())
			s = open(t, "store", mem(fs))
			var damaged *messages.CorruptError
			require.ErrorAs(t, readAll(t, s, epoch), &damaged, "key %x byte %d", k, at)
			require.Error(t, s.Err(), "a disk that changes bytes is not trusted with more")
			require.NoError(t, s.Close())
		}
	}
}

func TestDeadLetterBytesAreBounded(t *testing.T) {
	o := mem(vfs.NewMem())
	o.DeadLetterBytes = 10_000
	s := open(t, "store", o)
	epoch, err := s.Acquire(t.Context(), 1, "node-a")
	require.NoError(t, err)
	write := func(from, to int) {
		c := &messages.Checkpoint{Shard: 1, Epoch: epoch, Meta: storetest.Meta(1)}
		for n := from; n < to; n++ {
			c.Dead = append(c.Dead, messages.DeadLetter{Position: messages.Position{Offset: uint64(n)}, Body: make([]byte, 1900)})
		}
		require.NoError(t, s.Checkpoint(t.Context(), c))
	}
	for n := range 8 {
		write(n, n+1)
	}
	write(8, 12)
	got, err := s.DeadLetters(t.Context(), 1, messages.Position{}, 100)
	require.NoError(t, err)
	require.Len(t, got, 5)
	require.EqualValues(t, 7, got[0].Position.Offset)
	require.EqualValues(t, 7, s.Stats().DeadLettersDropped)
	// One that alone is too large is dropped, too, and all before it.
	require.NoError(t, s.Checkpoint(t.Context(), &messages.Checkpoint{
		Shard: 1, Epoch: epoch, Meta: storetest.Meta(1),
		Dead: []messages.DeadLetter{{Position: messages.Position{Offset: 100}, Body: make([]byte, 20_000)}},
	}))
	got, err = s.DeadLetters(t.Context(), 1, messages.Position{}, 100)
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir, Options{Reserve: -1})
	_, err := Open(dir, Options{Reserve: -1})
	var unavailable *messages.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.ErrorContains(t, err, "is in use by another node")
	require.NoError(t, s.Close())
	open(t, dir, Options{Reserve: -1})
}

func TestClosed(t *testing.T) {
	s, epoch := full(t, vfs.NewMem())
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err := s.Load(t.Context(), 1, epoch)
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = s.Acquire(t.Context(), 1, "node-b")
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorIs(t, s.CheckLog("x"), os.ErrClosed)
}

func TestReserve(t *testing.T) {
	fs := vfs.NewMem()
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 10 << 30})
	o := mem(fs)
	o.Reserve = 1 << 30
	s := open(t, "store", o)
	epoch, err := s.Acquire(t.Context(), 1, "node-a")
	require.NoError(t, err)
	c := &messages.Checkpoint{Shard: 1, Epoch: epoch, Meta: storetest.Meta(1), Customers: []messages.CustomerRecord{{ID: "c", Value: make([]byte, 2<<20)}}}
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 29})
	err = s.Checkpoint(t.Context(), c)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "below the reserve")
	require.Error(t, s.SnapshotBase(t.Context(), 1, epoch))
	m, err := s.Load(t.Context(), 1, epoch)
	require.NoError(t, err)
	require.Nil(t, m)
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 10 << 30})
	require.NoError(t, s.Checkpoint(t.Context(), c))
}

// TestFailingDisk writes checkpoints until a write fails, at many moments, and requires that
// each shard has its last acknowledged checkpoint or the one after, whole, then and after a
// restart and a power failure.
func TestFailingDisk(t *testing.T) {
	for n := range 30 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			disk := vfs.NewCrashableMem()
			var left atomic.Int64
			left.Store(1 << 40)
			inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
				switch op.Kind {
				case errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpRename:
					if left.Add(-1) < 0 {
						return syscall.ENOSPC
					}
				}
				return nil
			})
			o := mem(errorfs.Wrap(disk, inj))
			o.MemTableBytes = 256 << 10 // so that there are flushes and compactions
			s := open(t, "store", o)
			const shards = 3
			var epochs [shards]uint64
			for i := range epochs {
				var err error
				epochs[i], err = s.Acquire(t.Context(), i, "node-a")
				require.NoError(t, err)
			}
			left.Store(int64(4 * n * n))
			var acked [shards]atomic.Uint64
			var wg sync.WaitGroup
			for i := range shards {
				wg.Go(func() {
					for next := uint64(1); ; next++ {
						c := &messages.Checkpoint{Shard: i, Epoch: epochs[i], Meta: &footfallv1.CheckpointMeta{NextOffset: next}}
						for j := range 20 {
							c.Customers = append(c.Customers, messages.CustomerRecord{ID: fmt.Sprint(j), Value: fmt.Appendf(make([]byte, 800), " %d", next)})
						}
						if err := s.Checkpoint(t.Context(), c); err != nil {
							var unavailable *messages.UnavailableError
							if !errors.As(err, &unavailable) || !errors.Is(err, syscall.ENOSPC) {
								t.Error(err)
							}
							return
						}
						acked[i].Store(next)
					}
				})
			}
			wg.Wait()
			require.ErrorIs(t, s.Err(), syscall.ENOSPC)
			_, err := s.Acquire(t.Context(), 0, "node-b")
			require.ErrorIs(t, err, syscall.ENOSPC)
			check := func(s *Store) {
				for i := range shards {
					m, err := s.Load(t.Context(), i, epochs[i])
					require.NoError(t, err)
					next := m.GetNextOffset()
					want := acked[i].Load()
					require.True(t, next == want || next == want+1, "checkpoint %d, acknowledged %d", next, want)
					rs, err := s.Scan(t.Context(), i, epochs[i], "", 1<<20)
					require.NoError(t, err)
					for _, r := range rs {
						require.Equal(t, fmt.Sprintf(" %d", next), string(r.Value[800:]), "of two checkpoints")
					}
				}
			}
			check(s)
			crashed := disk.CrashClone(vfs.CrashCloneCfg{})
			require.NoError(t, s.Close())
			check(open(t, "store", mem(crashed)))
			check(open(t, "store", mem(disk)))
		})
	}
}

// TestSnapshotBaseCutShort leaves a copy without a name behind.
func TestSnapshotBaseCutShort(t *testing.T) {
	s, epoch := full(t, vfs.NewMem())
	generation, _, err := s.Base(t.Context(), 1)
	require.NoError(t, err)
	b := s.db.Pebble.NewBatch()
	require.NoError(t, set(b, append(baseRowPrefix(1, generation+1), "ghost"...), []byte("left over")))
	require.NoError(t, s.db.Commit(b))
	require.NoError(t, s.SnapshotBase(t.Context(), 1, epoch))
	generation, _, err = s.Base(t.Context(), 1)
	require.NoError(t, err)
	got, err := s.ScanBase(t.Context(), 1, generation, "", 1000)
	require.NoError(t, err)
	require.Equal(t, []messages.CustomerRecord{{ID: "c", Value: []byte("state")}}, got)
}
