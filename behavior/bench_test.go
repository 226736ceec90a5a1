package behavior

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages/footfallv1"
)

const (
	benchStart = int64(1_704_067_200_000)
	yearMillis = 365 * dayMillis
)

var benchDepartments = []string{"GROCERY", "PASTRY", "PRODUCE", "MEAT", "SEAFOOD", "FLORAL", "DAIRY", "DELI", "FUEL", "DRUG GM", "NUTRITION", "COSMETICS"}

// benchEvent is the benchmark's event, a purchase of three lines of about 300 bytes: the i-th
// of n spread over a year.
func benchEvent(i, n int) *footfallv1.Event {
	p := &footfallv1.Purchase{BasketId: fmt.Sprintf("%011d", 31_198_459_610+i), Currency: "USD", StoreId: "store-0367"}
	for k := range 3 {
		cents := 50 + (i*7919+k*104729)%1995
		p.Lines = append(p.Lines, &footfallv1.Line{
			ProductId:  fmt.Sprintf("product-%011d-%04x", 1_095_275+i*3+k, k*4369),
			Department: benchDepartments[(i*5+k*7)%len(benchDepartments)],
			Quantity:   uint32(1 + (i+k)%3),
			Amount:     fmt.Sprintf("%d.%02d", cents/100, cents%100),
			Discount:   fmt.Sprintf("%d.%02d", cents/500, cents%50),
		})
	}
	return &footfallv1.Event{
		EventId:    fmt.Sprintf("b-%011d-%024x", 31_198_459_610+i, i*7919),
		CustomerId: fmt.Sprintf("customer-%011d", i%1000),
		Time:       timestamppb.New(time.UnixMilli(benchStart + int64(float64(yearMillis)*float64(i)/float64(n)))),
		Producer:   "store-0367-till-04",
		Sequence:   uint64(i + 1),
		Kind:       &footfallv1.Event_Purchase{Purchase: p},
	}
}

func marshal(tb testing.TB, ev *footfallv1.Event) []byte {
	b, err := ev.MarshalVT()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// busy is a customer who shops on about forty of the kept days.
func busy(cal *Calendar) (Record, Event) {
	rec, ev := make(Record, 0, 4096), Event{Kind: Purchase, Time: benchStart, Departments: make([]uint32, 3)}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		nextPurchase(&ev, rng)
		rec, _ = Apply(rec, &ev, cal)
	}
	return rec, ev
}

func nextPurchase(ev *Event, rng *rand.Rand) {
	ev.ID = rng.Uint64()
	ev.Time += rng.Int64N(2 * dayMillis)
	ev.Spend, ev.Discount, ev.Items = rng.Int64N(200_000), rng.Int64N(20_000), 3
	for i := range ev.Departments {
		ev.Departments[i] = uint32(rng.IntN(32)) * 0x9E3779B9
	}
}

func BenchmarkApply(b *testing.B) {
	cal := NewCalendar(location(b))
	rec, ev := busy(cal)
	rng := rand.New(rand.NewPCG(3, 4))
	events := make([]Event, 1024)
	for i := range events {
		nextPurchase(&ev, rng)
		events[i] = ev
		events[i].Departments = append([]uint32(nil), ev.Departments...)
	}
	saved := append(Record(nil), rec...)
	run := func(b *testing.B, features bool) {
		b.ReportAllocs()
		var f Features
		for i := 0; b.Loop(); i++ {
			e := &events[i%len(events)]
			if i%len(events) == 0 {
				rec = append(rec[:0], saved...)
			}
			rec, _ = Apply(rec, e, cal)
			if features {
				rec.Features(e.Time, cal, &f)
			}
		}
		b.ReportMetric(float64(rec.head().u16(hTiles)), "tiles")
	}
	b.Run("only", func(b *testing.B) { run(b, false) })
	b.Run("features", func(b *testing.B) { run(b, true) })
}

func location(tb testing.TB) *time.Location {
	loc, err := time.LoadLocation("America/New_York")
	if err != nil {
		tb.Fatal(err)
	}
	return loc
}

func BenchmarkFeatures(b *testing.B) {
	cal := NewCalendar(location(b))
	rec, ev := busy(cal)
	b.Run("features", func(b *testing.B) {
		b.ReportAllocs()
		var f Features
		for b.Loop() {
			rec.Features(ev.Time, cal, &f)
		}
	})
	b.Run("sequence", func(b *testing.B) {
		b.ReportAllocs()
		var s [10][5]float64
		for b.Loop() {
			rec.Sequence(ev.Time, cal, &s)
		}
	})
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Load(rec); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	raw := marshal(b, benchEvent(7, 1000))
	b.Run("standard", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			var ev footfallv1.Event
			if err := proto.Unmarshal(raw, &ev); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("vt", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			ev := footfallv1.EventFromVTPool()
			if err := ev.UnmarshalVT(raw); err != nil {
				b.Fatal(err)
			}
			ev.ReturnToVTPool()
		}
	})
	b.Run("vtunsafe", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			ev := footfallv1.EventFromVTPool()
			if err := ev.UnmarshalVTUnsafe(raw); err != nil {
				b.Fatal(err)
			}
			ev.ReturnToVTPool()
		}
	})
	b.Run("vtunsafe+flatten", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		var flat Event
		for b.Loop() {
			ev := footfallv1.EventFromVTPool()
			if err := ev.UnmarshalVTUnsafe(raw); err != nil {
				b.Fatal(err)
			}
			if err := Flatten(ev, &flat); err != nil {
				b.Fatal(err)
			}
			ev.ReturnToVTPool()
		}
	})
}

// BenchmarkFoldLoop decodes and folds in a plain loop over customers with about twenty events
// in a year each: the limit of what a shard can reach.
func BenchmarkFoldLoop(b *testing.B) {
	for _, customers := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(customers), func(b *testing.B) {
			cal := NewCalendar(location(b))
			const distinct = 4096
			raw := make([][]byte, distinct)
			for i := range raw {
				raw[i] = marshal(b, benchEvent(i, distinct))
			}
			// Cells as an arena would have them.
			const cell = 1024
			arena := make([]byte, customers*cell)
			records := make([]Record, customers)
			for i := range records {
				records[i] = arena[i*cell : i*cell : (i+1)*cell]
			}
			var flat Event
			rng := rand.New(rand.NewPCG(5, 6))
			fold := func(n int) {
				ev := footfallv1.EventFromVTPool()
				if err := ev.UnmarshalVTUnsafe(raw[n%distinct]); err != nil {
					b.Fatal(err)
				}
				if err := Flatten(ev, &flat); err != nil {
					b.Fatal(err)
				}
				ev.ReturnToVTPool()
				flat.ID = rng.Uint64()
				flat.Time = benchStart + int64(float64(yearMillis)*(float64(n)/float64(20*customers)))
				c := rng.IntN(customers)
				records[c], _ = Apply(records[c], &flat, cal)
			}
			n := 0
			for ; n < 20*customers; n++ {
				fold(n)
			}
			var size, outgrown int
			for _, r := range records {
				size += len(r)
				if cap(r) != cell {
					outgrown++
				}
			}
			b.ResetTimer()
			for b.Loop() {
				fold(n)
				n++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(size)/float64(customers), "B/customer")
			b.ReportMetric(float64(outgrown), "outgrown")
		})
	}
}
