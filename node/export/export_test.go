package export

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/behavior"
	"footfall/datasets"
	"footfall/datasets/datasetstest"
	"footfall/messages/footfallv1"
)

var newYork = func() *time.Location {
	loc, err := time.LoadLocation("America/New_York")
	if err != nil {
		panic(err)
	}
	return loc
}()

func bought(customer, at, amount string) *footfallv1.Event {
	t, err := time.ParseInLocation("2006-01-02 15:04:05.000", at, newYork)
	if err != nil {
		panic(err)
	}
	return &footfallv1.Event{
		EventId: customer + " " + at, CustomerId: customer, Time: timestamppb.New(t),
		Kind: &footfallv1.Event_Purchase{Purchase: &footfallv1.Purchase{Lines: []*footfallv1.Line{{Amount: amount, Department: "GROCERY"}}}},
	}
}

func viewed(customer, at string) *footfallv1.Event {
	ev := bought(customer, at, "0")
	ev.Kind = &footfallv1.Event_PageView{PageView: &footfallv1.PageView{}}
	return ev
}

func source(events ...*footfallv1.Event) Source {
	return Source{Name: "test", Location: newYork, Currency: "USD", Events: func(yield func(*footfallv1.Event, error) bool) {
		for _, ev := range events {
			if !yield(ev, nil) {
				return
			}
		}
	}}
}

// kept keeps the rows that are written.
type kept struct{ rows []Row }

func (k *kept) Write(rows []Row) error {
	for _, r := range rows {
		r.Sequence = append([]float64(nil), r.Sequence...)
		k.rows = append(k.rows, r)
	}
	return nil
}

func (k *kept) Close() error { return nil }

func day(t *testing.T, date string) int32 {
	t.Helper()
	d, err := behavior.ParseDate(date)
	require.NoError(t, err)
	return d
}

// The columns of the file are the features by their names, in their order.
func TestRowsAreNamedAsFeatures(t *testing.T) {
	row := reflect.TypeFor[Row]()
	var r Row
	for i, p := range r.features() {
		*p = float64(i + 1)
	}
	at := 0
	for i := range row.NumField() {
		if row.Field(i).Type.Kind() != reflect.Float64 {
			continue
		}
		name, _, _ := strings.Cut(row.Field(i).Tag.Get("parquet"), ",")
		require.Equal(t, behavior.FeatureNames[at], name)
		at++
		require.InDelta(t, at, reflect.ValueOf(r).Field(i).Float(), 0, name)
	}
	require.Equal(t, len(behavior.FeatureNames), at)
}

// A snapshot holds all of its Sunday and nothing of the Monday, in local time, and every
// window of days counts back from the Sunday itself.
func TestSnapshotIsTheEndOfTheLocalSunday(t *testing.T) {
	var out kept
	n, err := Features(t.Context(), source(
		bought("a", "2017-01-02 00:00:00.000", "1"), // the Monday of that week, as early as can be
		bought("a", "2017-01-02 09:00:00.000", "1"),
		viewed("looker", "2017-01-03 09:00:00.000"),
		bought("b", "2017-01-08 23:59:59.999", "7"),
		bought("a", "2017-01-09 00:00:00.000", "3"),
		bought("a", "2017-01-15 12:00:00.000", "3"),
	), Days{}, nil, &out, nil)
	require.NoError(t, err)
	require.Equal(t, 4, n)

	type short struct {
		id, date        string
		day             int32
		visits7, newest float64
	}
	var have []short
	for _, r := range out.rows {
		have = append(have, short{r.CustomerID, r.Date, r.Day, r.VisitDays7, r.Sequence[45]})
	}
	require.Equal(t, []short{
		{"a", "2017-01-08", 7, 1, 6},
		{"b", "2017-01-08", 7, 1, 0},
		{"a", "2017-01-15", 14, 2, 0},
		{"b", "2017-01-15", 14, 0, 7},
	}, have)
	// One millisecond stands between the purchase and the end of the day.
	require.InDelta(t, 0, out.rows[1].RecencyDays, 1e-12)
	require.InDelta(t, 6+(15*3600-.001)/86400, out.rows[0].RecencyDays, 1e-12)
}

func TestDays(t *testing.T) {
	src := source(bought("a", "2017-03-10 12:00:00.000", "1"), bought("a", "2017-03-14 12:00:00.000", "1"))
	for name, tt := range map[string]struct {
		days Days
		want string
	}{
		"each Sunday":  {Days{}, "2017-03-12"},
		"each day":     {Days{Every: Daily}, "2017-03-10 2017-03-11 2017-03-12 2017-03-13 2017-03-14"},
		"from":         {Days{Every: Daily, From: day(t, "2017-03-13")}, "2017-03-13 2017-03-14"},
		"to":           {Days{Every: Daily, To: day(t, "2017-03-11")}, "2017-03-10 2017-03-11"},
		"one day":      {Days{Every: Daily, From: day(t, "2017-03-12"), To: day(t, "2017-03-12")}, "2017-03-12"},
		"beyond it":    {Days{Every: Daily, From: day(t, "2017-04-01")}, ""},
		"no such days": {Days{From: day(t, "2017-03-13")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out kept
			_, err := Features(t.Context(), src, tt.days, nil, &out, nil)
			require.NoError(t, err)
			var dates []string
			for _, r := range out.rows {
				dates = append(dates, r.Date)
			}
			require.Equal(t, tt.want, strings.Join(dates, " "))
		})
	}
}

func TestRunRefuses(t *testing.T) {
	torn := source()
	torn.Events = func(yield func(*footfallv1.Event, error) bool) { yield(nil, errors.New("torn")) }
	wrong := bought("a", "2017-01-03 12:00:00.000", "x")
	for name, tt := range map[string]struct {
		src  Source
		want string
	}{
		"nothing":    {source(), "test holds no event"},
		"its error":  {torn, "torn"},
		"a day back": {source(bought("a", "2017-01-03 00:00:00.000", "1"), bought("a", "2017-01-02 23:59:59.999", "1")), "event 2 (a 2017-01-02 23:59:59.999) is of 2017-01-02, but that day has ended: sort the events by time"},
		"a fault":    {source(wrong), "event 1 (a 2017-01-03 12:00:00.000 of customer a): purchase.lines[0].amount: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Features(t.Context(), tt.src, Days{}, nil, &kept{}, nil)
			require.ErrorContains(t, err, tt.want)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Features(ctx, source(bought("a", "2017-01-03 12:00:00.000", "1")), Days{}, nil, &kept{}, nil)
	require.ErrorIs(t, err, context.Canceled)
}

func exampleRows(t *testing.T) []Row {
	t.Helper()
	var out kept
	yes, no := true, false
	labels := func(id string, d int32) (*bool, *bool, *bool) {
		if d > day(t, "2017-01-08") {
			return nil, nil, nil
		}
		return &yes, &no, nil
	}
	_, err := Features(t.Context(), source(
		bought("a", "2017-01-08 09:00:00.000", "2.5"), bought("b", "2017-01-15 10:00:00.000", "1"),
	), Days{}, labels, &out, nil)
	require.NoError(t, err)
	require.Len(t, out.rows, 3)
	return out.rows
}

func TestParquet(t *testing.T) {
	rows := exampleRows(t)
	var buf bytes.Buffer
	w := NewParquet(&buf, Fact{"footfall.source", "test"})
	require.NoError(t, w.Write(rows[:1]))
	require.NoError(t, w.Write(rows[1:]))
	require.NoError(t, w.Close())

	f, err := parquet.OpenFile(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	require.NoError(t, err)
	value, ok := f.Lookup("footfall.source")
	require.True(t, ok)
	require.Equal(t, "test", value)
	back, err := parquet.Read[Row](bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	require.NoError(t, err)
	require.Equal(t, rows, back)
}

func TestCSV(t *testing.T) {
	rows := exampleRows(t)
	var buf bytes.Buffer
	w := NewCSV(&buf)
	require.NoError(t, w.Write(rows))
	require.NoError(t, w.Close())
	all, err := csv.NewReader(&buf).ReadAll()
	require.NoError(t, err)
	require.Len(t, all, 4)
	require.Equal(t, []string{"customer_id", "day", "date", "recency_days"}, all[0][:4])
	require.Equal(t, "s0_age_days", all[0][13])
	require.Equal(t, "s9_discount_share", all[0][62])
	require.Equal(t, []string{"a", "1", "2017-01-08"}, all[1][:3])
	require.Equal(t, []string{"1", "0", ""}, all[1][63:])
	require.Equal(t, []string{"", "", ""}, all[2][63:])
	require.Equal(t, fmt.Sprint(rows[0].LogSpend28), all[1][7])
}

// The published summary of CDNOW comes out of the fold: no frequency differs, times and money
// only by how they were rounded.
func TestLifetimesOfCDNOW(t *testing.T) {
	data := datasetstest.Open(t, "cdnow-sample")
	summary, err := datasets.ReadCDNOWSummary(t.Context(), datasetstest.Options(t))
	require.NoError(t, err)
	until := day(t, "1997-09-30")
	src := Source{Name: data.Name, Location: data.Location, Currency: data.Currency, Events: data.Events(t.Context())}
	fold, err := Run(t.Context(), src, Days{To: until}, func(*Fold, int32, int32) error { return nil })
	require.NoError(t, err)
	have := map[string]Summary{}
	for _, s := range Summaries(fold, until, 7, nil) {
		have[s.CustomerID] = s
	}
	require.Len(t, summary, 2357)
	require.Len(t, have, 2357)
	for _, want := range summary {
		s := have[want.ID]
		require.EqualValues(t, want.Frequency, s.Frequency, want.ID)
		require.InDelta(t, want.Recency, s.Recency, .00501, want.ID)
		require.InDelta(t, want.T, s.T, .00501, want.ID)
		require.InDelta(t, want.Monetary, s.MonetaryValue, .00501, want.ID)
	}
}

func TestSummaries(t *testing.T) {
	fold, err := Run(t.Context(), source(
		bought("a", "2017-01-01 09:00:00.000", "5"),
		bought("a", "2017-01-01 19:00:00.000", "7"), // the first day, too
		bought("b", "2017-01-04 09:00:00.000", "1"),
		viewed("c", "2017-01-05 09:00:00.000"),
		bought("a", "2017-01-08 09:00:00.000", "2"),
		bought("a", "2017-01-08 09:30:00.000", "2"),
		bought("a", "2017-01-15 09:00:00.000", "8"),
	), Days{}, func(*Fold, int32, int32) error { return nil })
	require.NoError(t, err)
	at := day(t, "2017-01-22")
	require.Equal(t, []Summary{
		{CustomerID: "a", Frequency: 2, Recency: 2, T: 3, MonetaryValue: 6},
		{CustomerID: "b", T: 18. / 7},
	}, Summaries(fold, at, 7, nil))
	require.Equal(t, []Summary{{CustomerID: "b", T: 18}}, Summaries(fold, at, 1, func(id string) bool { return id == "b" }))

	var buf bytes.Buffer
	require.NoError(t, WriteSummaries(&buf, Summaries(fold, at, 1, nil)))
	require.Equal(t, "customer_id,frequency,recency,T,monetary_value\na,2,14,21,6\nb,0,0,18,0\n", buf.String())
}

func TestFileIsWholeOrAbsent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "rows.csv")
	require.NoError(t, File(path, func(w io.Writer) error {
		_, err := io.WriteString(w, "first")
		return err
	}))
	broken := errors.New("broken")
	require.ErrorIs(t, File(path, func(w io.Writer) error {
		_, _ = io.WriteString(w, "second")
		return broken
	}), broken)
	body, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "first", string(body))
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing temporary is left")
}
