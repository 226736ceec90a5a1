package cluster

import (
	"crypto/rand"
	"encoding/base64"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is far above what anything here takes.
const patience = 30 * time.Second

// realNow is the clock of these tests: they gossip over real sockets.
func realNow() time.Time { return time.Now() } //nolint:forbidigo // the clock that a node would pass

func memberConfig(name string, seeds ...string) MembershipConfig {
	return MembershipConfig{
		Self: Member{
			Name: name, Incarnation: name + "-1", State: MemberActive, Roles: RoleShards, Shards: 64,
			GRPC: name + ":8081", HTTP: name + ":8080", Version: "test",
		},
		Cluster: "test", Listen: "127.0.0.1:0", Join: seeds, RejoinEvery: 200 * time.Millisecond,
		KeysEvery: 20 * time.Millisecond, ConflictPatience: time.Second, Now: realNow,
	}
}

func startMember(t *testing.T, cfg MembershipConfig) *Membership {
	t.Helper()
	m, err := NewMembership(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// waitMembers waits until each of ms sees exactly the names.
func waitMembers(t *testing.T, ms []*Membership, names ...string) {
	t.Helper()
	for _, m := range ms {
		waitFor(t, m, func(seen []Member) bool {
			return slices.EqualFunc(seen, names, func(a Member, b string) bool { return a.Name == b })
		})
	}
}

// waitFor waits until a member sees what it should.
func waitFor(t *testing.T, m *Membership, ok func([]Member) bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !ok(m.Members()) {
		select {
		case <-m.Changed():
		case <-deadline.C:
			require.Failf(t, "members are not as they should be", "%s sees %+v", m.self.Name, m.Members())
		}
	}
}

func TestMembershipJoinLeaveKill(t *testing.T) {
	t.Parallel()
	a := startMember(t, memberConfig("a"))
	b := startMember(t, memberConfig("b", a.Address()))
	c := startMember(t, memberConfig("c", a.Address()))
	waitMembers(t, []*Membership{a, b, c}, "a", "b", "c")

	// Metadata and their changes arrive.
	b.SetState(MemberDraining)
	waitFor(t, c, func(seen []Member) bool { return seen[1].State == MemberDraining })
	require.Equal(t, memberConfig("b").Self.GRPC, c.Members()[1].GRPC)
	waitFor(t, b, func(seen []Member) bool { return seen[1].State == MemberDraining })

	// A release reaches the one whom it is for.
	c.TellReleased("a", 63)
	select {
	case shard := <-a.Releases():
		require.Equal(t, 63, shard)
	case <-time.After(patience):
		require.Fail(t, "the release did not arrive")
	}
	c.TellReleased("nobody", 1)

	require.NoError(t, b.Leave(patience))
	waitMembers(t, []*Membership{a, c}, "a", "c")
	require.NoError(t, c.Close()) // killed: not a word
	waitMembers(t, []*Membership{a}, "a")

	// The name is free again, at another address, too.
	c = startMember(t, memberConfig("c", a.Address()))
	waitMembers(t, []*Membership{a, c}, "a", "c")
}

func TestMembershipWaitsForSeeds(t *testing.T) {
	t.Parallel()
	// A port that is free, and stays so until its node starts.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	seed := l.Addr().String()
	require.NoError(t, l.Close())

	a := startMember(t, memberConfig("a", seed, "127.0.0.1:1"))
	require.Len(t, a.Members(), 1)
	cfg := memberConfig("b")
	cfg.Listen = seed
	b := startMember(t, cfg)
	waitMembers(t, []*Membership{a, b}, "a", "b")
}

func TestMembershipJoinsByName(t *testing.T) {
	t.Parallel()
	a := startMember(t, memberConfig("a"))
	_, port, err := net.SplitHostPort(a.Address())
	require.NoError(t, err)
	b := startMember(t, memberConfig("b", "localhost:"+port))
	waitMembers(t, []*Membership{a, b}, "a", "b")
}

// Two halves that do not know of each other, each with a seed in the other.
func TestMembershipHalvesFindEachOther(t *testing.T) {
	t.Parallel()
	keys := [2]string{newKey(t), newKey(t)}
	file := func(name string, k ...string) string {
		path := filepath.Join(t.TempDir(), name)
		writeKeys(t, path, k...)
		return path
	}
	var files []string
	var ms []*Membership
	start := func(name string, key string, seeds ...string) *Membership {
		cfg := memberConfig(name, seeds...)
		cfg.KeysFile = file(name, key)
		files = append(files, cfg.KeysFile)
		m := startMember(t, cfg)
		ms = append(ms, m)
		return m
	}
	// Other keys split them: neither half can read a word of the other.
	a := start("a", keys[0])
	b := start("b", keys[0], a.Address())
	c := start("c", keys[1], a.Address())
	d := start("d", keys[1], c.Address())
	waitMembers(t, []*Membership{a, b}, "a", "b")
	waitMembers(t, []*Membership{c, d}, "c", "d")
	for _, f := range files {
		writeKeys(t, f, keys[0], keys[1])
	}
	waitMembers(t, ms, "a", "b", "c", "d")
}

func TestMembershipKeys(t *testing.T) {
	t.Parallel()
	old, next := newKey(t), newKey(t)
	paths := map[string]string{}
	start := func(name, key string, seeds ...string) *Membership {
		cfg := memberConfig(name, seeds...)
		cfg.KeysFile = filepath.Join(t.TempDir(), name)
		paths[name] = cfg.KeysFile
		writeKeys(t, cfg.KeysFile, key)
		return startMember(t, cfg)
	}
	a := start("a", old)
	b := start("b", old, a.Address())
	c := start("c", old, a.Address())
	ms := []*Membership{a, b, c}
	waitMembers(t, ms, "a", "b", "c")

	// Without the key nobody gets in, nor without any.
	stranger := start("stranger", next, a.Address())
	open := startMember(t, memberConfig("open", a.Address()))

	// Rotation: add, use, remove; each on one member after the other. Nobody is lost meanwhile: each
	// step ends with every ring as it should be, and all still see each other.
	for _, step := range [][]string{{old, next}, {next, old}, {next}} {
		for i, m := range ms {
			writeKeys(t, paths[m.self.Name], step...)
			require.Eventually(t, func() bool { return ringIs(m, step...) }, patience, 5*time.Millisecond)
			for _, other := range ms[i:] {
				require.Subset(t, memberNames(other), []string{"a", "b", "c"})
			}
		}
		if len(step) == 2 && step[0] == old {
			require.NotContains(t, memberNames(stranger), "a")
		}
	}
	b.SetState(MemberDraining)
	waitFor(t, a, func(seen []Member) bool {
		return slices.ContainsFunc(seen, func(m Member) bool { return m.Name == "b" && m.State == MemberDraining })
	})
	waitFor(t, c, func(seen []Member) bool {
		return slices.ContainsFunc(seen, func(m Member) bool { return m.Name == "b" && m.State == MemberDraining })
	})
	require.Equal(t, []string{"open"}, memberNames(open))

	// A file that cannot be read changes nothing.
	require.NoError(t, os.WriteFile(paths["a"], []byte("!"), 0o600))
	_, err := readKeys(paths["a"])
	require.ErrorContains(t, err, "line 1 is not base64")
	require.True(t, ringIs(a, next))

	// The stranger's key is the cluster's now.
	waitMembers(t, []*Membership{stranger}, "a", "b", "c", "stranger")
}

func memberNames(m *Membership) (out []string) {
	for _, p := range m.Members() {
		out = append(out, p.Name)
	}
	return out
}

func ringIs(m *Membership, keys ...string) bool {
	var have []string
	for _, k := range m.ring.GetKeys() {
		have = append(have, base64.StdEncoding.EncodeToString(k))
	}
	return base64.StdEncoding.EncodeToString(m.ring.GetPrimaryKey()) == keys[0] &&
		slices.Equal(slices.Sorted(slices.Values(have)), slices.Sorted(slices.Values(keys)))
}

func newKey(t *testing.T) string {
	b := make([]byte, 32)
	_, err := rand.Read(b)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(b)
}

// writeKeys replaces the file in one step, as an operator should.
func writeKeys(t *testing.T, path string, keys ...string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte("# gossip\n"+strings.Join(keys, "\n")+"\n"), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

func TestMembershipNameTaken(t *testing.T) {
	t.Parallel()
	a := startMember(t, memberConfig("a"))
	b := startMember(t, memberConfig("b", a.Address()))
	waitMembers(t, []*Membership{a, b}, "a", "b")
	_, err := NewMembership(t.Context(), memberConfig("b", a.Address()))
	var taken *NameTakenError
	require.ErrorAs(t, err, &taken)
	require.Equal(t, "b", taken.Member)
	waitMembers(t, []*Membership{a, b}, "a", "b")
}

func TestMembershipOfAnotherCluster(t *testing.T) {
	t.Parallel()
	a := startMember(t, memberConfig("a"))
	cfg := memberConfig("b", a.Address())
	cfg.Cluster = "another"
	b := startMember(t, cfg)
	cfg = memberConfig("c", a.Address())
	cfg.Self.Shards = 128
	c := startMember(t, cfg)
	d := startMember(t, memberConfig("d", a.Address()))
	waitMembers(t, []*Membership{a, d}, "a", "d")
	require.Equal(t, []string{"b"}, memberNames(b))
	require.Equal(t, []string{"c"}, memberNames(c))
}

func TestMembershipConfig(t *testing.T) {
	t.Parallel()
	_, err := NewMembership(t.Context(), MembershipConfig{Listen: "here", Join: []string{"a:7946", "b"}})
	require.EqualError(t, err, "cluster: Name: is empty\nListen: \"here\" is not host:port\nJoin[1]: \"b\" is not host:port\nNow: is nil")

	cfg := memberConfig("a")
	cfg.KeysFile = filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(cfg.KeysFile, []byte("\n# nothing\nYWJj\nx\n"), 0o600))
	_, err = NewMembership(t.Context(), cfg)
	require.ErrorContains(t, err, "line 3: a key has 16, 24 or 32 bytes, this one 3\nline 4 is not base64")
}
