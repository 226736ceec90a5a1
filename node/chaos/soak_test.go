package chaos

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// churn is what operators and machines do to nodes all the time.
var churn = []string{"kill -9 of a node", "restart in order", "drain for good, and back", "one more node, or one fewer"}

// TestSoak has nodes come and go under load for FOOTFALL_SOAK, such as 30m. One of them stays: what
// it has of memory in the last third of that time is what it had in the second. In the end
// nothing is lost.
func TestSoak(t *testing.T) {
	text := os.Getenv("FOOTFALL_SOAK")
	if text == "" {
		t.Skip("it takes half an hour: make soak")
	}
	lasts, err := time.ParseDuration(text)
	require.NoError(t, err, "FOOTFALL_SOAK")
	w := newWorld(t, seedOf(t), 3)
	w.kept = w.nodes[0]
	l := w.load()
	var memory []int64 // of each round, bytes
	began := time.Now()
	for round := 1; time.Since(began) < lasts; round++ {
		name := churn[w.rng.IntN(len(churn))]
		at := slices.IndexFunc(faults, func(f fault) bool { return f.name == name })
		require.GreaterOrEqual(t, at, 0, name)
		w.strike(l, faults[at:at+1])
		l.during(2 * time.Second)
		memory = append(memory, resident(t, w.kept.process.Pid()))
		t.Logf("round %d, after %s: %s has %.1f MiB", round, time.Since(began).Round(time.Second), w.kept.name, float64(memory[round-1])/(1<<20))
	}
	l.prove()
	third := len(memory) / 3
	require.Positive(t, third, "FOOTFALL_SOAK: too short for three rounds")
	second, last := slices.Max(memory[third:2*third]), slices.Max(memory[2*third:])
	const more = 16 << 20 // customers are born all the time
	require.LessOrEqual(t, last, second*11/10+more, "memory grows: %d", memory)
}

// resident is what a process has of the machine's memory, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			kib, err := strconv.ParseInt(string(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte(" kB"))), 10, 64)
			require.NoError(t, err)
			return kib << 10
		}
	}
	require.Fail(t, "no VmRSS")
	return 0
}
