package modelstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/inference"
)

// A version during whose loading the process ended twice is not loaded a third time.
func TestAttempts(t *testing.T) {
	dir := t.TempDir()
	v, other := inference.Version{Name: "2", Stamp: "a b/c"}, inference.Version{Name: "3", Stamp: "d"}
	for range 3 { // what ends well does not count
		a, err := NewAttempts(dir)
		require.NoError(t, err)
		first, err := a.Loading(model, v)
		require.NoError(t, err)
		second, err := a.Loading(model, v)
		require.NoError(t, err, "on another device at the same time")
		first()
		second()
	}
	for range mostCrashes {
		a, err := NewAttempts(dir)
		require.NoError(t, err)
		_, err = a.Loading(model, v)
		require.NoError(t, err)
	}
	a, err := NewAttempts(dir)
	require.NoError(t, err)
	_, err = a.Loading(model, v)
	require.ErrorContains(t, err, "the process ended 2 times while it was loaded")
	require.False(t, inference.Passing(err))
	done, err := a.Loading(model, other)
	require.NoError(t, err)
	done()
}
