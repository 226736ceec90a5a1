package pebblelog

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/messages"
	"footfall/store/logtest"
)

// crashDirKey tells a run of the test binary to be the process that is killed.
const crashDirKey = "PEBBLELOG_TEST_CRASH_DIR"

// appendUntilKilled appends to one shard and says each offset once it is acknowledged.
func appendUntilKilled(dir string) {
	l, err := Open(dir, Options{Reserve: -1})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	_, next, err := l.Bounds(ctx, 1)
	if err != nil {
		panic(err)
	}
	for n := int(next); ; n++ {
		if err := l.Append(ctx, 1, []messages.Record{logtest.Record(n)}); err != nil {
			panic(err)
		}
		if _, err := os.Stdout.WriteString(strconv.Itoa(n) + "\n"); err != nil {
			os.Exit(0)
		}
	}
}

// TestKill ends a process with SIGKILL while it appends, and looks for all that it had
// acknowledged.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashDirKey+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		acked := -1
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acked, err = strconv.Atoi(lines.Text())
			require.NoError(t, err)
			if n == 20+round*13 {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		_ = cmd.Wait() // it was killed
		require.Positive(t, acked)

		l, err := Open(dir, Options{Reserve: -1})
		require.NoError(t, err)
		_, next, err := l.Bounds(t.Context(), 1)
		require.NoError(t, err)
		require.Greater(t, next, uint64(acked))
		r, err := l.Open(t.Context(), 1, messages.Mark{})
		require.NoError(t, err)
		var batch messages.RecordBatch
		for at := 0; at < int(next); {
			require.NoError(t, r.Next(t.Context(), &batch))
			for _, rec := range batch.Records {
				require.Equal(t, string(logtest.Record(at).Body), string(rec.Body), fmt.Sprint(at))
				at++
			}
		}
		require.NoError(t, l.Close())
	}
}
