package postgresstore

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

const benchValue = 800

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

func benchStore(b *testing.B, shards int) (*Store, []uint64) {
	b.Helper()
	s := open(b, Options{}, newDatabase(b))
	epochs := make([]uint64, shards)
	for i := range epochs {
		var err error
		epochs[i], err = s.Acquire(b.Context(), i, "bench")
		require.NoError(b, err)
	}
	return s, epochs
}

// BenchmarkCheckpoint writes 5,000 customers of 800 bytes at once, picked among 100,000: after the first round most are
// updates. Set FOOTFALL_BENCH_SYNC=1 for a server that syncs.
func BenchmarkCheckpoint(b *testing.B) {
	for _, shards := range []int{1, 4} {
		b.Run(fmt.Sprintf("shards=%d", shards), func(b *testing.B) {
			s, epochs := benchStore(b, shards)
			const n, all = 5000, 100_000
			round := 0
			checkpoints := make([]*messages.Checkpoint, 8)
			rnd := rand.New(rand.NewPCG(1, 2))
			for i := range checkpoints {
				c := &messages.Checkpoint{Meta: &footfallv1.CheckpointMeta{NextOffset: 1}}
				for range n {
					c.Customers = append(c.Customers, benchCustomer(rnd, rnd.IntN(all)))
				}
				checkpoints[i] = c
			}
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range shards {
					wg.Go(func() {
						c := *checkpoints[round%len(checkpoints)]
						c.Shard, c.Epoch = i, epochs[i]
						if err := s.Checkpoint(b.Context(), &c); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
				round++
			}
			b.SetBytes(int64(shards) * n * benchValue)
			b.ReportMetric(float64(b.N)*float64(shards)*n/b.Elapsed().Seconds(), "records/s")
		})
	}
}

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
}

func BenchmarkScan(b *testing.B) {
	s, epochs := benchStore(b, 1)
	const n = 100_000
	fill(b, s, epochs[0], n)
	for b.Loop() {
		after, got := "", 0
		for {
			rs, err := s.Scan(b.Context(), 0, epochs[0], after, 1<<20)
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
}

func BenchmarkGet(b *testing.B) {
	s, epochs := benchStore(b, 1)
	const n = 100_000
	fill(b, s, epochs[0], n)
	rnd := rand.New(rand.NewPCG(3, 4))
	for name, format := range map[string]string{"hit": "customer-%07d", "miss": "customer-%07d-new"} {
		b.Run(name, func(b *testing.B) {
			ids := make([]string, 1000)
			for b.Loop() {
				for i := range ids {
					ids[i] = fmt.Sprintf(format, rnd.IntN(n))
				}
				_, err := s.Get(b.Context(), 0, epochs[0], ids)
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.N)*float64(len(ids))/b.Elapsed().Seconds(), "customers/s")
		})
	}
}

// BenchmarkOutbox appends one row: the way of an insight.
func BenchmarkOutbox(b *testing.B) {
	s, epochs := benchStore(b, 1)
	seq := uint64(0)
	for b.Loop() {
		seq++
		require.NoError(b, s.AppendOutbox(b.Context(), 0, epochs[0], []messages.OutboxRow{{Seq: seq, Body: make([]byte, 300)}}))
	}
}

func BenchmarkSnapshotBase(b *testing.B) {
	s, epochs := benchStore(b, 1)
	const n = 50_000
	fill(b, s, epochs[0], n)
	for b.Loop() {
		require.NoError(b, s.SnapshotBase(b.Context(), 0, epochs[0]))
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "records/s")
}
