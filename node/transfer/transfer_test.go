package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"footfall/actors"
	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func identity(shards int) messages.Identity { return storage.Identity(shards, time.UTC, "USD") }

func open(t testing.TB, dir string, shards int) *storage.Storage {
	t.Helper()
	s, err := storage.Open(storage.Options{LogDir: filepath.Join(dir, "log"), StoreDir: filepath.Join(dir, "store"), Identity: identity(shards)})
	require.NoError(t, err)
	return s
}

// value is one of a customer's as a store has it: a score, and a record with an event in it.
func value(i int) []byte {
	cal := behavior.NewCalendar(time.UTC)
	rec, _ := behavior.Apply(nil, &behavior.Event{ID: uint64(i) + 1, Time: 1_483_272_000_000 + int64(i)}, cal)
	score := make([]byte, 32)
	score[7], score[8], score[16] = 0x3f, 7, 0xa0
	return slices.Concat([]byte{1, 1}, score, rec)
}

// fill puts customers and dead letters into new data, as if they had been folded; the last shard was never owned where there are several.
func fill(t testing.TB, s *storage.Storage, shards, customers int) {
	t.Helper()
	fillWith(t, s, shards, customers, value)
}

func fillWith(t testing.TB, s *storage.Storage, shards, customers int, value func(int) []byte) {
	t.Helper()
	ctx := context.Background() //nolint:usetesting // also of benchmarks
	of := make([][]messages.CustomerRecord, shards)
	for i := range customers {
		id := fmt.Sprintf("customer-%d", i)
		shard := messages.ShardOf(id, shards)
		if shards > 1 && shard == shards-1 {
			continue
		}
		of[shard] = append(of[shard], messages.CustomerRecord{ID: id, Value: value(i)})
	}
	for shard := range shards {
		if shards > 1 && shard == shards-1 {
			continue
		}
		first, err := firstRecord(nil)
		require.NoError(t, err)
		require.NoError(t, s.Log.Append(ctx, shard, []messages.Record{first, first, first}))
		epoch, err := s.Store.Acquire(ctx, shard, "old")
		require.NoError(t, err)
		m := &footfallv1.CheckpointMeta{
			NextOffset: 3, Sum: messages.RecordSum(first.Type, first.Body), LastTick: "2017-01-31", Clock: footfallv1.ClockMode_CLOCK_MODE_DRIVEN,
			Customers: uint64(len(of[shard])), Events: 1000, Duplicates: 3, EpochRead: epoch, Sweeping: true,
			Producers: []*footfallv1.ProducerMark{{Producer: "till-1", Sequence: 9}},
			Models:    []*footfallv1.ModelRef{{Model: "churn_risk", Version: "1"}},
		}
		for _, c := range of[shard][:min(3, len(of[shard]))] {
			m.Unscored = append(m.Unscored, c.ID)
		}
		dead := []messages.DeadLetter{
			{Position: messages.Position{Offset: 1}, Reason: "is no message", Body: []byte("x")},
			{Position: messages.Position{Offset: 2, Index: 4}, Field: "time", Reason: "is missing", CustomerID: "customer-1", EventID: "e", Type: messages.EventRecord, Body: []byte{10, 1, 'e'}},
		}
		for chunk := range slices.Chunk(of[shard], 10_000) {
			require.NoError(t, s.Store.Checkpoint(ctx, &messages.Checkpoint{Shard: shard, Epoch: epoch, Meta: m, Customers: chunk}))
		}
		require.NoError(t, s.Store.Checkpoint(ctx, &messages.Checkpoint{Shard: shard, Epoch: epoch, Meta: m, Dead: dead}))
		require.NoError(t, s.Store.Release(ctx, shard, epoch))
	}
}

func stored(s *storage.Storage, shards int) *Stored {
	return &Stored{Log: s.Log, Store: s.Store, ID: identity(shards)}
}

func nothing(int, uint64) {}

// checkWhole proves that data that were written can be served: each shard is the fold of its log.
func checkWhole(t *testing.T, s *storage.Storage, shards int) (customers uint64) {
	t.Helper()
	for shard := range shards {
		_, epoch, err := s.Store.Owner(t.Context(), shard)
		require.NoError(t, err)
		v, err := actors.VerifyShard(t.Context(), actors.Config{Node: "t", Shards: shards, Location: time.UTC, Currency: "USD", Now: time.Now}, shard, epoch, s.Log, s.Store)
		require.NoError(t, err)
		require.Empty(t, v.Differences)
		customers += v.Customers
	}
	return customers
}

// Every shard arrives through a file, and each half of it in its new shard.
func TestArchiveAndSplit(t *testing.T) {
	dir := t.TempDir()
	old := open(t, filepath.Join(dir, "old"), 4)
	defer old.Close()
	fill(t, old, 4, 500)
	source := stored(old, 4)

	path := filepath.Join(dir, "backup")
	require.NoError(t, WriteArchive(t.Context(), source, path, Header{Created: "2026-01-01T00:00:00Z", By: "test"}, nothing))
	require.ErrorContains(t, WriteArchive(t.Context(), source, path, Header{}, nothing), "is there already")

	archive, err := OpenArchive(path)
	require.NoError(t, err)
	defer archive.Close()
	require.Equal(t, identity(4), archive.Identity())
	restored := open(t, filepath.Join(dir, "restored"), 4)
	defer restored.Close()
	require.NoError(t, Write(t.Context(), archive, restored, nothing))
	n, err := Compare(t.Context(), source, restored, nothing)
	require.NoError(t, err)
	require.Equal(t, n, checkWhole(t, restored, 4))

	doubled := open(t, filepath.Join(dir, "doubled"), 8)
	defer doubled.Close()
	split := Split{From: source}
	require.NoError(t, Write(t.Context(), split, doubled, nothing))
	again, err := Compare(t.Context(), split, doubled, nothing)
	require.NoError(t, err)
	require.Equal(t, n, again)
	require.Equal(t, n, checkWhole(t, doubled, 8))
	events, letters := uint64(0), 0
	for shard := range 8 {
		_, epoch, err := doubled.Store.Owner(t.Context(), shard)
		require.NoError(t, err)
		chunk, err := doubled.Store.Scan(t.Context(), shard, epoch, "", 1<<30)
		require.NoError(t, err)
		for _, c := range chunk {
			require.Equal(t, shard, messages.ShardOf(c.ID, 8))
		}
		meta, err := doubled.Store.Load(t.Context(), shard, epoch)
		require.NoError(t, err)
		require.EqualValues(t, len(chunk), meta.GetCustomers())
		for _, id := range meta.GetUnscored() {
			require.Equal(t, shard, messages.ShardOf(id, 8))
		}
		events += meta.GetEvents()
		dead, err := doubled.Store.DeadLetters(t.Context(), shard, messages.Position{}, 100)
		require.NoError(t, err)
		letters += len(dead)
	}
	require.EqualValues(t, 3*1000, events, "none is counted twice")
	require.Equal(t, 3*2, letters)
}

// A transfer that is cut short at any write leaves what cannot be served, and is gone on with.
func TestCutShort(t *testing.T) {
	dir := t.TempDir()
	old := open(t, filepath.Join(dir, "old"), 2)
	defer old.Close()
	fill(t, old, 2, 60)
	split := crumbs{Split{From: stored(old, 2)}}
	for cut := 1; ; cut += 3 {
		target := filepath.Join(dir, fmt.Sprint(cut))
		s := open(t, target, 4)
		backing := s.Store.Backing
		s.Store.Backing = &cutting{Backing: backing, left: cut}
		err := Write(t.Context(), split, s, nothing)
		s.Store.Backing = backing
		if err == nil {
			require.Greater(t, cut, 4*5, "it has been cut nowhere")
			require.NoError(t, s.Close())
			return
		}
		require.ErrorIs(t, err, errCut)
		require.NoError(t, s.Close())

		s = open(t, target, 4)
		for shard := range 4 {
			base, err := s.Store.Base(t.Context(), shard)
			require.NoError(t, err)
			_, epoch, err := s.Store.Owner(t.Context(), shard)
			require.NoError(t, err)
			if base != nil || epoch == 0 {
				continue
			}
			meta, err := s.Store.Load(t.Context(), shard, epoch)
			require.NoError(t, err)
			if meta.GetNextOffset() <= 1 {
				continue // all of it but the base, or nothing
			}
			_, err = s.Log.Open(t.Context(), shard, messages.Mark{Next: meta.GetNextOffset(), Sum: meta.GetSum()})
			require.Error(t, err, "shard %d could be served", shard)
		}
		require.NoError(t, Write(t.Context(), split, s, nothing))
		_, err = Compare(t.Context(), split, s, nothing)
		require.NoError(t, err, "cut at %d", cut)
		checkWhole(t, s, 4)
		require.NoError(t, s.Close())
	}
}

// crumbs is a source in chunks of a few, so that several are written at once.
type crumbs struct{ Source }

func (c crumbs) Read(ctx context.Context, shard int, into Sink) error {
	all := into.Customers
	into.Customers = func(chunk []messages.CustomerRecord) error {
		for few := range slices.Chunk(chunk, 4) {
			if err := all(few); err != nil {
				return err
			}
		}
		return nil
	}
	return c.Source.Read(ctx, shard, into)
}

var errCut = errors.New("cut")

// cutting is a store whose writes fail from some on, as if the process had ended.
type cutting struct {
	storage.Backing
	mu   sync.Mutex // guards what follows
	left int
}

func (c *cutting) cut() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left < 0 {
		return errCut
	}
	return nil
}

func (c *cutting) Acquire(ctx context.Context, shard int, owner string) (uint64, error) {
	if err := c.cut(); err != nil {
		return 0, err
	}
	return c.Backing.Acquire(ctx, shard, owner)
}

func (c *cutting) Checkpoint(ctx context.Context, cp *messages.Checkpoint) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.Backing.Checkpoint(ctx, cp)
}

func (c *cutting) SnapshotBase(ctx context.Context, shard int, epoch uint64) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.Backing.SnapshotBase(ctx, shard, epoch)
}

func (c *cutting) Release(ctx context.Context, shard int, epoch uint64) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.Backing.Release(ctx, shard, epoch)
}

// A shard of which one chunk alone could not be written is not whole, however late that turns out.
func TestOneChunkFails(t *testing.T) {
	dir := t.TempDir()
	old := open(t, filepath.Join(dir, "old"), 3)
	defer old.Close()
	fill(t, old, 3, 60)
	s := open(t, filepath.Join(dir, "new"), 3)
	defer s.Close()
	backing := s.Store.Backing
	f := &failing{Backing: backing, further: make(chan struct{})}
	s.Store.Backing = f
	err := Write(t.Context(), further{crumbs{stored(old, 3)}, f.further}, s, nothing)
	require.ErrorIs(t, err, errCut)
	require.ErrorContains(t, err, "shard 0: ")
	require.False(t, f.early.Load(), "the shard was finished before its chunks")
	base, err := s.Store.Base(t.Context(), 0)
	require.NoError(t, err)
	require.Nil(t, base)

	s.Store.Backing = backing
	require.NoError(t, Write(t.Context(), stored(old, 3), s, nothing))
	_, err = Compare(t.Context(), stored(old, 3), s, nothing)
	require.NoError(t, err)
}

// further closes a channel as the second shard begins to be read. It has no dead letters, which wait for chunks.
type further struct {
	Source
	begun chan struct{}
}

func (f further) Read(ctx context.Context, shard int, into Sink) error {
	if shard == 1 {
		for range 1000 {
			runtime.Gosched() // to whoever finishes the first too early
		}
		close(f.begun)
	}
	into.Letters = func([]messages.DeadLetter) error { return nil }
	return f.Source.Read(ctx, shard, into)
}

// failing is a store that fails to write the first chunk of shard 0, once further is closed.
type failing struct {
	storage.Backing
	further chan struct{}
	begun   atomic.Bool
	early   atomic.Bool // the shard was finished before or although the chunk failed
}

func (f *failing) Checkpoint(ctx context.Context, c *messages.Checkpoint) error {
	switch {
	case c.Shard != 0:
	case len(c.Customers) > 0 && f.begun.CompareAndSwap(false, true):
		<-f.further
		return errCut
	case c.Meta.GetNextOffset() != unfinished().GetNextOffset():
		f.early.Store(true)
	}
	return f.Backing.Checkpoint(ctx, c)
}

// Compare finds what is missing, too much, or other.
func TestCompareFinds(t *testing.T) {
	dir := t.TempDir()
	old := open(t, filepath.Join(dir, "old"), 1)
	defer old.Close()
	fill(t, old, 1, 20)
	source := stored(old, 1)
	for name, c := range map[string]struct {
		change messages.CustomerRecord
		want   string
	}{
		"missing": {messages.CustomerRecord{ID: "customer-7"}, `customer "customer-7": is missing`},
		"more":    {messages.CustomerRecord{ID: "customer-77", Value: value(1)}, `customer "customer-77": is there, and should not be`},
		"last":    {messages.CustomerRecord{ID: "z", Value: value(1)}, `customer "z": is there, and should not be`},
		"other":   {messages.CustomerRecord{ID: "customer-7", Value: value(8)}, `customer "customer-7": is different`},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(dir, name), 1)
			defer s.Close()
			require.NoError(t, Write(t.Context(), source, s, nothing))
			epoch, err := s.Store.Acquire(t.Context(), 0, "x")
			require.NoError(t, err)
			meta, err := s.Store.Load(t.Context(), 0, epoch)
			require.NoError(t, err)
			require.NoError(t, s.Store.Checkpoint(t.Context(), &messages.Checkpoint{Epoch: epoch, Meta: meta, Customers: []messages.CustomerRecord{c.change}}))
			_, err = Compare(t.Context(), source, s, nothing)
			var different *DifferentError
			require.ErrorAs(t, err, &different)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// Data that are not at rest, and places that are not empty, are refused.
func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	old := open(t, filepath.Join(dir, "old"), 1)
	defer old.Close()
	fill(t, old, 1, 20)
	other := open(t, filepath.Join(dir, "other"), 1)
	defer other.Close()
	fill(t, other, 1, 3)
	require.ErrorContains(t, Write(t.Context(), stored(old, 1), other, nothing), "there are data already")

	first, err := firstRecord(nil)
	require.NoError(t, err)
	require.NoError(t, old.Log.Append(t.Context(), 0, []messages.Record{first, first}))
	var behind *BehindError
	require.ErrorAs(t, WriteArchive(t.Context(), stored(old, 1), filepath.Join(dir, "b"), Header{}, nothing), &behind)
	require.Equal(t, BehindError{Shard: 0, Messages: 2}, *behind)
	require.NoFileExists(t, filepath.Join(dir, "b"))
	require.NoFileExists(t, filepath.Join(dir, "b.partial"))

	// Without its log it is what its checkpoints say.
	alone := &Stored{Store: old.Store, ID: identity(1)}
	require.NoError(t, WriteArchive(t.Context(), alone, filepath.Join(dir, "b"), Header{}, nothing))
}

// An unfinished folder is gone on with for the same, and begun anew for another.
func TestFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new")
	note := filepath.Join(path+".partial", "note")
	begin := func(name string) *Folder {
		f, err := OpenFolder(path, name, identity(1))
		require.NoError(t, err)
		return f
	}
	f := begin("a")
	require.NoError(t, os.WriteFile(note, nil, 0o600))
	require.NoError(t, f.Close())
	f = begin("a")
	require.FileExists(t, note)
	require.NoError(t, f.Close())
	f = begin("b")
	require.NoFileExists(t, note)
	require.NoDirExists(t, path)
	require.NoError(t, f.Done())
	require.DirExists(t, filepath.Join(path, "log"))
	require.NoDirExists(t, path+".partial")
	_, err := OpenFolder(path, "b", identity(1))
	require.ErrorContains(t, err, "is there already")
}

// A file that was cut, or of which a byte is another, is refused.
func TestDamagedArchive(t *testing.T) {
	s := open(t, t.TempDir(), 2)
	defer s.Close()
	fill(t, s, 2, 40)
	var whole bytes.Buffer
	require.NoError(t, writeFrames(t.Context(), stored(s, 2), &whole, Header{}, nothing))
	require.NoError(t, readAll(bytes.NewReader(whole.Bytes())))
	for cut := range whole.Len() {
		require.Error(t, readAll(bytes.NewReader(whole.Bytes()[:cut])), cut)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(whole.Bytes())
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "by"))
		if err := readAll(bytes.NewReader(b)); err == nil {
			// Bits that mean nothing to the decoder: what comes out is the same.
			require.Equal(t, content(bytes.NewReader(whole.Bytes())), content(bytes.NewReader(b)))
		}
	})
}

func readAll(r io.Reader) error {
	a, err := readArchive(r)
	if err != nil {
		return err
	}
	defer a.Close()
	for shard := range a.Identity().Shards {
		err := a.Read(context.Background(), shard, Sink{
			Meta:      func(*footfallv1.CheckpointMeta) error { return nil },
			Customers: func([]messages.CustomerRecord) error { return nil },
			Letters:   func([]messages.DeadLetter) error { return nil },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// content is all that an archive says.
func content(r io.Reader) (all []string) {
	a, err := readArchive(r)
	if err != nil {
		return nil
	}
	defer a.Close()
	for shard := range a.Identity().Shards {
		_ = a.Read(context.Background(), shard, Sink{
			Meta: func(m *footfallv1.CheckpointMeta) error {
				b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
				all = append(all, string(b))
				return err
			},
			Customers: func(chunk []messages.CustomerRecord) error {
				for _, c := range chunk {
					all = append(all, c.ID, string(c.Value))
				}
				return nil
			},
			Letters: func(chunk []messages.DeadLetter) error {
				all = append(all, fmt.Sprint(chunk))
				return nil
			},
		})
	}
	return all
}

// FuzzArchive reads anything without panic and without end.
func FuzzArchive(f *testing.F) {
	s := open(f, f.TempDir(), 1)
	fill(f, s, 1, 3)
	var whole bytes.Buffer
	require.NoError(f, writeFrames(f.Context(), stored(s, 1), &whole, Header{}, nothing))
	require.NoError(f, s.Close())
	f.Add(whole.Bytes())
	f.Fuzz(func(_ *testing.T, b []byte) { _ = readAll(bytes.NewReader(b)) })
}

// shopper is a customer of two months: a record of some 800 bytes.
func shopper(i int) []byte {
	cal := behavior.NewCalendar(time.UTC)
	var rec behavior.Record
	for day := range 20 {
		rec, _ = behavior.Apply(rec, &behavior.Event{
			ID: uint64(i*20+day) + 1, Time: 1_483_272_000_000 + int64(day)*3*86_400_000, Kind: behavior.Purchase, Spend: int64(i%90+1) * 10_000, Items: 3,
			Departments: []uint32{uint32(day % 7), 9},
		}, cal)
	}
	return slices.Concat([]byte{1, 4}, make([]byte, 4*32), rec)
}

// BenchmarkRestore restores a million customers from a file, and proves them.
func BenchmarkRestore(b *testing.B) {
	const customers, shards = 1_000_000, 16
	dir := b.TempDir()
	old := open(b, filepath.Join(dir, "old"), shards)
	fillWith(b, old, shards, customers, shopper)
	path := filepath.Join(dir, "backup")
	require.NoError(b, WriteArchive(b.Context(), stored(old, shards), path, Header{}, nothing))
	require.NoError(b, old.Close())
	b.ReportMetric(float64(len(shopper(1))), "bytes/customer")
	n := 0
	for b.Loop() {
		n++
		target := open(b, filepath.Join(dir, fmt.Sprint(n)), shards)
		for _, pass := range []func(Source) error{
			func(s Source) error { return Write(b.Context(), s, target, nothing) },
			func(s Source) error { _, err := Compare(b.Context(), s, target, nothing); return err },
		} {
			archive, err := OpenArchive(path)
			require.NoError(b, err)
			require.NoError(b, pass(archive))
			require.NoError(b, archive.Close())
		}
		require.NoError(b, target.Close())
	}
}
