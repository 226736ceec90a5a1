package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// check ends a test of faults, after finish: n is idle, its state is what its log folds to, and
// every confirmed event is in the state of its customer exactly once, in the order of its
// publisher. It returns how many events those are.
//
// All customers are counted. To look at every single event, which folds a log again for each
// customer, there is time for those of whom it is not known what is there, and for some others.
func (l *load) check(n *running) int {
	t := l.t
	t.Helper()
	total := n.drain(t, l.broker) + l.extra
	n.idle(t)
	all := l.sent()
	look := l.sample(all)
	histories := n.histories(t, look)
	for customer, sent := range all {
		count := 0
		for publisher, want := range sent {
			if got := histories[customer]; got != nil {
				have := append([]string{}, got[publisher.name]...)
				// What was never confirmed may be missing, of those who do not send again.
				want = slices.DeleteFunc(want, func(id string) bool { return publisher.doubtful[id] && !slices.Contains(have, id) })
				require.Equal(t, want, have, "%s of %s", customer, publisher.name)
				delete(got, publisher.name)
			}
			count += len(want)
		}
		require.Empty(t, histories[customer], "of %s", customer)
		c, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer})
		require.NoError(t, err)
		require.EqualValues(t, count, c.GetLifetime().GetEvents(), customer)
		total += count
	}
	doubtful := 0
	for _, p := range l.publishers {
		doubtful += len(p.doubtful)
	}
	require.EqualValues(t, total, n.applied(t))
	require.EqualValues(t, total, n.verified(t))
	// They may be on their way from the store to the queue; whoever looks sees them meanwhile.
	require.Len(t, n.letters(t), l.letters)
	t.Logf("%d events of %d customers in %d bursts; %d of them never confirmed and not sent again; every event of %d customers looked at",
		total, len(all), l.bursts, doubtful, len(look))
	return total
}

// sample are customers to look at: those of publishers that do not send again, and some others.
func (l *load) sample(all map[string]map[*source][]string) (look []string) {
	var others []string
	for customer, sent := range all {
		once := false
		for publisher := range sent {
			once = once || publisher.once
		}
		if once || heavy() {
			look = append(look, customer)
		} else {
			others = append(others, customer)
		}
	}
	slices.Sort(others) // so that the seed says which
	rng := rand.New(rand.NewPCG(l.seed, 2<<32))
	rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return append(look, others[:min(8, len(others))]...)
}

// sent are the events of each customer, by publisher, in order.
func (l *load) sent() map[string]map[*source][]string {
	out := map[string]map[*source][]string{}
	for _, p := range l.publishers {
		for customer, ids := range p.made {
			if out[customer] == nil {
				out[customer] = map[*source][]string{}
			}
			out[customer][p] = slices.Clone(ids)
		}
	}
	return out
}

// histories are the events of each customer that were applied, by publisher, in order.
func (r *running) histories(t *testing.T, customers []string) map[string]map[string][]string {
	t.Helper()
	var (
		work sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	out := map[string]map[string][]string{}
	few := make(chan struct{}, 8)
	for _, id := range customers {
		few <- struct{}{}
		work.Go(func() {
			defer func() { <-few }()
			got := map[string][]string{}
			truncated, err := r.host.History(t.Context(), id, 1<<30, func(e actors.HistoryEntry) error {
				if e.Outcome == "applied" {
					publisher, _, _ := strings.Cut(e.Event.GetEventId(), "/")
					got[publisher] = append(got[publisher], e.Event.GetEventId())
				}
				return nil
			})
			if truncated {
				err = errors.Join(err, fmt.Errorf("the history of %s is not whole", id))
			}
			mu.Lock()
			defer mu.Unlock()
			out[id], errs = got, append(errs, err)
		})
	}
	work.Wait()
	require.NoError(t, errors.Join(errs...))
	return out
}

// drain waits until what the bridge has to do is done: what is sent last is there. It returns how
// many events it has sent for that.
func (r *running) drain(t *testing.T, url string) int {
	t.Helper()
	var events []*footfallv1.Event
	for shard := range r.cfg.Shards {
		id := customerOf(shard, r.cfg.Shards)
		events = append(events, view(id, "drain", monday))
	}
	newOutsider(t, url).publish(t, "drain", protobufTogether(events)[0])
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, e := range events {
		_, err := r.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: e.GetCustomerId(), WaitFor: e.GetEventId()})
		require.NoError(t, err)
	}
	return len(events)
}

// customerOf is a customer of a shard that is nobody else's.
func customerOf(shard, shards int) string {
	for i := 0; ; i++ {
		if id := fmt.Sprintf("of-shard-%d-%d", shard, i); messages.ShardOf(id, shards) == shard {
			return id
		}
	}
}
