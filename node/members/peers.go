package members

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"footfall/node/api"
)

// largestAnswer bounds what another node may answer: a batch of a thousand customers, or a long history.
const largestAnswer = 256 << 20

// peers keeps a connection to each member that was ever called, for as long as it is there.
// Calls under way to one that has gone end with its connection.
type peers struct {
	options     []grpc.DialOption
	credentials func(address string) credentials.TransportCredentials

	mu    sync.Mutex // guards what follows
	conns map[string]*peer
}

func newPeers(secure func(expected func() string) credentials.TransportCredentials, nameAt func(address string) string, version string) *peers {
	of := func(address string) credentials.TransportCredentials {
		if secure != nil {
			if c := secure(func() string { return nameAt(address) }); c != nil {
				return c
			}
		}
		return insecure.NewCredentials()
	}
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 50*time.Millisecond, time.Second
	return &peers{conns: map[string]*peer{}, credentials: of, options: []grpc.DialOption{
		grpc.WithUserAgent("footfall-node/" + version),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 2 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(api.Codec), grpc.MaxCallRecvMsgSize(largestAnswer)),
		grpc.WithIdleTimeout(0),
	}}
}

// conn returns the connection to an address. It does not wait for it.
func (p *peers) conn(address string) (grpc.ClientConnInterface, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.conns[address]; ok {
		return c, nil
	}
	c, err := p.dial(address)
	if err != nil {
		return nil, err
	}
	p.conns[address] = &peer{current: &link{conn: c}}
	return p.conns[address], nil
}

func (p *peers) dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, append(slices.Clip(p.options), grpc.WithTransportCredentials(p.credentials(address)))...)
}

// renew has every call from now on take a new connection: this node has another certificate, and
// the others may soon not believe the one that they were shown.
func (p *peers) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, c := range p.conns {
		if next, err := p.dial(address); err == nil { // it was good for this address before
			c.replace(next)
		}
	}
}

// keep closes the connections to all but these.
func (p *peers) keep(there func(address string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, c := range p.conns {
		if !there(address) {
			delete(p.conns, address)
			c.close()
		}
	}
}

func (p *peers) close() { p.keep(func(string) bool { return false }) }

// peer is the way to one member, over one connection after the other.
//
// Invariant: a connection that was replaced is closed once, when the last of its calls has ended.
type peer struct {
	mu      sync.Mutex // guards what follows
	current *link      // nil once it is closed
	old     []*link    // with calls that have not ended
}

// link is one of its connections, and how many calls it has.
type link struct {
	conn  *grpc.ClientConn
	calls int
}

var _ grpc.ClientConnInterface = (*peer)(nil)

// Invoke implements grpc.ClientConnInterface.
func (p *peer) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	l, err := p.take()
	if err != nil {
		return err
	}
	defer p.give(l)
	return l.conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (p *peer) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	l, err := p.take()
	if err != nil {
		return nil, err
	}
	s, err := l.conn.NewStream(ctx, desc, method, opts...)
	if err != nil {
		p.give(l)
		return nil, err
	}
	context.AfterFunc(s.Context(), func() { p.give(l) }) // which ends with the stream
	return s, nil
}

func (p *peer) take() (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil {
		return nil, status.Error(codes.Canceled, "the member has gone") // as of a connection that was closed
	}
	p.current.calls++
	return p.current, nil
}

func (p *peer) give(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.calls--
	if i := slices.Index(p.old, l); l.calls == 0 && i >= 0 {
		p.old = slices.Delete(p.old, i, i+1)
		_ = l.conn.Close()
	}
}

func (p *peer) replace(next *grpc.ClientConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.current
	p.current = &link{conn: next}
	if last.calls == 0 {
		_ = last.conn.Close()
		return
	}
	p.old = append(p.old, last)
}

func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range append(p.old, p.current) {
		_ = l.conn.Close() // its calls end
	}
	p.current, p.old = nil, nil
}
