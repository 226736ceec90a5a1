package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"time"

	"footfall/actors"
	"footfall/behavior"
	"footfall/datasets"
)

// memory fills a host with the peer stream's customers, twenty events each, and measures
// what they take once the garbage is gone.
func (s *Suite) memory(ctx context.Context) (err error) {
	p := datasets.PeerStream{N: uint64(s.size(20_000_000)), C: uint64(s.size(1_000_000))}
	before := heap()
	h, done, err := s.memoryHost(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	feedPeer(h, p)
	settle(h)
	var customers, records int
	for shard := range shards {
		err := h.Visit(ctx, shard, func(_ []byte, rec behavior.Record) {
			customers++
			records += len(rec)
		})
		if err != nil {
			return err
		}
	}
	all := float64(heap()-before) / float64(customers)
	record := float64(records) / float64(customers)
	name := fmt.Sprintf("%s customers with 20 events each", count(int(p.C)))
	s.add(Row{Group: "memory", Name: name + ", heap after GC", Value: all, Unit: "bytes each", Limit: 840, Against: "Flink's heap state"}.atMost(1024, "1 KiB"))
	s.add(Row{Group: "memory", Name: "  of that the record", Value: record, Unit: "bytes each"})
	s.add(Row{Group: "memory", Name: "  of that everything else", Value: all - record, Unit: "bytes each"}.atMost(150, "150 B"))
	gc, err := median(3, func() (float64, error) {
		b := gcCPU()
		runtime.GC()
		return gcCPU() - b, nil
	})
	if err != nil {
		return err
	}
	s.add(Row{Group: "memory", Name: "full garbage collection", Value: gc, Unit: "s of CPU"}.atMost(.3, "0.3 s"))
	return nil
}

// settle waits until idle shards have tidied their memory up.
func settle(h *actors.Host) {
	for before := int64(-1); ; {
		<-time.After(time.Second)
		var bytes int64
		for _, st := range h.Status() {
			bytes += st.ResidentBytes
		}
		if bytes == before {
			return
		}
		before = bytes
	}
}

// heap is the live heap after a full collection, in bytes.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// gcCPU is the CPU time that garbage collection took so far, idle workers not counted.
func gcCPU() float64 {
	sample := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/idle:cpu-seconds"}}
	metrics.Read(sample)
	return sample[0].Value.Float64() - sample[1].Value.Float64()
}
