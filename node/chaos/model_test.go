package chaos

import (
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// The checker finds what it is there to find.
func TestModel(t *testing.T) {
	type write struct{ at, confirmed int64 }
	for _, tt := range []struct {
		what   string
		writes []write
		reads  []read
		want   porcupine.CheckResult
	}{
		{"nothing happened", nil, []read{{called: 1, returned: 2}}, porcupine.Ok},
		{"an event is seen", []write{{1, 2}}, []read{{called: 3, returned: 4, seen: 0b1}}, porcupine.Ok},
		{"an event is not seen at first, though it was confirmed", []write{{1, 2}}, []read{{called: 3, returned: 4}, {called: 5, returned: 6, seen: 0b1}}, porcupine.Ok},
		{"one that was seen is there no more", []write{{1, 2}}, []read{{called: 3, returned: 4, seen: 0b1}, {called: 5, returned: 6}}, porcupine.Illegal},
		{"two at the same time may differ", []write{{1, 2}}, []read{{called: 3, returned: 7, seen: 0b1}, {called: 5, returned: 6}}, porcupine.Ok},
		{"an event is seen before it was sent", []write{{5, 6}}, []read{{called: 1, returned: 2, seen: 0b1}}, porcupine.Illegal},
		{"nobody agrees which came first", []write{{1, 2}, {1, 2}}, []read{{called: 3, returned: 4, seen: 0b01}, {called: 5, returned: 6, seen: 0b10}}, porcupine.Illegal},
		{"one without an answer happened", []write{{at: 1}}, []read{{called: 3, returned: 4}, {called: 9, returned: 10, seen: 0b1}}, porcupine.Ok},
		{"one without an answer did not happen", []write{{at: 1}}, []read{{called: 9, returned: 10}}, porcupine.Ok},
	} {
		t.Run(tt.what, func(t *testing.T) {
			p := &past{reads: tt.reads}
			for i, w := range tt.writes {
				p.begun |= 1 << i
				p.writes[i].called, p.writes[i].confirmedAt = w.at, w.confirmed
			}
			result, _ := porcupine.CheckOperationsVerbose(model, p.operations("c"), patience)
			require.Equal(t, tt.want, result, "%s", p)
		})
	}
}
