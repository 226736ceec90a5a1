package inference

import (
	"fmt"
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
	// due says that the timer ran out, and watch that it is time to look at what runs.
	due   struct{}
	watch struct{}
	// batchDone gives a batch back.
	batchDone struct{ batch *batch }
	// swap has the next batches run with another set; done is closed then.
	swap struct {
		set  *servingSet
		done chan<- struct{}
	}
	// closing is the last message that comes from outside.
	closing struct{}
)

// Looking at every input of every row may cost as much as a small model. So that many rows a
// second are counted, and as many more at once; past that one batch of so many counts for all.
const (
	countedRows = 50_000
	sampleEvery = 16
)

// gatherer is the actor: it gathers requests into batches and hands these to workers. It
// computes nothing itself, so that gathering goes on while batches run.
//
// A batch is cut when a worker is free and either MaxRows rows wait or the oldest request
// has waited for MaxDelay. It takes whole requests in order of arrival, of at most MaxRows
// rows together; a request of more is a batch by itself, which its worker runs in parts.
//
// Nothing ends a run that hangs. So the actor looks after what runs, and takes the requests
// from a worker that is in one run for longer than RunTimeout.
type gatherer struct {
	device *Device
	// set is what the next batch is run with.
	set *servingSet
	// retired are those before it that batches still have.
	retired []*servingSet

	waiting []waiting
	rows    int
	// armed is set while the timer runs, or its message is on its way.
	armed bool
	stop  func()

	// running are the batches that workers have.
	running []*batch
	spare   []*batch
	// credit is how many rows may still be counted once each, as of then; batches numbers
	// those beyond.
	credit   float64
	credited time.Time
	batches  int
	// watching is set while the watch's timer runs, or its message is on its way.
	watching  bool
	stopWatch func()

	closing bool
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
		if hang := g.device.hang.Load(); hang != nil {
			g.device.queued.Add(-int64(m.Rows))
			g.device.load.Add(-int64(m.Rows))
			m.Reply(Reply{Err: hang, Fault: hang})
			return
		}
		g.waiting = append(g.waiting, waiting{m, g.device.Clock.Now()})
		g.rows += m.Rows
		g.cut()
	case due:
		g.armed = false
		g.cut()
	case watch:
		g.watching = false
		g.look()
	case batchDone:
		g.device.load.Add(-int64(m.batch.rows))
		m.batch.set.users--
		m.batch.reset()
		g.release()
		g.spare = append(g.spare, m.batch)
		g.running = slices.DeleteFunc(g.running, func(b *batch) bool { return b == m.batch })
		g.cut()
		g.end(ctx)
	case swap:
		g.swap(m.set)
		close(m.done)
	case *refusal:
		m.request.Reply(Reply{Err: m.err})
	case closing:
		g.closing = true
		if g.stop != nil {
			g.stop()
		}
		g.drain(Reply{Err: ErrClosed})
		g.end(ctx)
	case *actor.Stopped:
		close(g.device.ended)
	}
}

// cut makes batches as long as one is due and a worker is free.
func (g *gatherer) cut() {
	d := g.device
	for len(g.waiting) > 0 && len(g.running) < d.InFlight {
		if wait := d.MaxDelay - d.Clock.Now().Sub(g.waiting[0].since); wait > 0 && g.rows < d.MaxRows {
			g.arm(wait)
			break
		}
		b := g.take()
		g.running = append(g.running, b)
		d.work <- b
		g.watch(d.RunTimeout)
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
	b.set.users++
	n := 0
	for n < len(g.waiting) && (n == 0 || b.rows+g.waiting[n].request.Rows <= g.device.MaxRows) {
		b.add(g.waiting[n].request)
		n++
	}
	g.forget(n, b.rows)
	b.weight = g.weight(b.rows)
	return b
}

// weight says how often a batch's rows are counted as inputs: once, while there is credit.
func (g *gatherer) weight(rows int) int {
	now := g.device.Clock.Now()
	if !g.credited.IsZero() {
		g.credit += now.Sub(g.credited).Seconds() * countedRows
	}
	g.credit, g.credited = min(g.credit, countedRows), now
	if g.credit >= float64(rows) {
		g.credit -= float64(rows)
		return 1
	}
	if g.batches++; g.batches%sampleEvery == 0 {
		return sampleEvery
	}
	return 0
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

// watch has the actor look after what runs, once the time has passed.
func (g *gatherer) watch(wait time.Duration) {
	if g.watching {
		return
	}
	g.watching = true
	d := g.device
	g.stopWatch = d.Clock.AfterFunc(wait, func() {
		if !d.over.Load() {
			d.System.Root.Send(d.pid, watch{}) // also while closing: who runs then may hang, too
		}
	})
}

// look finds runs that hang. The first one makes the device hang.
func (g *gatherer) look() {
	d := g.device
	wait := d.RunTimeout
	for _, b := range g.running {
		since := b.since.Load()
		if since == 0 {
			continue // between two runs
		}
		left := d.RunTimeout - time.Duration(d.Clock.Now().UnixNano()-since)
		if left > 0 {
			wait = min(wait, left)
			continue
		}
		if c := b.trying.Load(); c != nil {
			c.hung()
		}
		hang := d.hang.Load()
		if hang == nil {
			hang = &DeviceError{Device: d.Device, Reason: FaultHang, Whole: true, Err: fmt.Errorf("a run takes longer than %v", d.RunTimeout)}
			d.hang.Store(hang)
			d.Log.Error("device hangs", "device", d.Device, "error", hang)
			if d.Failed != nil {
				d.Failed(hang)
			}
		}
		if b.claim() {
			b.replyAll(Reply{Err: hang, Fault: hang})
		}
	}
	if hang := d.hang.Load(); hang != nil {
		g.drain(Reply{Err: hang, Fault: hang})
	}
	if len(g.running) > 0 {
		g.watch(wait)
	}
}

// swap has the next batch run with another set. Versions that are in no set any more which a
// batch has are closed: at once, or when the last of these batches comes back.
func (g *gatherer) swap(set *servingSet) {
	for _, s := range set.models {
		s.sets++
	}
	if g.set != nil {
		g.retired = append(g.retired, g.set)
	}
	g.set = set
	g.device.loaded.Store(set)
	g.release()
}

// release lets go of the sets that no batch has any more.
func (g *gatherer) release() {
	g.retired = slices.DeleteFunc(g.retired, func(old *servingSet) bool {
		if old.users > 0 {
			return false
		}
		for _, s := range old.models {
			if s.sets--; s.sets == 0 {
				g.device.retire(s)
			}
		}
		return true
	})
}

// drain answers everything that waits.
func (g *gatherer) drain(reply Reply) {
	for len(g.waiting) > 0 {
		r := g.waiting[0].request
		g.forget(1, r.Rows)
		g.device.load.Add(-int64(r.Rows))
		r.Reply(reply)
	}
	g.device.series.queueRows.Set(0)
}

// end stops the actor once it is closing and no batch is out.
func (g *gatherer) end(ctx actor.Context) {
	if g.closing && len(g.running) == 0 {
		g.device.over.Store(true)
		if g.stopWatch != nil {
			g.stopWatch()
		}
		ctx.Stop(ctx.Self())
	}
}
