package datasets

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "footfall/messages/footfallv1"
)

func row(id int, customer, at string) string {
	return fmt.Sprintf(`{"event_id":"e%d","customer_id":%q,"time":%q,"purchase":{"lines":[{"amount":"1.50"}]}}`, id, customer, at)
}

func openBytes(t testing.TB, body []byte) (*Dataset, error) {
	path := filepath.Join(t.TempDir(), "events")
	require.NoError(t, os.WriteFile(path, body, 0o600))
	return Open(t.Context(), path, Options{Cache: t.TempDir()})
}

func readIDs(t testing.TB, d *Dataset) (ids []string) {
	for ev, err := range d.Events(t.Context()) {
		require.NoError(t, err)
		ids = append(ids, ev.EventId)
	}
	return ids
}

func TestFileForms(t *testing.T) {
	rows := []string{row(2, "b", "2024-01-02T00:00:00Z"), row(1, "a", "2024-01-01T12:00:00+02:00"), row(3, "a", "2024-01-02T00:00:00Z")}
	pretty := func(s string) string {
		var b bytes.Buffer
		require.NoError(t, json.Indent(&b, []byte(s), "", "  "))
		return b.String()
	}
	ndjson := strings.Join(rows, "\n")
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, _ = io.WriteString(z, ndjson)
	require.NoError(t, z.Close())
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	for name, body := range map[string]string{
		"ndjson":         ndjson,
		"ndjson, spaced": "\xef\xbb\xbf\n\r\n " + strings.Join(rows, " \r\n\r\n\t") + "\r\n\r\n",
		"array":          "[" + strings.Join(rows, ",\n") + "]\n",
		"array, pretty":  pretty("[" + strings.Join(rows, ",") + "]"),
		"objects":        pretty(rows[0]) + "\n" + pretty(rows[1]) + pretty(rows[2]),
		"gzip":           gz.String(),
		"zstd":           string(enc.EncodeAll([]byte(ndjson), nil)),
	} {
		t.Run(name, func(t *testing.T) {
			d, err := openBytes(t, []byte(body))
			require.NoError(t, err)
			require.Equal(t, []string{"e1", "e2", "e3"}, readIDs(t, d))
			require.Equal(t, int64(2), d.Customers)
			require.Equal(t, map[string]int64{"purchase": 3}, d.Kinds)
			require.Zero(t, d.RejectedTotal)
			require.Equal(t, int32(1), d.LastDay-d.FirstDay)
		})
	}
	enc.Close()
}

func TestFileRejectsRows(t *testing.T) {
	body := strings.Join([]string{
		row(1, "a", "2024-01-01T00:00:00Z"),
		`{"event_id":"x","customer_id":"a","time":"2024-01-01T00:00:00Z"}`,
		`{"broken":`,
		``,
		`{"event_id":"y","customer_id":"a/b","time":"2024-01-01T00:00:00Z","erase":{}}`,
		`{"event_id":"` + strings.Repeat("z", 2<<20) + `"}`,
		`{"event_id":"eur","customer_id":"a","time":"2024-01-01T00:00:00Z","refund":{"amount":"1","currency":"EUR"},"producer":"p","sequence":"9"}`,
		row(2, "a", "2024-01-01T00:00:01Z"),
		`{"event_id":"cut`,
	}, "\n")
	d, err := openBytes(t, []byte(body))
	require.NoError(t, err)
	require.Equal(t, []string{"e1", "eur", "e2"}, readIDs(t, d))
	require.Equal(t, int64(5), d.RejectedTotal)
	said := []string{}
	for _, r := range d.Rejected {
		said = append(said, r.Error())
	}
	for i, want := range []string{"row 2: kind: one kind", "row 3: malformed JSON", `row 4: customer_id: must not contain "/"`, "row 5: the row has more than 1048576 bytes", "row 8: malformed JSON"} {
		require.Contains(t, said[i], want)
	}
	// The file is the publisher.
	n := uint64(0)
	for ev, err := range d.Events(t.Context()) {
		require.NoError(t, err)
		n++
		require.Equal(t, d.Producer, ev.Producer)
		require.Equal(t, n, ev.Sequence)
	}
}

func TestFileFaults(t *testing.T) {
	good := row(1, "a", "2024-01-01T00:00:00Z")
	for _, c := range []struct{ body, want string }{
		{"", "holds no event"},
		{"[]", "holds no event"},
		{`{"a":1}`, "holds no event; 1 rows are faulty: row 1: a: no such field"},
		{good[:len(good)-1] + strings.Repeat(" ", 1<<20) + "}", "holds no event; 1 rows are faulty: row 1: the row has more than 1048576 bytes"},
		{"{}\n{" + strings.Repeat(" ", 1<<20), "holds no event; 2 rows"},
		{"event_id,customer_id\n", "is neither NDJSON nor a JSON array"},
		{"PAR1", "is neither NDJSON nor a JSON array"},
		{"[" + good + ",", "truncated"},
		{"[" + good, "truncated"},
		{"[" + good + "," + `{"a":tru}]`, "row 2"},
		{"[" + good + "] x", "something follows the array"},
		{"{\n\"a\":", "truncated"},
		{"\x1f\x8bxx", "unexpected EOF"},
		{"\x28\xb5\x2f\xfdxxxx", ""},
	} {
		_, err := openBytes(t, []byte(c.body))
		require.ErrorContains(t, err, c.want, c.body)
		require.NotContains(t, err.Error(), "\n")
	}
	_, err := Open(t.Context(), filepath.Join(t.TempDir(), "missing.jsonl"), Options{Cache: t.TempDir()})
	require.ErrorIs(t, err, ErrUnknown)
	_, err = Open(t.Context(), t.TempDir(), Options{Cache: t.TempDir()})
	require.ErrorContains(t, err, "is not a file")
}

// Another file is another data set; the same file is converted once.
func TestFileIsCachedByContent(t *testing.T) {
	path, opt := filepath.Join(t.TempDir(), "events"), Options{Cache: t.TempDir()}
	require.NoError(t, os.WriteFile(path, []byte(row(1, "a", "2024-01-01T00:00:00Z")), 0o600))
	first, err := Open(t.Context(), path, opt)
	require.NoError(t, err)
	again, err := Open(t.Context(), path, opt)
	require.NoError(t, err)
	require.Equal(t, first.Producer, again.Producer)
	require.NoError(t, os.WriteFile(path, []byte(row(2, "a", "2024-01-01T00:00:00Z")), 0o600))
	other, err := Open(t.Context(), path, opt)
	require.NoError(t, err)
	require.NotEqual(t, first.Producer, other.Producer)
	require.Equal(t, []string{"e2"}, readIDs(t, other))
}

// However events are spread over runs, the history has all of them, stably sorted.
func TestHistorySorts(t *testing.T) {
	root, runs := t.TempDir(), 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		dir := filepath.Join(root, strconv.Itoa(runs))
		require.NoError(t, os.Mkdir(dir, 0o700))
		w := newHistoryWriter(dir)
		defer w.Close()
		type key struct {
			time int64
			rank byte
			n    int
		}
		var want []key
		for n := range rapid.IntRange(0, 200).Draw(r, "events") {
			k := key{rapid.Int64Range(0, 20).Draw(r, "time"), byte(rapid.IntRange(0, 2).Draw(r, "rank")), n}
			want = append(want, k)
			require.NoError(t, w.Add(&pb.Event{EventId: strconv.Itoa(n), CustomerId: "c", Time: &timestamppb.Timestamp{Seconds: k.time}}, k.rank))
			if rapid.IntRange(0, 9).Draw(r, "spill") == 0 {
				require.NoError(t, w.spill())
			}
		}
		slices.SortFunc(want, func(a, b key) int {
			return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.rank, b.rank), cmp.Compare(a.n, b.n))
		})
		path := filepath.Join(dir, "history")
		require.NoError(t, w.Finish(t.Context(), path))
		h, err := openHistory(path)
		require.NoError(t, err)
		require.Equal(t, int64(len(want)), h.meta.Events)
		i := 0
		for ev, err := range h.Events(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(want[i].n), ev.EventId)
			i++
		}
		require.Len(t, want, i)
		if len(want) > 0 {
			require.Equal(t, want[0].time, h.meta.First.Unix())
			require.Equal(t, want[len(want)-1].time, h.meta.Last.Unix())
		}
	})
}

// A run larger than the memory that is given to it goes through files.
func TestHistorySpillsWhenFull(t *testing.T) {
	dir := t.TempDir()
	w := newHistoryWriter(dir)
	defer w.Close()
	ev := &pb.Event{CustomerId: "c", Kind: &pb.Event_Erase{Erase: &pb.Erase{Reason: strings.Repeat("r", 1<<20)}}}
	const n = 3 * runSize / (1 << 20)
	for i := range n {
		ev.EventId, ev.Time = strconv.Itoa(i), timestamppb.New(time.Unix(int64(n-i), 0))
		require.NoError(t, w.Add(ev, 0))
		require.LessOrEqual(t, len(w.buf), runSize)
	}
	require.GreaterOrEqual(t, len(w.runs), 2)
	path := filepath.Join(dir, "history")
	require.NoError(t, w.Finish(t.Context(), path))
	require.NoError(t, w.Close())
	h, err := openHistory(path)
	require.NoError(t, err)
	i := n
	for got, err := range h.Events(t.Context()) {
		require.NoError(t, err)
		i--
		require.Equal(t, strconv.Itoa(i), got.EventId)
	}
	require.Zero(t, i)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
}

// Bytes of any kind are events, reported rows, or one error; what was read of them is there again.
func FuzzFile(f *testing.F) {
	good := row(1, "a", "2024-01-01T00:00:00Z")
	for _, s := range []string{good, "[" + good + "]", good + "\n" + good, "{\n}", "[", "\x1f\x8b", "\x28\xb5\x2f\xfd", "\xef\xbb\xbf{}", `{"a":1}{"b":2}`, "{}\n\n\n{", "[1,2]x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		in, done, err := decompress(bytes.NewReader(body))
		if err != nil {
			return
		}
		defer done()
		w := newHistoryWriter(t.TempDir())
		defer w.Close()
		if err := convertRows(t.Context(), rows(io.LimitReader(in, 1<<20)), w); err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "history")
		require.NoError(t, w.Finish(t.Context(), path))
		h, err := openHistory(path)
		require.NoError(t, err)
		n := int64(0)
		for ev, err := range h.Events(t.Context()) {
			require.NoError(t, err)
			require.NotNil(t, ev.Time)
			n++
		}
		require.Equal(t, h.meta.Events, n)
	})
}

// A history file that anyone may have written gives events or an error, never a panic.
func FuzzHistory(f *testing.F) {
	dir := f.TempDir()
	w := newHistoryWriter(dir)
	require.NoError(f, w.Add(&pb.Event{EventId: "e", CustomerId: "c", Time: &timestamppb.Timestamp{Seconds: 1}}, 0))
	require.NoError(f, w.Finish(f.Context(), filepath.Join(dir, "h")))
	good, err := os.ReadFile(filepath.Join(dir, "h"))
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(historyMagic + historyMagic))
	f.Fuzz(func(t *testing.T, body []byte) {
		path := filepath.Join(t.TempDir(), "h")
		require.NoError(t, os.WriteFile(path, body, 0o600))
		h, err := openHistory(path)
		if err != nil {
			return
		}
		for ev, err := range h.Events(t.Context()) {
			if err != nil {
				break
			}
			_, err = proto.Marshal(ev)
			_ = err
		}
	})
}
