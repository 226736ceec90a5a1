package inference

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// Config is what a device is made of.
type Config struct {
	// System hosts the device's actor.
	System   *actor.ActorSystem
	Registry *Registry
	Runner   Runner
	// Device is the one to own: "CPU:0". The default is that.
	Device string

	// MaxRows bounds the rows of a run: 1,024 unless set.
	MaxRows int
	// MaxDelay bounds how long rows wait for others while a run could begin: 2 ms unless set.
	MaxDelay time.Duration
	// QueueRows bounds the rows that wait: 16 × MaxRows unless set.
	QueueRows int
	// InFlight is the number of batches that run at once. Unless set it is 2, so that one is
	// prepared and answered while another computes; on the processor, where a run of a small
	// model has one core, one for each core but one where those are more.
	InFlight int
	// RunTimeout is how long one run of a model may take before the device is held to hang:
	// 10 s unless set.
	RunTimeout time.Duration
	// Failed, where set, is told once that the device hangs: only Close is of use from then
	// on. It must not block.
	Failed func(*DeviceError)

	// Plan says which versions serve.
	Plan Plan
	// Fetch, where set, returns the folder of a version: Version.Dir unless set. Beside a
	// [*FetchError], which may pass, its errors are for good.
	Fetch func(ctx context.Context, model string, v Version) (dir string, err error)
	// Loading, where set, is told before a version is loaded; done after it, whatever came of it
	// but the end of the process.
	Loading func(model string, v Version) (done func(), err error)

	// Probe has a version answer rows like those of its training before it serves.
	Probe bool

	// Clock is the machine's unless set.
	Clock Clock
	// Metrics go to no registry unless set.
	Metrics *Metrics
	// Log is discarded unless set.
	Log *slog.Logger

	// scored, where set, counts the rows of each version over the lives of all devices.
	scored *sync.Map // *atomic.Uint64 by *Contract
}

var deviceForm = regexp.MustCompile(`^(CPU|GPU):[0-9]{1,3}$`)

// complete fills in what is not set, and reports every fault.
func (c *Config) complete() error {
	if c.Device == "" {
		c.Device = "CPU:0"
	}
	if c.MaxRows == 0 {
		c.MaxRows = 1024
	}
	if c.MaxDelay == 0 {
		c.MaxDelay = 2 * time.Millisecond
	}
	if c.QueueRows == 0 {
		c.QueueRows = 16 * c.MaxRows
	}
	if c.InFlight == 0 {
		c.InFlight = inFlight(c.Device, runtime.GOMAXPROCS(0))
	}
	if c.RunTimeout == 0 {
		c.RunTimeout = 10 * time.Second
	}
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("inference: "+format, args...))
		}
	}
	fault(c.System == nil, "an actor system is needed")
	fault(c.Registry == nil, "a registry of models is needed")
	fault(c.Runner == nil, "a runner is needed")
	fault(!deviceForm.MatchString(c.Device), "device %q is not like CPU:0 or GPU:1", c.Device)
	fault(c.MaxRows < 1 || c.MaxRows > 1<<20, "max rows %d is not from 1 to %d", c.MaxRows, 1<<20)
	fault(c.MaxDelay < 0, "max delay %v is below 0", c.MaxDelay)
	fault(c.QueueRows < c.MaxRows, "queue rows %d is below max rows %d", c.QueueRows, c.MaxRows)
	fault(c.RunTimeout < 0, "run timeout %v is below 0", c.RunTimeout)
	fault(c.InFlight < 1 || c.InFlight > maxInFlight, "batches in flight %d is not from 1 to %d", c.InFlight, maxInFlight)
	return errors.Join(append(faults, c.observe())...)
}

// observe fills in how the time is told and where things are noted.
func (c *Config) observe() (err error) {
	if c.Clock.Now == nil || c.Clock.AfterFunc == nil {
		c.Clock = SystemClock()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics, err = NewMetrics(nil)
	}
	return err
}

// maxInFlight bounds the batches that run at once.
const maxInFlight = 64

func inFlight(device string, cores int) int {
	if strings.HasPrefix(device, "CPU") {
		return min(max(2, cores-1), maxInFlight)
	}
	return 2
}

// Device is the inference actor's handle: it owns one device and everything loaded there.
//
//	Start ──► loading ──► open ─────────────Close──► closing ──► closed
//	                       │                  ▲      waiting rows get ErrClosed,
//	            a run takes longer than       │      running ones their scores
//	                  RunTimeout              │
//	                       └────► hanging ────┘
//	                              all rows get a DeviceError, and none is taken
//
// Between a request and its reply:
//
//	Score ─admit─► mailbox ──► waiting ──rows or delay──► batch ──► worker ──► replies
//	       (rows ≤ QueueRows)   (the actor's: see gather.go)        (see run.go)
//
// Invariants:
//
//  1. queued is the rows of requests between Score and their batch; it is never above
//     QueueRows.
//  2. Nothing is posted to the actor once closed is set but by the workers and their watch,
//     and the actor ends only after the last of them has reported.
//  3. At most InFlight batches exist.
//  4. Either the worker or, once its run takes too long, the actor answers a batch's
//     requests: whoever claims it first.
type Device struct {
	Config
	layout Layout
	series deviceSeries
	pid    *actor.PID

	queued atomic.Int64
	// load is the rows of requests between Score and their batch's end.
	load atomic.Int64
	// hang is set by the actor, for good; over as it ends.
	hang atomic.Pointer[DeviceError]
	over atomic.Bool

	// work takes a batch to a worker. It has room for every batch there may be.
	work    chan *batch
	workers sync.WaitGroup
	// ended is closed when the actor has ended.
	ended chan struct{}

	// gate is held for reading while something is posted, so that Close comes after it.
	gate   sync.RWMutex
	closed bool

	// done is closed when Close is through; closeErr is what it found, set before.
	done     chan struct{}
	closeErr error

	// loaded is the set that serves, which the actor stores.
	loaded atomic.Pointer[servingSet]
	// retiring are versions being closed.
	retiring sync.WaitGroup

	// applying is held while what serves is changed.
	applying sync.Mutex
	// failures are by contract why a version could not be loaded here.
	failures sync.Map
}

// Start loads the models of the registry onto the device and opens it. A model that can't
// be loaded is logged, shown by Models as failed, and left out. The error is about the
// configuration or ctx.
func Start(ctx context.Context, config Config) (*Device, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	d := &Device{
		Config: config,
		layout: config.Registry.Layout(),
		series: config.Metrics.device(config.Device),
		work:   make(chan *batch, config.InFlight),
		ended:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	set, err := d.prepare(ctx, config.Registry, config.Plan)
	if err != nil {
		return nil, errors.Join(err, d.unload())
	}
	for range d.InFlight {
		d.workers.Go(func() {
			for b := range d.work {
				b.run()
				d.System.Root.Send(d.pid, batchDone{b})
			}
		})
	}
	// A fault of the actor's own leaves its state as it is: nothing else has the requests.
	g := &gatherer{device: d, credit: countedRows}
	g.swap(set)
	d.pid = d.System.Root.SpawnPrefix(
		actor.PropsFromProducer(func() actor.Actor { return g }, actor.WithGuardian(actor.RestartingSupervisorStrategy())),
		"inference-"+d.Device+"-")
	return d, nil
}

// Name is the device's: "CPU:0".
func (d *Device) Name() string { return d.Device }

// Load is the rows that wait and run.
func (d *Device) Load() int { return int(d.load.Load()) }

// Score offers a request. It never blocks: it answers false where the queue is full, or the
// device closed or hanging, and then forgets the request. Otherwise Reply follows, also with
// what is wrong with the request.
func (d *Device) Score(r *Request) bool {
	if d.hang.Load() != nil {
		return false
	}
	if err := r.check(d.layout, d.QueueRows); err != nil {
		return d.post(&refusal{request: r, err: err})
	}
	if !d.admit(int64(r.Rows)) {
		d.series.refused.Add(float64(r.Rows))
		return false
	}
	d.load.Add(int64(r.Rows))
	if !d.post(r) {
		d.queued.Add(-int64(r.Rows))
		d.load.Add(-int64(r.Rows))
		return false
	}
	return true
}

func (d *Device) admit(rows int64) bool {
	for {
		n := d.queued.Load()
		if n+rows > int64(d.QueueRows) {
			return false
		}
		if d.queued.CompareAndSwap(n, n+rows) {
			return true
		}
	}
}

// post sends to the actor unless the device is closed.
func (d *Device) post(message any) bool {
	d.gate.RLock()
	defer d.gate.RUnlock()
	if d.closed {
		return false
	}
	d.System.Root.Send(d.pid, message)
	return true
}

// Close answers what waits with [ErrClosed], waits for the batches that run, and gives the
// models back. Calling it again waits for the first call and returns the same.
func (d *Device) Close() error {
	d.gate.Lock()
	first := !d.closed
	d.closed = true
	d.gate.Unlock()
	if first {
		d.System.Root.Send(d.pid, closing{})
		<-d.ended
		close(d.work)
		d.workers.Wait()
		d.closeErr = d.unload()
		close(d.done)
	}
	<-d.done
	return d.closeErr
}

// unload closes the sessions and deletes the device's series.
func (d *Device) unload() error {
	d.retiring.Wait()
	var errs []error
	if set := d.loaded.Load(); set != nil {
		for _, s := range set.models {
			errs = append(errs, d.close(s))
		}
	}
	d.Metrics.dropDevice(d.Device)
	return errors.Join(errs...)
}
