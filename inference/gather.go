package inference

import (
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// What the actor is sent beside requests.
type (
	// refusal is a request that is answered without being run.
	refusal struct {
		request *Request
		err     error
	}
	// due says that the timer ran out.
	due struct{}
	// batchDone gives a batch back.
	batchDone struct{ batch *batch }
	// closing is the last message that comes from outside.
	closing struct{}
)

// gatherer is the actor: it gathers requests into batches and hands these to workers. It
// computes nothing itself, so that gathering goes on while batches run.
//
// A batch is cut when a worker is free and either MaxRows rows wait or the oldest request
// has waited for MaxDelay. It takes whole requests in order of arrival, of at most MaxRows
// rows together; a request of more is a batch by itself, which its worker runs in parts.
type gatherer struct {
	device *Device
	// set is what the next batch is run with.
	set *servingSet

	waiting []waiting
	rows    int
	// armed is set while the timer runs, or its message is on its way.
	armed bool
	stop  func()

	inFlight int
	spare    []*batch
	closing  bool
}

// waiting is a request that is in no batch yet.
type waiting struct {
	request *Request
	since   time.Time
}

// Receive implements [actor.Actor].
func (g *gatherer) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *Request:
		g.waiting = append(g.waiting, waiting{m, g.device.Clock.Now()})
		g.rows += m.Rows
		g.cut()
	case due:
		g.armed = false
		g.cut()
	case batchDone:
		m.batch.reset()
		g.spare = append(g.spare, m.batch)
		g.inFlight--
		g.cut()
		g.end(ctx)
	case *refusal:
		m.request.Reply(Reply{Err: m.err})
	case closing:
		g.closing = true
		if g.stop != nil {
			g.stop()
		}
		g.drain()
		g.end(ctx)
	case *actor.Stopped:
		close(g.device.ended)
	}
}

// cut makes batches as long as one is due and a worker is free.
func (g *gatherer) cut() {
	d := g.device
	for len(g.waiting) > 0 && g.inFlight < d.InFlight {
		if wait := d.MaxDelay - d.Clock.Now().Sub(g.waiting[0].since); wait > 0 && g.rows < d.MaxRows {
			g.arm(wait)
			break
		}
		b := g.take()
		g.inFlight++
		d.work <- b
	}
	d.series.queueRows.Set(float64(d.queued.Load()))
}

// take cuts one batch off what waits.
func (g *gatherer) take() *batch {
	var b *batch
	if n := len(g.spare); n > 0 {
		b, g.spare = g.spare[n-1], g.spare[:n-1]
	} else {
		b = &batch{device: g.device}
	}
	b.set = g.set
	n := 0
	for n < len(g.waiting) && (n == 0 || b.rows+g.waiting[n].request.Rows <= g.device.MaxRows) {
		b.add(g.waiting[n].request)
		n++
	}
	g.forget(n, b.rows)
	return b
}

// forget takes the n oldest requests, of so many rows, out of what waits.
func (g *gatherer) forget(n, rows int) {
	g.waiting = slices.Delete(g.waiting, 0, n)
	g.rows -= rows
	g.device.queued.Add(-int64(rows))
}

// arm starts the timer for the oldest request. There is one timer at most: where it was set
// for a request that is gone already, it comes early, and is set again then.
func (g *gatherer) arm(wait time.Duration) {
	if g.armed {
		return
	}
	g.armed = true
	d := g.device
	g.stop = d.Clock.AfterFunc(wait, func() { d.post(due{}) })
}

// drain answers everything that waits.
func (g *gatherer) drain() {
	for len(g.waiting) > 0 {
		r := g.waiting[0].request
		g.forget(1, r.Rows)
		r.Reply(Reply{Err: ErrClosed})
	}
	g.device.series.queueRows.Set(0)
}

// end stops the actor once it is closing and no batch is out.
func (g *gatherer) end(ctx actor.Context) {
	if g.closing && g.inFlight == 0 {
		ctx.Stop(ctx.Self())
	}
}
