package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/store/pebblelog"
)

// nodeWithLetters starts a node whose logs somebody has written into past its door: each message
// is one of customer 900's shard that cannot be folded. It returns their IDs.
func nodeWithLetters(t *testing.T, records ...messages.Record) (addr string, ids []string) {
	t.Helper()
	dir := t.TempDir()
	_, stop := realNode(t, dir, footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
	stop()
	shard := messages.ShardOf("900", 4)
	log, err := pebblelog.Open(filepath.Join(dir, "log"), pebblelog.Options{Reserve: -1})
	require.NoError(t, err)
	_, next, err := log.Bounds(t.Context(), shard)
	require.NoError(t, err)
	require.NoError(t, log.Append(t.Context(), shard, records))
	require.NoError(t, log.Close())
	addr, _ = realNode(t, dir, footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
	// That checkpoints, too.
	require.Equal(t, exitOK, footfall(t, "", "verify", "--node", addr).code)
	for i := range records {
		ids = append(ids, messages.DeadLetterID(shard, messages.Position{Offset: next + uint64(i)}))
	}
	return addr, ids
}

func faulty(t *testing.T, id, amount string) messages.Record {
	t.Helper()
	body, err := proto.Marshal(&footfallv1.Event{
		EventId: id, CustomerId: "900", Time: timestamppb.New(now), Kind: &footfallv1.Event_Purchase{Purchase: &footfallv1.Purchase{
			BasketId: id, Lines: []*footfallv1.Line{{ProductId: "p", Quantity: 1, Amount: amount}},
		}},
	})
	require.NoError(t, err)
	return messages.Record{Type: messages.EventRecord, Body: body}
}

// The way of an operator: look, correct, replay, drop.
func TestRepairDeadLetters(t *testing.T) {
	text := `{"event_id":"j","customer_id":"900","time":"2026-03-01T12:00:00Z","page_view":{"url":"/","produkt":"p"}}`
	addr, ids := nodeWithLetters(t, faulty(t, "a", "1,50"), faulty(t, "b", ""), messages.Record{Type: messages.JSONRecord, Body: []byte(text)},
		messages.Record{Type: messages.EventRecord, Body: []byte("\xffgarbage\x1b[2J")}, messages.Record{Body: []byte("hello")})
	do := func(in string, args ...string) result {
		t.Helper()
		return footfall(t, in, append(append([]string{"deadletters"}, args...), "--node", addr)...)
	}
	masked := func(r result) string {
		for i, id := range ids {
			r.out = strings.ReplaceAll(r.out, id, fmt.Sprint("ID-", i))
			r.err = strings.ReplaceAll(r.err, id, fmt.Sprint("ID-", i))
		}
		return r.out + r.err
	}

	r := do("", "list", "--reason", "AMOUNT")
	require.Equal(t, exitOK, r.code, r.err)
	lines := strings.Split(masked(r), "\n")
	require.Len(t, lines, 5)
	require.Regexp(t, `^ID-0 +footfall\.events\.\d +900 +a +purchase\.lines\[0\]\.amount +`, lines[2])
	require.Regexp(t, `^ID-1 +footfall\.events\.\d +900 +b +purchase\.lines\[0\]\.amount +is required$`, lines[3])
	require.Equal(t, "No such dead letters.\n", do("", "list", "--customer", "1").out)

	golden(t, "deadletter", masked(do("", "show", ids[0])))
	golden(t, "deadletter-unreadable", masked(do("", "show", ids[3])))
	r = do("", "show", ids[3], "--body")
	require.Equal(t, "\xffgarbage\x1b[2J", r.out)
	require.Equal(t, text+"\n", do("", "show", ids[2], "--body").out)
	require.Contains(t, do("", "show", ids[2], "-o", "json").out, `"unreadable": ""`)

	// Fix: what is still wrong is said, and the letter stays.
	r = do("", "fix", ids[0], "--set", "purchase.lines[0].amount=1;50")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, masked(r), "footfall: ID-0 stays, for it is still at fault: purchase.lines[0].amount: ")
	r = do("", "fix", ids[2], "--set", "page_view.product_id=p")
	require.Equal(t, "footfall: ID-2 stays, for it is still at fault: page_view.produkt: no such field\n", masked(r))
	r = do("", "fix", ids[4], "--set", "event_id=e")
	require.Equal(t, "footfall: ID-4 has no event to correct (the body is neither JSON nor protobuf of events): give a whole one with --file\n", masked(r))
	r = do("", "fix", ids[0], "--set", "purchase.lines[3].amount=1")
	require.Equal(t, "footfall: purchase.lines[3].amount: there is no [3] in an array of 1 element\n", r.err)
	for i, args := range [][]string{
		{"--set", "purchase.lines[0].amount=1.50", "--set", "purchase.lines[0].quantity=2", "--set", `purchase.lines[1]={"product_id":"q","amount":"0.25"}`},
		{"--file", "-"},
		{"--set", "page_view.product_id=p", "--unset", "page_view.produkt"},
	} {
		r = do(`{"event_id":"b","customer_id":"900","time":"2026-03-01T12:00:00Z","erase":{}}`, append([]string{"fix", ids[i]}, args...)...)
		require.Equal(t, fmt.Sprintf("ID-%d is fixed: 1 event published in its place\n", i), masked(r))
		require.Equal(t, exitOK, r.code)
		if i == 0 {
			c := footfall(t, "", "customer", "900", "--wait-for", "a", "-o", "json", "--node", addr)
			require.Contains(t, c.out, `"spend": "1.75"`)
		}
	}
	// Until the corrected event is folded, what is known of its ID is that it was refused.
	require.Eventually(t, func() bool {
		return footfall(t, "", "customer", "900", "--wait-for", "j", "--node", addr).code == exitOK
	}, time.Minute, 10*time.Millisecond)
	events, _ := lifetimeOf(t, addr, "900", "j")
	require.EqualValues(t, 1, events, "what came after the erasure")
	r = do("", "fix", ids[0], "--set", "event_id=e")
	require.Equal(t, result{exitFailed, "", "footfall: there is no dead letter " + ids[0] + ": 'footfall deadletters list' lists those that there are\n"}, r)

	r = do("", "replay", "--all")
	require.Equal(t, exitFailed, r.code)
	require.Empty(t, r.err)
	lines = strings.Split(masked(r), "\n")
	require.Regexp(t, `^ID-3: is no protobuf of an event: `, lines[0])
	require.Equal(t, "ID-4: the body is neither JSON nor protobuf of events: give it events of its own (fix), or drop it", lines[1])
	require.Equal(t, "0 replayed, 2 refused", lines[2])
	r = do("", "replay", "1-2-3", "-o", "json")
	require.Equal(t, exitFailed, r.code)
	var answer struct{ Refused int }
	require.NoError(t, json.Unmarshal([]byte(r.out), &answer))
	require.Equal(t, 1, answer.Refused)

	r = do("", "drop", ids[3], ids[0])
	require.Equal(t, "ID-0: there is no such dead letter\n1 dropped\n", masked(r))
	require.Equal(t, exitFailed, r.code)
	require.Equal(t, result{exitOK, "1 dropped\n", ""}, do("", "drop", "--all", "--yes"))
	require.Equal(t, result{exitOK, "No dead letters: everything in the log could be folded.\n", ""}, do("", "list"))
	require.Equal(t, result{exitOK, "0 replayed, 0 refused\n", ""}, do("", "replay", "--all"))
}

// A letter that is a whole message becomes the events of a file.
func TestFixDeadLetterByFile(t *testing.T) {
	addr, ids := nodeWithLetters(t, messages.Record{Type: messages.JSONRecord, Body: []byte(`[` + viewLine("x", "900", "2026-03-01T12:00:00Z"))})
	good := viewLine("x", "900", "2026-03-01T12:00:00Z") + "\n" + viewLine("y", "900", "2026-03-01T12:00:00Z")
	fix := func(file string) result {
		return footfall(t, "", "deadletters", "fix", ids[0], "--file", file, "--node", addr)
	}
	for body, want := range map[string]string{
		"":                         "FILE: line 1, byte 0: the body holds no event\n",
		"[]":                       "FILE: ",
		"{":                        "FILE: line 1, byte 1: ",
		`{"event_id":1}`:           "FILE: event_id: must be a string, not the number 1\n",
		good + "\n{\"tyme\":\"\"}": "FILE: event 3: tyme: no such field\n",
		good + "\n" + viewLine("z", "900", "1850-03-01T12:00:00Z"): ids[0] + " stays, for it is still at fault: events[2].time: must lie from 1970 to 2200\n",
	} {
		path := writeFile(t, "events.ndjson", body)
		r := fix(path)
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, strings.ReplaceAll(r.err, path, "FILE"), "footfall: "+want)
	}
	require.Equal(t, result{exitFailed, "", "footfall: open no/such/file: no such file or directory\n"}, fix("no/such/file"))
	require.Equal(t, result{exitOK, ids[0] + " is fixed: 2 events published in its place\n", ""}, fix(writeFile(t, "events.ndjson", good)))
	events, _ := lifetimeOf(t, addr, "900", "y")
	require.EqualValues(t, 2, events)
}

func TestEdits(t *testing.T) {
	const event = `{"event_id":"e","time":"t","purchase":{"lines":[{"amount":"1,5","quantity":2},{"amount":"2"}]},"bigNumber":12345678901234567890}`
	for _, tt := range []struct {
		name        string
		sets, unset []string
		want, err   string
	}{
		{"a field", []string{"event_id=f"}, nil, `{"event_id":"f"}`, ""},
		{"empty", []string{"event_id="}, nil, `{"event_id":""}`, ""},
		{"with an equals sign", []string{"event_id=a=b"}, nil, `{"event_id":"a=b"}`, ""},
		{"within an array", []string{"purchase.lines[0].amount=1.5"}, nil, `{"purchase":{"lines":[{"amount":"1.5","quantity":2},{"amount":"2"}]}}`, ""},
		{"one more", []string{"purchase.lines[2].amount=3"}, nil, `{"purchase":{"lines":[{"amount":"1,5","quantity":2},{"amount":"2"},{"amount":"3"}]}}`, ""},
		{"what is not there", []string{"refund.lines[0].a=b"}, nil, `{"refund":{"lines":[{"a":"b"}]}}`, ""},
		{"JSON", []string{`purchase={"lines":[{"amount":"1"}]}`}, nil, `{"purchase":{"lines":[{"amount":"1"}]}}`, ""},
		{"not JSON", []string{"event_id={x"}, nil, `{"event_id":"{x"}`, ""},
		{"a map", []string{`profile.attributes["home store"]=7`, "profile.attributes[a.b]=8", "profile.attributes[9]=9"}, nil, `{"profile":{"attributes":{"home store":"7","a.b":"8","9":"9"}}}`, ""},
		{"camel case stays", []string{"big_number=3"}, nil, `{"bigNumber":"3"}`, ""},
		{"take out", nil, []string{"time", "purchase.lines[0]", "no.such[0].field"}, `{"purchase":{"lines":[{"amount":"2"}]},"time":null}`, ""},
		{"too far", []string{"purchase.lines[3].amount=3"}, nil, "", "purchase.lines[3].amount: there is no [3] in an array of 2 elements"},
		{"take out what is not there", nil, []string{"purchase.lines[2]"}, "", "purchase.lines[2]: there is no [2] in an array of 2 elements"},
		{"no index", []string{"purchase.lines.amount=3"}, nil, "", `purchase.lines.amount: "amount" is asked of an array: say of which of its 2 elements, such as [0]`},
		{"into text", []string{"event_id.x=3"}, nil, "", `event_id.x: "x" is asked of a value that has no fields`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			edits, err := parseEdits(tt.sets, tt.unset)
			require.NoError(t, err)
			have, err := applyEdits([]byte(event), edits)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			// What was not named stays, to the last digit.
			var want, changed map[string]json.RawMessage
			require.NoError(t, json.Unmarshal([]byte(event), &want))
			require.NoError(t, json.Unmarshal([]byte(tt.want), &changed))
			for key, value := range changed {
				if want[key] = value; string(value) == "null" {
					delete(want, key)
				}
			}
			whole, err := json.Marshal(want)
			require.NoError(t, err)
			require.JSONEq(t, string(whole), string(have))
			if len(changed["bigNumber"]) == 0 {
				require.Contains(t, string(have), "12345678901234567890")
			}
		})
	}
}

// Anything may be typed: it is an edit or a clear error, and what is parsed can be applied.
func FuzzEdits(f *testing.F) {
	f.Add("purchase.lines[0].amount=1")
	f.Add(`profile.attributes["a\"b"]=[1,2`)
	f.Add("a[0][1].b[x]={}")
	f.Fuzz(func(t *testing.T, s string) {
		edits, err := parseEdits([]string{s}, nil)
		if err != nil {
			require.NotContains(t, err.Error(), "%!")
			return
		}
		if raw, err := applyEdits([]byte(`{"a":[{"b":1}],"purchase":{"lines":[{}]}}`), edits); err == nil {
			require.True(t, json.Valid(raw))
		}
	})
}
