package oip

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"footfall/inference"
	pb "footfall/messages/inferencev2"
)

// Place is a server of the protocol to send rows to.
type Place struct {
	// Name is what it is called here, and in metrics.
	Name string
	// Address is where it is: host:port.
	Address string
	// Models returns the models to ask it for, which must be those that it serves.
	Models func(ctx context.Context, conn grpc.ClientConnInterface) ([]Model, error)
}

// Model is one that a server is asked for.
type Model struct {
	Name string
	// Canary, where it is set, is the version whose scores a share of the customers get, in place
	// of those of the version that answers who names none: see [inference.Chosen].
	Canary string
	Share  float64
}

// RemotesConfig is what [Remotes] are made of. Zero values mean the defaults.
type RemotesConfig struct {
	// Layout is that of the rows.
	Layout inference.Layout
	// Dial returns the connection to an address, encrypted or not, without waiting for it. It
	// is asked again before each look at a server; whoever gives it closes it.
	Dial func(address string) (grpc.ClientConnInterface, error)
	// Changed is told those that take requests whenever that changes, by name. It must not block.
	Changed func([]inference.Target)
	// Timeout bounds a request: 10 s.
	Timeout time.Duration
	// MaxCalls bounds the requests under way at each server: 16.
	MaxCalls int
	// Strikes is after how many requests that nothing came of, one after the other, a server
	// is taken out: 3. One that nobody reaches is so at once.
	Strikes int
	// ProbeEvery is how often a server is asked whether it is well and what it serves: 5 s.
	// ProbeTimeout bounds that: 2 s.
	ProbeEvery, ProbeTimeout time.Duration
	// BackOff is how long one that failed is left alone at first: 250 ms; MostBackOff at most:
	// 10 s.
	BackOff, MostBackOff time.Duration
	Clock                inference.Clock
	// Metrics go to no registry unless set.
	Metrics *inference.Metrics
	Log     *slog.Logger
}

// Remotes keep an eye on servers of the protocol, and name those that are well to whoever
// sends rows there: [inference.Pool.SetRemote]. Each has a keeper:
//
//	asked ──it is ready, and serves──► in service ──fails, or is not ready──► out
//	  ▲                                    │ every ProbeEvery                  │ back-off
//	  └────────────────────────────────────┴──────────────────────────────────┘
//
// Invariants:
//
//  1. Changed is told in the order in which things changed.
//  2. A server that was taken away, or replaced by one at another address, gets nothing more;
//     what is under way there ends by itself.
//  3. After Close nothing runs any more, and every request is answered.
type Remotes struct {
	RemotesConfig
	life    context.Context //nolint:containedctx // ends keepers and calls, which outlive Set
	end     context.CancelFunc
	keepers sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	running sync.WaitGroup // requests; none is added once closed
	kept    map[string]*kept
}

// kept is a server with its keeper.
type kept struct {
	remote *Remote
	stop   context.CancelFunc
	status inference.DeviceStatus
}

// NewRemotes returns none: Set names them.
func NewRemotes(c RemotesConfig) (*Remotes, error) {
	if c.Dial == nil || c.Changed == nil {
		return nil, errors.New("oip: remotes need a way to dial, and somebody to tell")
	}
	if err := c.Layout.Validate(); err != nil {
		return nil, err
	}
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.MaxCalls = cmp.Or(c.MaxCalls, 16)
	c.Strikes = cmp.Or(c.Strikes, 3)
	c.ProbeEvery, c.ProbeTimeout = cmp.Or(c.ProbeEvery, 5*time.Second), cmp.Or(c.ProbeTimeout, 2*time.Second)
	c.BackOff = cmp.Or(c.BackOff, 250*time.Millisecond)
	c.MostBackOff = max(c.BackOff, cmp.Or(c.MostBackOff, 10*time.Second))
	if c.Clock.Now == nil {
		c.Clock = inference.SystemClock()
	}
	if c.Metrics == nil {
		m, err := inference.NewMetrics(nil)
		if err != nil {
			return nil, err
		}
		c.Metrics = m
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Remotes{RemotesConfig: c, kept: map[string]*kept{}}
	r.life, r.end = context.WithCancel(context.Background())
	return r, nil
}

// Set names the servers, in place of those named before. It does not wait for them.
func (r *Remotes) Set(servers []Place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	named := make(map[string]Place, len(servers))
	for _, s := range servers {
		named[s.Name] = s
	}
	for name, k := range r.kept {
		if s, stays := named[name]; !stays || s.Address != k.remote.server.Address {
			k.remote.up.Store(false)
			k.stop()
			delete(r.kept, name)
			r.Log.Info("inference server is gone", "server", name, "address", k.remote.server.Address)
			k.remote.series.Drop()
		}
	}
	for name, s := range named {
		if r.kept[name] == nil {
			ctx, stop := context.WithCancel(r.life)
			k := &kept{
				stop: stop, status: inference.DeviceStatus{Name: name, State: inference.DeviceLoading, Since: r.Clock.Now()},
				remote: &Remote{of: r, server: s, series: r.Metrics.Remote(name), looks: make(chan look, 1)},
			}
			r.kept[name] = k
			r.keepers.Go(func() { r.keep(ctx, k) })
		}
	}
	r.tellChanged()
}

// tellChanged is called with the lock.
func (r *Remotes) tellChanged() {
	var up []inference.Target
	for _, name := range slices.Sorted(maps.Keys(r.kept)) {
		if k := r.kept[name]; k.remote.up.Load() {
			up = append(up, k.remote)
		}
	}
	r.Changed(up)
}

// set notes how a server stands, and tells whoever sends rows.
func (r *Remotes) set(k *kept, status inference.DeviceStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept[k.remote.server.Name] != k {
		return // it was taken away
	}
	status.Name, status.Since = k.remote.server.Name, r.Clock.Now()
	k.status = status
	up := status.State == inference.DeviceServing
	k.remote.up.Store(up)
	k.remote.series.Up(up)
	r.tellChanged()
}

// keep is the keeper of one server.
func (r *Remotes) keep(ctx context.Context, k *kept) {
	log := r.Log.With("server", k.remote.server.Name, "address", k.remote.server.Address)
	backOff, failing := r.BackOff, ""
	for ctx.Err() == nil {
		err := k.remote.probe(ctx)
		for err == nil && ctx.Err() == nil {
			if !k.remote.up.Load() {
				log.Info("inference server takes rows", "models", *k.remote.models.Load())
				r.set(k, inference.DeviceStatus{State: inference.DeviceServing})
				failing = ""
			}
			if err = r.next(ctx, k.remote); err == nil {
				backOff = r.BackOff
				err = k.remote.probe(ctx)
			}
		}
		if ctx.Err() != nil {
			return
		}
		if k.status.State == inference.DeviceServing {
			k.remote.series.Failed(reasonOf(err))
		}
		if err.Error() != failing {
			failing = err.Error()
			log.Warn("inference server takes no rows: it is tried again", "error", err)
		}
		r.set(k, inference.DeviceStatus{State: inference.DeviceOut, Err: err, Retry: r.Clock.Now().Add(backOff)})
		r.pause(ctx, backOff)
		backOff = min(2*backOff, r.MostBackOff)
	}
}

func reasonOf(err error) string {
	if fault, ok := errors.AsType[*inference.DeviceError](err); ok {
		return fault.Reason
	}
	return inference.FaultRun
}

// next returns when it is time for another look at a server, with what it failed with, if it did.
func (r *Remotes) next(ctx context.Context, m *Remote) error {
	due := make(chan struct{})
	stop := r.Clock.AfterFunc(r.ProbeEvery, func() { close(due) })
	defer stop()
	select {
	case l := <-m.looks:
		return l.why
	case <-due:
	case <-ctx.Done():
	}
	return nil
}

// pause waits; it answers false where ctx ended first.
func (r *Remotes) pause(ctx context.Context, d time.Duration) bool {
	over := make(chan struct{})
	stop := r.Clock.AfterFunc(d, func() { close(over) })
	defer stop()
	select {
	case <-over:
		return true
	case <-ctx.Done():
		return false
	}
}

// enter adds a request unless the remotes are closed.
func (r *Remotes) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.running.Add(1)
	return true
}

// Status tells how each server stands, by name.
func (r *Remotes) Status() []inference.DeviceStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []inference.DeviceStatus
	for _, name := range slices.Sorted(maps.Keys(r.kept)) {
		status := r.kept[name].status
		status.Load = r.kept[name].remote.Load()
		all = append(all, status)
	}
	return all
}

// Close ends what is under way with [inference.ErrClosed], and the keepers. It is idempotent.
func (r *Remotes) Close() {
	r.mu.Lock()
	r.closed = true
	for name, k := range r.kept {
		k.remote.up.Store(false)
		k.stop()
		k.remote.series.Drop()
		delete(r.kept, name)
	}
	r.Changed(nil)
	r.mu.Unlock()
	r.end()
	r.keepers.Wait()
	r.running.Wait()
}

// ReadyModels returns a [Place]'s Models for a server that can't be asked what it serves: those
// of the names that it says are ready.
func ReadyModels(names func() []string) func(context.Context, grpc.ClientConnInterface) ([]Model, error) {
	return func(ctx context.Context, conn grpc.ClientConnInterface) (ready []Model, err error) {
		stub := pb.NewGRPCInferenceServiceClient(conn)
		for _, name := range names() {
			r, err := stub.ModelReady(ctx, &pb.ModelReadyRequest{Name: name})
			if err != nil && !isNotServing(fromStatus(err, name, "")) {
				return nil, err
			}
			if r.GetReady() {
				ready = append(ready, Model{Name: name})
			}
		}
		return ready, nil
	}
}
