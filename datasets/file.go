package datasets

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// fileVersion is of the conversion: a change of what it makes is a new version.
const fileVersion = 1

// openFile opens a file of events as NDJSON, as a JSON array, or as JSON objects one after another,
// plain or compressed with gzip or zstd; what it is is seen from its beginning. Events may be in any
// order. A row that is no event is left out and reported; its own producer and sequence are
// replaced, for the file is the publisher.
func openFile(ctx context.Context, path string, opt Options) (*Dataset, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	digest, err := fileDigest(ctx, path)
	if err != nil {
		return nil, err
	}
	c, err := openCache(opt.Cache)
	if err != nil {
		return nil, err
	}
	h, err := c.history(ctx, "file", digest, fileVersion, func(w *historyWriter) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		in, done, err := decompress(f)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		defer done()
		if err := convertRows(ctx, rows(in), w); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	loc := opt.Location
	if loc == nil {
		loc = time.UTC
	}
	d := ofHistory(h, loc)
	d.Name, d.Digest, d.Currency = path, digest, orUSD(opt.Currency)
	d.Producer = "file-" + digest[:digestLen]
	return d, nil
}

func orUSD(currency string) string {
	if currency == "" {
		return "USD"
	}
	return currency
}

// decompress looks at the first bytes for the marks of gzip and zstd.
func decompress(f io.Reader) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(f, blockSize)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		return z, func() {}, err
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	default:
		return in, func() {}, nil
	}
}

// rows yields the JSON of each row, or tooLong. An error ends them.
func rows(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		in := bufio.NewReaderSize(r, blockSize)
		if mark, _ := in.Peek(3); string(mark) == "\xef\xbb\xbf" {
			_, _ = in.Discard(3)
		}
		first, err := skipSpace(in)
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			yield(nil, err)
		case first == '[':
			values(json.NewDecoder(in), true, yield)
		case first != '{':
			yield(nil, fmt.Errorf("is neither NDJSON nor a JSON array: it begins with %q", first))
		default:
			line, err := readLine(in)
			if err != nil && !errors.Is(err, io.EOF) {
				yield(nil, err)
				return
			}
			// A line that begins and ends as an object does is a row, even where it is a broken one.
			if len(line) == 0 || line[len(line)-1] == '}' {
				if yield(line, nil) {
					lines(in, yield)
				}
				return
			}
			values(json.NewDecoder(io.MultiReader(bytes.NewReader(line), in)), false, yield)
		}
	}
}

func skipSpace(in *bufio.Reader) (byte, error) {
	for {
		switch c, err := in.ReadByte(); {
		case err != nil:
			return 0, err
		case c == ' ' || c == '\n' || c == '\r' || c == '\t':
		default:
			return c, in.UnreadByte()
		}
	}
}

// lines yields the lines that are not blank.
func lines(in *bufio.Reader, yield func([]byte, error) bool) {
	for {
		line, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			yield(nil, err)
			return
		}
		if !blank(line) && !yield(line, nil) || errors.Is(err, io.EOF) {
			return
		}
	}
}

// tooLong stands for a row that is longer than an event may be.
var tooLong []byte

func blank(line []byte) bool { return line != nil && len(line) == 0 }

// readLine returns the next line without the space around it, or tooLong. The error is io.EOF with
// what stands behind the last line break.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := in.ReadSlice('\n')
		if long = long || len(line)+len(part) > messages.MaxJSONEvent+2; long {
			line = tooLong
		} else {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if line = bytes.TrimSpace(line); line == nil && !long {
				line = []byte{}
			}
			return line, err
		}
	}
}

// values yields JSON values one after another, or those of an array.
func values(dec *json.Decoder, array bool, yield func([]byte, error) bool) {
	if array {
		if _, err := dec.Token(); err != nil {
			yield(nil, err)
			return
		}
	}
	for row := 1; dec.More(); row++ {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			yield(nil, malformed(row, dec.InputOffset(), err))
			return
		}
		if !yield(raw, nil) {
			return
		}
	}
	if array {
		if _, err := dec.Token(); err != nil {
			yield(nil, malformed(0, dec.InputOffset(), err))
			return
		}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) && array {
		yield(nil, fmt.Errorf("byte %d: something follows the array", dec.InputOffset()))
	}
}

func malformed(row int, offset int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("byte %d: the file ends within the events: it is truncated", offset)
	}
	return fmt.Errorf("row %d, byte %d: malformed JSON: %w", row, offset, err)
}

// chunk is a number of rows on their way through the decoders.
type chunk struct {
	first  int64
	rows   [][]byte
	events []*footfallv1.Event
	faults []*messages.Fault
	err    error
	done   chan struct{}
}

const chunkRows = 256

// convertRows decodes rows on all processors and writes them in their order.
func convertRows(ctx context.Context, rows iter.Seq2[[]byte, error], w *historyWriter) error {
	ctx, cancel := context.WithCancel(ctx)
	workers := runtime.GOMAXPROCS(0)
	work, order := make(chan *chunk, workers), make(chan *chunk, 2*workers)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(work)
		defer close(order)
		send := func(c *chunk) bool {
			c.done = make(chan struct{})
			for _, to := range []chan *chunk{order, work} {
				select {
				case to <- c:
				case <-ctx.Done():
					return false
				}
			}
			return true
		}
		c := &chunk{first: 1}
		for row, err := range rows {
			if err != nil {
				c.err = err
				break
			}
			c.rows = append(c.rows, row)
			if len(c.rows) == chunkRows {
				next := &chunk{first: c.first + chunkRows}
				if !send(c) {
					return
				}
				c = next
			}
		}
		send(c)
	})
	for range workers {
		wg.Go(func() {
			for c := range work {
				c.decode()
				close(c.done)
			}
		})
	}
	for c := range order {
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		for i, ev := range c.events {
			if f := c.faults[i]; f != nil {
				w.Reject(&RowError{Row: c.first + int64(i), Field: f.Field, Reason: f.Reason})
				continue
			}
			if err := w.Add(ev, 0); err != nil {
				return err
			}
		}
		if c.err != nil {
			return c.err
		}
	}
	return ctx.Err()
}

func (c *chunk) decode() {
	c.events, c.faults = make([]*footfallv1.Event, len(c.rows)), make([]*messages.Fault, len(c.rows))
	for i, raw := range c.rows {
		if raw == nil {
			c.faults[i] = &messages.Fault{Reason: fmt.Sprintf("the row has more than %d bytes", messages.MaxJSONEvent)}
			continue
		}
		ev, f := messages.DecodeJSONEvent(raw)
		if f == nil {
			ev.Producer, ev.Sequence = "", 0
			// Which currency is right only the system knows that the events go to.
			f = messages.Validator{Currency: currencyOf(ev)}.Validate(ev)
		}
		c.events[i], c.faults[i] = ev, f
	}
}

func currencyOf(ev *footfallv1.Event) string {
	if p := ev.GetPurchase(); p != nil {
		return p.Currency
	}
	return ev.GetRefund().GetCurrency()
}
