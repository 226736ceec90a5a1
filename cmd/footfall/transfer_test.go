package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages/footfallv1"
)

// A backup makes a node that goes on where the old one was, and so do twice as many shards.
func TestBackupRestoreReshard(t *testing.T) {
	dir := t.TempDir()
	old, file := filepath.Join(dir, "old"), filepath.Join(dir, "monday.footfall")
	addr, stop := realNode(t, old, footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
	var lines []string
	for day := 1; day <= 9; day++ {
		for i := range 30 {
			lines = append(lines, viewLine(fmt.Sprintf("e-%d-%d", day, i), fmt.Sprint(i%23), fmt.Sprintf("2017-01-%02dT10:%02d:00Z", day, i)))
		}
	}
	path := writeFile(t, "history.ndjson", strings.Join(lines, "\n"))
	t.Setenv("FOOTFALL_CACHE", t.TempDir())
	replay := func(addr string) replayed {
		t.Helper()
		r := footfall(t, "", "replay", path, "--node", addr, "-o", "json")
		require.Equal(t, exitOK, r.code, r.err)
		var have replayed
		require.NoError(t, json.Unmarshal([]byte(r.out), &have))
		return have
	}
	require.EqualValues(t, 270, replay(addr).Accepted)
	customer := func(addr, id string) map[string]any {
		t.Helper()
		r := footfall(t, "", "customer", id, "--node", addr, "-o", "json")
		require.Equal(t, exitOK, r.code, r.err)
		var have map[string]any
		require.NoError(t, json.Unmarshal([]byte(r.out), &have))
		// Where and how far are another node's matter.
		delete(have, "shard")
		delete(have["as_of"].(map[string]any), "offset")
		return have
	}
	before := map[string]map[string]any{}
	for i := range 23 {
		before[fmt.Sprint(i)] = customer(addr, fmt.Sprint(i))
	}

	require.Equal(t, exitFailed, footfall(t, "", "backup", file, "--data", old).code, "a node runs on the data")
	require.NoFileExists(t, file)
	stop()

	r := footfall(t, "", "backup", file, "--data", old)
	require.Equal(t, exitOK, r.code, r.err)
	require.Regexp(t, `^4 shards, 23 customers in [\d.]+ s: `, r.out)

	goesOn := func(name string, shards int) {
		t.Helper()
		data := filepath.Join(dir, name)
		require.Equal(t, fmt.Sprintf("%d shards, 23 customers, 270 events: equal\n", shards), footfall(t, "", "verify", "--data", data).out)
		addr, stop := realNode(t, data, footfallv1.ClockMode_CLOCK_MODE_DRIVEN, shards)
		defer stop()
		for id, want := range before {
			require.Equal(t, want, customer(addr, id))
		}
		// What is sent again is known, and what is new is taken.
		require.EqualValues(t, 270, replay(addr).Duplicates)
		r := footfall(t, viewLine("new", "7", "2017-01-10T10:00:00Z"), "publish", "-", "--node", addr)
		require.Equal(t, exitOK, r.code, r.err)
		require.Eventually(t, func() bool {
			return strings.Contains(footfall(t, "", "customer", "7", "--node", addr, "-o", "json").out, `"last_event_time": "2017-01-10`)
		}, time.Minute, 10*time.Millisecond)
		require.Contains(t, footfall(t, "", "verify", "--node", addr).out, fmt.Sprintf("%d shards, 23 customers, ", shards))
	}
	restored := filepath.Join(dir, "restored")
	r = footfall(t, "", "restore", file, "--data", restored, "-o", "json")
	require.Equal(t, exitOK, r.code, r.err)
	var sum transferred
	require.NoError(t, json.Unmarshal([]byte(r.out), &sum))
	require.Equal(t, transferred{Shards: 4, Customers: 23, Seconds: sum.Seconds}, sum)
	goesOn("restored", 4)

	r = footfall(t, "", "reshard", "--data", old, "--into", filepath.Join(dir, "doubled"))
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.out, "equal to the 4 shards before; nodes need shards: 8")
	goesOn("doubled", 8)
	require.Contains(t, footfall(t, "", "verify", "--data", old).out, "4 shards, 23 customers, ", "the old place is as it was")

	// Once more, of what is already a split.
	r = footfall(t, "", "reshard", "--data", filepath.Join(dir, "doubled"), "--into", filepath.Join(dir, "again"))
	require.Equal(t, exitOK, r.code, r.err)
	require.Equal(t, "16 shards, 23 customers, 271 events: equal\n", footfall(t, "", "verify", "--data", filepath.Join(dir, "again")).out)
}

func TestTransferRefuses(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	require.NoError(t, os.Mkdir(there, 0o750))
	nonsense := writeFile(t, "nonsense", "hello")
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"backup", exitUsage, "FILE is missing"},
		{"backup f", exitUsage, "give one of --data and --config"},
		{"backup f --data x --config y", exitUsage, "config"},
		{"backup f --data no/such", exitFailed, "holds no node's data"},
		{"backup f --data x --no-log", exitUsage, "--no-log is for --config"},
		{"restore no-such --data " + dir + "/x", exitFailed, "no such file"},
		{"restore " + nonsense + " --data " + dir + "/x", exitFailed, "the backup cannot be read"},
		{"reshard --data no/such --into x", exitFailed, "holds no node's data"},
		{"reshard --data x", exitUsage, "give one of --into and --into-config"},
	} {
		r := footfall(t, "", strings.Fields(tt.args)...)
		require.Equal(t, tt.code, r.code, "%s: %s", tt.args, r.err)
		require.Contains(t, r.err, tt.want, tt.args)
	}
	require.NoDirExists(t, filepath.Join(dir, "x"))
}
