package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
)

// proxy is a network between a node and its broker, for a test to break.
type proxy struct {
	listener net.Listener
	broker   string
	work     sync.WaitGroup

	mu sync.Mutex
	// links are true until something is done to them.
	links map[*link]bool
}

// link is one connection through a proxy.
type link struct {
	near, far        *net.TCPConn
	toBroker, toNode valve
}

// valve lets bytes through while it is open. What comes meanwhile waits, and so does the end of
// the connection: whoever waits behind a closed one hears nothing at all.
type valve struct {
	mu   sync.Mutex
	open chan struct{} // closed while bytes get through
}

func (v *valve) set(open bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	was := v.open != nil && isClosed(v.open)
	switch {
	case open && !was:
		if v.open == nil {
			v.open = make(chan struct{})
		}
		close(v.open)
	case !open && (was || v.open == nil):
		v.open = make(chan struct{})
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func (v *valve) pass() {
	v.mu.Lock()
	open := v.open
	v.mu.Unlock()
	<-open
}

func newProxy(t *testing.T, addr, broker string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	p := &proxy{listener: l, broker: broker, links: map[*link]bool{}}
	p.work.Go(p.accept)
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		p.heal()
		p.harm((*link).cut)
		p.work.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.broker)
		if err != nil {
			_ = near.Close()
			continue
		}
		l := &link{near: near.(*net.TCPConn), far: far.(*net.TCPConn)}
		l.toBroker.set(true)
		l.toNode.set(true)
		p.mu.Lock()
		p.links[l] = true
		p.mu.Unlock()
		p.work.Go(func() {
			var both sync.WaitGroup
			both.Go(func() { carry(l.far, l.near, &l.toBroker) })
			both.Go(func() { carry(l.near, l.far, &l.toNode) })
			both.Wait()
			l.close()
			p.mu.Lock()
			delete(p.links, l)
			p.mu.Unlock()
		})
	}
}

func (l *link) close() {
	_ = l.near.Close()
	_ = l.far.Close()
}

// carry takes bytes from one side to the other, and then the end.
func carry(to, from *net.TCPConn, v *valve) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		v.pass()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			_ = to.CloseWrite()
			return
		}
	}
}

// harm does something to every connection that is whole.
func (p *proxy) harm(do func(*link)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l, whole := range p.links {
		if whole {
			do(l)
			p.links[l] = false
		}
	}
}

// cut resets both sides.
func (l *link) cut() {
	_ = l.near.SetLinger(0)
	_ = l.far.SetLinger(0)
	l.close()
}

// heal lets through what has waited in the connections that were harmed.
func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.toBroker.set(true)
		l.toNode.set(true)
	}
}

// reconnects counts, for each connection of a node, how often it came back.
func (r *running) reconnects(t *testing.T) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	for _, name := range []string{"consume-0", "consume-1", "publish", "bridge"} {
		out[name] = r.metric(t, "footfall_rabbitmq_reconnects_total", name)
	}
	return out
}

// testBrokerIsLate starts a node before its broker.
func testBrokerIsLate(t *testing.T, b *local.Broker, vhost string) {
	ports, err := local.ReservePorts(1)
	require.NoError(t, err)
	defer ports.Release()
	addr := local.Address(ports.Next())
	cfg := brokerConfig(t.TempDir(), throughProxy(t, b.URLIn(vhost, "node"), addr))
	var network *proxy
	n := launch(t, cfg, func(o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(onWords{"the broker is not there yet", func() {
			if network == nil {
				network = newProxy(t, addr, b.Address())
			}
		}}, nil))
	})
	require.NotNil(t, network, "it did not have to wait")
	n.publish(t, view("early", "bird", monday))
	n.idle(t)
	require.EqualValues(t, 1, n.verified(t))
}

// onWords is a log that does something when it is told some words.
type onWords struct {
	words string
	do    func()
}

func (w onWords) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(w.words)) {
		w.do()
	}
	return len(line), nil
}

// testConnectionLost breaks the connections between a node and its broker under load: cut off
// on both sides, silent in one direction or in both until each side has given up by itself,
// and silent for so long that the node has connected again when it hears, and is heard, late.
func testConnectionLost(t *testing.T, b *local.Broker, vhost string) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	p := newProxy(t, local.Address(0), b.Address())
	const late = "silence, and heard late"
	url := throughProxy(t, b.URLIn(vhost, "node"), p.listener.Addr().String())
	n := launch(t, brokerConfig(t.TempDir(), url))
	l := newLoad(t, seed, b.URLIn(vhost, publisherUser), n.GRPCAddr(), n.cfg.Shards)
	l.start()

	faults := []struct {
		name string
		do   func(*link)
	}{
		{"cut", (*link).cut},
		{"silence to the broker", func(l *link) { l.toBroker.set(false) }},
		{"silence to the node", func(l *link) { l.toNode.set(false) }},
		{"silence", func(l *link) { l.toBroker.set(false); l.toNode.set(false) }},
		{late, func(l *link) { l.toBroker.set(false); l.toNode.set(false) }},
	}
	rounds := 1
	if heavy() {
		rounds = 6
	}
	for range rounds {
		rng.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
		for _, f := range faults {
			l.after(rng.IntN(25))
			t.Log(f.name)
			before := n.reconnects(t)
			p.harm(f.do)
			until(t, func(context.Context) error {
				for name, count := range n.reconnects(t) {
					if count == before[name] {
						return fmt.Errorf("%s has not come back", name)
					}
				}
				return nil
			})
			if f.name == late {
				p.heal()
			}
		}
	}
	l.after(10)
	l.finish()
	l.check(n)
}
