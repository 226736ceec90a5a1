package storetest

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// oracleShard is a shard of a store that is a few maps.
type oracleShard struct {
	epoch     uint64
	owner     string
	meta      *footfallv1.CheckpointMeta
	customers map[string]string
	outbox    map[uint64]string
	baseMeta  *footfallv1.CheckpointMeta
	base      map[string]string
}

// testOracle does what owners and their rivals may do, at random, beside maps.
func testOracle(t *testing.T, h Harness) {
	s := h.Store
	// One store for all runs: each finds what the ones before have left.
	shards := make([]oracleShard, 2)
	for i := range shards {
		shards[i] = oracleShard{customers: map[string]string{}, outbox: map[uint64]string{}}
	}
	number := uint64(0)
	ctx := t.Context()
	rapid.Check(t, func(rt *rapid.T) {
		// draw picks a shard and an epoch, seldom the right one's rival.
		draw := func(rt *rapid.T) (id int, o *oracleShard, epoch uint64) {
			id = rapid.IntRange(0, len(shards)-1).Draw(rt, "shard")
			o = &shards[id]
			epoch = o.epoch
			if rapid.IntRange(0, 7).Draw(rt, "rival") == 0 {
				epoch = rapid.Uint64Range(0, o.epoch+1).Draw(rt, "epoch")
			}
			return id, o, epoch
		}
		// allowed checks the fence and says whether the call took effect.
		allowed := func(rt *rapid.T, o *oracleShard, epoch uint64, err error) bool {
			if epoch == o.epoch && epoch != 0 {
				require.NoError(rt, err)
				return true
			}
			var stale *messages.StaleEpochError
			require.ErrorAs(rt, err, &stale)
			require.Equal(rt, o.epoch, stale.Stored)
			return false
		}
		id := rapid.Custom(func(rt *rapid.T) string { return fmt.Sprintf("c%02d", rapid.IntRange(0, 40).Draw(rt, "customer")) })
		actions := map[string]func(*rapid.T){
			"acquire": func(rt *rapid.T) {
				i, o, _ := draw(rt)
				o.owner = rapid.StringMatching("node-[a-c]").Draw(rt, "owner")
				e, err := s.Acquire(ctx, i, o.owner)
				require.NoError(rt, err)
				require.Greater(rt, e, o.epoch)
				o.epoch = e
			},
			"release": func(rt *rapid.T) {
				i, o, epoch := draw(rt)
				if allowed(rt, o, epoch, s.Release(ctx, i, epoch)) {
					o.owner = ""
				}
			},
			"owner": func(rt *rapid.T) {
				i, o, _ := draw(rt)
				owner, epoch, err := s.Owner(ctx, i)
				require.NoError(rt, err)
				require.Equal(rt, o.owner, owner)
				require.Equal(rt, o.epoch, epoch)
			},
			"checkpoint": func(rt *rapid.T) {
				i, o, epoch := draw(rt)
				number++
				c := &messages.Checkpoint{Shard: i, Epoch: epoch, Meta: Meta(number)}
				for _, id := range rapid.SliceOfNDistinct(id, 0, 10, rapid.ID).Draw(rt, "customers") {
					value := fmt.Sprint(number, id)
					if rapid.IntRange(0, 5).Draw(rt, "remove") == 0 {
						value = ""
					}
					c.Customers = append(c.Customers, messages.CustomerRecord{ID: id, Value: []byte(value)})
				}
				for range rapid.IntRange(0, 3).Draw(rt, "rows") {
					number++
					c.Outbox = append(c.Outbox, messages.OutboxRow{Seq: number, Body: fmt.Append(nil, number)})
				}
				c.Release = rapid.IntRange(0, 3).Draw(rt, "release") == 0
				if !allowed(rt, o, epoch, s.Checkpoint(ctx, c)) {
					return
				}
				if c.Release {
					o.owner = ""
				}
				o.meta = c.Meta
				for _, r := range c.Customers {
					if len(r.Value) == 0 {
						delete(o.customers, r.ID)
					} else {
						o.customers[r.ID] = string(r.Value)
					}
				}
				for _, r := range c.Outbox {
					o.outbox[r.Seq] = string(r.Body)
				}
			},
			"load": func(rt *rapid.T) {
				i, o, epoch := draw(rt)
				m, err := s.Load(ctx, i, epoch)
				if allowed(rt, o, epoch, err) {
					require.Equal(rt, o.meta == nil, m == nil)
					require.True(rt, proto.Equal(o.meta, m))
				}
			},
			"get": func(rt *rapid.T) {
				i, o, epoch := draw(rt)
				ids := rapid.SliceOfN(id, 0, 10).Draw(rt, "ids")
				got, err := s.Get(ctx, i, epoch, ids)
				if !allowed(rt, o, epoch, err) {
					return
				}
				require.Len(rt, got, len(ids))
				for n, id := range ids {
					want, ok := o.customers[id]
					require.Equal(rt, ok, got[n] != nil, id)
					require.Equal(rt, want, string(got[n]))
				}
			},
			"scan": func(rt *rapid.T) {
				i, o, epoch := draw(rt)
				after := id.Draw(rt, "after")
				got, err := s.Scan(ctx, i, epoch, after, 1<<20)
				if allowed(rt, o, epoch, err) {
					requireRecords(rt, o.customers, after, got)
				}
			},
			"outbox": func(rt *rapid.T) {
				i, o, epoch := draw(rt)
				after := rapid.Uint64Range(0, number).Draw(rt, "after")
				got, err := s.Outbox(ctx, i, epoch, after, 1000)
				if !allowed(rt, o, epoch, err) {
					return
				}
				seqs := slices.DeleteFunc(slices.Sorted(maps.Keys(o.outbox)), func(seq uint64) bool { return seq <= after })
				seqs = seqs[:min(len(seqs), 1000)]
				require.Len(rt, got, len(seqs))
				for n, seq := range seqs {
					require.Equal(rt, seq, got[n].Seq)
					require.Equal(rt, o.outbox[seq], string(got[n].Body))
				}
			},
			"delete outbox": func(rt *rapid.T) {
				i, o, epoch := draw(rt)
				through := rapid.Uint64Range(0, number).Draw(rt, "through")
				if allowed(rt, o, epoch, s.DeleteOutbox(ctx, i, epoch, through)) {
					maps.DeleteFunc(o.outbox, func(seq uint64, _ string) bool { return seq <= through })
				}
			},
			"snapshot base": func(rt *rapid.T) {
				i, o, epoch := draw(rt)
				err := s.SnapshotBase(ctx, i, epoch)
				if epoch == o.epoch && epoch != 0 && o.meta == nil {
					require.Error(rt, err)
					return
				}
				if allowed(rt, o, epoch, err) {
					o.baseMeta, o.base = o.meta, maps.Clone(o.customers)
				}
			},
			"base": func(rt *rapid.T) {
				i, o, _ := draw(rt)
				g, m, err := s.Base(ctx, i)
				require.NoError(rt, err)
				require.Equal(rt, o.baseMeta == nil, m == nil)
				require.True(rt, proto.Equal(o.baseMeta, m))
				if m != nil {
					got, err := s.ScanBase(ctx, i, g, "", 1<<20)
					require.NoError(rt, err)
					requireRecords(rt, o.base, "", got)
				}
			},
		}
		if h.Reopen != nil {
			actions["reopen"] = func(*rapid.T) { s = h.Reopen(t) }
		}
		rt.Repeat(actions)
	})
}

func requireRecords(rt *rapid.T, want map[string]string, after string, got []messages.CustomerRecord) {
	ids := slices.DeleteFunc(slices.Sorted(maps.Keys(want)), func(id string) bool { return id <= after })
	require.Len(rt, got, len(ids))
	for n, id := range ids {
		require.Equal(rt, id, got[n].ID)
		require.Equal(rt, want[id], string(got[n].Value))
	}
}
