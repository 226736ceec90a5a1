package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"footfall/behavior"
	"footfall/messages/footfallv1"
)

// decode compares the standard protobuf decoder with the generated ones.
func (s *Suite) decode(context.Context) error {
	raws, err := encoded(newMaker(100_000, 20_000, 365), 20_000)
	if err != nil {
		return err
	}
	size := 0
	for _, r := range raws {
		size += len(r)
	}
	rate := func(do func(raw []byte) error) (float64, error) {
		return median(3, func() (float64, error) {
			u := measure()
			n := 0
			for range s.size(20) {
				for _, raw := range raws {
					if err := do(raw); err != nil {
						return 0, err
					}
					n++
				}
			}
			_, cpu := u.since()
			return perSecond(n, cpu), nil
		})
	}
	standard, err := rate(func(raw []byte) error { return proto.Unmarshal(raw, &footfallv1.Event{}) })
	if err != nil {
		return err
	}
	fast, err := rate(func(raw []byte) error { return (&footfallv1.Event{}).UnmarshalVT(raw) })
	if err != nil {
		return err
	}
	var ev footfallv1.Event
	pooled, err := rate(func(raw []byte) error {
		ev.ResetVT()
		return ev.UnmarshalVTUnsafe(raw)
	})
	if err != nil {
		return err
	}
	s.add(Row{Group: "decode", Name: "size of the benchmark's event", Value: float64(size) / float64(len(raws)), Unit: "bytes"})
	s.add(Row{Group: "decode", Name: "standard decoder, one core", Value: standard, Unit: "events/s"})
	s.add(Row{Group: "decode", Name: "generated decoder, one core", Value: fast, Unit: "events/s", Limit: standard, Against: "standard decoder"})
	s.add(Row{Group: "decode", Name: "generated decoder, memory used again", Value: pooled, Unit: "events/s", Limit: standard, Against: "standard decoder"})
	return nil
}

// foldLimit decodes and folds in a plain loop over a plain map and returns events per second
// of CPU time.
func foldLimit(raws [][]byte, customers int) (float64, error) {
	cal := behavior.NewCalendar(time.UTC)
	state := make(map[string]behavior.Record, customers)
	var (
		ev   footfallv1.Event
		flat behavior.Event
	)
	u := measure()
	for _, raw := range raws {
		ev.ResetVT()
		if err := ev.UnmarshalVTUnsafe(raw); err != nil {
			return 0, err
		}
		if err := behavior.Flatten(&ev, &flat); err != nil {
			return 0, err
		}
		old, known := state[ev.CustomerId]
		rec, _ := behavior.Apply(old, &flat, cal)
		if known {
			state[ev.CustomerId] = rec
		} else {
			state[strings.Clone(ev.CustomerId)] = rec
		}
	}
	_, cpu := u.since()
	return perSecond(len(raws), cpu), nil
}

// foldLoop measures the limit that ingest is held against.
func (s *Suite) foldLoop(context.Context) error {
	for _, customers := range []int{s.size(100_000), s.size(1_000_000)} {
		rate, err := s.limit(customers)
		if err != nil {
			return err
		}
		s.add(Row{Group: "fold", Name: fmt.Sprintf("plain loop, %s customers, one core", count(customers)), Value: rate, Unit: "events/s"})
	}
	return nil
}

// limit is the median of three plain loops.
func (s *Suite) limit(customers int) (float64, error) {
	n := s.size(2_000_000)
	raws, err := encoded(newMaker(customers, n, 365), n)
	if err != nil {
		return 0, err
	}
	return median(3, func() (float64, error) { return foldLimit(raws, customers) })
}

func count(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1000 && n%1000 == 0:
		return fmt.Sprintf("%dk", n/1000)
	}
	return fmt.Sprint(n)
}
