package rabbitmq

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// handshakePatience bounds dialling, TLS and the AMQP handshake.
	handshakePatience = 15 * time.Second
	// closePatience bounds a graceful end; after it the socket is closed under whoever waits.
	closePatience = 2 * time.Second
)

// Options says how to connect. Only URL must be set.
type Options struct {
	// URL is amqp://user:password@host:port/vhost, or amqps:// for TLS. Special characters of
	// user and password are percent-encoded. It names the user also where a client certificate
	// proves it (?auth_mechanism=external).
	URL string
	// TLS is for amqps; nil for what the URL says (cacertfile, certfile, keyfile), else the
	// system's certificate authorities.
	TLS *tls.Config
	// Files, where one is named, take the place of TLS. They are read again at each
	// connection, so that certificates can be renewed under a running node.
	Files TLSFiles
	// Name tells the connections of a process apart, in logs and metrics: "publish".
	Name string
	// Client is shown by the broker before the name: "footfall node-1". "" is "footfall".
	Client string
	// Logger gets each loss and each return of the connection; nil for none.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
	// Dial takes the place of a TCP connection, in tests.
	Dial func(network, addr string) (net.Conn, error)
	// Heartbeat is how often each side shows that it lives, in whole seconds: 0 is 10 s. A
	// connection is given up after one and a half of it without a sign.
	Heartbeat time.Duration
	// BackoffMin and BackoffMax bound the pauses between attempts: 0 is 100 ms and 5 s. They
	// double, with half of each left to chance.
	BackoffMin, BackoffMax time.Duration
	// After is time.After where it is nil.
	After func(time.Duration) <-chan time.Time
}

// Conn is one AMQP connection that comes back. All methods may be called from any goroutine.
//
//	               lost
//	connected ───────────────► away ◄──┐ dial failed: wait,
//	 ▲  │ ▲                    │ │ └───┘ twice as long each time
//	 │  │ └────── dialled ─────┘ │
//	 │  ▼ alarm          ▲       │
//	 blocked ─────── lost┘       │
//	    │                        │
//	    └──────► closed ◄────────┘
//
// Each connection is a generation; channels belong to one and end with it. What was
// declared, published and consumed is the business of who opened them.
//
// A broker with an alarm (memory, disk) stops reading from whoever publishes: then writes
// hang inside amqp091-go, deaf to contexts and holding its locks. So a blocked connection
// refuses to open channels, whoever writes does so in a goroutine that nobody waits for
// without a way out, and a lost or closed connection closes its socket first, before
// amqp091-go would wait for those locks.
type Conn struct {
	o      Options
	user   string
	addr   string
	secure bool // TLS
	log    *slog.Logger
	m      *connSeries

	// state is replaced, never changed; mu orders replacements.
	mu    sync.Mutex
	state atomic.Pointer[connState]

	// turn is had by the publisher that writes.
	turn sync.Mutex

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // the loop, and calls that outlive who made them
}

// connState is what is known of the connection.
type connState struct {
	link    *link  // nil while away
	err     error  // why it is away
	gen     uint64 // counts connections
	blocked bool
	reason  string        // why it is blocked
	changed chan struct{} // closed when another state takes its place
}

// link is one connection, from dial to loss.
type link struct {
	gen     uint64
	conn    *amqp.Connection
	raw     net.Conn // below TLS
	out     *corkedConn
	closes  chan *amqp.Error
	blocks  chan amqp.Blocking
	dropped sync.Once
}

// Open connects. An error is *ConnectError and says in one line what is wrong. Later losses
// are repaired until Close.
func Open(ctx context.Context, o Options) (*Conn, error) {
	uri, err := amqp.ParseURI(o.URL)
	if err != nil {
		// The cause may contain parts of the password.
		return nil, &ConnectError{Addr: "the broker", Reason: "the URL is not of the form amqp://user:password@host:port/vhost; " +
			"special characters of user and password must be percent-encoded"}
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 10 * time.Second
	}
	if o.BackoffMin == 0 {
		o.BackoffMin = 100 * time.Millisecond
	}
	if o.BackoffMax == 0 {
		o.BackoffMax = 5 * time.Second
	}
	if o.Client == "" {
		o.Client = "footfall"
	}
	if o.After == nil {
		o.After = time.After
	}
	c := &Conn{
		o: o, user: uri.Username, addr: address(uri), secure: uri.Scheme == "amqps",
		log: logger(o.Logger).With("connection", o.Name),
	}
	c.m = o.Metrics.conn(o.Name)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.state.Store(&connState{changed: make(chan struct{})})
	l, err := c.dial(ctx)
	if err != nil {
		c.cancel()
		return nil, err
	}
	c.up(l)
	c.work.Go(func() { c.run(l) })
	return c, nil
}

// User is the name that the broker knows the connection by.
func (c *Conn) User() string { return c.user }

// Addr is host and port of the broker.
func (c *Conn) Addr() string { return c.addr }

// Err returns nil while connected, else *ConnectError: why not.
func (c *Conn) Err() error {
	if s := c.state.Load(); s.link == nil {
		return s.err
	}
	return nil
}

// ended says whether the present connection has ended, or is about to.
func (c *Conn) ended() bool {
	l := c.state.Load().link
	return c.ctx.Err() != nil || l == nil || l.conn.IsClosed()
}

// Blocked says whether the broker takes nothing for now, and why.
func (c *Conn) Blocked() (reason string, blocked bool) {
	s := c.state.Load()
	return s.reason, s.blocked
}

// unblocked is ctx, which also ends, with *messages.BlockedError, once the broker takes nothing: what it
// is asked over a blocked connection it answers only when it takes messages again.
func (c *Conn) unblocked(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	c.spawn(func() {
		for {
			s := c.state.Load()
			if s.blocked {
				cancel(blockedError(s.reason))
				return
			}
			select {
			case <-s.changed:
			case <-ctx.Done():
				return
			case <-c.ctx.Done():
				return
			}
		}
	})
	return ctx, func() { cancel(nil) }
}

// Changed returns a channel that is closed once Err, Blocked or Generation may answer
// otherwise than now.
func (c *Conn) Changed() <-chan struct{} { return c.state.Load().changed }

// Generation counts the connections: 1 is the first.
func (c *Conn) Generation() uint64 { return c.state.Load().gen }

// Channel opens a channel on the present connection. It waits while there is none or the
// broker takes nothing, until ctx ends.
func (c *Conn) Channel(ctx context.Context) (*amqp.Channel, error) {
	for {
		s := c.state.Load()
		if s.link == nil || s.blocked {
			select {
			case <-s.changed:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-c.ctx.Done():
				return nil, c.closedError()
			}
		}
		var ch *amqp.Channel
		err := c.await(ctx, func() (err error) {
			ch, err = s.link.conn.Channel()
			return err
		}, func() { _ = ch.Close() })
		if err == nil {
			return ch, nil
		}
		if ctx.Err() != nil || !s.link.conn.IsClosed() {
			return nil, err
		}
		select { // until the loss has been seen
		case <-s.changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// await runs a call of amqp091-go, which are deaf to contexts, and stops waiting when ctx
// ends; undo then runs once the call has succeeded all the same. The call itself ends with
// the connection at the latest.
func (c *Conn) await(ctx context.Context, call func() error, undo func()) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	done := make(chan error)
	left := make(chan struct{})
	if !c.spawn(func() {
		err := call()
		select {
		case done <- err:
		case <-left:
			if err == nil && undo != nil {
				undo()
			}
		}
	}) {
		return c.closedError()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		close(left)
		return context.Cause(ctx)
	case <-c.ctx.Done():
		close(left)
		return c.closedError()
	}
}

// spawn runs f in a goroutine that Close waits for; not after Close.
func (c *Conn) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.work.Go(f)
	return true
}

// Close ends the connection and everything on it, at the latest after two seconds. It is
// idempotent.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.cancel()
	c.mu.Unlock()
	c.work.Wait()
	return nil
}

func (c *Conn) closedError() error { return &ConnectError{Addr: c.addr, Reason: "closed"} }

// drop ends the present connection, so that whoever hangs in it gets free; another takes
// its place.
func (c *Conn) drop() {
	if l := c.state.Load().link; l != nil {
		l.drop()
	}
}

// run keeps the connection until Close.
func (c *Conn) run(l *link) {
	for l != nil {
		why := c.watch(l)
		l.drop()
		c.down(why)
		if c.ctx.Err() != nil {
			return
		}
		c.log.Warn("broker connection lost", "reason", why)
		l = c.redial()
	}
}

// watch follows one connection to its end and says why it ended.
func (c *Conn) watch(l *link) error {
	for {
		select {
		case e := <-l.closes:
			if e == nil {
				e = amqp.ErrClosed
			}
			return &ConnectError{Addr: c.addr, Reason: "the connection was lost", Err: e}
		case b, ok := <-l.blocks:
			if !ok { // lost
				l.blocks = nil
				continue
			}
			c.block(b.Active, b.Reason)
		case <-c.ctx.Done():
			c.end(l)
			return c.closedError()
		}
	}
}

// end closes a connection gracefully where the broker listens, by force otherwise.
func (c *Conn) end(l *link) {
	if _, blocked := c.Blocked(); blocked {
		l.drop()
		return
	}
	stop := time.AfterFunc(closePatience, l.drop)
	defer stop.Stop()
	_ = l.conn.CloseDeadline(time.Now().Add(closePatience))
}

// drop closes the socket: amqp091-go finds it closed, lets go of its locks and ends.
func (l *link) drop() { l.dropped.Do(func() { l.raw.Close() }) }

// redial tries until it is connected; nil says that it was closed.
func (c *Conn) redial() *link {
	for pause := c.o.BackoffMin; ; pause = min(2*pause, c.o.BackoffMax) {
		select {
		case <-c.o.After(pause/2 + rand.N(pause/2+1)):
		case <-c.ctx.Done():
			return nil
		}
		l, err := c.dial(c.ctx)
		if c.ctx.Err() != nil {
			if l != nil {
				c.end(l)
			}
			return nil
		}
		if err == nil {
			c.up(l)
			c.m.reconnects.Inc()
			c.log.Info("broker connection is back")
			return l
		}
		if was := c.Err(); was == nil || was.Error() != err.Error() {
			c.log.Warn("broker is not reached", "reason", err)
		}
		c.down(err)
	}
}

// dial makes one attempt. An error is *ConnectError.
func (c *Conn) dial(ctx context.Context) (*link, error) {
	l := &link{}
	config := amqp.Config{
		Heartbeat:  c.o.Heartbeat,
		Locale:     "en_US",
		Properties: amqp.NewConnectionProperties(),
	}
	config.Properties.SetClientConnectionName(c.o.Client + " " + c.o.Name)
	switch {
	case c.o.Files != (TLSFiles{}):
		t, err := c.o.Files.Config()
		if err != nil {
			return nil, &ConnectError{Addr: c.addr, Reason: "TLS files", Err: err}
		}
		config.TLSClientConfig = t
	case c.o.TLS != nil:
		// amqp091-go writes the server's name into it.
		config.TLSClientConfig = c.o.TLS.Clone()
	}
	ctx, cancel := context.WithTimeout(ctx, handshakePatience)
	defer cancel()
	unwatch := func() bool { return true }
	config.Dial = func(network, addr string) (net.Conn, error) {
		raw, err := c.dialTCP(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		l.raw, l.out = raw, &corkedConn{Conn: raw}
		// A broker that says nothing holds the handshake no longer than ctx.
		unwatch = context.AfterFunc(ctx, l.drop)
		return l.out, nil
	}
	conn, err := amqp.DialConfig(c.o.URL, config)
	if !unwatch() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if l.raw != nil {
			l.drop()
		}
		return nil, connectError(ctx, c.addr, c.user, l.raw != nil, c.secure, err)
	}
	// amqp091-go sets a deadline with each frame that it reads, and clears it once the handshake
	// is over: who falls silent right then would be waited for without end.
	if h := conn.Config.Heartbeat; h > 0 {
		_ = l.raw.SetReadDeadline(time.Now().Add(h * 3 / 2))
	}
	l.conn = conn
	l.closes = conn.NotifyClose(make(chan *amqp.Error, 1))
	l.blocks = conn.NotifyBlocked(make(chan amqp.Blocking, 8))
	return l, nil
}

func (c *Conn) dialTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.o.Dial != nil {
		return c.o.Dial(network, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// set puts a state in the place of the last, and wakes who waits for it.
func (c *Conn) set(change func(s *connState)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.state.Load()
	s := *old
	s.changed = make(chan struct{})
	change(&s)
	c.state.Store(&s)
	close(old.changed)
}

func (c *Conn) up(l *link) {
	c.set(func(s *connState) {
		s.gen++
		l.gen = s.gen
		s.link, s.err, s.blocked, s.reason = l, nil, false, ""
	})
	c.m.connected.Set(1)
}

func (c *Conn) down(why error) {
	c.set(func(s *connState) { s.link, s.err, s.blocked, s.reason = nil, why, false, "" })
	c.m.connected.Set(0)
	c.m.blocked.Set(0)
}

func (c *Conn) block(active bool, reason string) {
	c.set(func(s *connState) { s.blocked, s.reason = active, reason })
	if active {
		c.m.blocked.Set(1)
		c.log.Warn("broker takes nothing for now", "reason", reason)
	} else {
		c.m.blocked.Set(0)
		c.log.Info("broker takes messages again")
	}
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
