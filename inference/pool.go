package inference

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Target takes requests for one device: a [Device] of this process, or what stands for one of
// another member.
type Target interface {
	// Name is the device's: "CPU:0".
	Name() string
	// Load is the rows that wait there and run.
	Load() int
	// Score is as [Device.Score]: it must not block, and a reply's Fault says that another
	// device may do better.
	Score(*Request) bool
}

var _ Target = (*Device)(nil)

// PoolConfig is what a pool is made of.
type PoolConfig struct {
	// Config is that of each device; Device and Failed are the pool's to set.
	Config
	// Devices are the ones to own, in order: [CPU:0] unless set.
	Devices []string
	// NoDevices has the pool own none: what [Pool.SetRemote] names is all there is. The registry
	// and the runner are not used then.
	NoDevices bool
	// Deadline is how long a request that names none is tried: 30 s unless set.
	Deadline time.Duration
	// Strikes is after how many failed runs, without a good one between them, a device is
	// taken out: 3 unless set.
	Strikes int
	// BackOff is how long a device stays out after its first failure: 1 s unless set. Each
	// further one doubles it up to MostBackOff, 1 min unless set; a device that served for so
	// long begins anew.
	BackOff, MostBackOff time.Duration
	// CloseWait bounds how long Close waits for runs that hang: 10 s unless set.
	CloseWait time.Duration
}

func (c *PoolConfig) complete() error {
	if len(c.Devices) == 0 && !c.NoDevices {
		c.Devices = []string{DefaultDevice}
	}
	c.Deadline = cmp.Or(c.Deadline, 30*time.Second)
	c.Strikes = cmp.Or(c.Strikes, 3)
	c.BackOff = cmp.Or(c.BackOff, time.Second)
	c.MostBackOff = max(cmp.Or(c.MostBackOff, time.Minute), c.BackOff)
	c.CloseWait = cmp.Or(c.CloseWait, 10*time.Second)
	inFlight := c.InFlight
	var err error
	if c.NoDevices {
		err = c.observe()
	} else {
		err = c.Config.complete()
	}
	c.InFlight = inFlight // each device has its own default
	for i, name := range c.Devices {
		switch {
		case !deviceForm.MatchString(name):
			err = errors.Join(err, fmt.Errorf("inference: device %q is not like CPU:0 or GPU:1", name))
		case slices.Index(c.Devices, name) < i:
			err = errors.Join(err, fmt.Errorf("inference: device %s is named twice", name))
		}
	}
	if c.Deadline < 0 || c.Strikes < 1 || c.BackOff < 0 || c.CloseWait < 0 {
		err = errors.Join(err, errors.New("inference: deadline, strikes, back-off and close wait can't be below 0"))
	}
	return err
}

// Pool owns several devices and gives each request to the least loaded of them: this
// process's first, then those of other members. It takes devices out that fail, and tries
// them again (see [seat]); it gives their requests to others (see [ticket]).
//
// Invariants:
//
//  1. Every request that was taken is answered exactly once, also when the pool closes.
//  2. A request is at one device at a time, and at each at most once.
//  3. A device that serves fewer models, or older versions, than another is not in service.
//  4. One model that fails everywhere takes no device out.
type Pool struct {
	PoolConfig
	seats []*seat
	// remote are the devices of other members.
	remote atomic.Pointer[[]*life]
	naming sync.Mutex // held while that changes

	// goal is what should serve.
	goal atomic.Pointer[goal]
	// applying is held while that changes.
	applying sync.Mutex
	// settling is held while a life enters service.
	settling sync.Mutex
	// fruitless is until when, in nanoseconds, nobody is tried again for single models: the
	// last time it did not help.
	fruitless atomic.Int64

	ctx     context.Context //nolint:containedctx // ends the keepers, which outlive StartPool
	stop    context.CancelFunc
	keepers sync.WaitGroup
	// pausing are tickets that wait for room.
	pausing sync.WaitGroup

	closing  sync.Once
	closed   atomic.Bool
	closeErr error
}

// DefaultDevice is the one where no other is named.
const DefaultDevice = "CPU:0"

// StartPool loads the models onto all devices at once and returns when one of them serves, or
// when none can. The error is about the configuration, or ctx.
func StartPool(ctx context.Context, config PoolConfig) (*Pool, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	p := &Pool{PoolConfig: config}
	p.scored = new(sync.Map)
	p.goal.Store(&goal{p.Registry, p.Plan})
	p.ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	tried := make(chan bool, len(p.Devices))
	for _, name := range p.Devices {
		s := newSeat(p, name)
		p.seats = append(p.seats, s)
	}
	for _, s := range p.seats {
		p.keepers.Go(func() { s.keep(func(serves bool) { tried <- serves }) })
	}
	for range p.seats {
		select {
		case serves := <-tried:
			if serves {
				return p, nil
			}
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("inference: loading models: %w", context.Cause(ctx)), p.Close())
		}
	}
	return p, nil
}

// SetRemote names the devices of other members, in place of those named before. They get
// requests that no device of this process takes.
func (p *Pool) SetRemote(targets []Target) {
	p.naming.Lock()
	defer p.naming.Unlock()
	var before []*life
	if named := p.remote.Load(); named != nil {
		before = *named
	}
	lives := make([]*life, len(targets))
	for i, t := range targets {
		// One that stays has the same life: who has tried it knows.
		if j := slices.IndexFunc(before, func(l *life) bool { return l.target == t }); j >= 0 {
			lives[i] = before[j]
		} else {
			lives[i] = &life{target: t}
		}
	}
	p.remote.Store(&lives)
}

// registered are the models of the registry, none where the pool owns no devices.
func (p *Pool) registered() []Model {
	if p.NoDevices {
		return nil
	}
	return p.goal.Load().registry.Models()
}

// Score offers a request, as [Device.Score] does: false means that no device has room. Where
// none is in service, the reply says so; a pool that owns none answers false then, too, since
// others come and go.
func (p *Pool) Score(r *Request) bool {
	if p.closed.Load() {
		return false
	}
	t := newTicket(p, r)
	switch t.offer() {
	case offerTaken:
		return true
	case offerFull:
		return false
	default:
		if p.NoDevices {
			return false
		}
		r.Reply(Reply{Err: ErrNoDevice})
		return true
	}
}

// least returns the life with the least load that is in neither list, of this process if
// there is one; nil if there is none.
func (p *Pool) least(local bool, tried, refused []*life) *life {
	var best *life
	load := 0
	consider := func(l *life) {
		if l == nil || slices.Contains(tried, l) || slices.Contains(refused, l) {
			return
		}
		if n := l.target.Load(); best == nil || n < load {
			best, load = l, n
		}
	}
	for _, s := range p.seats {
		consider(s.life.Load())
	}
	if remote := p.remote.Load(); best == nil && remote != nil && !local {
		for _, l := range *remote {
			consider(l)
		}
	}
	return best
}

// Close takes all devices out of service, answers what waits with [ErrClosed], and gives the
// models back. A run that hangs is waited for during CloseWait. Calling it again waits for
// the first call and returns the same.
func (p *Pool) Close() error {
	p.closing.Do(func() {
		p.closed.Store(true)
		p.stop()
		done := make(chan struct{})
		go func() {
			p.keepers.Wait()
			p.pausing.Wait()
			close(done)
		}()
		late := make(chan struct{})
		stop := p.Clock.AfterFunc(p.CloseWait, func() { close(late) })
		defer stop()
		select {
		case <-done:
			for _, s := range p.seats {
				p.closeErr = errors.Join(p.closeErr, s.closeErr)
			}
		case <-late:
			p.closeErr = fmt.Errorf("inference: a run did not end within %v: its model can't be closed", p.CloseWait)
		}
		for _, s := range p.seats {
			p.Metrics.dropSeat(s.name)
		}
	})
	return p.closeErr
}

// Status tells how each device stands, in order.
func (p *Pool) Status() []DeviceStatus {
	all := make([]DeviceStatus, len(p.seats))
	for i, s := range p.seats {
		all[i] = s.Status()
	}
	return all
}

// Serving returns the contracts of the versions that serve, in order of name. The caller
// must not change them.
func (p *Pool) Serving() []*Contract {
	var best *Device
	for _, l := range p.inService() {
		if best == nil || l.device.loaded.Load().compare(best.loaded.Load()) > 0 {
			best = l.device
		}
	}
	if best == nil {
		return nil
	}
	return best.Serving()
}

// inService returns the lives of this process's devices.
func (p *Pool) inService() []*life {
	var all []*life
	for _, s := range p.seats {
		if l := s.life.Load(); l != nil {
			all = append(all, l)
		}
	}
	return all
}

// settle has a life enter service. Whoever serves less than another leaves it: a customer's
// scores must not depend on the device. The error is the newcomer's.
func (p *Pool) settle(l *life) *DeviceError {
	p.settling.Lock()
	defer p.settling.Unlock()
	for _, other := range p.inService() {
		switch c := l.device.loaded.Load().compare(other.device.loaded.Load()); {
		case c < 0:
			return l.device.lacks(other.device)
		case c > 0:
			other.fail(other.device.lacks(l.device))
		}
	}
	if len(l.device.loaded.Load().models) == 0 && l.seat.served {
		return &DeviceError{Device: l.seat.name, Reason: FaultLoad, Err: errors.New("it served, and no model can be loaded any more")}
	}
	l.seat.served = l.seat.served || len(l.device.loaded.Load().models) > 0
	l.seat.life.Store(l)
	return nil
}

// compare orders sets: more models are better, then newer versions of the first that differs, then more challengers.
func (s *servingSet) compare(t *servingSet) int {
	if c := cmp.Compare(len(s.champions), len(t.champions)); c != 0 {
		return c
	}
	c := slices.CompareFunc(s.champions, t.champions, func(a, b *serving) int {
		return cmp.Or(cmp.Compare(b.contract.Name, a.contract.Name), cmp.Compare(a.contract.Version, b.contract.Version))
	})
	return cmp.Or(c, cmp.Compare(len(s.challengers), len(t.challengers)))
}

// lacks says what another device serves and this one does not.
func (d *Device) lacks(other *Device) *DeviceError {
	return d.short(d.loaded.Load(), other, other.loaded.Load())
}

// short says what another device's set has and this one's does not.
func (d *Device) short(own *servingSet, other *Device, others *servingSet) *DeviceError {
	e := &DeviceError{Device: d.Device, Reason: FaultLoad}
	for _, s := range others.models {
		if slices.ContainsFunc(own.models, func(own *serving) bool { return own.contract == s.contract }) {
			continue
		}
		e.Err = fmt.Errorf("it lacks %s %s, which %s serves", s.contract.Name, s.version, other.Device)
		if why := d.failure(s.contract); why != nil {
			e.Err = fmt.Errorf("%w: %w", e.Err, why)
		}
		break
	}
	return e
}
