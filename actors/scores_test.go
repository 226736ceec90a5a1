package actors

import (
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// TestMergeKeepsTheNewest holds invariant 6: an older score never replaces a newer one,
// whichever version of the model it comes from.
func TestMergeKeepsTheNewest(t *testing.T) {
	var table modelTable
	churn1, churn2, buy := table.number("churn_risk", "1"), table.number("churn_risk", "2"), table.number("purchase_prediction", "1")
	at := func(model uint16, offset uint64, time int64, value float32) packedScore {
		return packedScore{model: model, value: value, epoch: 1, position: messages.Position{Offset: offset}, time: time}
	}
	var scores []byte
	for _, step := range []struct {
		score packedScore
		want  []Score
	}{
		{at(churn1, 10, 5, .1), []Score{{Model: "churn_risk", Version: "1", Value: .1}}},
		{at(churn1, 9, 6, .2), []Score{{Model: "churn_risk", Version: "1", Value: .1}}},
		{at(churn2, 9, 6, .3), []Score{{Model: "churn_risk", Version: "1", Value: .1}}},
		{at(churn1, 10, 4, .4), []Score{{Model: "churn_risk", Version: "1", Value: .1}}},
		{at(churn1, 10, 6, .5), []Score{{Model: "churn_risk", Version: "1", Value: .5}}},
		{at(churn2, 11, 6, .6), []Score{{Model: "churn_risk", Version: "2", Value: .6}}},
		{at(buy, 1, 1, .7), []Score{{Model: "churn_risk", Version: "2", Value: .6}, {Model: "purchase_prediction", Version: "1", Value: .7}}},
	} {
		scores = table.merge(scores, step.score)
		got := table.decode(scores)
		for i := range got {
			got[i].Epoch, got[i].Position, got[i].Time = 0, messages.Position{}, 0
		}
		require.Equal(t, step.want, got)
	}
}
