package broker

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// places are a store and a queue of dead letters in memory.
type places struct {
	store   map[int][]*footfallv1.DeadLetter
	queue   []string
	refuse  error
	removal error
	visits  int
}

func (p *places) VisitShard(_ context.Context, shard int, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error {
	p.visits++
	for len(p.store[shard]) > 0 {
		d, err := do(p.store[shard][0])
		if err != nil || d != messages.RemoveLetter {
			return err
		}
		if p.removal != nil {
			return p.removal
		}
		p.store[shard] = p.store[shard][1:]
	}
	return nil
}

func (p *places) Put(_ context.Context, letters ...*footfallv1.DeadLetter) error {
	if p.refuse != nil {
		return p.refuse
	}
	for _, l := range letters {
		p.queue = append(p.queue, l.GetId())
	}
	return nil
}

func TestMover(t *testing.T) {
	letter := func(id string) *footfallv1.DeadLetter { return &footfallv1.DeadLetter{Id: id} }
	p := &places{store: map[int][]*footfallv1.DeadLetter{3: {letter("3-1-0"), letter("3-2-0")}}}
	st := actors.Status{Shard: 3, State: actors.Active, Epoch: 1, Next: 10, Checkpointed: 8, Rejected: 2}
	m := &Mover{From: p, To: p, Status: func() []actors.Status { return []actors.Status{st} }, Logger: slog.New(slog.DiscardHandler)}

	// While the broker is away the letters stay.
	p.refuse = errors.New("away")
	m.pass(t.Context())
	require.Empty(t, p.queue)
	require.Len(t, p.store[3], 2)

	// A letter that is there already, but not removed, comes again.
	p.refuse, p.removal = nil, errors.New("the store is away")
	m.pass(t.Context())
	p.removal = nil
	m.pass(t.Context())
	require.Equal(t, []string{"3-1-0", "3-1-0", "3-2-0"}, p.queue)
	require.Empty(t, p.store[3])

	// A third was refused that no checkpoint has written yet.
	st.Rejected, st.Next = 3, 12
	m.pass(t.Context())
	p.store[3] = append(p.store[3], letter("3-11-0"))
	st.Checkpointed = 12
	m.pass(t.Context())
	require.Equal(t, "3-11-0", p.queue[3])

	// From then on nothing is asked, until there is something again.
	visits := p.visits
	m.pass(t.Context())
	require.Equal(t, visits, p.visits)
	st.Epoch = 2 // a new life may have folded other letters
	m.pass(t.Context())
	require.Equal(t, visits+1, p.visits)
	st.State = actors.Failed
	m.pass(t.Context())
	require.Equal(t, visits+1, p.visits)
}
