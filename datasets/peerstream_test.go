package datasets

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// The check sums are given with the description of the stream.
func TestPeerStream(t *testing.T) {
	for _, c := range []struct {
		stream                PeerStream
		check                 uint64
		duplicates, customers int
	}{
		{PeerStream{N: 1_000_000, C: 100_000}, 0xb2e8122606b84eea, 1_000, 99_838},
		{PeerStream{N: 2_000_000, C: 100_000}, 0xbb48231b7ea6bdd0, 2_000, 0},
	} {
		counts := make([]uint64, c.stream.C)
		seen := make(map[uint64]struct{}, c.stream.N)
		duplicates, customers := 0, 0
		var e PeerEvent
		for i := range c.stream.N {
			c.stream.At(i, &e)
			if counts[e.Customer] == 0 {
				customers++
			}
			if _, duplicate := seen[e.ID]; duplicate {
				duplicates++
				continue
			}
			seen[e.ID] = struct{}{}
			counts[e.Customer]++
		}
		require.Equal(t, c.check, c.stream.Check(func(customer uint32) uint64 { return counts[customer] }))
		require.Equal(t, c.duplicates, duplicates)
		if c.customers > 0 {
			require.Equal(t, c.customers, customers)
		}
	}
}

// The values follow from the description, computed with arbitrary precision by another program.
func TestPeerEvent(t *testing.T) {
	p := PeerStream{N: 1_000_000, C: 100_000}
	var e, original PeerEvent
	p.At(0, &e)
	require.Equal(t, PeerEvent{ID: 0x9bc585a244823f2, Time: 1704067200000, Customer: 54991, Cents: 7876, Discount: 0, Departments: [3]uint8{20, 28, 24}, Items: 12, id: peerID(54991)}, e)
	require.Equal(t, "C0054991", e.CustomerID())
	p.At(1, &e)
	require.Equal(t, PeerEvent{ID: 0x836ded897f3e46e6, Time: 1704067231536, Customer: 11555, Cents: 7326, Discount: 0, Departments: [3]uint8{30, 5, 20}, Items: 11, id: peerID(11555)}, e)
	require.Equal(t, "C0011555", e.CustomerID())
	p.At(123456, &e)
	require.Equal(t, PeerEvent{ID: 0x84146c01a49b055, Time: 1707960508416, Customer: 51125, Cents: 17263, Discount: 0, Departments: [3]uint8{21, 10, 26}, Items: 19, id: peerID(51125)}, e)
	require.Equal(t, "C0051125", e.CustomerID())
	p.At(999999, &e)
	require.Equal(t, PeerEvent{ID: 0xafc4ecbb3ced54e8, Time: 1735602947712, Customer: 11201, Cents: 1061, Discount: 0, Departments: [3]uint8{25, 7, 4}, Items: 15, id: peerID(11201)}, e)
	require.Equal(t, "C0011201", e.CustomerID())
	p.At(999, &e)
	p.At(992, &original)
	require.Equal(t, original, e)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		p.At(1, &e)
		messages.ShardOf(e.CustomerID(), 64)
	}))
}

func TestPeerID(t *testing.T) {
	for c := uint32(0); c < 10_000_000; c += 1 + c%97 {
		e := PeerEvent{id: peerID(c)}
		require.Equal(t, fmt.Sprintf("C%07d", c), e.CustomerID())
	}
}

func BenchmarkPeerStream(b *testing.B) {
	p := PeerStream{N: 20_000_000, C: 1_000_000}
	var e PeerEvent
	i := uint64(0)
	for b.Loop() {
		p.At(i%p.N, &e)
		i++
	}
}
