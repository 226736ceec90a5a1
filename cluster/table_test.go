package cluster

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestTable computes testdata/table.txt: what a cluster of a size moves when a member joins,
// leaves for good, or is away. Write it anew with
//
//	go test ./cluster -run TestTable -rewrite
//
// least is what must move: the share of the one that joins, the shards of the one that goes.
// BenchmarkPlace has the times.
func TestTable(t *testing.T) {
	datadriven.RunTest(t, "testdata/table.txt", func(t *testing.T, d *datadriven.TestData) string {
		var b strings.Builder
		switch d.Cmd {
		case "placement":
			fmt.Fprintf(&b, "%7s %7s %9s | %17s | %17s | %17s\n", "", "", "", "join", "leave for good", "away and back")
			fmt.Fprintf(&b, "%7s %7s %9s | %5s %5s %5s | %5s %5s %5s | %5s %5s %5s\n",
				"members", "shards", "load", "least", "moved", "ratio", "least", "moved", "ratio", "least", "moved", "ratio")
			for _, c := range []struct{ members, shards, trials int }{
				{2, 64, 50}, {3, 64, 50}, {5, 64, 50}, {8, 64, 50}, {8, 256, 50}, {16, 1024, 20}, {64, 1024, 20}, {250, 4096, 3}, {1000, 16384, 1},
			} {
				b.WriteString(tableRow(c.members, c.shards, c.trials))
			}
		case "metadata":
			fmt.Fprintf(&b, "%7s %5s\n", "devices", "bytes")
			for _, n := range []int{0, 2, 9, 50, 200} {
				m := Member{
					Name: "footfall-node-123", Incarnation: "0f8fad5bd9cb469f", State: MemberActive, Roles: RoleShards | RoleInference,
					GRPC: "footfall-node-123.footfall.example.internal:8081", HTTP: "footfall-node-123.footfall.example.internal:8080",
					Version: "v1.12.3", Shards: 16384,
				}
				for i := range n {
					m.Devices = append(m.Devices, fmt.Sprintf("GPU:%d", i))
				}
				got, err := decodeMeta(encodeMeta(&m, metaLimit))
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				fmt.Fprintf(&b, "%7d %5d", n, len(encodeMeta(&m, metaLimit)))
				if got.DevicesLeftOut > 0 {
					fmt.Fprintf(&b, "  %d devices left out", got.DevicesLeftOut)
				}
				b.WriteByte('\n')
			}
		default:
			d.Fatalf(t, "unknown command %s", d.Cmd)
		}
		return b.String()
	})
}

// tableRow averages over clusters of other names.
func tableRow(members, shards, trials int) string {
	var join, leave, away [2]int // least, moved
	least, most := shards, 0
	for trial := range trials {
		all := make([]string, members+1)
		for i := range all {
			all[i] = fmt.Sprintf("node-%d-%d", trial, i)
		}
		before, after := Place(shards, all[1:], nil), Place(shards, all, nil)
		for _, n := range loads(before) {
			least, most = min(least, n), max(most, n)
		}
		join[0] += loads(after)[all[0]]
		join[1] += len(moved(before, after))
		// The last one of the cluster before goes.
		gone := all[members]
		leave[0] += loads(before)[gone]
		leave[1] += len(moved(before, Place(shards, all[1:members], nil)))
		away[0] += loads(before)[gone]
		away[1] += len(moved(before, Place(shards, all[1:members], []string{gone})))
	}
	cell := func(c [2]int) string {
		return fmt.Sprintf("%5.1f %5.1f %5.2f", float64(c[0])/float64(trials), float64(c[1])/float64(trials), float64(c[1])/float64(c[0]))
	}
	return fmt.Sprintf("%7d %7d %4d-%-4d | %s | %s | %s\n", members, shards, least, most, cell(join), cell(leave), cell(away))
}
