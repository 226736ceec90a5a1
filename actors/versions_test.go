package actors

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"footfall/messages/footfallv1"
)

// What a checkpoint keeps of the versions comes back as it was.
func TestVersionsOfACheckpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c]{1,2}`), 0, 4, rapid.ID[string]).Draw(t, "names")
		v := versions{}
		for _, name := range names {
			v[name] = rapid.SliceOfNDistinct(rapid.StringMatching(`[1-9]`), 1, 3, rapid.ID[string]).Draw(t, "versions")
		}
		again := versionsOf(v.refs())
		if len(v) == 0 {
			require.Nil(t, again)
			return
		}
		require.Equal(t, v, again)
	})
}

func TestReplacedVersions(t *testing.T) {
	table := modelTable{refs: []*footfallv1.ModelRef{{Model: "a", Version: "1"}, {Model: "a", Version: "2"}, {Model: "b", Version: "1"}}}
	v := versions{"a": {"2", "3"}}
	require.True(t, v.replaced(table, 0))
	require.False(t, v.replaced(table, 1), "it serves")
	require.False(t, v.replaced(table, 2), "nothing is known of its model")
	require.False(t, v.replaced(table, 9), "it is no version")
	require.False(t, versions(nil).replaced(table, 0))
}
