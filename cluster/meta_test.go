package cluster

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func someMember(t *rapid.T) Member {
	text := func(label string, most int) string {
		return rapid.StringN(0, -1, most).Draw(t, label)
	}
	return Member{
		Incarnation: text("incarnation", maxIncarnation), State: MemberState(rapid.IntRange(0, 2).Draw(t, "state")),
		Roles: Roles(rapid.Byte().Draw(t, "roles")), GRPC: text("grpc", maxAddress), HTTP: text("http", maxAddress),
		Version: text("version", maxVersion), Shards: rapid.IntRange(0, 1<<20).Draw(t, "shards"),
		Devices: rapid.SliceOfN(rapid.StringN(0, -1, maxDevice), 0, 40).Draw(t, "devices"),
	}
}

func TestMeta(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := someMember(t)
		require.Empty(t, (&Member{Name: "a", Incarnation: m.Incarnation, GRPC: m.GRPC, HTTP: m.HTTP, Version: m.Version, Devices: m.Devices}).checkMeta())
		b := encodeMeta(&m, metaLimit)
		require.LessOrEqual(t, len(b), metaLimit)
		if len(b) < metaLimit { // a newer node has appended something
			b = append(b, rapid.SliceOfN(rapid.Byte(), 0, metaLimit-len(b)).Draw(t, "newer")...)
		}
		got, err := decodeMeta(b)
		require.NoError(t, err)
		require.Equal(t, len(m.Devices), len(got.Devices)+got.DevicesLeftOut)
		for i, d := range got.Devices {
			require.Equal(t, m.Devices[i], d)
		}
		got.Devices, got.DevicesLeftOut, m.Devices = nil, 0, nil
		require.Equal(t, m, got)
	})
}

func TestMetaOfANewerNode(t *testing.T) {
	m := Member{State: MemberActive, Shards: 64}
	b := encodeMeta(&m, metaLimit)
	b[1] = 9
	got, err := decodeMeta(b)
	require.NoError(t, err)
	require.Equal(t, MemberJoining, got.State, "a state that is not known gets no shards")
	b[0] = 2
	_, err = decodeMeta(b)
	require.ErrorContains(t, err, "version 2 is not known")
}

func TestMetaLeavesDevicesOut(t *testing.T) {
	m := Member{GRPC: "10.0.0.1:8081", HTTP: "10.0.0.1:8080", Version: "v1.2.3"}
	for i := range 200 {
		m.Devices = append(m.Devices, fmt.Sprintf("GPU:%d", i))
	}
	got, err := decodeMeta(encodeMeta(&m, metaLimit))
	require.NoError(t, err)
	require.Equal(t, 200, len(got.Devices)+got.DevicesLeftOut)
	require.Greater(t, len(got.Devices), 50)
}

func TestMetaThatCannotBeGossiped(t *testing.T) {
	faults := (&Member{GRPC: strings.Repeat("x", 151), Devices: []string{"ok", strings.Repeat("d", 65)}}).checkMeta()
	require.Len(t, faults, 3)
	require.EqualError(t, faults[1], "GRPC has 151 bytes, at most 150 can be gossiped")
}

func FuzzMeta(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{metaVersion, 1, 3, 64})
	f.Add(encodeMeta(&Member{Incarnation: "i", State: MemberActive, Roles: RoleShards, GRPC: "g", HTTP: "h", Version: "v", Shards: 64, Devices: []string{"CPU:0"}}, metaLimit))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := decodeMeta(encodeMeta(&m, metaLimit))
		require.NoError(t, err)
		again.Devices, again.DevicesLeftOut, m.Devices, m.DevicesLeftOut = nil, 0, nil, 0
		require.Equal(t, m, again)
	})
}
