package export

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/parquet-go/parquet-go"

	"footfall/behavior"
)

// Labelled is rows with one of their outcomes, as models are fed them.
type Labelled struct {
	// Features has ten values of each row, in the order of behavior.FeatureNames, Sequences fifty.
	Features, Sequences []float32
	Labels              []bool
	Days                []int32
	Customers           []string
}

func (l *Labelled) reset() {
	l.Features, l.Sequences, l.Labels, l.Days, l.Customers = l.Features[:0], l.Sequences[:0], l.Labels[:0], l.Days[:0], l.Customers[:0]
}

// ColumnError says what is wrong with a file of rows.
type ColumnError struct {
	File string
	// Row is the number of the row, from 0, -1 where it is about all.
	Row            int64
	Column, Reason string
}

func (e *ColumnError) Error() string {
	if e.Row < 0 {
		return fmt.Sprintf("%s: column %s %s", e.File, e.Column, e.Reason)
	}
	return fmt.Sprintf("%s: row %d: column %s %s", e.File, e.Row, e.Column, e.Reason)
}

// Reader reads a Parquet file as NewParquet writes it, or another of the same columns. It keeps
// one page of each column in memory.
type Reader struct {
	// Unknown counts the rows that were left out since their outcome is not known.
	Unknown int64

	name  string
	file  *os.File
	table *parquet.File
	// roles has what each of the file's columns is read as.
	roles []role
	read  int64

	group  int
	rows   parquet.Rows
	buffer []parquet.Row
}

// role is what a column of the file is: -1, or the number of a feature, or one of those below.
type role int

const (
	noRole role = -1 - iota
	roleCustomer
	roleDay
	roleLabel
	roleSequence
)

const (
	features       = len(behavior.FeatureNames)
	sequenceValues = 50
)

// OpenReader opens a file to read one outcome's rows from; the sequence only where it is wanted.
// The error is [*ColumnError] where a column is missing or of a wrong type.
func OpenReader(path, label string, sequence bool) (_ *Reader, err error) {
	r, err := open(path)
	if err != nil {
		return nil, err
	}
	if err := r.assign(label, sequence); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func open(path string) (*Reader, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	table, err := parquet.OpenFile(file, info.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s is no Parquet file: %w", path, err), file.Close())
	}
	return &Reader{name: path, file: file, table: table, buffer: make([]parquet.Row, 256)}, nil
}

// assign finds the columns.
func (r *Reader) assign(label string, sequence bool) error {
	columns := r.table.Schema().Columns()
	r.roles = make([]role, len(columns))
	for i := range r.roles {
		r.roles[i] = noRole
	}
	find := func(name string, as role, kinds ...parquet.Kind) error {
		for i, path := range columns {
			if path[0] != name {
				continue
			}
			leaf, ok := r.table.Schema().Lookup(path...)
			if !ok {
				break
			}
			for _, k := range kinds {
				if leaf.Node.Type().Kind() == k && (len(path) == 1) == (as != roleSequence) {
					r.roles[i] = as
					return nil
				}
			}
			return &ColumnError{File: r.name, Row: -1, Column: name, Reason: fmt.Sprintf("holds %v, where %v is needed", leaf.Node.Type(), kinds[0])}
		}
		return &ColumnError{File: r.name, Row: -1, Column: name, Reason: "is missing: footfall features writes such files"}
	}
	errs := []error{
		find("customer_id", roleCustomer, parquet.ByteArray),
		find("day", roleDay, parquet.Int32, parquet.Int64),
		find(label, roleLabel, parquet.Boolean, parquet.Int32, parquet.Int64, parquet.Double, parquet.Float),
	}
	for i, name := range behavior.FeatureNames {
		errs = append(errs, find(name, role(i), parquet.Double, parquet.Float))
	}
	if sequence {
		errs = append(errs, find("sequence", roleSequence, parquet.Double, parquet.Float))
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Rows is how many the file has.
func (r *Reader) Rows() int64 { return r.table.NumRows() }

// SourceOf is what a file's rows were made from, as it says; empty where it does not.
func SourceOf(path string) (string, error) {
	r, err := open(path)
	if err != nil {
		return "", err
	}
	source, _ := r.table.Lookup("footfall.source")
	if digest, ok := r.table.Lookup("footfall.digest"); ok && source != "" {
		source += ", " + digest
	}
	return source, r.Close()
}

// Next fills into with rows whose outcome is known; io.EOF follows the last ones.
func (r *Reader) Next(into *Labelled) error {
	into.reset()
	for len(into.Labels) == 0 {
		if r.rows == nil {
			groups := r.table.RowGroups()
			if r.group == len(groups) {
				return io.EOF
			}
			group := groups[r.group]
			r.group++
			// A group without rows has no pages to seek in: others write one for a table that is empty.
			if group.NumRows() == 0 {
				continue
			}
			r.rows = group.Rows()
		}
		n, err := r.rows.ReadRows(r.buffer)
		for _, row := range r.buffer[:n] {
			if err := r.take(row, into); err != nil {
				return err
			}
			r.read++
		}
		switch {
		case errors.Is(err, io.EOF):
			err = r.rows.Close()
			r.rows = nil
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		case err != nil:
			return fmt.Errorf("%s: row %d: %w", r.name, r.read, err)
		}
	}
	return nil
}

// take adds a row, unless its outcome is not known.
func (r *Reader) take(row parquet.Row, into *Labelled) error {
	var values [features]float32
	var seen, days int
	first := len(into.Sequences)
	known, happened := false, false
	customer, day := "", int32(0)
	fault := func(column, format string, args ...any) error {
		return &ColumnError{File: r.name, Row: r.read, Column: column, Reason: fmt.Sprintf(format, args...)}
	}
	for _, v := range row {
		as := r.roles[v.Column()]
		if as == noRole {
			continue
		}
		if v.IsNull() {
			if as == roleLabel {
				continue
			}
			return fault(r.table.Schema().Columns()[v.Column()][0], "has no value")
		}
		switch as {
		case roleCustomer:
			customer = string(v.ByteArray())
		case roleDay:
			d := numberOf(v)
			if d < math.MinInt32 || d > math.MaxInt32 {
				return fault("day", "is %v, which is no day", d)
			}
			day = int32(d)
		case roleLabel:
			d := numberOf(v)
			if d != 0 && d != 1 {
				return fault(r.table.Schema().Columns()[v.Column()][0], "is %v: 0 and 1 are possible, or nothing where it is not known", d)
			}
			known, happened = true, d == 1
		case roleSequence:
			d := float32(numberOf(v))
			if !finite(d) {
				return fault("sequence", "holds %v, which is not finite", d)
			}
			into.Sequences = append(into.Sequences, d)
			days++
		default:
			d := float32(numberOf(v))
			if !finite(d) {
				return fault(behavior.FeatureNames[as], "is %v, which is not finite", d)
			}
			values[as] = d
			seen++
		}
	}
	if !known {
		into.Sequences = into.Sequences[:first]
		r.Unknown++
		return nil
	}
	if days != 0 && days != sequenceValues {
		return fault("sequence", "has %d values, and ten days of five are needed", days)
	}
	into.Features = append(into.Features, values[:]...)
	into.Labels, into.Days, into.Customers = append(into.Labels, happened), append(into.Days, day), append(into.Customers, customer)
	return nil
}

func finite(v float32) bool { return !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0) }

// number is a value of any of the types that columns may have.
func numberOf(v parquet.Value) float64 {
	switch v.Kind() {
	case parquet.Boolean:
		if v.Boolean() {
			return 1
		}
		return 0
	case parquet.Int32:
		return float64(v.Int32())
	case parquet.Int64:
		return float64(v.Int64())
	case parquet.Float:
		return float64(v.Float())
	case parquet.Double:
		return v.Double()
	default:
		return math.NaN()
	}
}

// Close closes the file.
func (r *Reader) Close() error {
	var err error
	if r.rows != nil {
		err = r.rows.Close()
	}
	return errors.Join(err, r.file.Close())
}
