package actors

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"footfall/behavior"
)

// TestResidentsAgainstMap drives residents and a plain map side by side. A weak hash makes
// collisions common.
func TestResidentsAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newResidents()
		if rapid.Bool().Draw(t, "weak hash") {
			r.hash = func(id string) uint64 { return uint64(id[len(id)-1]) % 3 << 62 }
		}
		type customer struct{ rec, scores []byte }
		want := map[string]customer{}
		slots := map[string]uint32{}
		id := rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("c%d", rapid.IntRange(0, 40).Draw(t, "customer")) })
		bytes := func(name string, unit, most int) []byte {
			b := make([]byte, unit*rapid.IntRange(0, most).Draw(t, name))
			for i := range b {
				b[i] = byte(i*7 + len(b))
			}
			return b
		}
		check := func(id string) {
			slot, ok := r.find(id)
			c, known := want[id]
			require.Equal(t, known, ok)
			if ok {
				require.Equal(t, slots[id], slot, "a slot is stable")
				require.Equal(t, id, string(r.at(slot).id()))
				require.Equal(t, string(c.rec), string(r.at(slot).record()))
				require.Equal(t, string(c.scores), string(r.at(slot).scores()))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				id := id.Draw(t, "id")
				rec := bytes("record", 1, 30000)
				slot, ok := r.find(id)
				c := want[id]
				if ok {
					r.store(slot, behavior.Record(rec))
				} else {
					c.scores = bytes("scores", scoreBytes, 4)
					slots[id] = r.add(id, c.scores, behavior.Record(rec))
				}
				c.rec = rec
				want[id] = c
				check(id)
			},
			"in place": func(t *rapid.T) {
				id := id.Draw(t, "id")
				slot, ok := r.find(id)
				if !ok {
					t.Skip("not resident")
				}
				rec := r.at(slot).record()
				rec = rec[:rapid.IntRange(0, cap(rec)).Draw(t, "length")]
				for i := range rec {
					rec[i] = byte(i)
				}
				r.store(slot, rec)
				c := want[id]
				c.rec = append([]byte(nil), rec...)
				want[id] = c
				check(id)
			},
			"score": func(t *rapid.T) {
				id := id.Draw(t, "id")
				slot, ok := r.find(id)
				if !ok {
					t.Skip("not resident")
				}
				c := want[id]
				c.scores = bytes("scores", scoreBytes, 4)
				want[id] = c
				r.storeScores(slot, c.scores)
				check(id)
			},
			"evict": func(t *rapid.T) {
				id := id.Draw(t, "id")
				if slot, ok := r.find(id); ok {
					r.evict(slot)
					delete(want, id)
					delete(slots, id)
				}
				check(id)
			},
			"tidy":    func(*rapid.T) { r.compact(wasteIdle, spareIdle, 3) },
			"compact": func(*rapid.T) { r.compact(wasteBusy, spareBusy, 3) },
			"": func(t *rapid.T) {
				require.Equal(t, len(want), r.len())
				for id := range want {
					check(id)
				}
				var used, live int64
				for _, s := range r.segments {
					used += int64(s.used)
					live += int64(s.live)
				}
				var need int64
				for slot := range r.slots {
					if r.inUse(uint32(slot)) {
						need += int64(r.at(uint32(slot)).need())
					}
				}
				require.Equal(t, need, r.live)
				require.Equal(t, used, r.used)
				require.Equal(t, live, r.live)
			},
		})
	})
}
