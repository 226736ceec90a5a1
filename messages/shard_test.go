package messages

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The sums are those of zlib's crc32 over the UTF-8 of the name, as another language computes them.
func TestShardOf(t *testing.T) {
	for id, sum := range map[string]uint32{
		"900":                    761528658,
		"C0000001":               2513447910,
		"Ünïcødé":                2703253288,
		"guest:7":                1848016338,
		strings.Repeat("a", 128): 4046141068,
	} {
		for _, shards := range []int{1, 2, 64, 1024, MaxShards} {
			require.Equal(t, int(sum%uint32(shards)), ShardOf(id, shards), "%q in %d", id, shards)
		}
	}
	require.Zero(t, testing.AllocsPerRun(10, func() { ShardOf("C0000001", 64) }))
}

func TestRecordSum(t *testing.T) {
	for _, c := range []struct {
		of   RecordType
		body string
		want uint32
	}{
		{EventRecord, "", 0xa016d052},
		{EventRecord, "hello", 0x6719daea},
		{BatchRecord, "hello", 0x53a51130},
		{ControlRecord, "hello", 0xbc957a29},
	} {
		require.Equal(t, c.want, RecordSum(c.of, []byte(c.body)))
	}
}

func TestPositionBefore(t *testing.T) {
	for _, c := range []struct {
		p, q Position
		want bool
	}{
		{Position{1, 5}, Position{2, 0}, true},
		{Position{2, 0}, Position{1, 5}, false},
		{Position{1, 1}, Position{1, 2}, true},
		{Position{1, 2}, Position{1, 2}, false},
	} {
		require.Equal(t, c.want, c.p.Before(c.q))
	}
}
