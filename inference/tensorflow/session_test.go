package tensorflow

import (
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"footfall/inference"
)

func TestWrongBatches(t *testing.T) {
	s := load(t, "both")
	row := func(n int) [][]float32 { return [][]float32{make([]float32, n)} }
	for name, test := range map[string]struct {
		batch  inference.Batch
		values int
		want   string
	}{
		"no rows":         {inference.Batch{}, 0, "a batch of 0 rows for 0 values"},
		"too few values":  {inference.Batch{Rows: 2, Features: row(20), Sequences: row(100)}, 1, "a batch of 2 rows for 1 values"},
		"features":        {inference.Batch{Rows: 2, Features: row(19), Sequences: row(100)}, 2, "features: 19 values, where 2 rows have 20"},
		"sequences":       {inference.Batch{Rows: 2, Features: row(20), Sequences: row(101)}, 2, "sequence: 101 values, where 2 rows have 100"},
		"nothing at all":  {inference.Batch{Rows: 2}, 2, "features: 0 values, where 2 rows have 20"},
		"all as expected": {inference.Batch{Rows: 2, Features: row(20), Sequences: row(100)}, 2, ""},
	} {
		err := s.Run(test.batch, make([]float32, test.values))
		if test.want == "" {
			require.NoError(t, err, name)
			continue
		}
		require.EqualError(t, err, "tensorflow: "+test.want, name)
	}
}

func TestConcurrentRuns(t *testing.T) {
	s, c := load(t, "both"), readCases(t, "both")
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	results := make([][]float32, 8)
	for i := range results {
		results[i] = make([]float32, c.Rows)
		wg.Go(func() {
			for from := 0; from < c.Rows; from += 20 + i {
				to := min(from+20+i, c.Rows)
				if err := s.Run(c.batch(from, to, 9), results[i][from:to]); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	require.Empty(t, errs)
	for _, have := range results {
		require.InDeltaSlice(t, c.Want, have, 1e-6)
	}
}

// Close waits for runs; runs after it are errors.
func TestCloseWhileRunning(t *testing.T) {
	c := readCases(t, "dense")
	s, err := newRunner(t, Options{}).Load(t.Context(), filepath.Join(models, "dense"), contract("dense"), "CPU:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	started := make(chan struct{}, 4)
	for range 4 {
		wg.Go(func() {
			for first := true; ; first = false {
				out := make([]float32, c.Rows)
				if err := s.Run(c.batch(0, c.Rows, 50), out); err != nil {
					if err.Error() != "tensorflow: "+errClosed.Error() {
						t.Error(err)
					}
					return
				}
				if first {
					started <- struct{}{}
				}
			}
		})
	}
	for range 4 {
		<-started
	}
	require.NoError(t, s.Close())
	wg.Wait()
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Run(c.batch(0, 1, 1), make([]float32, 1)), errClosed)
}

// resident is the process's memory in MiB, after Go has given back what it can.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			require.NoError(t, err)
			return kib / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// Loading and closing over and over keeps no sessions.
func TestReloadsKeepNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r, c := newRunner(t, Options{}), readCases(t, "dense")
	reload := func(n int) {
		for range n {
			s, err := r.Load(t.Context(), filepath.Join(models, "dense"), contract("dense"), "CPU:0")
			require.NoError(t, err)
			require.NoError(t, s.Run(c.batch(0, c.Rows, c.Rows), make([]float32, c.Rows)))
			require.NoError(t, s.Close())
		}
	}
	reload(5)
	before := resident(t)
	reload(20)
	grown := resident(t) - before
	t.Logf("20 reloads: %+d MiB", grown)
	require.Less(t, grown, 60)
	leftovers, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, leftovers)
}

// Runs free their tensors themselves: with the collector switched off, memory stays.
func TestRunsKeepNothing(t *testing.T) {
	s := load(t, "dense")
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	const rows = 32768
	in := inference.Batch{Rows: rows, Features: [][]float32{make([]float32, rows*10)}}
	out := make([]float32, rows)
	run := func(n int) {
		for range n {
			require.NoError(t, s.Run(in, out))
		}
	}
	run(20)
	before := resident(t)
	run(300) // 413 MiB of tensors
	grown := resident(t) - before
	t.Logf("300 runs: %+d MiB", grown)
	require.Less(t, grown, 100)
}

// What is read from pieces is their concatenation, however the reader is asked.
func TestPieceReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(rapid.SliceOf(rapid.Float32())).Draw(t, "pieces")
		var want, have []byte
		for _, p := range pieces {
			want = append(want, bytesOf(p)...)
		}
		r := &pieceReader{pieces: pieces}
		for {
			buffer := make([]byte, rapid.IntRange(1, 40).Draw(t, "size"))
			n, err := r.Read(buffer)
			have = append(have, buffer[:n]...)
			if err != nil {
				break
			}
		}
		require.Equal(t, want, have)
	})
}

// The library's errors come in one line; a fault of our own is none of them.
func TestCaught(t *testing.T) {
	require.NoError(t, caught(func() {}))
	require.EqualError(t, caught(func() { panic("first line\n\tand its trace") }), "first line")
	long := caught(func() { panic(strings.Repeat("é", 1000)) }).Error()
	require.Less(t, len(long), 500)
	require.True(t, strings.HasSuffix(long, "é…"))
	require.Panics(t, func() {
		_ = caught(func() {
			pieces := make([]int, 1)
			pieces[len(t.Name())]++
		})
	})
}

func BenchmarkSession(b *testing.B) {
	for _, model := range []string{"dense", "lstm"} {
		for _, rows := range []int{1, 64, 1024} {
			b.Run(model+"/"+strconv.Itoa(rows), func(b *testing.B) {
				s, c := load(b, model), readCases(b, model)
				in := repeat(c, rows)
				// The first run has the library optimise the graph.
				require.NoError(b, s.Run(in, make([]float32, rows)))
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(p *testing.PB) {
					out := make([]float32, rows)
					for p.Next() {
						if err := s.Run(in, out); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}

// BenchmarkSizes is what it costs to run batches as large as they come, against batches of
// always the same size, and against filling each up to a power of two: buckets would only pay
// if the library did something once for each size.
func BenchmarkSizes(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var sizes []int
	for range 512 {
		sizes = append(sizes, 1+rnd.IntN(1024))
	}
	for _, model := range []string{"dense", "lstm"} {
		s, c := load(b, model), readCases(b, model)
		for name, size := range map[string]func(int) int{
			"as they come": func(n int) int { return n },
			"all the same": func(int) int { return 512 },
			"filled up":    func(n int) int { return 1 << bits.Len(uint(n-1)) },
		} {
			b.Run(model+"/"+name, func(b *testing.B) {
				// All sizes are cut from the same rows, so that none has the memory's cache to itself.
				whole := repeat(c, 1024)
				out := make([]float32, 1024)
				rows, before := 0, cpuTime()
				for i := 0; b.Loop(); i++ {
					n := sizes[i%len(sizes)]
					k := size(n)
					in := inference.Batch{Rows: k, Features: [][]float32{whole.Features[0][:k*10]}, Sequences: [][]float32{whole.Sequences[0][:k*50]}}
					if err := s.Run(in, out[:k]); err != nil {
						b.Fatal(err)
					}
					if rows += n; name == "all the same" {
						rows += 512 - n
					}
				}
				b.ReportMetric(float64(rows)/(cpuTime()-before).Seconds(), "rows/core-s")
			})
		}
	}
}

// cpuTime is what the process has used: on a busy machine it tells more than the clock.
func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // of this process: it can't fail
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// repeat makes a batch of rows out of cases, in one piece.
func repeat(c *cases, rows int) inference.Batch {
	b := inference.Batch{Rows: rows, Features: [][]float32{make([]float32, rows*10)}, Sequences: [][]float32{make([]float32, rows*50)}}
	for i := range rows {
		k := i % c.Rows
		copy(b.Features[0][i*10:], c.Features[k*10:k*10+10])
		copy(b.Sequences[0][i*50:], c.Sequences[k*50:k*50+50])
	}
	return b
}
