package main

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/messages/footfallv1"
)

// leaving is a cluster of n1 and n2 with four shards, of which n2 has two.
func leaving() *fake {
	f := &fake{
		cluster: &footfallv1.Cluster{Members: []*footfallv1.Member{{Name: "n1", State: "active"}, {Name: "n2", State: "active"}}},
		shards:  &footfallv1.ListShardsResponse{},
	}
	for i, owner := range []string{"n1", "n2", "n1", "n2"} {
		f.shards.Shards = append(f.shards.Shards, &footfallv1.Shard{Shard: uint32(i), Owner: owner, State: "active"})
	}
	return f
}

func TestDrainIsWatched(t *testing.T) {
	f := leaving()
	shards := f.shards.GetShards()
	looked := 0
	f.looks = func() {
		looked++
		if f.cluster.GetMembers()[len(f.cluster.GetMembers())-1].GetState() == "draining" {
			switch looked {
			case 3:
				shards[1].Owner, shards[1].State = "n1", "recovering"
				shards[3].Owner = "n1"
			case 4:
				shards[1].State = "active"
			case 5:
				f.cluster.Members = f.cluster.GetMembers()[:1]
			}
		}
	}
	r := footfall(t, "", "cluster", "drain", "n2", "--watch", "--node", serve(t, f))
	require.Equal(t, exitOK, r.code, r.err)
	require.Equal(t, "n2 has left: its 2 shards are active at others, after 0.0 s\n", r.out)
	require.GreaterOrEqual(t, looked, 5)

	// It is not over while its shards are on their way, or it is there.
	for _, stays := range []bool{true, false} {
		f = leaving()
		f.looks = func() {
			for _, s := range f.shards.GetShards() {
				s.Owner = "n1"
			}
			if !stays {
				f.cluster.Members = f.cluster.GetMembers()[:1]
				f.shards.GetShards()[3].State = "recovering"
			}
		}
		addr := serve(t, f)
		begun := f.looks
		f.looks = func() {
			if slices.ContainsFunc(f.cluster.GetMembers(), func(m *footfallv1.Member) bool { return m.GetState() == "draining" }) {
				begun()
			}
		}
		r = footfall(t, "", "cluster", "drain", "n2", "--watch", "--patience", "300ms", "--node", addr)
		require.Equal(t, exitFailed, r.code)
		handed := map[bool]string{true: "2", false: "1"}[stays]
		require.Equal(t, "footfall: after 300ms n2 has not left: "+handed+" of its 2 shards are active at others: 'footfall shards' shows the rest\n", r.err)
	}
}

func TestDrainIsWatchedFromElsewhere(t *testing.T) {
	f := leaving()
	addr := serve(t, f)
	f.cluster.GetMembers()[1].GrpcAddress = addr
	r := footfall(t, "", "cluster", "drain", "n2", "--watch", "--node", addr)
	require.Equal(t, exitUsage, r.code)
	require.Equal(t, "footfall: --watch: --node names n2 itself, which ends: name another member: see 'footfall cluster drain --help'\n", r.err)
	require.Equal(t, "active", f.cluster.GetMembers()[1].GetState(), "nothing was begun")

	r = footfall(t, "", "cluster", "drain", "n3", "--watch", "--node", addr)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, `no member "n3" is there`)
}
