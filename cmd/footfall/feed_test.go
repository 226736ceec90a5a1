package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/datasets"
	"footfall/messages/footfallv1"
)

func writeFile(t *testing.T, name, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(body), 0o600))
	return path
}

func viewLine(id, customer, time string) string {
	return fmt.Sprintf(`{"event_id":%q,"customer_id":%q,"time":%q,"page_view":{"url":"/"}}`, id, customer, time)
}

// lifetimeOf asks a node how many events a customer has.
func lifetimeOf(t *testing.T, addr, customer, waitFor string) (events, views uint64) {
	t.Helper()
	r := footfall(t, "", "customer", customer, "--wait-for", waitFor, "-o", "json", "--node", addr)
	require.Equal(t, exitOK, r.code, r.err)
	var c struct {
		Lifetime struct {
			Events    uint64
			PageViews uint64 `json:"page_views"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &c))
	return c.Lifetime.Events, c.Lifetime.PageViews
}

// Of a file the good events are accepted, the bad ones named by line; again, nothing changes.
func TestPublishFile(t *testing.T) {
	addr, _ := realNode(t, t.TempDir(), footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
	path := writeFile(t, "events.ndjson", strings.Join([]string{
		viewLine("e1", "900", "2017-01-01T10:00:00Z"),
		"",
		`{"event_id":"e2","customer_id":"900","time":"2017-01-01T10:00:00Z"}`,
		`{"event_id":"e3","customer_id":"900","tyme":"2017-01-01T10:00:00Z"}`,
		viewLine("e4", "900", "2017-01-01T11:00:00Z"),
		`{"event_id":"e5","customer`,
	}, "\n"))
	for range 2 {
		r := footfall(t, "", "publish", path, "--node", addr)
		require.Equal(t, exitFailed, r.code)
		require.Empty(t, r.err)
		lines := strings.Split(strings.TrimSpace(r.out), "\n")
		require.Len(t, lines, 4)
		require.Contains(t, lines[0], "line 3 (e2): kind: one kind of event is required")
		require.Equal(t, "line 4 (e3): tyme: no such field", lines[1])
		require.Contains(t, lines[2], "line 6: malformed JSON")
		require.Equal(t, "2 accepted, 3 rejected", lines[3])
		events, views := lifetimeOf(t, addr, "900", "e4")
		require.EqualValues(t, 2, events)
		require.EqualValues(t, 2, views)
	}
	var p published
	r := footfall(t, "", "publish", path, "--node", addr, "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(r.out), &p))
	require.EqualValues(t, 2, p.Accepted)
	require.Equal(t, rejected{4, "e3", "tyme", "no such field"}, p.Rejected[1])
}

// To publish a file and to replay it is the same, whichever comes first, also where there are
// more events than IDs that a customer keeps. One that is not in order of time is two things: then
// its numbers must not be taken for each other, and all events arrive.
func TestPublishAndReplayAreOne(t *testing.T) {
	const events = 100
	lines := func(order func(i int) int) string {
		var all []string
		for i := range events {
			n := order(i)
			all = append(all, viewLine(fmt.Sprint("e", n), "900", fmt.Sprintf("2017-01-01T%02d:%02d:00Z", n/60, n%60)))
			if i == 40 { // none of them counts
				all = append(all, `{"event_id":"bad","customer_id":"900","time":"2017-01-01T00:40:00Z"}`, `{"event_id":"worse"`, "")
			}
		}
		return strings.Join(all, "\n")
	}
	backwards := func(i int) int { return events - 1 - i }
	for name, tt := range map[string]struct {
		body    string
		ordered bool
	}{
		"in order":  {lines(func(i int) int { return i }), true},
		"backwards": {lines(backwards), false},
	} {
		for _, order := range [][]string{{"publish", "replay"}, {"replay", "publish"}} {
			t.Run(name+" "+order[0]+" first", func(t *testing.T) {
				t.Setenv("FOOTFALL_CACHE", t.TempDir())
				addr, _ := realNode(t, t.TempDir(), footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
				path := writeFile(t, "events.ndjson", tt.body)
				for i, command := range order {
					r := footfall(t, "", command, path, "--node", addr)
					require.Equal(t, map[string]int{"publish": exitFailed, "replay": exitOK}[command], r.code, r.err)
					if i > 0 && !tt.ordered {
						return // the IDs that are kept are all that is left to tell
					}
					last := fmt.Sprint("e", events-1)
					if command == "publish" && !tt.ordered {
						last = "e0"
					}
					have, _ := lifetimeOf(t, addr, "900", last)
					require.EqualValues(t, events, have)
				}
			})
		}
	}
	// A replay that was cut short must not hide what a file in another order still has.
	t.Run("backwards after half a replay", func(t *testing.T) {
		t.Setenv("FOOTFALL_CACHE", t.TempDir())
		addr, _ := realNode(t, t.TempDir(), footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
		two := viewLine("late", "900", "2017-01-02T10:00:00Z") + "\n" + viewLine("early", "900", "2017-01-01T10:00:00Z")
		path := writeFile(t, "events.ndjson", two)
		require.Equal(t, exitOK, footfall(t, "", "replay", path, "--until", "2017-01-01", "--node", addr).code)
		require.Equal(t, exitOK, footfall(t, "", "publish", path, "--node", addr).code)
		have, _ := lifetimeOf(t, addr, "900", "late")
		require.EqualValues(t, 2, have)
	})
}

func TestPublishForms(t *testing.T) {
	addr, _ := realNode(t, t.TempDir(), footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
	a, b := viewLine("a", "1", "2017-01-01T10:00:00Z"), viewLine("b", "1", "2017-01-01T10:00:00Z")
	bad := `{"event_id":"c","customer_id":"1"}`
	for name, tt := range map[string]struct {
		body, out, err string
		code           int
	}{
		"one object":       {a, "1 accepted, 0 rejected\n", "", exitOK},
		"an array":         {"[" + a + "," + b + "]", "2 accepted, 0 rejected\n", "", exitOK},
		"a pretty array":   {"[\n" + a + ",\n\n" + bad + "\n]\n", "line 4 (c): time: is required\n1 accepted, 1 rejected\n", "", exitFailed},
		"a batch":          {`{"events":[` + a + "," + b + "]}", "2 accepted, 0 rejected\n", "", exitOK},
		"a pretty batch":   {"\n{\n\"events\": [\n" + bad + "]}", "line 4 (c): time: is required\n0 accepted, 1 rejected\n", "", exitFailed},
		"lines":            {"\n" + a + "\n" + b + "\n", "2 accepted, 0 rejected\n", "", exitOK},
		"arrays in lines":  {"[" + a + "]\n[" + b + "," + bad + "]\n", "line 2 (c): time: is required\n2 accepted, 1 rejected\n", "", exitFailed},
		"nothing":          {"", "", "footfall: there is no event to publish\n", exitFailed},
		"no JSON":          {"hello\n", "", "footfall: line 1, byte 0: ", exitFailed},
		"a truncated list": {"[\n" + a + ",\n", "", "footfall: line 3, byte ", exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			r := footfall(t, tt.body, "publish", "-", "--node", addr)
			require.Equal(t, tt.code, r.code, r.err)
			require.Equal(t, tt.out, r.out)
			if tt.err == "" {
				require.Empty(t, r.err)
			} else {
				require.Contains(t, r.err, tt.err)
			}
		})
	}
}

// A replayed file drives the clock, and again it changes nothing; the data are verified while
// the node runs and after.
func TestReplayFile(t *testing.T) {
	dir := t.TempDir()
	addr, stop := realNode(t, dir, footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
	var lines []string
	for day := 1; day <= 9; day++ {
		for i := range 20 {
			lines = append(lines, viewLine(fmt.Sprintf("e-%d-%d", day, i), fmt.Sprint(i%7), fmt.Sprintf("2017-01-%02dT10:%02d:00Z", day, i)))
		}
	}
	path := writeFile(t, "history.ndjson", strings.Join(lines, "\n"))
	t.Setenv("FOOTFALL_CACHE", t.TempDir())

	replay := func(args ...string) replayed {
		t.Helper()
		r := footfall(t, "", append([]string{"replay", path, "--node", addr, "-o", "json"}, args...)...)
		require.Equal(t, exitOK, r.code, r.err)
		var have replayed
		require.NoError(t, json.Unmarshal([]byte(r.out), &have))
		return have
	}
	first := replay("--until", "2017-01-04")
	require.EqualValues(t, 80, first.Accepted)
	require.Equal(t, 4, first.Ticks)
	require.Equal(t, "driven", first.Clock)
	all := replay()
	require.EqualValues(t, 180, all.Accepted)
	require.EqualValues(t, 80, all.Duplicates)
	require.Equal(t, 5, all.Ticks)
	again := replay("--then", "wall")
	require.EqualValues(t, 180, again.Duplicates)
	require.Zero(t, again.Ticks)
	require.Contains(t, footfall(t, "", "cluster", "--node", addr).out, "clock wall")
	require.Contains(t, footfall(t, "", "replay", path, "--node", addr).out, "the clock is wall: the node ends days itself")

	require.Equal(t, "4 shards, 7 customers, 180 events: equal\n", footfall(t, "", "verify", "--node", addr).out)
	r := footfall(t, "", "verify", "--data", dir)
	require.Equal(t, exitFailed, r.code, "a node runs on the data")
	stop()
	require.Equal(t, "4 shards, 7 customers, 180 events: equal\n", footfall(t, "", "verify", "--data", dir).out)
	r = footfall(t, "", "verify", "--data", dir, "--shard", "9")
	require.Equal(t, result{exitUsage, "", "footfall: --shard 9: this data has shards 0 to 3: see 'footfall verify --help'\n"}, r)
}

func TestReplayReportsRejectedEvents(t *testing.T) {
	addr, _ := realNode(t, t.TempDir(), footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
	t.Setenv("FOOTFALL_CACHE", t.TempDir())
	// The file's currency is EUR, the node's USD.
	path := writeFile(t, "euro.ndjson", `{"event_id":"e","customer_id":"1","time":"2017-01-01T10:00:00Z","purchase":{"currency":"EUR","lines":[{"amount":"1"}]}}`+"\n"+viewLine("v", "1", "2017-01-01T11:00:00Z"))
	r := footfall(t, "", "replay", path, "--node", addr, "--currency", "EUR")
	require.Equal(t, exitOK, r.code)
	require.Contains(t, r.out, "1 rejected: purchase.currency: must be empty or USD")
	require.Contains(t, r.err, "footfall: 1 event rejected, the first: event 1 (e): purchase.currency: ")
	require.Equal(t, exitFailed, footfall(t, "", "replay", path, "--node", addr, "--currency", "EUR", "--strict").code)
}

// What of a file is no event is told in numbers that read well.
func TestRowsLeftOut(t *testing.T) {
	t.Setenv("FOOTFALL_CACHE", t.TempDir())
	good, bad := viewLine("e", "1", "2017-01-01T10:00:00Z"), "{}\n"
	for body, want := range map[string]string{
		good:                    "",
		good + "\n" + bad:       "footfall: 1 row of FILE is no event and left out, the first: row 2: event_id: is required\n",
		good + "\n" + bad + bad: "footfall: 2 rows of FILE are no events and left out, the first: row 2: event_id: is required\n",
	} {
		path := writeFile(t, "events.ndjson", body)
		r := footfall(t, "", "features", path, "--out", filepath.Join(t.TempDir(), "x.csv"))
		require.Equal(t, exitOK, r.code, r.err)
		require.Equal(t, want, strings.ReplaceAll(r.err, path, "FILE"))
	}
}

// The rows of a node's own log are those of the history that was replayed into it, but for what
// happened next.
func TestFeaturesOfLog(t *testing.T) {
	t.Setenv("FOOTFALL_CACHE", t.TempDir())
	dir := t.TempDir()
	addr, stop := realNode(t, dir, footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
	history := []string{"--customers", "60", "--events", "2000", "--days", "40", "--seed", "5"}
	require.Equal(t, exitOK, footfall(t, "", append([]string{"replay", "synthetic", "--node", addr}, history...)...).code)
	// The same history as a file.
	data, err := datasets.Open(t.Context(), "synthetic?customers=60&events=2000&days=40&seed=5", datasets.Options{})
	require.NoError(t, err)
	var body strings.Builder
	for ev, err := range data.Events(t.Context()) {
		require.NoError(t, err)
		raw, err := plain(ev)
		require.NoError(t, err)
		body.Write(raw)
	}
	path := writeFile(t, "history.ndjson", body.String())

	out := filepath.Join(t.TempDir(), "log.csv")
	r := footfall(t, "", "features", "log", "--data", dir, "--out", out)
	require.Equal(t, exitFailed, r.code, "a node runs on the data")
	stop()
	export := func(args ...string) (rows [][]string) {
		t.Helper()
		r := footfall(t, "", append([]string{"features"}, args...)...)
		require.Equal(t, exitOK, r.code, r.err)
		rows, err := csv.NewReader(strings.NewReader(r.out)).ReadAll()
		require.NoError(t, err)
		for i := range rows {
			rows[i] = rows[i][:len(rows[i])-3] // without the labels
		}
		return rows
	}
	for _, days := range [][]string{{"--every", "week"}, {"--every", "day", "--from", "2024-01-10", "--to", "2024-01-19"}} {
		args := append([]string{"--out", "-", "--format", "csv"}, days...)
		want := export(append([]string{path}, args...)...)
		require.Greater(t, len(want), 100)
		require.Equal(t, want, export(append([]string{"log", "--data", dir}, args...)...))
	}
	r = footfall(t, "", "features", "log", "--data", dir, "--out", filepath.Join(t.TempDir(), "x.parquet"), "-o", "json")
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.out, `"source": "log"`)
}
