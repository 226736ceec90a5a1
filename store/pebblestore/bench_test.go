package pebblestore

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

const benchValue = 800

// benchCheckpoint returns a checkpoint of n customers picked among all.
func benchCheckpoint(rnd *rand.Rand, shard, n, all int) *messages.Checkpoint {
	c := &messages.Checkpoint{Shard: shard, Meta: &footfallv1.CheckpointMeta{NextOffset: 1}}
	for range n {
		c.Customers = append(c.Customers, benchCustomer(rnd, rnd.IntN(all)))
	}
	return c
}

// benchCustomer looks like a packed record: half of it is small numbers.
func benchCustomer(rnd *rand.Rand, i int) messages.CustomerRecord {
	v := make([]byte, benchValue)
	for j := range v {
		if j%2 == 0 {
			v[j] = byte(rnd.Uint32())
		}
	}
	return messages.CustomerRecord{ID: fmt.Sprintf("customer-%07d", i), Value: v}
}

// cpu returns the CPU time of the process, so that figures do not depend on who else runs.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchStore(b *testing.B) (*Store, uint64) {
	b.Helper()
	s, err := Open(b.TempDir(), Options{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.Close()) })
	epoch, err := s.Acquire(b.Context(), 0, "bench")
	require.NoError(b, err)
	return s, epoch
}

// fill writes n customers and waits until Pebble has nothing left to do.
func fill(b *testing.B, s *Store, epoch uint64, n int) {
	b.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < n; at += 10_000 {
		c := &messages.Checkpoint{Epoch: epoch, Meta: &footfallv1.CheckpointMeta{NextOffset: 1}}
		for i := range min(10_000, n-at) {
			c.Customers = append(c.Customers, benchCustomer(rnd, at+i))
		}
		require.NoError(b, s.Checkpoint(b.Context(), c))
	}
	require.NoError(b, s.db.Pebble.Flush())
	require.NoError(b, s.db.Pebble.Compact(b.Context(), []byte{0}, []byte{0xff}, false))
}

func BenchmarkCheckpoint(b *testing.B) {
	s, epoch := benchStore(b)
	rnd := rand.New(rand.NewPCG(1, 2))
	const n = 5000
	checkpoints := make([]*messages.Checkpoint, 8)
	for i := range checkpoints {
		checkpoints[i] = benchCheckpoint(rnd, 0, n, 200_000)
		checkpoints[i].Epoch = epoch
	}
	began := cpu()
	b.ResetTimer()
	for i := range b.N {
		require.NoError(b, s.Checkpoint(b.Context(), checkpoints[i%len(checkpoints)]))
	}
	b.StopTimer()
	b.SetBytes(n * benchValue)
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(cpu()-began)/float64(b.N)/n, "cpu-ns/record")
	st := s.Stats()
	b.ReportMetric(float64(st.WALBytes+st.WrittenBytes)/float64(st.CustomerBytes), "written/given")
}

func BenchmarkScan(b *testing.B) {
	s, epoch := benchStore(b)
	const n = 300_000
	fill(b, s, epoch, n)
	began := cpu()
	b.ResetTimer()
	for range b.N {
		after, got := "", 0
		for {
			rs, err := s.Scan(b.Context(), 0, epoch, after, 1<<20)
			require.NoError(b, err)
			if len(rs) == 0 {
				break
			}
			got += len(rs)
			after = rs[len(rs)-1].ID
		}
		require.Equal(b, n, got)
	}
	b.SetBytes(n * benchValue)
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(cpu()-began)/float64(b.N)/n, "cpu-ns/record")
}

func BenchmarkGet(b *testing.B) {
	s, epoch := benchStore(b)
	const n = 200_000
	fill(b, s, epoch, n)
	rnd := rand.New(rand.NewPCG(3, 4))
	for name, format := range map[string]string{"hit": "customer-%07d", "miss": "customer-%07d-new"} {
		b.Run(name, func(b *testing.B) {
			ids := make([]string, 1000)
			began := cpu()
			for range b.N {
				for i := range ids {
					ids[i] = fmt.Sprintf(format, rnd.IntN(n))
				}
				_, err := s.Get(b.Context(), 0, epoch, ids)
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.N)*float64(len(ids))/b.Elapsed().Seconds(), "customers/s")
			b.ReportMetric(float64(cpu()-began)/float64(b.N*len(ids)), "cpu-ns/customer")
		})
	}
}
