package transfer

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// An archive is a stream of Zstandard, with its checksum, of frames: kind byte │ length uvarint │ body.
//
//	header: JSON                    once, first
//	meta, customer …, letter …, end   for each shard in order; a shard that nobody ever had has its end alone
//	last                            once: what comes without it is not whole
//
// A customer is length of ID uvarint │ ID │ value; a letter is a footfall.v1.DeadLetter.
const (
	frameHeader   = 'H'
	frameMeta     = 'M'
	frameCustomer = 'C'
	frameLetter   = 'D'
	frameEnd      = 'E'
	frameLast     = 'Z'
)

const (
	archiveFormat  = "footfall backup"
	archiveVersion = 1
	// maxFrame bounds a frame: what is larger is no archive.
	maxFrame = 64 << 20
)

// Header is what an archive says of itself.
type Header struct {
	Format   string            `json:"format"`
	Version  int               `json:"version"`
	Identity messages.Identity `json:"identity"`
	// Created is when it was made, RFC 3339, and By the version of the program.
	Created string `json:"created"`
	By      string `json:"by"`
}

// ArchiveError says that a file is no archive, or not a whole one.
type ArchiveError struct {
	Reason string
	Err    error
}

func (e *ArchiveError) Error() string {
	if e.Err != nil {
		return "the backup cannot be read: " + e.Reason + ": " + e.Err.Error()
	}
	return "the backup cannot be read: " + e.Reason
}

func (e *ArchiveError) Unwrap() error { return e.Err }

// WriteArchive writes every shard of a source into a file, which is there whole or not at all. It
// does not replace one.
func WriteArchive(ctx context.Context, from Source, path string, h Header, progress Progress) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s is there already: choose another name", path)
	}
	partial := path + ".partial"
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(partial))
		}
	}()
	err = writeFrames(ctx, from, f, h, progress)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(partial, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes what was renamed in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func writeFrames(ctx context.Context, from Source, w io.Writer, h Header, progress Progress) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	out := frameWriter{w: bufio.NewWriterSize(z, 1<<20)}
	h.Format, h.Version, h.Identity = archiveFormat, archiveVersion, from.Identity()
	header, err := json.Marshal(h)
	if err != nil {
		return err
	}
	out.frame(frameHeader, header)
	var customers uint64
	for shard := range h.Identity.Shards {
		err := from.Read(ctx, shard, Sink{
			Meta: func(m *footfallv1.CheckpointMeta) error {
				if m == nil {
					return nil
				}
				b, err := proto.Marshal(m)
				out.frame(frameMeta, b)
				return errors.Join(err, out.err)
			},
			Customers: func(chunk []messages.CustomerRecord) error {
				for _, c := range chunk {
					out.customer(c)
				}
				customers += uint64(len(chunk))
				return errors.Join(out.err, ctx.Err())
			},
			Letters: func(chunk []messages.DeadLetter) error {
				for i := range chunk {
					b, err := proto.Marshal(chunk[i].Proto(shard))
					if err != nil {
						return err
					}
					// What the shown form leaves out.
					out.frame(frameLetter, append([]byte{byte(chunk[i].Type)}, b...))
				}
				return out.err
			},
		})
		if err != nil {
			return errors.Join(fmt.Errorf("shard %d: %w", shard, err), z.Close())
		}
		out.frame(frameEnd, nil)
		progress(shard+1, customers)
	}
	out.frame(frameLast, nil)
	return errors.Join(out.err, out.w.Flush(), z.Close())
}

// frameWriter keeps the first error.
type frameWriter struct {
	w   *bufio.Writer
	buf []byte
	err error
}

func (f *frameWriter) frame(kind byte, body []byte) {
	if f.err != nil {
		return
	}
	f.buf = binary.AppendUvarint(append(f.buf[:0], kind), uint64(len(body)))
	_, err := f.w.Write(f.buf)
	if err == nil {
		_, err = f.w.Write(body)
	}
	f.err = err
}

func (f *frameWriter) customer(c messages.CustomerRecord) {
	if f.err != nil {
		return
	}
	var id [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(id[:], uint64(len(c.ID)))
	f.buf = binary.AppendUvarint(append(f.buf[:0], frameCustomer), uint64(n+len(c.ID)+len(c.Value)))
	f.buf = append(append(f.buf, id[:n]...), c.ID...)
	_, err := f.w.Write(f.buf)
	if err == nil {
		_, err = f.w.Write(c.Value)
	}
	f.err = err
}

// Archive is a source out of a file. Its shards are read in order, each once.
type Archive struct {
	Header Header

	file *os.File
	zstd *zstd.Decoder
	r    *bufio.Reader
	next int
}

// OpenArchive opens a file that WriteArchive has made. Close closes it.
func OpenArchive(path string) (*Archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	a, err := readArchive(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	a.file = f
	return a, nil
}

func readArchive(r io.Reader) (*Archive, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, err
	}
	a := &Archive{zstd: z, r: bufio.NewReaderSize(z, 1<<20)}
	kind, body, err := a.frame()
	switch {
	case err != nil:
	case kind != frameHeader:
		err = &ArchiveError{Reason: "it has no header"}
	case json.Unmarshal(body, &a.Header) != nil || a.Header.Format != archiveFormat:
		err = &ArchiveError{Reason: "it is of something else"}
	case a.Header.Version != archiveVersion:
		err = &ArchiveError{Reason: fmt.Sprintf("it is of version %d, and this program reads %d", a.Header.Version, archiveVersion)}
	case a.Header.Identity.Shards < 1 || a.Header.Identity.Shards > 1<<16:
		err = &ArchiveError{Reason: fmt.Sprintf("%d shards", a.Header.Identity.Shards)}
	}
	if err != nil {
		z.Close()
		return nil, err
	}
	return a, nil
}

// Close closes the file.
func (a *Archive) Close() error {
	a.zstd.Close()
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// Identity implements Source.
func (a *Archive) Identity() messages.Identity { return a.Header.Identity }

// frame reads the next one; its body is the caller's.
func (a *Archive) frame() (kind byte, body []byte, err error) {
	kind, err = a.r.ReadByte()
	if err != nil {
		return 0, nil, damaged(err)
	}
	n, err := binary.ReadUvarint(a.r)
	if err != nil {
		return 0, nil, damaged(err)
	}
	if n > maxFrame {
		return 0, nil, &ArchiveError{Reason: fmt.Sprintf("a part of %d bytes", n)}
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(a.r, body); err != nil {
		return 0, nil, damaged(err)
	}
	return kind, body, nil
}

func damaged(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &ArchiveError{Reason: "its end is missing", Err: io.ErrUnexpectedEOF}
	}
	return &ArchiveError{Reason: "it is damaged", Err: err}
}

// Read implements Source. With the last shard it looks whether the archive is whole.
func (a *Archive) Read(ctx context.Context, shard int, into Sink) error {
	if shard != a.next {
		return fmt.Errorf("shard %d of a backup is read in its turn, which is %d's", shard, a.next)
	}
	a.next++
	var (
		chunk     []messages.CustomerRecord
		bytes     int
		began     bool
		customers = func() error {
			if len(chunk) == 0 {
				return nil
			}
			err := into.Customers(chunk)
			chunk, bytes = chunk[:0], 0
			return errors.Join(err, ctx.Err())
		}
		begin = func(m *footfallv1.CheckpointMeta) error {
			began = true
			return into.Meta(m)
		}
	)
	for {
		kind, body, err := a.frame()
		if err != nil {
			return err
		}
		switch {
		case kind == frameMeta && !began:
			m := &footfallv1.CheckpointMeta{}
			if err := proto.Unmarshal(body, m); err != nil {
				return &ArchiveError{Reason: "a checkpoint", Err: err}
			}
			if err := begin(m); err != nil {
				return err
			}
		case kind == frameCustomer && began:
			n, size := binary.Uvarint(body)
			if size <= 0 || n == 0 || n > uint64(len(body)-size) {
				return &ArchiveError{Reason: "a customer without an ID"}
			}
			id, value := body[size:size+int(n)], body[size+int(n):]
			chunk = append(chunk, messages.CustomerRecord{ID: string(id), Value: value})
			if bytes += len(body); bytes >= scanBytes {
				if err := customers(); err != nil {
					return err
				}
			}
		case kind == frameLetter && began:
			if err := customers(); err != nil {
				return err
			}
			l, err := letterOf(body)
			if err != nil {
				return err
			}
			if err := into.Letters([]messages.DeadLetter{l}); err != nil {
				return err
			}
		case kind == frameEnd:
			if !began {
				if err := begin(nil); err != nil {
					return err
				}
			}
			if err := customers(); err != nil {
				return err
			}
			return a.whole()
		default:
			return &ArchiveError{Reason: fmt.Sprintf("a part %q where none is expected", kind)}
		}
	}
}

// whole looks for the end behind the last shard. Reading on to the end of the file has the checksum
// compared.
func (a *Archive) whole() error {
	if a.next < a.Header.Identity.Shards {
		return nil
	}
	kind, _, err := a.frame()
	if err != nil {
		return err
	}
	if kind != frameLast {
		return &ArchiveError{Reason: "its end is missing"}
	}
	if _, err := a.r.ReadByte(); !errors.Is(err, io.EOF) {
		return &ArchiveError{Reason: "there is more behind its end", Err: err}
	}
	return nil
}

// letterOf decodes one: the type of its body is before it, which the shown form has no room for.
func letterOf(b []byte) (messages.DeadLetter, error) {
	if len(b) == 0 {
		return messages.DeadLetter{}, &ArchiveError{Reason: "an empty dead letter"}
	}
	var p footfallv1.DeadLetter
	if err := proto.Unmarshal(b[1:], &p); err != nil {
		return messages.DeadLetter{}, &ArchiveError{Reason: "a dead letter", Err: err}
	}
	return messages.DeadLetter{
		Position: messages.Position{Offset: uint64(max(p.GetOffset(), 0)), Index: p.GetIndex()},
		Field:    p.GetField(), Reason: p.GetReason(), EventID: p.GetEventId(), CustomerID: p.GetCustomerId(),
		Type: messages.RecordType(b[0]), Body: p.GetBody(),
	}, nil
}
