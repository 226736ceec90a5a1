package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
)

// TestScenarios runs the scripts of testdata/scenarios. After a change that is meant, write
// them anew with
//
//	go test ./cluster -run TestScenarios -rewrite
//
// and read the difference. The commands:
//
//	cluster shards=N [seed=N]       begins
//	start|drain|crash|freeze|thaw NODE…
//	cut from=(NODE…) to=(NODE…) [both]   "store" is a place, too
//	heal                            undoes every cut, and brings the store back
//	store-away
//	run DURATION [quiet]            lets time pass and tells what happened, or only the end of it
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		var s *sim
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var nodes []string
			for _, a := range d.CmdArgs {
				if len(a.Vals) == 0 {
					nodes = append(nodes, a.Key)
				}
			}
			each := func(do func(string)) {
				for _, n := range nodes {
					do(n)
				}
			}
			switch d.Cmd {
			case "cluster":
				var shards int
				seed := uint64(1)
				d.ScanArgs(t, "shards", &shards)
				d.MaybeScanArgs(t, "seed", &seed)
				s = newSim(shards, seed)
			case "start":
				each(s.start)
				s.changed()
			case "drain":
				each(func(n string) { s.nodes[n].step(DrainAsked{}) })
				s.changed()
			case "crash":
				each(s.crash)
			case "freeze":
				each(s.freeze)
			case "thaw":
				each(s.thaw)
			case "cut":
				from, _ := d.Arg("from")
				to, _ := d.Arg("to")
				s.cut(from.Vals, to.Vals)
				if d.HasArg("both") {
					s.cut(to.Vals, from.Vals)
				}
			case "heal":
				s.heal()
			case "store-away":
				s.store.away = true
				s.changed()
			case "run":
				long, err := time.ParseDuration(nodes[0])
				require.NoError(t, err)
				s.run(long)
				require.Empty(t, s.faults)
				log := s.log.String()
				s.log.Reset()
				if d.HasArg("quiet") {
					log = ""
				}
				return log + s.summary()
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			log := s.log.String()
			s.log.Reset()
			return strings.TrimSuffix(log, "\n")
		})
	})
}
