package replay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Limits of one batch, and how publishing behaves where a node does not answer.
const (
	maxBatch      = 1_000
	maxBatchBytes = 1 << 20
	lanes         = 8
	callTimeout   = 30 * time.Second
	firstPause    = 50 * time.Millisecond
	longestPause  = 2 * time.Second
	// DefaultPatience is how long a node may be away.
	DefaultPatience = 2 * time.Minute
)

// Rejection is an event that the node refused.
type Rejection struct {
	// Row is the place of the event among those that were added, from 1.
	Row     uint64
	EventID string
	Field   string
	Reason  string
}

func (r Rejection) String() string {
	reason := messages.Fault{Field: r.Field, Reason: r.Reason}
	return fmt.Sprintf("event %d (%s): %s", r.Row, r.EventID, reason.Error())
}

// Counts is what became of the events so far.
type Counts struct {
	// Sent counts events that are acknowledged, accepted or rejected.
	Sent, Accepted, Rejected uint64
	// Resent counts batches that had to be sent again.
	Resent uint64
}

// Publisher sends events in batches, several in flight. Its methods belong to one goroutine.
type Publisher struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	client   footfallv1.IngestServiceClient
	shards   int
	patience time.Duration
	rejected func(Rejection)

	rows  uint64
	lanes [lanes]lane
	// inFlight counts batches that are handed over and not acknowledged; running the lanes.
	inFlight, running sync.WaitGroup

	mu     sync.Mutex // guards what follows, and the calls of rejected
	counts Counts
}

// lane carries a share of the shards, so that the order within each of them is kept.
type lane struct {
	pending batch
	send    chan batch
}

type batch struct {
	events []*footfallv1.Event
	rows   []uint64
	bytes  int
}

// PublisherOptions may be left empty but for Shards.
type PublisherOptions struct {
	// Shards is the number of shards of the cluster.
	Shards int
	// Patience is how long a node may be away before publishing fails.
	Patience time.Duration
	// Rejected is called for every event that the node refuses, one call at a time.
	Rejected func(Rejection)
}

// NewPublisher begins to publish; Close ends it. When ctx ends, all calls return its cause.
func NewPublisher(ctx context.Context, client footfallv1.IngestServiceClient, o PublisherOptions) *Publisher {
	p := &Publisher{client: client, shards: max(o.Shards, 1), patience: o.Patience, rejected: o.Rejected}
	if p.patience <= 0 {
		p.patience = DefaultPatience
	}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	for i := range p.lanes {
		l := &p.lanes[i]
		l.send = make(chan batch, 1)
		p.running.Go(func() {
			for b := range l.send {
				if err := p.publish(b); err != nil {
					p.cancel(err)
				}
				p.inFlight.Done()
			}
		})
	}
	return p
}

// Add takes one event, which must not be changed from here on. It waits where too much is on
// its way. Its error is that of any batch before.
func (p *Publisher) Add(ev *footfallv1.Event) error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	p.rows++
	l := &p.lanes[messages.ShardOf(ev.GetCustomerId(), p.shards)%lanes]
	size := ev.SizeVT()
	if l.pending.bytes+size > maxBatchBytes {
		p.dispatch(l)
	}
	l.pending.events = append(l.pending.events, ev)
	l.pending.rows = append(l.pending.rows, p.rows)
	l.pending.bytes += size
	if len(l.pending.events) == maxBatch {
		p.dispatch(l)
	}
	return nil
}

// Send hands over what waits for a batch to fill, without waiting for answers.
func (p *Publisher) Send() {
	for i := range p.lanes {
		p.dispatch(&p.lanes[i])
	}
}

// Flush waits until every event that was added is acknowledged.
func (p *Publisher) Flush() error {
	p.Send()
	p.inFlight.Wait()
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	return nil
}

// Close ends publishing. What was not flushed may be lost.
func (p *Publisher) Close() {
	p.cancel(context.Canceled)
	for i := range p.lanes {
		close(p.lanes[i].send)
	}
	p.running.Wait()
}

// Counts is what became of the events so far.
func (p *Publisher) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// Rows is how many events were added.
func (p *Publisher) Rows() uint64 { return p.rows }

func (p *Publisher) dispatch(l *lane) {
	if len(l.pending.events) == 0 {
		return
	}
	p.inFlight.Add(1)
	l.send <- l.pending // the lane takes batches until it is closed, after an error too
	l.pending = batch{}
}

// publish sends one batch until it is acknowledged.
func (p *Publisher) publish(b batch) error {
	var answer *footfallv1.PublishResponse
	sent := 0
	err := Retry(p.ctx, p.patience, func(ctx context.Context) (err error) {
		sent++
		answer, err = p.client.Publish(ctx, &footfallv1.EventBatch{Events: b.events})
		return err
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Sent += uint64(len(b.events))
	p.counts.Accepted += uint64(answer.GetAccepted())
	p.counts.Rejected += uint64(len(answer.GetRejected()))
	p.counts.Resent += uint64(sent - 1)
	for _, r := range answer.GetRejected() {
		if int(r.GetIndex()) >= len(b.rows) {
			return fmt.Errorf("the node rejected event %d of a batch of %d: is it of another version?", r.GetIndex(), len(b.rows))
		}
		if p.rejected != nil {
			p.rejected(Rejection{Row: b.rows[r.GetIndex()], EventID: r.GetEventId(), Field: r.GetField(), Reason: r.GetReason()})
		}
	}
	if n := uint64(answer.GetAccepted()) + uint64(len(answer.GetRejected())); n != uint64(len(b.events)) {
		return fmt.Errorf("the node answered for %d events of a batch of %d: is it of another version?", n, len(b.events))
	}
	return nil
}

// Retry calls a node until it answers: again and again with growing pauses where it is away
// or has too much to do, until it has been so for as long as patience. Any other error ends it.
func Retry(ctx context.Context, patience time.Duration, call func(context.Context) error) error {
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := once(ctx, call)
		switch status.Code(err) {
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		default:
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Since(began) >= patience {
			return err
		}
		// Half of it by chance: lanes that failed together do not come back together.
		t := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

func once(ctx context.Context, call func(context.Context) error) error {
	each, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := call(each)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
