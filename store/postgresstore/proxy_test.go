package postgresstore

import (
	"bytes"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// verdict is what a proxy does with a piece of a connection.
type verdict int

const (
	pass verdict = iota
	// cutBefore and cutAfter close the connection at both ends, without or with the piece.
	cutBefore
	cutAfter
	// hold closes the client's end; the server's stays as it is, without the piece, until the test lets it go.
	hold
	// holdHalf holds the second half only.
	holdHalf
)

// proxy stands between a store and its database.
type proxy struct {
	target string
	// judge says what becomes of each piece.
	judge func(fromClient bool, piece []byte) verdict

	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]bool
	held     []heldPiece
	wg       sync.WaitGroup
}

type heldPiece struct {
	server net.Conn
	piece  []byte
}

// newProxy returns a proxy to the database of an address, and the address through it.
func newProxy(t *testing.T, addr string, judge func(fromClient bool, piece []byte) verdict) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(addr)
	require.NoError(t, err)
	p := &proxy{target: u.Host, judge: judge, conns: map[net.Conn]bool{}}
	p.listener, err = net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	u.Host = p.listener.Addr().String()
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = p.listener.Close()
		p.mu.Lock()
		for c := range p.conns {
			_ = c.Close()
		}
		p.conns = nil
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p, u.String()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp4", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		if p.conns == nil {
			_, _ = client.Close(), server.Close()
		} else {
			p.conns[client], p.conns[server] = true, true
			p.wg.Go(func() { p.pump(client, server, true) })
			p.wg.Go(func() { p.pump(server, client, false) })
		}
		p.mu.Unlock()
	}
}

func (p *proxy) pump(from, to net.Conn, fromClient bool) {
	holding := false
	defer func() {
		_ = from.Close()
		if !holding {
			_ = to.Close()
		}
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			p.mu.Lock()
			for _, h := range p.held {
				// The client of a connection that is held is gone already.
				holding = holding || h.server == to
			}
			p.mu.Unlock()
			return
		}
		v := p.judge(fromClient, buf[:n])
		switch v {
		case cutBefore:
			return
		case hold, holdHalf:
			holding = true
			half := 0
			if v == holdHalf {
				half = n / 2
				if _, err := to.Write(buf[:half]); err != nil {
					return
				}
			}
			p.mu.Lock()
			p.held = append(p.held, heldPiece{to, bytes.Clone(buf[half:n])})
			p.mu.Unlock()
			return
		}
		if _, err := to.Write(buf[:n]); err != nil || v == cutAfter {
			return
		}
	}
}

// letGo delivers what is held.
func (p *proxy) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.held {
		_, _ = h.server.Write(h.piece)
	}
}
