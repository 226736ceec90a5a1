package access

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxCallers bounds the callers whose rate is known at a time. Whoever has not called for longest
// is forgotten first: it gets a full burst when it comes back, which it would mostly have anyway.
const maxCallers = 4096

// rates bounds the calls of each caller: a token's name, or an address.
//
// Invariant: order and byKey hold the same callers, at most maxCallers, the latest first.
type rates struct {
	limit rate.Limit
	burst int

	mu    sync.Mutex // guards what follows
	order *list.List // of *caller
	byKey map[string]*list.Element
}

type caller struct {
	key     string
	limiter *rate.Limiter
}

// newRates makes one; nil, which lets everybody pass, where perSecond is 0.
func newRates(perSecond, burst int) *rates {
	if perSecond == 0 {
		return nil
	}
	return &rates{limit: rate.Limit(perSecond), burst: burst, order: list.New(), byKey: map[string]*list.Element{}}
}

// take lets a call pass, or says how long its caller should wait.
func (r *rates) take(key string, now time.Time) (wait time.Duration) {
	if r == nil {
		return 0
	}
	reserved := r.of(key).ReserveN(now, 1)
	if wait = reserved.DelayFrom(now); wait > 0 {
		reserved.CancelAt(now)
	}
	return wait
}

func (r *rates) of(key string) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.byKey[key]; ok {
		r.order.MoveToFront(e)
		return e.Value.(*caller).limiter
	}
	if r.order.Len() >= maxCallers {
		last := r.order.Back()
		delete(r.byKey, last.Value.(*caller).key)
		r.order.Remove(last)
	}
	c := &caller{key, rate.NewLimiter(r.limit, r.burst)}
	r.byKey[key] = r.order.PushFront(c)
	return c.limiter
}

// hostOf is what stands for a client where it has no name: its address, or in IPv6 the network of
// it, of which everybody has a whole one.
func hostOf(addr net.Addr) (key string, loopback bool) {
	if addr == nil {
		return "", false
	}
	ip, ok := ipOf(addr)
	if !ok {
		return addr.Network(), addr.Network() != "tcp" // a pipe of this process
	}
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil && !ip.IsLoopback() {
			return p.String(), false
		}
	}
	return ip.String(), ip.IsLoopback()
}

func ipOf(addr net.Addr) (netip.Addr, bool) {
	at, err := netip.AddrPort{}, error(nil)
	if tcp, ok := addr.(*net.TCPAddr); ok {
		at = tcp.AddrPort()
	} else {
		at, err = netip.ParseAddrPort(addr.String())
	}
	return at.Addr().Unmap().WithZone(""), err == nil
}

// local reports whether a client is of this machine.
func local(addr net.Addr) bool {
	if addr == nil {
		return false
	}
	ip, ok := ipOf(addr)
	return ok && ip.IsLoopback() || !ok && addr.Network() != "tcp"
}

// listener bounds the connections of a listener, in all and from one address. What is beyond is
// closed at once, and counted: waiting would only move the queue to where nobody sees it.
type listener struct {
	net.Listener
	name      string
	access    *Access
	all, each int

	mu   sync.Mutex // guards what follows
	open int
	from map[string]int
}

// Listen bounds the connections that l accepts; name is its label: "http" or "grpc".
func (a *Access) Listen(name string, l net.Listener) net.Listener {
	a.metrics.connections.WithLabelValues(name)
	a.metrics.turnedAway.WithLabelValues(name)
	return &listener{Listener: l, name: name, access: a, all: a.cfg.Limits.Connections, each: a.cfg.Limits.ConnectionsPerAddress, from: map[string]int{}}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		key, _ := hostOf(c.RemoteAddr())
		if l.enter(key) {
			return &conn{Conn: c, leave: sync.OnceFunc(func() { l.leave(key) })}, nil
		}
		l.access.metrics.turnedAway.WithLabelValues(l.name).Inc()
		_ = c.Close() // nothing was said
		l.access.log.Warn("connections turned away: there are too many", "listener", l.name, "remote", key)
	}
}

func (l *listener) enter(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all > 0 && l.open >= l.all || l.each > 0 && l.from[key] >= l.each {
		return false
	}
	l.open++
	l.from[key]++
	l.access.metrics.connections.WithLabelValues(l.name).Set(float64(l.open))
	return true
}

func (l *listener) leave(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.from[key]--; l.from[key] == 0 {
		delete(l.from, key)
	}
	l.access.metrics.connections.WithLabelValues(l.name).Set(float64(l.open))
}

type conn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
