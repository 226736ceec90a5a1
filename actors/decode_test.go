package actors

import (
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// One event that its publisher called a batch is refused as a whole: what is read of it would be
// its event_id alone.
func TestAnEventIsNoBatchOfEvents(t *testing.T) {
	body, err := purchase("900", "b-1", day1, "1.00").MarshalVT()
	require.NoError(t, err)
	var next [ahead][]byte
	none := func(uint32, int, []byte) { t.Error("an event was read") }
	err = eachEvent(&messages.Record{Type: messages.BatchRecord, Body: body}, &next, func([][]byte) {}, none)
	require.ErrorContains(t, err, "one event goes with the type footfall.v1.Event")
}
