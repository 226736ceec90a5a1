// Cluster runs several nodes as one cluster until Ctrl-C, with a RabbitMQ broker and a PostgreSQL server of their own, and
// Prometheus where it is installed: `make cluster`.
//
// A node may be killed, drained, started again or added meanwhile: the rest goes on, and the files that are printed say how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"footfall/deploy/local"
)

func main() {
	var o options
	flag.IntVar(&o.nodes, "nodes", 3, "how many")
	flag.StringVar(&o.binary, "node", "bin/footfall-node", "the node's program")
	flag.StringVar(&o.dir, "dir", "", "keep the servers' data there from run to run (default: a temporary folder)")
	flag.StringVar(&o.models, "models", "./models", "the models that nodes run")
	flag.StringVar(&o.rules, "prometheus", "./deploy/prometheus", "the configuration and rules of Prometheus")
	flag.StringVar(&o.roles, "roles", "shards,inference", "what nodes do")
	flag.BoolVar(&o.secure, "secure", false, "with TLS, tokens and gossip keys, made at the start")
	flag.StringVar(&o.cli, "footfall", "bin/footfall", "the command line, which makes those")
	flag.IntVar(&o.port, "port", 8080, "of the first node's HTTP; the others follow, two apart; 0: any free ones")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "footfall: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	nodes, port                            int
	binary, dir, models, roles, rules, cli string
	secure                                 bool
}

// more is how many nodes have a file to join later, least how many have one at all: with one node to begin with there are
// files for the walk to five of them.
const (
	more  = 2
	least = 5
)

// gossipPort is the first node's, as a node has it by default.
const gossipPort = 7946

// running is what has been started.
type running struct {
	options
	out, err io.Writer

	broker     *local.Broker
	postgres   *local.Postgres
	prometheus *prometheus
	promAddr   string
	nodes      []*node
	temporary  bool

	// secrets are those of a secure cluster; nil of one that asks nobody.
	secrets *secrets
	client  *http.Client
	scheme  string
}

// node is one of the cluster's.
type node struct {
	name               string
	http, grpc, gossip string
	file               string
	process            *local.Process
}

func run(ctx context.Context, o options, out, errs io.Writer) (err error) {
	r := &running{options: o, out: out, err: errs, client: http.DefaultClient, scheme: "http://"}
	defer func() { err = errors.Join(err, r.stop(context.WithoutCancel(ctx))) }()
	if err := r.start(ctx); err != nil {
		if ctx.Err() != nil { // Ctrl-C before all was there
			return nil
		}
		return err
	}
	r.tell()
	return r.watch(ctx)
}

// start starts servers, then nodes, and returns once every node is ready.
func (r *running) start(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	if r.secure {
		var err error
		if r.secrets, err = makeSecrets(ctx, r.cli, filepath.Join(r.dir, "secrets"), r.nodes); err != nil {
			return err
		}
		if r.client, err = r.secrets.client(); err != nil {
			return err
		}
		r.scheme = "https://"
	}
	fmt.Fprintln(r.err, "footfall: starting RabbitMQ and PostgreSQL")
	var (
		wg            sync.WaitGroup
		failed, other error
	)
	wg.Go(func() {
		r.broker, failed = local.StartBroker(ctx, local.BrokerOptions{
			Dir: filepath.Join(r.dir, "rabbitmq"), Plugins: []string{"rabbitmq_management", "rabbitmq_prometheus"},
		})
	})
	r.postgres, other = local.StartPostgres(ctx, local.PostgresOptions{Dir: filepath.Join(r.dir, "postgres")})
	wg.Wait()
	if err := errors.Join(failed, other); err != nil {
		return err
	}
	for _, n := range r.nodes {
		if err := r.configure(n); err != nil {
			return err
		}
	}
	if path, err := exec.LookPath("prometheus"); err == nil { // it is not needed
		if r.prometheus, err = r.startPrometheus(ctx, path); err != nil {
			return err
		}
	}
	fmt.Fprintf(r.err, "footfall: starting %d nodes\n", r.options.nodes)
	for _, n := range r.nodes[:r.options.nodes] {
		var err error
		n.process, err = local.StartProcess(local.Command{
			Title: n.name, Path: r.binary, Args: []string{"--config", n.file}, Env: os.Environ(), Log: r.log(n.name), OrphanSignal: syscall.SIGTERM,
		})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.dir, n.name+".pid"), fmt.Appendf(nil, "%d\n", n.process.Pid()), 0o600); err != nil {
			return err
		}
	}
	for _, n := range r.nodes[:r.options.nodes] {
		ctx, stop := n.process.Watch(ctx)
		err := local.Await(ctx, func(ctx context.Context) error { return ready(ctx, r.client, r.scheme+n.http) })
		stop(nil)
		if err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return nil
}

// ready asks a node whether it is.
func ready(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // it was read
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("it is not ready: %s", strings.TrimSpace(string(body)))
	}
	return err
}

// prepare makes the folder and chooses the addresses.
func (r *running) prepare() (err error) {
	if r.dir == "" {
		r.temporary = true
		if r.dir, err = os.MkdirTemp("", "footfall-cluster-"); err != nil {
			return err
		}
		// PostgreSQL runs as another user where this one is root.
		if err := os.Chmod(r.dir, 0o711); err != nil { //nolint:gosec // what is in it has rights of its own
			return err
		}
	}
	for _, path := range []*string{&r.dir, &r.models, &r.binary, &r.rules, &r.cli} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(r.dir, 0o711); err != nil { //nolint:gosec // as above
		return err
	}
	const each = 3
	all := max(r.options.nodes+more, least)
	ports, err := local.ReservePorts(each*all + 1)
	if err != nil {
		return err
	}
	for i := range all {
		n := &node{name: fmt.Sprintf("n%d", i+1)}
		n.file = filepath.Join(r.dir, n.name+".yaml")
		if r.port != 0 {
			n.http, n.grpc, n.gossip = local.Address(r.port+2*i), local.Address(r.port+2*i+1), local.Address(gossipPort+i)
		} else {
			n.http, n.grpc, n.gossip = local.Address(ports.Next()), local.Address(ports.Next()), local.Address(ports.Next())
		}
		r.nodes = append(r.nodes, n)
	}
	r.promAddr = local.Address(ports.Next())
	ports.Release() // a reservation holds the port's UDP, which gossip needs
	return nil
}

func (r *running) log(name string) string { return filepath.Join(r.dir, name+".log") }

// configure writes a node's file.
func (r *running) configure(n *node) error {
	var seeds []string
	for _, other := range r.nodes {
		if other != n {
			seeds = append(seeds, other.gossip)
		}
	}
	text := fmt.Sprintf(`node: {name: %s, roles: "%s"}
http: {listen: "%s"}
grpc: {listen: "%s"}
cluster: {listen: "%s", join: "%s"}
log: {url: "%s"}
store: {url: "%s"}
models: {url: "file:%s"}
clock: driven
`, n.name, r.roles, n.http, n.grpc, n.gossip, strings.Join(seeds, ","), r.broker.URL(), r.postgres.URL(""), r.models)
	if r.secrets != nil {
		text += r.secrets.config(n)
	}
	return os.WriteFile(n.file, []byte(text), 0o600)
}

// tell prints where everything is, and what can be tried.
func (r *running) tell() {
	fmt.Fprintf(r.out, "A cluster of %d nodes, until Ctrl-C\n\n", r.options.nodes)
	for _, n := range r.nodes[:r.options.nodes] {
		fmt.Fprintf(r.out, "%-11s %s%s  gRPC %s  pid %d  log %s\n", n.name, r.scheme, n.http, n.grpc, n.process.Pid(), r.log(n.name))
	}
	fmt.Fprintf(r.out, "%-11s %s  pages %s\n", "RabbitMQ", r.broker.URL(), r.broker.ManagementURL())
	fmt.Fprintf(r.out, "%-11s %s\n", "PostgreSQL", r.postgres.URL(""))
	if r.prometheus != nil {
		fmt.Fprintf(r.out, "%-11s http://%s\n", "Prometheus", r.promAddr)
	}
	first, last, next := r.nodes[0], r.nodes[r.options.nodes-1], r.nodes[r.options.nodes]
	if r.secrets != nil {
		fmt.Fprintf(r.out, `
It asks everybody who they are. In your shell, first:
export FOOTFALL_CA=%s FOOTFALL_TOKEN=@%s
`, r.secrets.ca(), r.secrets.token())
	}
	fmt.Fprintf(r.out, `
See it:       footfall cluster --node %[1]s; footfall shards --node %[1]s
Feed it:      footfall replay synthetic --node %[1]s
Kill one:     kill -9 $(cat %[2]s)
Start it:     footfall node --config %[3]s
Add another:  footfall node --config %[4]s
Drain one:    footfall cluster drain %[5]s --node %[1]s
`, first.grpc, filepath.Join(r.dir, last.name+".pid"), last.file, next.file, last.name)
}

// watch returns when ctx is done, or a server has ended. A node may end.
func (r *running) watch(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, n := range r.nodes[:r.options.nodes] {
		wg.Go(func() {
			select {
			case <-n.process.Done():
				fmt.Fprintf(r.err, "footfall: %s has ended; its log is %s\n", n.name, r.log(n.name))
			case <-ctx.Done():
			}
		})
	}
	if r.prometheus != nil {
		for _, n := range r.nodes[r.options.nodes:] {
			wg.Go(func() { r.prometheus.join(ctx, n) })
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case <-r.broker.Done():
		return errors.New("RabbitMQ has ended by itself; its log ends with:\n" + local.Tail(r.broker.Log()))
	case <-r.postgres.Done():
		return errors.New("PostgreSQL has ended by itself; its log ends with:\n" + local.Tail(r.postgres.Log()))
	}
}

// stopWithin is longer than a node takes to drain.
const stopWithin = 45 * time.Second

// stop stops the nodes in order, one after the other so that each hands over, then the servers.
func (r *running) stop(ctx context.Context) error {
	fmt.Fprintln(r.err, "footfall: stopping the cluster")
	var errs []error
	for _, n := range r.nodes {
		if n.process != nil {
			ctx, cancel := context.WithTimeout(ctx, stopWithin)
			errs = append(errs, n.process.Stop(ctx, syscall.SIGTERM))
			cancel()
		}
	}
	if r.prometheus != nil {
		errs = append(errs, r.prometheus.process.Kill())
	}
	if r.broker != nil {
		errs = append(errs, r.broker.Stop(ctx))
	}
	if r.postgres != nil {
		errs = append(errs, r.postgres.Stop(ctx))
	}
	if r.temporary {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}
