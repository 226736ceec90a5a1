package postgresstore

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// crashURLKey tells a run of the test binary to be the process that is killed.
const crashURLKey = "POSTGRESSTORE_TEST_CRASH_URL"

// checkpointUntilKilled writes checkpoints of one shard and says each once it is acknowledged.
func checkpointUntilKilled() {
	ctx := context.Background()
	s, err := Open(ctx, []string{os.Getenv(crashURLKey)}, Options{})
	if err != nil {
		panic(err)
	}
	epoch, err := s.Acquire(ctx, 1, "node-a")
	if err != nil {
		panic(err)
	}
	m, err := s.Load(ctx, 1, epoch)
	if err != nil {
		panic(err)
	}
	for n := m.GetNextOffset() + 1; ; n++ {
		if err := s.Checkpoint(ctx, numbered(1, epoch, n)); err != nil {
			panic(err)
		}
		if _, err := os.Stdout.WriteString(strconv.FormatUint(n, 10) + "\n"); err != nil {
			os.Exit(0)
		}
	}
}

// TestOwnerDies ends a process with SIGKILL while it writes checkpoints, and takes over.
func TestOwnerDies(t *testing.T) {
	addr := newDatabase(t)
	s := open(t, Options{}, addr)
	for round := range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashURLKey+"="+addr)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		acked := uint64(0)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acked, err = strconv.ParseUint(lines.Text(), 10, 64)
			require.NoError(t, err)
			if n == 10+round*13 {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		_ = cmd.Wait() // it was killed
		require.Positive(t, acked)

		epoch, err := s.Acquire(t.Context(), 1, "node-b")
		require.NoError(t, err)
		n := requireNumbered(t, s, 1, epoch)
		require.True(t, n == acked || n == acked+1, "checkpoint %d, acknowledged %d", n, acked)
	}
}
