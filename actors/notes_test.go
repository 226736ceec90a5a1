package actors

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// BenchmarkNotes folds messages of many shards in turn, with notes and without; a customer is
// nobody's, so that what is left is decoding.
func BenchmarkNotes(b *testing.B) {
	const shards, events = 64, 100
	departments := []string{"GROCERY", "PRODUCE", "MEAT", "PASTRY", "DAIRY", "DELI", "FLORAL", "NUTRITION", "COSMETICS", "DRUG GM", "SEAFOOD", "FROZEN"}
	cfg := newBench(nil, nil).cfg.withDefaults()
	cfg.Shards = 1
	rnd := rand.New(rand.NewPCG(1, 2))
	var bodies [shards][]byte
	for i := range bodies {
		var batch footfallv1.EventBatch
		for range events {
			var lines []*footfallv1.Line
			for range 3 {
				lines = append(lines, line(departments[rnd.IntN(len(departments))], fmt.Sprintf("%d.%02d", rnd.IntN(20), rnd.IntN(100))))
			}
			batch.Events = append(batch.Events, sale(fmt.Sprintf("household-%d", 10_000_000+rnd.IntN(1500)*shards+i), fmt.Sprint(rnd.Uint64()), day1, lines...))
		}
		var err error
		bodies[i], err = batch.MarshalVT()
		require.NoError(b, err)
	}
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("notes=%v", with), func(b *testing.B) {
			cal := behavior.NewCalendar(time.UTC)
			var folds [shards]*fold
			for i := range folds {
				folds[i] = newFold(i, &cfg, cal)
				folds[i].validator.Shards = 1
				folds[i].shard = 0
				if with {
					folds[i].notes = &notes{}
				}
			}
			i := 0
			for b.Loop() {
				f := folds[i%shards]
				rec := messages.Record{Type: messages.BatchRecord, FromNode: true, Offset: f.next, Body: bodies[i%shards]}
				if err := f.record(&rec, nobodys{}); err != nil {
					b.Fatal(err)
				}
				i++
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(i*events), "ns/event")
		})
	}
}
