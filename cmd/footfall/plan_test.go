package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/cluster"
	"footfall/messages/footfallv1"
)

// planned is a cluster of three members with sixteen shards, each where it should be.
func planned() *fake {
	f := &fake{cluster: &footfallv1.Cluster{Shards: 16, Timezone: "UTC"}, shards: &footfallv1.ListShardsResponse{}}
	names := []string{"n1", "n2", "n3"}
	for _, name := range names {
		f.cluster.Members = append(f.cluster.Members, &footfallv1.Member{Name: name, State: "active", Roles: []string{"shards"}})
	}
	f.cluster.Members = append(f.cluster.Members, &footfallv1.Member{Name: "gpu1", State: "active", Roles: []string{"inference"}})
	for s, owner := range cluster.Place(16, names, nil) {
		f.shards.Shards = append(f.shards.Shards, &footfallv1.Shard{
			Shard: uint32(s), Owner: owner, State: "active", Epoch: uint64(3 + s), Customers: 1000, ResidentBytes: 1 << 20, Rate: 10, TookOverSeconds: .05,
		})
	}
	return f
}

// A plan is carried out as it says, and compared with what came of it.
func TestPlan(t *testing.T) {
	f := planned()
	addr := serve(t, f)
	file := filepath.Join(t.TempDir(), "plan.json")
	r := footfall(t, "", "plan", "--members", "4", "--save", file, "--node", addr)
	require.Equal(t, exitOK, r.code, r.err)
	golden(t, "plan", r.out)

	r = footfall(t, "", "plan", "--compare", file, "--node", addr)
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.out, "the cluster is not as planned: ")

	// The new member takes what is its own.
	for s, owner := range cluster.Place(16, []string{"n1", "n2", "n3", "n4"}, nil) {
		if shard := f.shards.Shards[s]; shard.Owner != owner {
			shard.Owner, shard.TookOverSeconds = owner, .081
			shard.Epoch++
		}
	}
	r = footfall(t, "", "plan", "--compare", file, "--node", addr)
	require.Equal(t, exitOK, r.code, r.err)
	golden(t, "plan-outcome", r.out)
	r = footfall(t, "", "plan", "--members", "4", "--with", "n4", "--watch", "--node", addr)
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.out, "the cluster is as planned: 0 hand-overs for 0 planned moves")

	r = footfall(t, "", "plan", "--members", "5", "--watch", "--patience", "1ms", "--node", addr)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "after 1ms the cluster is not as planned")
}

// More members than could have shards are refused before anything is reckoned with them.
func TestPlanOfTooManyMembers(t *testing.T) {
	addr := serve(t, planned())
	r := footfall(t, "", "plan", "--members", "2000000000", "--node", addr)
	require.Equal(t, result{exitFailed, "", "footfall: 2000000000 members for 16 shards: some would have none ('footfall reshard' doubles the shards)\n"}, r)
	r = footfall(t, "", "plan", "--members", "-1", "--node", addr)
	require.Equal(t, result{exitUsage, "", "footfall: --members must be 1 or more: see 'footfall plan --help'\n"}, r)
}

// Names go on with their numbers, and the highest leave first.
func TestScaled(t *testing.T) {
	for _, tt := range []struct {
		here, with, without string
		members             int
		want                string
	}{
		{"n1 n3 n2", "", "", 5, "[n1 n2 n3 n4 n5]"},
		{"n8 n9", "", "", 4, "[n8 n9 n10 n11]"},
		{"n9 n10 n11", "", "", 2, "[n9 n10]"},
		{"n08 n09", "", "", 3, "[n08 n09 n10]"},
		{"a b", "c", "", 0, "[a b c]"},
		{"a b", "c", "a", 2, "[b c]"},
		{"a b c", "", "b", 0, "[a c]"},
		{"a b", "", "", 3, "the names of the members end in no number: name the new ones by --with"},
		{"n1 n2", "n2", "", 0, "--with n2: it is there already"},
		{"n1 n2", "", "n3", 1, "--without n3: no such member is there: 'footfall cluster' lists them"},
		{"n1 n2", "", "n1,n2", 0, "nobody would be left"},
		{"n1 n2", "n3", "", 5, "--members 5: with those that are named there are 3"},
		{"n1 n2 n3", "", "n1", 1, "--members 1: with those that are named there are 2"},
	} {
		list := func(s string) []string {
			return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
		}
		names, err := scaled(list(tt.here), tt.members, list(tt.with), list(tt.without))
		have := fmt.Sprint(names)
		if err != nil {
			have = err.Error()
		}
		require.Equal(t, tt.want, have)
	}
}
