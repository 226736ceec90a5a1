package actors

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// exactHot counts every customer.
type exactHot struct {
	weight map[string]float64
	all    float64
}

func (x *exactHot) add(id string) {
	x.weight[id]++
	x.all++
}

func (x *exactHot) halve() {
	for id := range x.weight {
		x.weight[id] /= 2
	}
	x.all /= 2
}

func (x *exactHot) forget(id string) {
	x.all -= x.weight[id]
	delete(x.weight, id)
}

// check holds a sketch against exact counts, and its own order.
func (x *exactHot) check(t require.TestingT, h *hot, forgot bool) {
	// What halving rounds up is at most half an event for each, of which half is left the next time.
	const rounding = 2
	found := map[string]bool{}
	for place := range h.n {
		e := &h.entries[h.who[place]]
		require.Equal(t, place, int(e.place))
		id, count, fault := h.ids[h.who[place]].String(), float64(h.counts[place]), float64(e.err)
		require.Equal(t, xxhash.Sum64String(id), e.hash)
		require.GreaterOrEqual(t, count, x.weight[id], id)
		require.LessOrEqual(t, count-fault, x.weight[id], id)
		found[id] = true
		if place > 0 {
			require.LessOrEqual(t, h.counts[place-1], h.counts[place])
		}
	}
	require.Len(t, found, h.n)
	entries := map[uint8]bool{}
	for _, e := range h.table {
		if e > 0 {
			require.False(t, entries[e])
			entries[e] = true
		}
	}
	require.Len(t, entries, h.n)
	least := float64(h.below)
	if h.n == hotCounters {
		least = float64(h.counts[0])
	}
	if !forgot {
		require.LessOrEqual(t, least, x.all/hotCounters+rounding)
	}
	for id, weight := range x.weight {
		if !found[id] {
			require.LessOrEqual(t, weight, least, id)
		}
	}
}

func TestHotAgainstCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, exact := &hot{}, &exactHot{weight: map[string]float64{}}
		customers := rapid.SampledFrom([]int{1, 40, hotCounters, hotCounters + 1, 500}).Draw(t, "customers")
		skew := rapid.Float64Range(1.01, 3).Draw(t, "skew")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		zipf := rand.NewZipf(rnd, skew, 1, uint64(customers-1))
		forgot := false
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"many", "many", "one", "halve", "forget"}).Draw(t, "step") {
			case "many":
				for range rapid.IntRange(1, 2000).Draw(t, "events") {
					id := strconv.FormatUint(zipf.Uint64(), 10)
					h.add(id)
					exact.add(id)
				}
			case "one":
				id := strconv.Itoa(rapid.IntRange(0, customers-1).Draw(t, "customer"))
				h.add(id)
				exact.add(id)
			case "halve":
				h.halve()
				exact.halve()
			case "forget":
				if id := strconv.Itoa(rapid.IntRange(0, customers-1).Draw(t, "customer")); h.n > 0 {
					h.forget(id)
					exact.forget(id)
					forgot = true
				}
			}
			exact.check(t, h, forgot)
		}
	})
}

// Who has more than one event of 64 is found, wherever in the stream it stands.
func TestHotFindsWhoComesMost(t *testing.T) {
	h := &hot{}
	rnd := rand.New(rand.NewPCG(1, 2))
	const events = 200_000
	for i := range events {
		switch {
		case i%10 == 0:
			h.add("a tenth")
		case i%40 == 1:
			h.add("a fortieth")
		default:
			h.add("one of many " + strconv.Itoa(rnd.IntN(50_000)))
		}
	}
	top := h.top(2)
	require.Equal(t, "a tenth", top[0].CustomerID)
	require.Equal(t, "a fortieth", top[1].CustomerID)
	require.InDelta(t, events/10, float64(top[0].Events), events/hotCounters)

	// What nobody does any more is forgotten.
	for range 40 {
		h.halve()
	}
	h.add("a new one")
	require.Equal(t, []string{"a new one"}, names(h.top(hotCounters)))
	h.forget("a new one")
	require.Empty(t, h.top(hotCounters))
}

func names(top []HotCustomer) (out []string) {
	for _, c := range top {
		out = append(out, c.CustomerID)
	}
	return out
}

func TestHotDoesNotAllocate(t *testing.T) {
	ids := make([]string, 4096)
	for i := range ids {
		ids[i] = fmt.Sprintf("household-%d", 10_000_000+i)
	}
	h := &hot{}
	i := 0
	require.Zero(t, testing.AllocsPerRun(20_000, func() {
		h.add(ids[i%len(ids)])
		i++
	}))
	require.True(t, slices.IsSorted(h.counts[:]))
}

func BenchmarkHot(b *testing.B) {
	for _, customers := range []int{32, 15_000} {
		b.Run(strconv.Itoa(customers), func(b *testing.B) {
			ids := make([]string, 1<<16)
			rnd := rand.New(rand.NewPCG(1, 2))
			for i := range ids {
				ids[i] = fmt.Sprintf("household-%d", 10_000_000+rnd.IntN(customers))
			}
			h := &hot{}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				h.add(ids[i%len(ids)])
				i++
			}
		})
	}
}
