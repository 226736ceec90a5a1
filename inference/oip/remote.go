package oip

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/inference"
)

// Remote is a server of the protocol in the place of a device: a [inference.Target]. Its rows
// are in calls under way, which are bounded; there is no other queue.
//
// Invariants:
//
//  1. Score never blocks, and a request that was taken is answered once, within its deadline
//     or the remote's timeout, whichever is earlier.
//  2. At most MaxCalls requests are taken at once. One that the server has no room for keeps
//     its place, so that whoever brings more is turned away meanwhile.
//  3. What a server answers for one model spoils no other model.
type Remote struct {
	of     *Remotes
	server Place
	series *inference.RemoteSeries
	client atomic.Pointer[Client]

	// models are those to ask for, as the server was asked last.
	models atomic.Pointer[[]Model]
	// up is set while the remote takes requests.
	up atomic.Bool
	// strikes are the requests that nothing came of since the last one that something did.
	strikes atomic.Int32
	calls   atomic.Int64
	rows    atomic.Int64
	// looks has what the keeper has to look at.
	looks chan look
}

// look is why a keeper looks at its server: without an error, its models may have changed.
type look struct{ why error }

var _ inference.Target = (*Remote)(nil)

// Name implements [inference.Target].
func (r *Remote) Name() string { return r.server.Name }

// Load implements [inference.Target]: the rows that this process has sent there.
func (r *Remote) Load() int { return int(r.rows.Load()) }

// Retried counts rows that were given to another device.
func (r *Remote) Retried(rows int) { r.series.Retried(rows) }

// Score implements [inference.Target].
func (r *Remote) Score(q *inference.Request) bool {
	if !r.up.Load() || !r.of.enter() {
		return false
	}
	if r.calls.Add(1) > int64(r.of.MaxCalls) {
		r.calls.Add(-1)
		r.of.running.Done()
		return false
	}
	r.rows.Add(int64(q.Rows))
	go func() {
		defer r.of.running.Done()
		reply := r.score(q)
		r.rows.Add(-int64(q.Rows))
		r.calls.Add(-1)
		q.Reply(reply)
	}()
	return true
}

// score asks the server and says whose fault it is where it did not answer.
func (r *Remote) score(q *inference.Request) inference.Reply {
	wait := r.of.Timeout
	if !q.Deadline.IsZero() {
		wait = min(wait, q.Deadline.Sub(r.of.Clock.Now()))
	}
	ctx, cancel := context.WithTimeout(r.of.life, wait)
	defer cancel()
	inquiries := r.inquiries(q)
	scores, errs := r.ask(ctx, inquiries)
	return r.judge(ctx, scores, errs, q)
}

// inquiries are what the server is asked for a request: the model that it names, or of each model
// the version that serves, and its canary for the customers that have it.
func (r *Remote) inquiries(q *inference.Request) (all []inquiry) {
	if q.Model != "" {
		return []inquiry{{request: *q}}
	}
	for _, m := range *r.models.Load() {
		own := *q
		own.Model = m.Name
		all = append(all, inquiry{request: own})
		if m.Canary != "" && len(q.Customers) == q.Rows {
			if c := chosen(q, m, r.of.Layout); c.request.Rows > 0 {
				all = append(all, c)
			}
		}
	}
	return all
}

// inquiry is a request for one version of one model.
type inquiry struct {
	request inference.Request
	// rows are the numbers of those that a canary is asked for; nil means all.
	rows []uint32
}

// chosen asks a canary for the rows of its customers.
func chosen(q *inference.Request, m Model, l inference.Layout) inquiry {
	c := inquiry{request: *q}
	c.request.Model, c.request.Version = m.Name, m.Canary
	c.request.Features, c.request.Sequences, c.request.Rows = nil, nil, 0
	hash := inference.ModelHash(m.Name)
	features, sequence := len(l.Features), l.Steps*len(l.Columns)
	for row, customer := range q.Customers {
		if !inference.Chosen(customer, hash, m.Share) {
			continue
		}
		c.rows = append(c.rows, uint32(row))
		if len(q.Features) > 0 {
			c.request.Features = append(c.request.Features, q.Features[row*features:(row+1)*features]...)
		}
		if len(q.Sequences) > 0 {
			c.request.Sequences = append(c.request.Sequences, q.Sequences[row*sequence:(row+1)*sequence]...)
		}
	}
	c.request.Rows = len(c.rows)
	return c
}

// ask asks everything at once. The lists are as long as the inquiries.
func (r *Remote) ask(ctx context.Context, inquiries []inquiry) ([]inference.Scores, []error) {
	scores, errs := make([]inference.Scores, len(inquiries)), make([]error, len(inquiries))
	var wg sync.WaitGroup
	for i, q := range inquiries {
		wg.Go(func() {
			scores[i], errs[i] = r.patient(ctx, q.request)
			scores[i].Rows = q.rows
		})
	}
	wg.Wait()
	return scores, errs
}

// How long a server that has no room is left alone, at first and at most.
const (
	firstPause = 5 * time.Millisecond
	mostPause  = 250 * time.Millisecond
)

// patient asks for one model until the server has room.
func (r *Remote) patient(ctx context.Context, q inference.Request) (inference.Scores, error) {
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		scores, err := r.client.Load().Score(ctx, q)
		if !errors.Is(err, inference.ErrBusy) || !r.of.pause(ctx, pause) {
			return scores, err
		}
	}
}

// judge makes the reply, and tells the keeper what it should look at.
func (r *Remote) judge(ctx context.Context, scores []inference.Scores, errs []error, q *inference.Request) inference.Reply {
	var (
		reply  inference.Reply
		broken error // why the server as a whole is of no use
		strange,
		changed bool
	)
	for i, err := range errs {
		var own *ServerError
		switch {
		case err == nil:
			reply.Models = append(reply.Models, scores[i])
		case isNotServing(err):
			changed = true
		case errors.As(err, &own):
			strange = true
		case outOfReach(err):
			broken = err
		}
	}
	reply.Whole = q.Model == "" && len(reply.Models) == len(errs)
	switch {
	case len(reply.Models) > 0:
		r.series.Rows(q.Rows)
	case len(errs) == 0:
		reply.Err = inference.ErrNoModel
	default:
		reply.Err = errors.Join(errs...)
	}
	if r.of.life.Err() != nil {
		if reply.Err != nil {
			reply = inference.Reply{Err: inference.ErrClosed}
		}
		return reply
	}
	if broken != nil || strange {
		reply.Fault = &inference.DeviceError{Device: r.server.Name, Reason: inference.FaultRun, Whole: len(reply.Models) == 0, Err: errors.Join(errs...)}
		if ctx.Err() != nil {
			reply.Fault.Reason = inference.FaultHang
		}
	}
	switch {
	case len(reply.Models) > 0:
		r.strikes.Store(0)
	case broken != nil && status.Code(broken) == codes.Unavailable:
		r.tell(reply.Fault) // nobody is there
	case reply.Fault != nil && int(r.strikes.Add(1)) >= r.of.Strikes:
		r.strikes.Store(0)
		r.tell(reply.Fault)
	}
	if changed {
		r.tell(nil)
	}
	return reply
}

// outOfReach tells errors of a server that does not do its work from those that say what is
// wrong with the request or with a model's values.
func outOfReach(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.Internal, codes.FailedPrecondition, codes.OutOfRange:
		return false
	default:
	}
	_, bad := errors.AsType[*inference.RequestError](err)
	return !bad
}

// tell has the keeper look at the server, and takes it out of service where it failed.
func (r *Remote) tell(why error) {
	if why != nil {
		if !r.up.CompareAndSwap(true, false) {
			return
		}
	}
	select {
	case r.looks <- look{why}:
	default:
		if why != nil {
			// What is there already only asks for the models: a failure goes before.
			select {
			case <-r.looks:
			default:
			}
			select {
			case r.looks <- look{why}:
			default: // the models once more: the next look finds what is wrong
			}
		}
	}
}

// probe asks what the server serves.
func (r *Remote) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.of.ProbeTimeout)
	defer cancel()
	conn, err := r.of.Dial(r.server.Address)
	if err != nil {
		return err
	}
	client := r.client.Load()
	if client == nil || client.conn != conn {
		client = NewClient(conn, r.of.Layout)
		r.client.Store(client)
	}
	ready, err := client.Ready(ctx)
	if err != nil {
		return err
	}
	if !ready {
		return errors.New("it is not ready")
	}
	names, err := r.server.Models(ctx, conn)
	if err != nil {
		return fmt.Errorf("its models: %w", err)
	}
	if len(names) == 0 {
		return errors.New("it serves no model that is asked for")
	}
	r.models.Store(&names)
	return nil
}
