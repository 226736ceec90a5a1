package inference

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// DeviceState is how a device of a pool stands.
type DeviceState string

// The states of a device: see [seat].
const (
	DeviceLoading DeviceState = "loading"
	DeviceServing DeviceState = "serving"
	DeviceOut     DeviceState = "out"
)

// DeviceStatus tells how a device stands.
type DeviceStatus struct {
	Name  string
	State DeviceState
	// Since is when the state began; Retry when a device that is out is tried again, zero
	// while a run still hangs there.
	Since, Retry time.Time
	// Err is why it is out.
	Err error
	// Load is the rows that wait and run.
	Load int
}

// String is the name, with the state where it is not in service: "GPU:1 (out)".
func (s DeviceStatus) String() string {
	if s.State == DeviceServing {
		return s.Name
	}
	return fmt.Sprintf("%s (%s)", s.Name, s.State)
}

// seat is a device's place in a pool. One goroutine, its keeper, gives it one life after the
// other: a [Device] with sessions of its own.
//
//	loading ──► serving ──fails──► out
//	   ▲  │                         │ what runs has returned, and the back-off is over
//	   │  └───can't, or lacks───────►│
//	   └────────────────────────────┘
//
// A device fails by [PoolConfig.Strikes] runs that fail whatever they are fed, by one that
// hangs, or by lacking a model that another serves.
//
// Invariants:
//
//  1. A seat has one life at most; the next begins after the last one is closed, so that
//     runs that hang do not pile up.
//  2. What fails a life twice takes it out once.
type seat struct {
	pool   *Pool
	name   string
	series seatSeries
	// life takes requests; nil while there is none in service.
	life atomic.Pointer[life]

	// served is set once models served here; the pool's settling guards it.
	served bool
	// closeErr is written by the keeper as it ends.
	closeErr error

	mu     sync.Mutex
	status DeviceStatus
}

// life is one opening of a device, or a device of another member, whose seat is nil.
type life struct {
	target Target
	device *Device
	seat   *seat
	// strikes are the failed runs since the last good one.
	strikes atomic.Int32
	// failed has what ended it.
	failed chan *DeviceError
}

func newSeat(p *Pool, name string) *seat {
	s := &seat{pool: p, name: name, series: p.Metrics.seat(name)}
	s.set(DeviceStatus{State: DeviceLoading})
	return s
}

// Status tells how the device stands.
func (s *seat) Status() DeviceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.status
	if l := s.life.Load(); l != nil {
		status.Load = l.target.Load()
	}
	return status
}

func (s *seat) set(status DeviceStatus) {
	status.Name, status.Since = s.name, s.pool.Clock.Now()
	up := 0.0
	if status.State == DeviceServing {
		up = 1
	}
	s.series.up.Set(up)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// keep is the keeper. It tells tried once how the first attempt went.
func (s *seat) keep(tried func(serves bool)) {
	p := s.pool
	backOff := p.BackOff
	for p.ctx.Err() == nil {
		s.set(DeviceStatus{State: DeviceLoading})
		l, fault := s.open()
		if p.ctx.Err() != nil {
			fault = nil // whatever it is, closing is why
		} else if fault == nil {
			began := p.Clock.Now()
			s.set(DeviceStatus{State: DeviceServing})
			tried(true)
			tried = func(bool) {}
			select {
			case fault = <-l.failed:
			case <-p.ctx.Done():
			}
			s.life.CompareAndSwap(l, nil)
			if p.Clock.Now().Sub(began) >= p.MostBackOff {
				backOff = p.BackOff
			}
		}
		if fault != nil {
			s.series.failures[fault.Reason].Inc()
			p.Log.Error("device is out of service", "device", s.name, "reason", fault.Reason, "error", fault, "back_off", backOff)
			s.set(DeviceStatus{State: DeviceOut, Err: fault})
			tried(false)
			tried = func(bool) {}
		}
		if l != nil {
			// Where a run hangs this waits for it.
			if err := l.device.Close(); err != nil {
				s.closeErr = err
				p.Log.Warn("device was not closed in order", "device", s.name, "error", err)
			}
		}
		if fault != nil {
			s.set(DeviceStatus{State: DeviceOut, Err: fault, Retry: p.Clock.Now().Add(backOff)})
			s.wait(backOff)
			backOff = min(2*backOff, p.MostBackOff)
		}
	}
}

// open begins a life. Where there is a device, the caller closes it, also after a fault.
func (s *seat) open() (*life, *DeviceError) {
	p := s.pool
	l := &life{seat: s, failed: make(chan *DeviceError, 1)}
	config := p.Config
	config.Device, config.Failed = s.name, func(e *DeviceError) { l.fail(e) }
	goal := p.goal.Load()
	config.Registry, config.Plan = goal.registry, goal.plan
	d, err := Start(p.ctx, config)
	if err != nil {
		return nil, &DeviceError{Device: s.name, Reason: FaultLoad, Err: err}
	}
	l.device, l.target = d, d
	// What should serve may have changed meanwhile; from here on it waits for this device.
	p.applying.Lock()
	defer p.applying.Unlock()
	if now := p.goal.Load(); now != goal {
		if err := d.Apply(p.ctx, now.registry, now.plan); err != nil {
			return l, &DeviceError{Device: s.name, Reason: FaultLoad, Err: err}
		}
	}
	return l, p.settle(l)
}

// wait returns once the time has passed, or the pool closes.
func (s *seat) wait(d time.Duration) {
	over := make(chan struct{})
	stop := s.pool.Clock.AfterFunc(d, func() { close(over) })
	defer stop()
	select {
	case <-over:
	case <-s.pool.ctx.Done():
	}
}

// fail takes the life out of service, once.
func (l *life) fail(e *DeviceError) {
	if l.seat != nil && l.seat.life.CompareAndSwap(l, nil) {
		l.failed <- e
	}
}

// strike notes a failed run.
func (l *life) strike(e *DeviceError) {
	if l.seat == nil {
		return // whoever named the device decides about it
	}
	if n := l.strikes.Add(1); int(n) >= l.seat.pool.Strikes {
		l.fail(&DeviceError{Device: e.Device, Reason: e.Reason, Err: fmt.Errorf("%d runs in a row failed: %w", n, errors.Unwrap(e))})
	}
}

// worked notes a good run.
func (l *life) worked() {
	if l.strikes.Load() != 0 {
		l.strikes.Store(0)
	}
}
