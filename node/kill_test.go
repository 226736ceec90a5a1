package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"footfall/messages/footfallv1"
)

// publisher sends numbered events of its own customers, in order, and keeps every batch
// until it was accepted: then, and only then, it is in the log for certain.
type publisher struct {
	id      int
	rng     *rand.Rand
	pending *footfallv1.EventBatch
	next    int
	// accepted are the events of each customer, in order.
	accepted map[string][]string
}

func (p *publisher) batch() *footfallv1.EventBatch {
	if p.pending == nil {
		p.pending = &footfallv1.EventBatch{}
		for range 1 + p.rng.IntN(20) {
			customer := fmt.Sprintf("p%d-%d", p.id, p.rng.IntN(8))
			p.pending.Events = append(p.pending.Events, view(customer, strconv.Itoa(p.next), monday.Add(time.Duration(p.next)*time.Second)))
			p.next++
		}
	}
	return p.pending
}

// run publishes until the node is gone, or stop says that it is enough.
func (p *publisher) run(ctx context.Context, c footfallv1.IngestServiceClient, accepted func() (enough bool)) error {
	for {
		b := p.batch()
		answer, err := c.Publish(ctx, b, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		if len(answer.GetRejected()) > 0 || int(answer.GetAccepted()) != len(b.GetEvents()) {
			return fmt.Errorf("unexpected answer: %v", answer)
		}
		for _, ev := range b.GetEvents() {
			p.accepted[ev.GetCustomerId()] = append(p.accepted[ev.GetCustomerId()], ev.GetEventId())
		}
		p.pending = nil
		if accepted() {
			return nil
		}
	}
}

// Invariants 2 and 3 of the design: kill -9 at random moments under load, and every accepted
// event is in the state of its customer exactly once, and the state is what the log folds to.
func TestKill(t *testing.T) {
	rounds := 3
	if os.Getenv("FOOTFALL_HEAVY") == "1" {
		rounds = 20
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	var publishers []*publisher
	for id := range 4 {
		publishers = append(publishers, &publisher{id: id, rng: rand.New(rand.NewPCG(seed, uint64(id+1))), accepted: map[string][]string{}})
	}

	for round := range rounds {
		p := spawn(t, childConfig{Dir: dir})
		// The moment is after so many batches of this round, while the others are under way. None:
		// while it recovers.
		left, due := rng.IntN(120), make(chan struct{})
		var (
			mu   sync.Mutex
			once sync.Once
		)
		if left == 0 || round%5 == 4 {
			close(due)
			once.Do(func() {})
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, pub := range publishers {
			wg.Go(func() {
				_ = pub.run(ctx, footfallv1.NewIngestServiceClient(p.conn), func() bool { // the node is gone
					mu.Lock()
					defer mu.Unlock()
					if left--; left <= 0 {
						once.Do(func() { close(due) })
					}
					return false
				})
			})
		}
		select {
		case <-due:
		case <-p.log:
			t.Fatal("the child ended by itself")
		}
		p.kill(t)
		cancel()
		wg.Wait()
	}

	// What was never accepted is sent once more. It may be in the log already: then it is a
	// duplicate, and here every event is in exactly once.
	n := launch(t, testConfig(dir))
	total := 0
	for _, pub := range publishers {
		require.NoError(t, pub.run(t.Context(), n.IngestServiceClient, func() bool { return true }))
		total += pub.next
	}
	n.idle(t)
	require.Equal(t, uint64(total), n.applied(t))
	n.verified(t)
	for _, pub := range publishers {
		for customer, want := range pub.accepted {
			var got []string
			h, err := n.GetHistory(t.Context(), &footfallv1.GetHistoryRequest{CustomerId: customer, Limit: 10000})
			require.NoError(t, err)
			require.False(t, h.GetTruncated())
			for _, e := range h.GetEntries() {
				if e.GetOutcome() == "applied" {
					got = append(got, e.GetEvent().GetEventId())
				}
			}
			require.Equal(t, want, got, customer)
			c, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer})
			require.NoError(t, err)
			require.Equal(t, uint64(len(want)), c.GetLifetime().GetPageViews(), customer)
		}
	}
	t.Logf("%d rounds, %d events", rounds, total)
}

// applied is how many events the shards have applied.
func (r *running) applied(t *testing.T) (sum uint64) {
	t.Helper()
	list, err := r.ListShards(t.Context(), &footfallv1.ListShardsRequest{})
	require.NoError(t, err)
	for _, s := range list.GetShards() {
		sum += s.GetEvents()
	}
	return sum
}
