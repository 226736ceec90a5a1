package members

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

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
	conns map[string]*grpc.ClientConn
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
	return &peers{conns: map[string]*grpc.ClientConn{}, credentials: of, options: []grpc.DialOption{
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
	c, err := grpc.NewClient(address, append(slices.Clip(p.options), grpc.WithTransportCredentials(p.credentials(address)))...)
	if err != nil {
		return nil, err
	}
	p.conns[address] = c
	return c, nil
}

// keep closes the connections to all but these.
func (p *peers) keep(there func(address string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, c := range p.conns {
		if !there(address) {
			delete(p.conns, address)
			_ = c.Close()
		}
	}
}

func (p *peers) close() { p.keep(func(string) bool { return false }) }
