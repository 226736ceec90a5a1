package export

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"footfall/behavior"
)

// Writer takes rows, in the order in which they shall stand. Close ends the file; it does not
// close what is written to.
type Writer interface {
	Write(rows []Row) error
	Close() error
}

// Fact is a key and a value about the whole file.
type Fact struct{ Key, Value string }

// NewParquet writes rows as Parquet, compressed with Zstandard. Facts become key-value
// metadata.
func NewParquet(w io.Writer, facts ...Fact) Writer {
	options := []parquet.WriterOption{
		parquet.Compression(&zstd.Codec{Level: zstd.SpeedDefault}),
		parquet.MaxRowsPerRowGroup(1 << 16),
		parquet.CreatedBy("footfall", "", ""),
	}
	for _, f := range facts {
		options = append(options, parquet.KeyValueMetadata(f.Key, f.Value))
	}
	return parquetWriter{parquet.NewGenericWriter[Row](w, options...)}
}

type parquetWriter struct{ w *parquet.GenericWriter[Row] }

func (p parquetWriter) Write(rows []Row) error {
	_, err := p.w.Write(rows)
	return err
}

func (p parquetWriter) Close() error { return p.w.Close() }

// NewCSV writes rows as CSV with a header: the columns of the Parquet file, the sequence as
// columns s<row>_<name>, what is not known as nothing.
func NewCSV(w io.Writer) Writer {
	c := &csvWriter{w: csv.NewWriter(w)}
	header := append([]string{"customer_id", "day", "date"}, behavior.FeatureNames[:]...)
	for i := range 10 {
		for _, name := range behavior.SequenceNames {
			header = append(header, fmt.Sprintf("s%d_%s", i, name))
		}
	}
	header = append(header, "purchase_7d", "churn_28d", "redeem_28d")
	_ = c.w.Write(header) // its error stays, and the next Flush reports it
	return c
}

type csvWriter struct {
	w      *csv.Writer
	fields []string
}

func (c *csvWriter) Write(rows []Row) error {
	for i := range rows {
		r := &rows[i]
		c.fields = append(c.fields[:0], r.CustomerID, strconv.Itoa(int(r.Day)), r.Date)
		for _, p := range r.features() {
			c.fields = append(c.fields, number(*p))
		}
		for _, v := range r.Sequence {
			c.fields = append(c.fields, number(v))
		}
		for _, label := range []*bool{r.Purchase7d, r.Churn28d, r.Redeem28d} {
			switch {
			case label == nil:
				c.fields = append(c.fields, "")
			case *label:
				c.fields = append(c.fields, "1")
			default:
				c.fields = append(c.fields, "0")
			}
		}
		if err := c.w.Write(c.fields); err != nil {
			return err
		}
	}
	return nil
}

func (c *csvWriter) Close() error {
	c.w.Flush()
	return c.w.Error()
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
