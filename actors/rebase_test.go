package actors

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

func TestRebased(t *testing.T) {
	cal := behavior.NewCalendar(newYork)
	rec, _ := behavior.Apply(nil, &behavior.Event{}, cal)
	table := &modelTable{}
	old := packedScore{model: table.number("m", "1"), value: .5, epoch: 7, position: messages.Position{Offset: 41_000, Index: 3}, time: 9}
	value := appendValue(nil, table.merge(nil, old), rec)
	before := append([]byte(nil), value...)

	got, err := Rebased(messages.CustomerRecord{ID: "a", Value: value})
	require.NoError(t, err)
	require.Equal(t, before, value, "the value is the caller's")
	scores, folded, err := splitValue("a", got.Value)
	require.NoError(t, err)
	require.Equal(t, []byte(rec), []byte(folded))
	require.Equal(t, []Score{{Model: "m", Version: "1", Value: .5, Time: 9}}, table.decode(scores))

	// The first that is scored in the new log replaces it, however far the old one had come.
	next := packedScore{model: table.number("m", "2"), value: .75, epoch: 1, position: messages.Position{Offset: 1}, time: 9}
	require.Equal(t, float32(.75), getScore(table.merge(scores, next)).value)

	_, err = Rebased(messages.CustomerRecord{ID: "a", Value: []byte{9}})
	require.Error(t, err)
}

func TestRebasedMeta(t *testing.T) {
	m := &footfallv1.CheckpointMeta{NextOffset: 41_000, Sum: 5, EpochRead: 7, LastTick: "2017-01-31", Customers: 3}
	got := RebasedMeta(m, messages.Mark{Next: 1, Sum: 8})
	require.EqualValues(t, 41_000, m.GetNextOffset())
	require.True(t, proto.Equal(&footfallv1.CheckpointMeta{NextOffset: 1, Sum: 8, LastTick: "2017-01-31", Customers: 3}, got), got)
}
