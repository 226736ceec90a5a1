package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// BrokerOptions say what a RabbitMQ broker is to be. The zero value is one with the user footfall in a folder of its own.
type BrokerOptions struct {
	// Dir keeps all that the broker writes, and is made where it is missing. A broker started again over it has the
	// same data, and the node name that they belong to. By default it is a temporary folder, removed by Stop.
	Dir string
	// Plugins are enabled beside what every broker has. Those that listen are reached by ManagementURL, PrometheusURL and StreamAddr.
	Plugins []string
	// Port is where AMQP is spoken; 0 takes a free one.
	Port int
	// Config are further settings of rabbitmq.conf, by key.
	Config map[string]string
	// Users are there once the broker has started, as they stand here, whatever became of them in an earlier run. The first is the one of URL; by default it is footfall, an administrator.
	Users []User
	// VHosts are further virtual hosts. The users may do in each of them what they may do in "/".
	VHosts []string
	// TLS, if not nil, has the broker listen with it, too.
	TLS *TLS
}

// User is one who may log in. The permissions are regular expressions of names, as rabbitmqctl set_permissions takes them.
type User struct {
	Name, Password string
	// Tags such as administrator, management.
	Tags []string
	// Configure, Write and Read say what the user may do in every virtual host. Where all three are empty, nothing.
	Configure, Write, Read string
}

// TLS names the files that a broker listens with, in PEM.
type TLS struct {
	CA, Cert, Key string
	// VerifyPeer demands a certificate of the CA from clients.
	VerifyPeer bool
}

const (
	// vhost is the virtual host that a broker begins with.
	vhost = "/"
	// startLimit and stopLimit bound what takes seconds, on a machine that is busy.
	startLimit = 3 * time.Minute
	stopLimit  = time.Minute
)

// Broker is a RabbitMQ broker: a child process, and a second one, its port mapper epmd, by which its own tools find it.
//
//	           Kill, crash              Restart
//	running ───────────────▶ down ──────────────────▶ running
//	   │                      │
//	   └────────── Stop ──────┴──▶ stopped: no process, no reserved port, and no temporary folder is left
//
// Its methods are for one goroutine at a time, except those that tell or ask (URL and the like, Control, Eval).
type Broker struct {
	options BrokerOptions
	found   rabbitmq
	files   brokerFiles
	ports   *Ports
	port    brokerPorts
	// temporary says that the folder is removed in the end; lock, that it is this broker's own until then.
	temporary bool
	lock      *os.File

	epmd   *Process
	server *Process
}

// brokerPorts are where a broker listens; 0 for what it does not have.
type brokerPorts struct {
	amqp, tls, dist, epmd, management, prometheus, stream int
}

// StartBroker starts a broker and waits until it answers.
func StartBroker(ctx context.Context, o BrokerOptions) (*Broker, error) {
	found, err := findRabbitMQ()
	if err != nil {
		return nil, err
	}
	if len(o.Users) == 0 {
		o.Users = []User{{Name: "footfall", Password: "footfall", Tags: []string{"administrator"}, Configure: ".*", Write: ".*", Read: ".*"}}
	}
	b := &Broker{options: o, found: found}
	if err := b.prepare(); err != nil {
		return nil, errors.Join(err, b.cleanUp())
	}
	if err := b.start(ctx); err != nil {
		return nil, errors.Join(err, b.discard())
	}
	return b, nil
}

// prepare reserves the ports and writes the files.
func (b *Broker) prepare() error {
	o := &b.options
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "footfall-rabbitmq-")
		if err != nil {
			return err
		}
		o.Dir, b.temporary = dir, true
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	const most = 7
	if b.ports, err = ReservePorts(most); err != nil {
		return err
	}
	b.port = brokerPorts{amqp: o.Port, dist: b.ports.Next(), epmd: b.ports.Next()}
	if o.Port == 0 {
		b.port.amqp = b.ports.Next()
	}
	if o.TLS != nil {
		b.port.tls = b.ports.Next()
	}
	if slices.Contains(o.Plugins, "rabbitmq_management") {
		b.port.management = b.ports.Next()
	}
	if slices.Contains(o.Plugins, "rabbitmq_prometheus") {
		b.port.prometheus = b.ports.Next()
	}
	if slices.Contains(o.Plugins, "rabbitmq_stream") {
		b.port.stream = b.ports.Next()
	}
	b.files = brokerFiles{dir: dir}
	if b.lock, err = lockFolder(dir); err != nil {
		return err
	}
	return b.files.write(*o, b.port)
}

// start starts what does not run: the port mapper, which outlives the broker's crashes, and the broker.
func (b *Broker) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if b.epmd == nil || b.epmd.Ended() != nil {
		if err := b.startEpmd(ctx); err != nil {
			return err
		}
	}
	before := b.files.logged()
	server, err := StartProcess(Command{
		Title: "RabbitMQ",
		Path:  b.found.script("rabbitmq-server"),
		Env:   b.env(),
		Dir:   b.files.dir,
		Log:   b.files.log(),
	})
	if err != nil {
		return err
	}
	b.server = server
	ctx, stop := server.Watch(ctx)
	defer stop(nil)
	if err := Await(ctx, b.answers); err != nil {
		if server.Ended() == nil {
			return fmt.Errorf("RabbitMQ does not answer: %w; its log %s ends with:\n%s", err, b.files.log(), Tail(b.files.log()))
		}
		if faults := b.files.faults(before); faults != "" {
			return fmt.Errorf("RabbitMQ has not started; its log %s says:\n%s", b.files.log(), faults)
		}
		return server.Ended()
	}
	return nil
}

func (b *Broker) startEpmd(ctx context.Context) error {
	epmd, err := StartProcess(Command{
		Title: "epmd",
		Path:  b.found.epmd,
		Env:   b.env(),
		Dir:   b.files.dir,
		Log:   b.files.log(),
	})
	if err != nil {
		return err
	}
	b.epmd = epmd
	ctx, stop := epmd.Watch(ctx)
	defer stop(nil)
	return Await(ctx, func(ctx context.Context) error { return dial(ctx, b.port.epmd) })
}

// answers asks whether all that listens answers. RabbitMQ opens its AMQP port last of all.
func (b *Broker) answers(ctx context.Context) error {
	if err := speaksAMQP(ctx, b.port.amqp); err != nil {
		return err
	}
	for _, port := range []int{b.port.tls, b.port.stream} {
		if port != 0 {
			if err := dial(ctx, port); err != nil {
				return err
			}
		}
	}
	for _, u := range []string{b.ManagementURL(), b.PrometheusURL()} {
		if u != "" {
			if err := servesHTTP(ctx, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// URL is where the first user logs in.
func (b *Broker) URL() string { return b.URLOf(b.options.Users[0].Name) }

// URLOf is where a user of the options logs in. It panics where there is none of that name.
func (b *Broker) URLOf(user string) string { return b.URLIn(vhost, user) }

// URLIn is where a user of the options logs in for another virtual host than "/".
func (b *Broker) URLIn(host, user string) string { return b.amqpURL("amqp", user, b.port.amqp, host) }

// TLSURL is URL with TLS; "" where the options have none.
func (b *Broker) TLSURL() string {
	if b.port.tls == 0 {
		return ""
	}
	return b.amqpURL("amqps", b.options.Users[0].Name, b.port.tls, vhost)
}

// Address is host and port of AMQP without TLS.
func (b *Broker) Address() string { return Address(b.port.amqp) }

// ManagementURL is where rabbitmq_management serves; "" without that plugin.
func (b *Broker) ManagementURL() string { return httpURL(b.port.management, "/") }

// PrometheusURL is where rabbitmq_prometheus serves; "" without that plugin.
func (b *Broker) PrometheusURL() string { return httpURL(b.port.prometheus, "/metrics") }

// StreamAddr is host and port of rabbitmq_stream; "" without that plugin.
func (b *Broker) StreamAddr() string {
	if b.port.stream == 0 {
		return ""
	}
	return Address(b.port.stream)
}

// Dir is the folder with all that the broker writes.
func (b *Broker) Dir() string { return b.files.dir }

// Log is the file that the broker logs into.
func (b *Broker) Log() string { return b.files.log() }

// Version is that of the broker's program.
func (b *Broker) Version() string { return b.found.version }

// Pid is the number of the broker's process, as of its last start.
func (b *Broker) Pid() int { return b.server.Pid() }

// Done is closed once the broker's process, as of its last start, has ended.
func (b *Broker) Done() <-chan struct{} { return b.server.Done() }

// Kill ends the broker's process as a power cut would, and waits until it is gone. What was declared in the last half second is
// damaged by that: see Settle.
func (b *Broker) Kill() error { return b.server.Kill() }

// Restart starts the broker again over the same data and the same ports, and waits until it answers. One that runs is
// stopped in order before.
func (b *Broker) Restart(ctx context.Context) error {
	if err := b.stopServer(ctx); err != nil {
		return err
	}
	return b.start(ctx)
}

// Stop ends the broker in order, waits, and leaves nothing behind but a folder that was given. Further calls do nothing.
func (b *Broker) Stop(ctx context.Context) error {
	return errors.Join(b.stopServer(ctx), b.cleanUp())
}

// discard ends the broker where nobody needs its data any more: an orderly stop takes seconds.
func (b *Broker) discard() error {
	var err error
	if b.server != nil {
		err = b.server.Kill()
	}
	return errors.Join(err, b.cleanUp())
}

func (b *Broker) stopServer(ctx context.Context) error {
	if b.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	return b.server.Stop(ctx, syscall.SIGTERM)
}

// cleanUp ends what is left once the broker has stopped.
func (b *Broker) cleanUp() error {
	var err error
	if b.epmd != nil {
		err = b.epmd.Kill() // it keeps nothing
	}
	if b.ports != nil {
		b.ports.Release()
	}
	if b.lock != nil {
		_ = b.lock.Close() // that gives the lock back
	}
	if b.temporary {
		err = errors.Join(err, os.RemoveAll(b.options.Dir))
	}
	return err
}

func (b *Broker) amqpURL(scheme, name string, port int, host string) string {
	i := slices.IndexFunc(b.options.Users, func(u User) bool { return u.Name == name })
	u := url.URL{Scheme: scheme, User: url.UserPassword(name, b.options.Users[i].Password), Host: Address(port)}
	if host != vhost { // which clients read out of no path; out of "/" some read an empty name
		u.Path = "/" + host
	}
	return u.String()
}

func httpURL(port int, path string) string {
	if port == 0 {
		return ""
	}
	return (&url.URL{Scheme: "http", Host: Address(port), Path: path}).String()
}

// speaksAMQP greets a port as a client of AMQP 0-9-1 and looks whether the answer is a method frame.
func speaksAMQP(ctx context.Context, port int) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", Address(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := io.WriteString(conn, "AMQP\x00\x00\x09\x01"); err != nil {
		return err
	}
	var first [1]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return err
	}
	if first[0] != 1 {
		return fmt.Errorf("port %d answers AMQP's greeting with byte %#x", port, first[0])
	}
	return nil
}

func dial(ctx context.Context, port int) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", Address(port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// servesHTTP asks for a page; any answer is one.
func servesHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// TestBroker starts a broker for a test; it is gone, with its data, when the test ends. The test fails where no RabbitMQ is installed.
func TestBroker(tb TB, o BrokerOptions) *Broker {
	tb.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(tb.TempDir(), "rabbitmq")
	}
	b, err := StartBroker(tb.Context(), o)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		tb.Helper()
		if tb.Failed() {
			tb.Logf("the broker's log ends with:\n%s", Tail(b.Log()))
		}
		if err := b.discard(); err != nil {
			tb.Errorf("%v", err)
		}
	})
	return b
}
