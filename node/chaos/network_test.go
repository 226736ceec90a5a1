package chaos

import (
	"io"
	"maps"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// network is what stands between the processes of a test: every byte from one node to another, and
// between a node and a server, goes through a proxy in this process that knows who sends it.
//
//	n1 ──► proxy of n2's gRPC (TCP) ────────────► n2      n1 ──► proxy of n1's broker ────► broker
//	n1 ──► proxy of n2's gossip (TCP, UDP) ─────► n2      n1 ──► proxy of n1's database ──► PostgreSQL
//
// Each direction of each pair is open or closed. Where it is closed, packets are lost, and bytes of
// a connection wait, like those that TCP sends again and again: whoever is at the other end hears
// nothing, and gets all of it late.
//
// A node connects from any port, so who it is tells the kernel: see whose.
type network struct {
	work sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  map[direction]bool
	changed chan struct{} // closed with every change
	over    bool
	pids    map[int]string
	udp     map[netip.Addr]string
	ends    []io.Closer
	strange int
	conns   map[*net.TCPConn]direction
}

// direction is of what goes from one to another.
type direction struct{ from, to string }

func newNetwork(t *testing.T) *network {
	n := &network{
		closed: map[direction]bool{}, changed: make(chan struct{}),
		pids: map[int]string{}, udp: map[netip.Addr]string{}, conns: map[*net.TCPConn]direction{},
	}
	t.Cleanup(func() {
		n.mu.Lock()
		n.over = true
		close(n.changed)
		for _, e := range n.ends {
			_ = e.Close()
		}
		for c := range n.conns {
			_ = c.Close()
		}
		n.mu.Unlock()
		n.work.Wait()
		if n.strange > 0 {
			t.Logf("%d connections of nobody were closed", n.strange)
		}
	})
	return n
}

// cut closes directions; the function that it returns opens them again.
func (n *network) cut(what ...direction) (heal func()) {
	n.set(true, what)
	return func() { n.set(false, what) }
}

func (n *network) set(closed bool, what []direction) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range what {
		n.closed[d] = closed
	}
	if !n.over {
		close(n.changed)
		n.changed = make(chan struct{})
	}
}

// reset ends the connections between two at once, as a device in between does that has forgotten them.
func (n *network) reset(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c, d := range n.conns {
		if d == (direction{a, b}) || d == (direction{b, a}) {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	}
}

// both are the two directions between two.
func both(a, b string) []direction { return []direction{{a, b}, {b, a}} }

func (n *network) open(d direction) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.closed[d] && !n.over
}

// pass returns once a direction is open: false where the test is over.
func (n *network) pass(d direction) bool {
	for {
		n.mu.Lock()
		if n.over || !n.closed[d] {
			defer n.mu.Unlock()
			return !n.over
		}
		changed := n.changed
		n.mu.Unlock()
		<-changed
	}
}

// process names the node that a process is.
func (n *network) process(pid int, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pids[pid] = name
}

// sender names who sends packets from an address.
func (n *network) sender(addr netip.Addr, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.udp[addr] = name
}

// tcp has a proxy listen at an address, and take what comes from nodes to target, whose name is to.
func (n *network) tcp(t *testing.T, at, to, target string) {
	t.Helper()
	l, err := net.Listen("tcp4", at)
	require.NoError(t, err)
	n.keep(l)
	n.work.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			n.work.Go(func() { n.serve(near.(*net.TCPConn), to, target) })
		}
	})
}

func (n *network) keep(e io.Closer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ends = append(n.ends, e)
}

func (n *network) serve(near *net.TCPConn, to, target string) {
	defer near.Close()
	n.mu.Lock()
	pids := maps.Clone(n.pids)
	n.mu.Unlock()
	from, gone := whose(near, pids)
	if from == "" {
		if !gone {
			n.mu.Lock()
			n.strange++
			n.mu.Unlock()
		}
		return
	}
	there, back := direction{from, to}, direction{to, from}
	if !n.pass(there) || !n.pass(back) { // a connection is made with packets in both directions
		return
	}
	conn, err := net.Dial("tcp4", target)
	if err != nil {
		return
	}
	far := conn.(*net.TCPConn)
	defer far.Close()
	n.mu.Lock()
	if n.over {
		n.mu.Unlock()
		return
	}
	n.conns[near], n.conns[far] = there, back
	n.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { n.carry(far, near, there) })
	both.Go(func() { n.carry(near, far, back) })
	both.Wait()
	n.mu.Lock()
	delete(n.conns, near)
	delete(n.conns, far)
	n.mu.Unlock()
}

// carry takes bytes from one side to the other, and then the end.
func (n *network) carry(to, from *net.TCPConn, d direction) {
	buf := make([]byte, 64<<10)
	for {
		read, err := from.Read(buf)
		if !n.pass(d) {
			return
		}
		if read > 0 {
			if _, err := to.Write(buf[:read]); err != nil {
				_ = from.CloseRead()
				return
			}
		}
		if err != nil {
			_ = to.CloseWrite()
			return
		}
	}
}

// packets has a proxy take packets that come to an address from nodes to target.
func (n *network) packets(t *testing.T, at, to, target string) {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp4", at)
	require.NoError(t, err)
	c, err := net.ListenUDP("udp4", addr)
	require.NoError(t, err)
	n.keep(c)
	far, err := netip.ParseAddrPort(target)
	require.NoError(t, err)
	n.work.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			size, source, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				if n.isOver() {
					return
				}
				continue // an earlier packet was refused
			}
			n.mu.Lock()
			from := n.udp[source.Addr().Unmap()]
			n.mu.Unlock()
			if n.open(direction{from, to}) {
				_, _ = c.WriteToUDPAddrPort(buf[:size], far) // packets may be lost
			}
		}
	})
}

func (n *network) isOver() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.over
}
