package export

import (
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/require"
)

func written[T any](t *testing.T, rows []T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rows.parquet")
	require.NoError(t, parquet.WriteFile(path, rows))
	return path
}

// What the writer writes comes back, without the rows whose outcome is not known.
func TestReader(t *testing.T) {
	yes, no := true, false
	path := filepath.Join(t.TempDir(), "rows.parquet")
	require.NoError(t, File(path, func(w io.Writer) error {
		out := NewParquet(w, Fact{Key: "footfall.source", Value: "shop"}, Fact{Key: "footfall.digest", Value: "sha256:12"})
		for i := range 1000 {
			r := Row{CustomerID: "c", Day: int32(i), RecencyDays: float64(i), DiscountShare84: .5, Sequence: make([]float64, 50), Churn28d: &yes}
			r.Sequence[7] = 3
			switch i % 4 {
			case 0:
				r.Churn28d = nil
			case 1:
				r.Churn28d = &no
			}
			if err := out.Write([]Row{r}); err != nil {
				return err
			}
		}
		return out.Close()
	}))
	source, err := SourceOf(path)
	require.NoError(t, err)
	require.Equal(t, "shop, sha256:12", source)
	r, err := OpenReader(path, "churn_28d", true)
	require.NoError(t, err)
	require.Equal(t, int64(1000), r.Rows())
	n := 0
	for {
		var b Labelled
		err := r.Next(&b)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		for i, day := range b.Days {
			require.NotZero(t, day%4)
			require.Equal(t, day%4 != 1, b.Labels[i])
			require.Equal(t, float32(day), b.Features[10*i])
			require.Equal(t, float32(.5), b.Features[10*i+9])
			require.Equal(t, float32(3), b.Sequences[50*i+7])
			n++
		}
	}
	require.Equal(t, 750, n)
	require.Equal(t, int64(250), r.Unknown)
	require.NoError(t, r.Close())
}

func TestReaderFaults(t *testing.T) {
	read := func(path string) error {
		r, err := OpenReader(path, "churn_28d", true)
		if err != nil {
			return err
		}
		defer func() { require.NoError(t, r.Close()) }()
		var b Labelled
		return r.Next(&b)
	}
	yes := true
	for text, row := range map[string]Row{
		"column overdue is NaN, which is not finite":         {Overdue: math.NaN(), Sequence: make([]float64, 50), Churn28d: &yes},
		"column sequence has 3 values, and ten days of five": {Sequence: make([]float64, 3), Churn28d: &yes},
		"column sequence holds +Inf, which is not finite":    {Sequence: []float64{math.Inf(1)}, Churn28d: &yes},
	} {
		require.ErrorContains(t, read(written(t, []Row{row})), "row 0: "+text)
	}
	type noLabel struct {
		CustomerID string `parquet:"customer_id"`
		Day        int32  `parquet:"day"`
	}
	require.ErrorContains(t, read(written(t, []noLabel{{}})), "column churn_28d is missing: footfall features writes such files")
	type text struct {
		CustomerID string `parquet:"customer_id"`
		Day        string `parquet:"day"`
	}
	require.ErrorContains(t, read(written(t, []text{{}})), "column day holds")
	type numbers struct {
		Row
		Label int32 `parquet:"bought"`
	}
	r, err := OpenReader(written(t, []numbers{{Label: 1}, {Label: 2}}), "bought", false)
	require.NoError(t, err)
	var b Labelled
	require.ErrorContains(t, r.Next(&b), "row 1: column bought is 2: 0 and 1 are possible")
	require.NoError(t, r.Close())
	broken := filepath.Join(t.TempDir(), "x")
	require.NoError(t, os.WriteFile(broken, []byte("no parquet, but long enough"), 0o600))
	require.ErrorContains(t, read(broken), "is no Parquet file")
	require.ErrorIs(t, read(filepath.Join(t.TempDir(), "none")), os.ErrNotExist)
}

// A table without rows, as other programs write one (pyarrow): a group of none.
func TestReaderOfAnEmptyGroup(t *testing.T) {
	r, err := OpenReader("testdata/empty-group.parquet", "purchase_7d", false)
	require.NoError(t, err)
	require.Zero(t, r.Rows())
	require.ErrorIs(t, r.Next(&Labelled{}), io.EOF)
	require.NoError(t, r.Close())
}
