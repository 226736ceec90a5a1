package local

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Servers listen below the range that Linux takes for outgoing connections, so that no connection holds
// the port of a server that is down for a moment.
const (
	firstPort = 20_000
	endPort   = 32_768
)

// Ports are TCP ports of 127.0.0.1 that were free when they were reserved, and that no other reservation of any process of
// this machine has until they are released or this process ends. A server may start on them again and again meanwhile.
type Ports struct {
	// held are UDP sockets of the same numbers: they mark the ports as taken, and no server that is started here uses UDP.
	held []net.PacketConn
	next int
}

// ReservePorts reserves n free ports.
func ReservePorts(n int) (*Ports, error) {
	p := &Ports{}
	const tries = 1000
	var last error
	for range tries {
		if len(p.held) == n {
			return p, nil
		}
		if err := p.add(firstPort + rand.IntN(endPort-firstPort)); err != nil {
			last = err // it is taken, most likely
		}
	}
	p.Release()
	return nil, fmt.Errorf("no %d free ports between %d and %d: %w", n, firstPort, endPort, last)
}

// Next returns a reserved port, a different one each time. It panics where more are asked for than were reserved.
func (p *Ports) Next() int {
	addr, _ := p.held[p.next].LocalAddr().(*net.UDPAddr)
	p.next++
	return addr.Port
}

// Release gives the ports back; nothing is left to do about an error.
func (p *Ports) Release() {
	for _, c := range p.held {
		_ = c.Close()
	}
	p.held = nil
}

// add reserves one port, if nobody has it.
func (p *Ports) add(port int) error {
	addr := Address(port)
	mark, err := net.ListenPacket("udp4", addr)
	if err != nil {
		return err
	}
	probe, err := net.Listen("tcp4", addr)
	if err != nil {
		_ = mark.Close()
		return err
	}
	p.held = append(p.held, mark)
	return probe.Close()
}

// Address is a port of this machine that nobody outside reaches.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
