package messages

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"footfall/messages/footfallv1"
)

func encoded(t require.TestingT, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}

func TestCheckBatch(t *testing.T) {
	ev := goodPurchase()
	one := encoded(t, &footfallv1.EventBatch{Events: []*footfallv1.Event{ev}})
	newer := protowire.AppendVarint(protowire.AppendTag(nil, 7, protowire.VarintType), 1)
	for name, c := range map[string]struct {
		body   []byte
		events int
		reason string
	}{
		"nothing":           {nil, 0, ""},
		"one":               {one, 1, ""},
		"two":               {slices.Concat(one, one), 2, ""},
		"of a newer client": {slices.Concat(one, newer), 1, ""},
		"empty event":       {[]byte{0x0a, 0}, 1, ""},
		"cut off":           {one[:len(one)-1], 0, "unreadable batch of events"},
		"an event":          {encoded(t, ev), 0, "one event goes with the type footfall.v1.Event"},
	} {
		n, f := CheckBatch(c.body)
		require.Equal(t, c.events, n, name)
		if c.reason == "" {
			require.Nil(t, f, name)
			continue
		}
		require.NotNil(t, f, name)
		require.Contains(t, f.Reason, c.reason, name)
	}
}

// Whatever the ID of an event is, it is not taken for a batch: what it holds would be passed over.
func TestAnEventIsNoBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ev := goodPurchase()
		ev.EventId = rapid.StringN(1, MaxID, MaxID).Draw(t, "event_id")
		if testValidator.Validate(ev) != nil {
			t.Skip("no event_id")
		}
		_, f := CheckBatch(encoded(t, ev))
		require.NotNil(t, f)
	})
}
