package chaos

import (
	"fmt"
	"math"
	"math/bits"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// perCustomer is how many events a customer may get: fewer than the 32 IDs by which a shard knows
// an event again, so that a publisher may send each as often as it likes.
const perCustomer = 30

// set is events of a customer: bit i is the i-th.
//
// Event i is a purchase of 2^i ten-thousandths, so that what a customer has spent tells which
// events were applied, as long as each was applied once; and the number of purchases tells whether
// that is so.
type set uint64

// history is what callers have seen. Every customer is judged by itself:
//
//	write   from the call that publishes an event until somebody has seen it applied
//	read    an answer of an owner: exactly these events
//
// A caller that got no answer to a write does not know whether it happened. That it was seen, in
// the end at the latest, says that it did; what was never seen has never happened, unless it was
// confirmed: then it is lost.
type history struct {
	began time.Time

	mu        sync.Mutex // guards what follows
	customers map[string]*past
}

// past is what is known of one customer.
type past struct {
	writes [perCustomer]struct {
		called      int64
		confirmedAt int64 // 0: nobody has heard that it was accepted
		client      int
	}
	begun set
	reads []read
}

// read is an answer.
type read struct {
	called, returned int64
	client           int
	seen             set
}

func newHistory() *history { return &history{began: time.Now(), customers: map[string]*past{}} }

func (h *history) now() int64 { return time.Since(h.began).Nanoseconds() }

func (h *history) of(customer string) *past {
	p := h.customers[customer]
	if p == nil {
		p = &past{}
		h.customers[customer] = p
	}
	return p
}

// write notes that an event is about to be published.
func (h *history) write(customer string, client, i int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.of(customer)
	p.begun |= 1 << i
	p.writes[i].called, p.writes[i].client = h.now(), client
}

// confirm notes that an event was accepted.
func (h *history) confirm(customer string, i int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(customer).writes[i].confirmedAt = h.now()
}

// read notes an answer to a question that was asked at called.
func (h *history) read(customer string, client int, called int64, seen set) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.of(customer)
	p.reads = append(p.reads, read{called, h.now(), client, seen})
}

// counts are the operations, and of the writes those that were confirmed.
func (h *history) counts() (writes, confirmed, reads int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.customers {
		writes += bits.OnesCount64(uint64(p.begun))
		reads += len(p.reads)
		for _, w := range p.writes {
			if w.confirmedAt != 0 {
				confirmed++
			}
		}
	}
	return writes, confirmed, reads
}

// input is what an operation is: a write of events, or a read where there are none.
type input struct {
	customer string
	adds     set
}

// model is a customer: what was written is there, and what is read is what is there.
var model = porcupine.Model{
	Init: func() any { return set(0) },
	Step: func(state, in, out any) (bool, any) {
		s := state.(set)
		if adds := in.(input).adds; adds != 0 {
			return true, s | adds
		}
		return out.(set) == s, s
	},
	Hash: func(state any) uint64 { return uint64(state.(set)) },
	DescribeOperation: func(in, out any) string {
		if adds := in.(input).adds; adds != 0 {
			return fmt.Sprintf("write %d", bits.TrailingZeros64(uint64(adds)))
		}
		return fmt.Sprintf("read %b", out)
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%b", state) },
}

// operations are those of a customer, as the checker wants them.
func (p *past) operations(customer string) (out []porcupine.Operation) {
	// A write takes effect before the first answer with it is there; that is all the checker needs
	// to know of its end.
	var seen [perCustomer]int64
	for i := range seen {
		seen[i] = math.MaxInt64
	}
	last := 0
	for _, r := range p.reads {
		for s := r.seen; s != 0; s &= s - 1 {
			i := bits.TrailingZeros64(uint64(s))
			seen[i] = min(seen[i], r.returned)
		}
		last = max(last, r.client)
		out = append(out, porcupine.Operation{ClientId: r.client, Input: input{customer: customer}, Call: r.called, Output: r.seen, Return: r.returned})
	}
	for i, w := range p.writes {
		if seen[i] != math.MaxInt64 {
			out = append(out, porcupine.Operation{
				ClientId: last + 1 + i, Input: input{customer, 1 << i}, Call: w.called, Output: set(0), Return: max(seen[i], w.called),
			})
		}
	}
	return out
}

// patience is how long the checker may take for one customer. Answers name every single event, so
// that it takes no time at all; one that is not done by then is a failure, too.
const patience = 20 * time.Second

// judge checks every customer, of which final is what there was in the end.
func (h *history) judge(t *testing.T, final map[string]set) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for customer, p := range h.customers {
		seen := final[customer]
		require.Zero(t, seen&^p.begun, "%s: events that nobody has sent: %b", customer, seen&^p.begun)
		for i, w := range p.writes {
			if w.confirmedAt != 0 {
				require.NotZero(t, seen&(1<<i), "%s: event %d was confirmed, and is lost\n%s", customer, i, p)
			}
		}
		result, info := porcupine.CheckOperationsVerbose(model, p.operations(customer), patience)
		if result != porcupine.Ok {
			path := visualize(t, customer, info)
			require.Equal(t, porcupine.Ok, result, "%s is not linearizable: %s\n%s", customer, path, p)
		}
	}
}
