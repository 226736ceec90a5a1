package rabbitmq

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
)

// openConn is a connection that ends with the test.
func openConn(t testing.TB, o Options) *Conn {
	t.Helper()
	o.BackoffMax = 200 * time.Millisecond
	o.Logger = testLogger(t)
	c, err := Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	ca, other := local.TestAuthority(t), local.TestAuthority(t)
	server, client := ca.Issue(t, "broker"), ca.Issue(t, "client")
	broker := local.TestBroker(t, local.BrokerOptions{
		TLS: &local.TLS{CA: ca.CA, Cert: server.Cert, Key: server.Key, VerifyPeer: true},
	})
	plain, tls := broker.URL(), broker.TLSURL()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	dumb, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { dumb.Close() })

	good := TLSFiles{CA: ca.CA, Cert: client.Cert, Key: client.Key}
	port := func(u, addr string) string {
		at := strings.LastIndex(u, "@")
		return u[:at+1] + addr + "/"
	}
	for name, c := range map[string]struct {
		o    Options
		says string
	}{
		"no URL":             {Options{URL: "http://footfall:s3cret@host/"}, "not of the form amqp://user:password@host:port/vhost"},
		"unescaped password": {Options{URL: "amqp://footfall:s3cret/%zz@host/"}, "percent-encoded"},
		"closed port":        {Options{URL: port(plain, closed.Addr().String())}, "no connection"},
		"wrong password":     {Options{URL: strings.Replace(plain, "footfall:footfall", "footfall:s3cret", 1)}, `while user "footfall" logged in: wrong user or password`},
		"no such vhost":      {Options{URL: port(plain, broker.Address()) + "nowhere"}, `not open to user "footfall"`},
		"TLS to plain port":  {Options{URL: strings.Replace(plain, "amqp:", "amqps:", 1), Files: good}, "does not speak TLS on this port"},
		"plain to TLS port":  {Options{URL: strings.Replace(tls, "amqps:", "amqp:", 1)}, "is this the AMQP port, and TLS as the URL says?"},
		"no CA":              {Options{URL: tls}, "not signed by a known authority"},
		"wrong CA":           {Options{URL: tls, Files: TLSFiles{CA: other.CA, Cert: client.Cert, Key: client.Key}}, "not signed by a known authority"},
		"no certificate":     {Options{URL: tls, Files: TLSFiles{CA: ca.CA}}, "it may want a client certificate"},
		"no such file":       {Options{URL: tls, Files: TLSFiles{CA: filepath.Join(t.TempDir(), "ca.pem")}}, "TLS files"},
		"key is missing":     {Options{URL: tls, Files: TLSFiles{CA: ca.CA, Cert: client.Cert}}, "needs its key"},
		"other name":         {Options{URL: strings.Replace(tls, "127.0.0.1", "localhost", 1), Files: good}, "certificate is for another name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), c.o)
			var wrong *ConnectError
			require.ErrorAs(t, err, &wrong)
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "s3cret")
			require.NotContains(t, err.Error(), "\n")
		})
	}
	t.Run("a broker that says nothing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			if conn, err := dumb.Accept(); err == nil {
				defer conn.Close()
				_, _ = io.ReadFull(conn, make([]byte, 8)) // the greeting
				cancel()
				_, _ = io.Copy(io.Discard, conn)
			}
		}()
		_, err := Open(ctx, Options{URL: port(plain, dumb.Addr().String())})
		require.ErrorContains(t, err, "did not finish the handshake")
	})
	t.Run("TLS with a client certificate", func(t *testing.T) {
		c := openConn(t, Options{URL: tls, Files: good, Name: "tls"})
		_, err := c.Channel(t.Context())
		require.NoError(t, err)
		require.Equal(t, "footfall", c.User())
	})
	t.Run("renewed files are read at the next connection", func(t *testing.T) {
		files := good
		files.Cert, files.Key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
		put := func(p local.Certificate) {
			for from, to := range map[string]string{p.Cert: files.Cert, p.Key: files.Key} {
				pem, err := os.ReadFile(from)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(to, pem, 0o600))
			}
		}
		put(client)
		c := openConn(t, Options{URL: tls, Files: files, Name: "renewed"})
		put(other.Issue(t, "stranger"))
		c.drop()
		until(t, c, func() bool { return c.Err() != nil && strings.Contains(c.Err().Error(), "certificate") })
		put(ca.Issue(t, "client"))
		until(t, c, func() bool { return c.Err() == nil })
		require.Greater(t, c.Generation(), uint64(1))
	})
}

// The broker's refusal and the reset of the connection race each other to the client.
func TestRefusedTLSHoweverItArrives(t *testing.T) {
	cut := &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.ECONNRESET)}
	for _, err := range []error{
		cut, syscall.EPIPE, io.EOF, amqp.ErrClosed,
		&amqp.Error{Reason: "remote error: tls: certificate required"},
		&amqp.Error{Reason: "read tcp 127.0.0.1:1: read: connection reset by peer"},
	} {
		e := connectError(t.Context(), "broker:5671", "footfall", true, true, err)
		require.Equal(t, refusedTLS, e.Reason, err)
		require.ErrorIs(t, e, err)
	}
	require.Equal(t, "handshake failed", connectError(t.Context(), "broker:5672", "footfall", true, false, cut).Reason)
}

// until waits for something that changes of a connection.
func until(t testing.TB, c *Conn, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		changed := c.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			require.FailNow(t, "it never came", "%v", c.Err())
		}
	}
}

func TestConnComesBack(t *testing.T) {
	p := newProxy(t, sharedBroker(t).Address())
	reg := prometheus.NewRegistry()
	metrics, err := NewMetrics(reg)
	require.NoError(t, err)
	c := openConn(t, Options{URL: p.url(sharedBroker(t)), Name: "cut", Metrics: metrics})
	for range 3 {
		gen := c.Generation()
		ch, err := c.Channel(t.Context())
		require.NoError(t, err)
		p.cut()
		until(t, c, func() bool { return c.Generation() > gen })
		require.True(t, ch.IsClosed())
	}
	require.Equal(t, map[string]float64{
		`footfall_rabbitmq_connected{connection="cut"}`:        1,
		`footfall_rabbitmq_blocked{connection="cut"}`:          0,
		`footfall_rabbitmq_reconnects_total{connection="cut"}`: 3,
	}, series(t, reg, "connected", "blocked", "reconnects"))

	p.refuse(true)
	p.cut()
	until(t, c, func() bool { return c.Err() != nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Channel(ctx)
	require.ErrorIs(t, err, context.Canceled, "a channel waits while there is no connection")
	waiting := make(chan error, 1)
	go func() {
		_, err := c.Channel(t.Context())
		waiting <- err
	}()
	require.NoError(t, c.Close())
	require.ErrorContains(t, <-waiting, "closed")
	require.NoError(t, c.Close())
}

// A broker that is not heard any more from the moment that the handshake is over, as a frozen one
// or one behind a lost network, is given up like any other.
func TestConnSilentFromTheStart(t *testing.T) {
	var dials atomic.Int64
	dial := func(network, addr string) (net.Conn, error) {
		conn, err := net.Dial(network, addr)
		if err != nil || dials.Add(1) > 1 {
			return conn, err
		}
		return &silentAfterOpen{Conn: conn}, nil
	}
	c := openConn(t, Options{URL: sharedBroker(t).URL(), Name: "silent", Heartbeat: time.Second, Dial: dial})
	until(t, c, func() bool { return c.Generation() > 1 })
}

// silentAfterOpen passes nothing on of what comes after the last frame of a handshake.
type silentAfterOpen struct {
	net.Conn
	read   []byte
	silent bool
}

func (s *silentAfterOpen) Read(b []byte) (int, error) {
	for s.silent {
		if _, err := s.Conn.Read(b); err != nil {
			return 0, err
		}
	}
	n, err := s.Conn.Read(b)
	s.read = append(s.read, b[:n]...)
	s.silent = bytes.Contains(s.read, []byte{0, 10, 0, 41}) // connection.open-ok
	return n, err
}

// series returns the values of some families, by name and label.
func series(t *testing.T, reg *prometheus.Registry, families ...string) map[string]float64 {
	t.Helper()
	all, err := reg.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range all {
		for _, want := range families {
			if n := strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "footfall_rabbitmq_"), "_total"); n != want {
				continue
			}
			for _, m := range f.GetMetric() {
				l := m.GetLabel()[0]
				out[f.GetName()+"{"+l.GetName()+`="`+l.GetValue()+`"}`] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return out
}

// proxy stands between a connection and the broker.
type proxy struct {
	target string
	ln     net.Listener
	work   sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]bool
	refuses bool
}

func newProxy(t testing.TB, target string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{target: target, ln: ln, conns: map[net.Conn]bool{}}
	p.work.Go(p.serve)
	t.Cleanup(func() {
		ln.Close()
		p.cut()
		p.work.Wait()
	})
	return p
}

// url is that of the broker's first user, by way of the proxy.
func (p *proxy) url(b *local.Broker) string {
	return strings.Replace(b.URL(), b.Address(), p.ln.Addr().String(), 1)
}

func (p *proxy) serve() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		if !p.keep(in, out) {
			continue
		}
		for _, pair := range [2][2]net.Conn{{in, out}, {out, in}} {
			p.work.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				pair[0].Close()
				pair[1].Close()
			})
		}
	}
}

func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.refuses {
			c.Close()
		} else {
			p.conns[c] = true
		}
	}
	return !p.refuses
}

// cut ends every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

// refuse ends every new connection at once, or no more.
func (p *proxy) refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = on
}
