package logtest

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"footfall/messages"
)

// testOracle appends, reads, reopens and trims at random, beside a log that is a slice.
func testOracle(t *testing.T, h Harness) {
	log := h.Log
	type oracle struct {
		records []messages.Record
		first   uint64
	}
	// One log for all runs: each finds what the ones before have left.
	shards := make([]oracle, 3)
	number := 0
	rapid.Check(t, func(rt *rapid.T) {
		shard := func() int { return rapid.IntRange(0, len(shards)-1).Draw(rt, "shard") }
		actions := map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				s := shard()
				n := rapid.IntRange(0, 20).Draw(rt, "records")
				records := recordsOf(number, number+n)
				number += n
				require.NoError(rt, log.Append(t.Context(), s, records))
				shards[s].records = append(shards[s].records, records...)
			},
			"bounds": func(rt *rapid.T) {
				s := shard()
				first, next, err := log.Bounds(t.Context(), s)
				require.NoError(rt, err)
				require.Equal(rt, shards[s].first, first)
				require.Equal(rt, uint64(len(shards[s].records)), next)
			},
			"read": func(rt *rapid.T) {
				s := shard()
				o := shards[s]
				at := rapid.IntRange(0, len(o.records)).Draw(rt, "mark")
				r, err := log.Open(t.Context(), s, MarkAfter(o.records[:at]))
				if uint64(at) < o.first {
					var gap *messages.LogGapError
					require.ErrorAs(rt, err, &gap)
					return
				}
				if err != nil && at > 0 && uint64(at) == o.first {
					// The proof has been trimmed.
					var gap *messages.LogGapError
					require.ErrorAs(rt, err, &gap)
					return
				}
				require.NoError(rt, err)
				var batch messages.RecordBatch
				for at < len(o.records) {
					require.NoError(rt, r.Next(t.Context(), &batch))
					for i := range batch.Records {
						require.Equal(rt, uint64(at), batch.Records[i].Offset)
						require.Equal(rt, string(o.records[at].Body), string(batch.Records[i].Body))
						at++
					}
				}
				require.NoError(rt, r.Close())
			},
		}
		if h.Reopen != nil {
			actions["reopen"] = func(*rapid.T) { log = h.Reopen(t) }
		}
		if h.Trim != nil {
			actions["trim"] = func(rt *rapid.T) {
				s := shard()
				o := &shards[s]
				h.Trim(t, s, uint64(rapid.IntRange(0, len(o.records)+1).Draw(rt, "before")))
				first, _, err := log.Bounds(t.Context(), s)
				require.NoError(rt, err)
				require.GreaterOrEqual(rt, first, o.first)
				require.LessOrEqual(rt, first, uint64(len(o.records)))
				o.first = first
			}
		}
		rt.Repeat(actions)
	})
}
