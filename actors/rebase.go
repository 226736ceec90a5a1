package actors

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Rebased returns a customer's value for a store whose log is another, and begins anew. The folded
// part stays, byte for byte. Scores stay, too, but as of the beginning of the log, so that
// whatever is scored in it replaces them (invariant 6). value is not changed.
func Rebased(c messages.CustomerRecord) (messages.CustomerRecord, error) {
	scores, rec, err := splitValue(c.ID, c.Value)
	if err != nil {
		return c, err
	}
	scores = slices.Clone(scores)
	for at := 0; at < len(scores); at += scoreBytes {
		s := getScore(scores[at:])
		s.epoch, s.position = 0, messages.Position{}
		s.put(scores[at:])
	}
	return messages.CustomerRecord{ID: c.ID, Value: appendValue(make([]byte, 0, len(c.Value)), scores, rec)}, nil
}

// RebasedMeta returns a checkpoint's meta for such a log, of which it has folded the messages
// before at.Next. Customers that wait for scores, and how many there are, are for the caller to
// set where not all of them come along.
func RebasedMeta(m *footfallv1.CheckpointMeta, at messages.Mark) *footfallv1.CheckpointMeta {
	out := proto.CloneOf(m)
	out.NextOffset, out.Sum = at.Next, at.Sum
	out.EpochRead = 0
	return out
}
