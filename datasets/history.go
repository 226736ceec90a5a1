package datasets

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// A history file is what any source is converted to: its events in order of time.
//
//	file   = magic block* meta length(meta) crc(meta) magic
//	block  = length(zstd) crc(zstd) zstd       of length-delimited footfall.v1.Event
//	meta   = historyMeta as JSON
//
// Lengths and CRC-32C are four bytes little-endian. Invariants:
//
//  1. A file under its final name is whole: it is written under another, synced, then renamed.
//  2. Events of the same time stand in the order of their ranks, and those of the same rank in the
//     order in which they were added.
//  3. Neither writer nor reader holds more than a few blocks and one run of events in memory.
const (
	historyMagic = "footfall history 1\n"
	blockSize    = 256 << 10
	// runSize is how many bytes of events are sorted in memory at once.
	runSize = 64 << 20
	// maxRejects is how many refused rows are kept in words; all are counted.
	maxRejects = 1000
	// maxCounted is how many customers are told apart when they are counted.
	maxCounted = 1 << 22
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// historyMeta is what is known of a history without reading it.
type historyMeta struct {
	Events int64 `json:"events"`
	// Customers is 0 where there are more than can be told apart.
	Customers int64            `json:"customers"`
	Kinds     map[string]int64 `json:"kinds"`
	// First and Last are the times of the first and the last event.
	First    time.Time   `json:"first"`
	Last     time.Time   `json:"last"`
	Rejected int64       `json:"rejected"`
	Rejects  []*RowError `json:"rejects,omitempty"`
}

// historyWriter sorts events into a history file. Sorted runs go to temporary files as memory
// fills, and Finish merges them.
type historyWriter struct {
	dir  string
	buf  []byte
	run  []runEntry
	runs []*os.File
	meta historyMeta
	seen map[uint64]struct{}
	// fail is why a run could not be read back.
	fail error
}

// runEntry is one event of the run in memory.
type runEntry struct {
	time     int64
	rank     byte
	from, to int
}

// newHistoryWriter makes a writer whose temporary files lie in dir, which its user removes.
func newHistoryWriter(dir string) *historyWriter {
	return &historyWriter{dir: dir, meta: historyMeta{Kinds: map[string]int64{}}, seen: map[uint64]struct{}{}}
}

// Add takes an event that has a time. Of events of the same time, those of a lower rank come first.
func (w *historyWriter) Add(ev *footfallv1.Event, rank byte) error {
	size := ev.SizeVT()
	if len(w.buf)+size > runSize && len(w.run) > 0 {
		if err := w.spill(); err != nil {
			return err
		}
	}
	from := len(w.buf)
	w.buf = slices.Grow(w.buf, size)[:from+size]
	if _, err := ev.MarshalToSizedBufferVT(w.buf[from:]); err != nil {
		return err
	}
	w.run = append(w.run, runEntry{nanos(ev.Time), rank, from, from + size})
	w.meta.Kinds[messages.KindName(ev)]++
	if w.seen != nil {
		if w.seen[xxhash.Sum64String(ev.CustomerId)] = struct{}{}; len(w.seen) > maxCounted {
			w.seen = nil
		}
	}
	return nil
}

// Reject notes a row that is no event.
func (w *historyWriter) Reject(e *RowError) {
	if w.meta.Rejected++; len(w.meta.Rejects) < maxRejects {
		w.meta.Rejects = append(w.meta.Rejects, e)
	}
}

// nanos is the time of an event as one number; times beyond what fits are the nearest that does.
func nanos(t *timestamppb.Timestamp) int64 {
	switch s := t.GetSeconds(); {
	case s > math.MaxInt64/1_000_000_000-1:
		return math.MaxInt64
	case s < math.MinInt64/1_000_000_000+1:
		return math.MinInt64
	default:
		return s*1_000_000_000 + int64(t.GetNanos())
	}
}

func (w *historyWriter) sort() {
	// The place in the buffer is the order of adding.
	slices.SortFunc(w.run, func(a, b runEntry) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.rank, b.rank), cmp.Compare(a.from, b.from))
	})
}

// spill writes the run in memory, sorted, to a file of its own.
func (w *historyWriter) spill() error {
	w.sort()
	f, err := os.CreateTemp(w.dir, "run-*")
	if err != nil {
		return err
	}
	w.runs = append(w.runs, f)
	out := bufio.NewWriterSize(f, blockSize)
	var head [13]byte
	for _, e := range w.run {
		binary.LittleEndian.PutUint64(head[:], uint64(e.time))
		head[8] = e.rank
		binary.LittleEndian.PutUint32(head[9:], uint32(e.to-e.from))
		_, _ = out.Write(head[:])
		_, _ = out.Write(w.buf[e.from:e.to])
	}
	w.run, w.buf = w.run[:0], w.buf[:0]
	return out.Flush()
}

// Finish writes the history to path, whole or not at all.
func (w *historyWriter) Finish(ctx context.Context, path string) (err error) {
	w.sort()
	f, err := os.CreateTemp(w.dir, "history-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	blocks, err := newBlockWriter(f)
	if err != nil {
		return err
	}
	var first, last int64
	for at, body := range w.merged() {
		if w.meta.Events == 0 {
			first = at
		}
		last = at
		if w.meta.Events++; w.meta.Events%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := blocks.add(body); err != nil {
			return err
		}
	}
	if w.fail != nil {
		return w.fail
	}
	if w.meta.Events > 0 {
		w.meta.First, w.meta.Last = time.Unix(0, first).UTC(), time.Unix(0, last).UTC()
	}
	w.meta.Customers = int64(len(w.seen))
	if err := blocks.finish(&w.meta); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Close gives up the files of the runs.
func (w *historyWriter) Close() error {
	var err error
	for _, f := range w.runs {
		err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	w.runs = nil
	return err
}

// merged yields all events in order of time with their times, or fewer and sets fail. The run in
// memory is the last one.
func (w *historyWriter) merged() iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		h := &runHeap{}
		for i, f := range w.runs {
			if _, w.fail = f.Seek(0, io.SeekStart); w.fail != nil {
				return
			}
			in := bufio.NewReaderSize(f, blockSize)
			h.add(i, func(r *openRun) error {
				var head [13]byte
				if _, err := io.ReadFull(in, head[:]); err != nil {
					return err
				}
				r.time, r.rank = int64(binary.LittleEndian.Uint64(head[:])), head[8]
				size := int(binary.LittleEndian.Uint32(head[9:]))
				r.body = slices.Grow(r.body[:0], size)[:size]
				if _, err := io.ReadFull(in, r.body); err != nil {
					return io.ErrUnexpectedEOF
				}
				return nil
			})
		}
		at := 0
		h.add(len(w.runs), func(r *openRun) error {
			if at == len(w.run) {
				return io.EOF
			}
			e := w.run[at]
			at++
			r.time, r.rank, r.body = e.time, e.rank, w.buf[e.from:e.to]
			return nil
		})
		for h.Len() > 0 {
			top := h.runs[0]
			if top.err != nil {
				w.fail = top.err
				return
			}
			if !yield(top.time, top.body) {
				return
			}
			if top.advance() {
				heap.Fix(h, 0)
			} else {
				heap.Pop(h)
			}
		}
	}
}

// runHeap holds the runs that are not used up, the one with the earliest event first.
type runHeap struct{ runs []*openRun }

type openRun struct {
	order int
	// next fills in the fields below.
	next func(r *openRun) error
	time int64
	rank byte
	body []byte
	err  error
}

// advance moves to the next event and reports whether there is one, or a failure to tell of.
func (r *openRun) advance() bool {
	if r.err = r.next(r); errors.Is(r.err, io.EOF) {
		return false
	}
	if r.err != nil {
		r.time = math.MinInt64
	}
	return true
}

func (h *runHeap) add(order int, next func(*openRun) error) {
	if r := (&openRun{order: order, next: next}); r.advance() {
		heap.Push(h, r)
	}
}

func (h *runHeap) Len() int { return len(h.runs) }

func (h *runHeap) Less(i, j int) bool {
	a, b := h.runs[i], h.runs[j]
	return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.rank, b.rank), cmp.Compare(a.order, b.order)) < 0
}

func (h *runHeap) Swap(i, j int) { h.runs[i], h.runs[j] = h.runs[j], h.runs[i] }
func (h *runHeap) Push(r any)    { h.runs = append(h.runs, r.(*openRun)) }

func (h *runHeap) Pop() any {
	last := h.runs[len(h.runs)-1]
	h.runs = h.runs[:len(h.runs)-1]
	return last
}

// blockWriter packs events into compressed blocks.
type blockWriter struct {
	out  *bufio.Writer
	zstd *zstd.Encoder
	raw  []byte
	pack []byte
}

func newBlockWriter(f io.Writer) (*blockWriter, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	b := &blockWriter{out: bufio.NewWriterSize(f, blockSize), zstd: enc}
	_, err = b.out.WriteString(historyMagic)
	return b, err
}

func (b *blockWriter) add(event []byte) error {
	b.raw = binary.AppendUvarint(b.raw, uint64(len(event)))
	b.raw = append(b.raw, event...)
	if len(b.raw) < blockSize {
		return nil
	}
	return b.flush()
}

func (b *blockWriter) flush() error {
	if len(b.raw) == 0 {
		return nil
	}
	b.pack = b.zstd.EncodeAll(b.raw, b.pack[:0])
	b.raw = b.raw[:0]
	return b.write(b.pack)
}

func (b *blockWriter) write(body []byte) error {
	var head [8]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(body)))
	binary.LittleEndian.PutUint32(head[4:], crc32.Checksum(body, castagnoli))
	_, _ = b.out.Write(head[:])
	_, err := b.out.Write(body)
	return err
}

func (b *blockWriter) finish(meta *historyMeta) error {
	if err := b.flush(); err != nil {
		return err
	}
	body, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	_, _ = b.out.Write(body)
	var tail [8]byte
	binary.LittleEndian.PutUint32(tail[:], uint32(len(body)))
	binary.LittleEndian.PutUint32(tail[4:], crc32.Checksum(body, castagnoli))
	_, _ = b.out.Write(tail[:])
	_, _ = b.out.WriteString(historyMagic)
	return b.out.Flush()
}

// history is a history file for reading. It is immutable: any number of goroutines may read it.
type history struct {
	path string
	meta historyMeta
	// end is where the blocks end.
	end int64
}

// openHistory reads what a history file says of itself. The error is fs.ErrNotExist where there is
// none, *messages.CorruptError where it is not whole.
func openHistory(path string) (*history, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	corrupt := func(reason string) error { return &messages.CorruptError{What: path, Reason: reason} }
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	tail := make([]byte, 8+len(historyMagic))
	if size < int64(len(tail)+len(historyMagic)) {
		return nil, corrupt("too short for a history")
	}
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return nil, err
	}
	if string(tail[8:]) != historyMagic {
		return nil, corrupt("does not end as a history does")
	}
	h := &history{path: path}
	length := int64(binary.LittleEndian.Uint32(tail))
	if h.end = size - int64(len(tail)) - length; h.end < int64(len(historyMagic)) {
		return nil, corrupt("its description is longer than the file")
	}
	body := make([]byte, length)
	if _, err := f.ReadAt(body, h.end); err != nil {
		return nil, err
	}
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(tail[4:]) {
		return nil, corrupt("its description has another checksum")
	}
	if err := json.Unmarshal(body, &h.meta); err != nil {
		return nil, corrupt(err.Error())
	}
	return h, nil
}

// Events yields all events in order. Each is its own; their strings share the memory of a block.
func (h *history) Events(ctx context.Context) iter.Seq2[*footfallv1.Event, error] {
	return func(yield func(*footfallv1.Event, error) bool) {
		for block, err := range h.blocks(ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			for len(block) > 0 {
				size, n := binary.Uvarint(block)
				if n <= 0 || size > uint64(len(block)-n) {
					yield(nil, &messages.CorruptError{What: h.path, Reason: "a block ends within an event"})
					return
				}
				ev := new(footfallv1.Event)
				if err := ev.UnmarshalVTUnsafe(block[n : n+int(size)]); err != nil {
					yield(nil, &messages.CorruptError{What: h.path, Reason: err.Error()})
					return
				}
				if block = block[n+int(size):]; !yield(ev, nil) {
					return
				}
			}
		}
	}
}

func (h *history) blocks(ctx context.Context) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		f, err := os.Open(h.path)
		if err != nil {
			yield(nil, err)
			return
		}
		defer func() { _ = f.Close() }()
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			yield(nil, err)
			return
		}
		defer dec.Close()
		in := bufio.NewReaderSize(io.NewSectionReader(f, 0, h.end), blockSize)
		magic := make([]byte, len(historyMagic))
		if _, err := io.ReadFull(in, magic); err != nil || !bytes.Equal(magic, []byte(historyMagic)) {
			yield(nil, &messages.CorruptError{What: h.path, Reason: "does not begin as a history does"})
			return
		}
		var pack []byte
		for at := int64(len(historyMagic)); at < h.end; {
			if ctx.Err() != nil {
				yield(nil, ctx.Err())
				return
			}
			var head [8]byte
			_, err := io.ReadFull(in, head[:])
			size := int64(binary.LittleEndian.Uint32(head[:]))
			at += int64(len(head)) + size
			if err == nil && at > h.end {
				err = errors.New("a block is longer than the file")
			}
			var raw []byte
			if err == nil {
				pack = slices.Grow(pack[:0], int(size))[:size]
				_, err = io.ReadFull(in, pack)
			}
			if err == nil && crc32.Checksum(pack, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
				err = errors.New("a block has another checksum")
			}
			if err == nil {
				raw, err = dec.DecodeAll(pack, nil)
			}
			if err != nil {
				yield(nil, &messages.CorruptError{What: h.path, Reason: fmt.Sprintf("%v: remove it, and it will be made again", err)})
				return
			}
			if !yield(raw, nil) {
				return
			}
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
