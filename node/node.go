package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"

	"footfall/actors"
	"footfall/behavior"
	"footfall/inference"
	"footfall/messages"
	"footfall/node/access"
	"footfall/node/api"
	"footfall/node/broker"
	"footfall/node/config"
	"footfall/node/members"
	"footfall/node/storage"
	"footfall/node/tracing"
)

// Options is what a node is made of.
type Options struct {
	Config  *config.Config
	Version string
	// Runner runs models; nil means that the node runs none, whatever its roles.
	Runner inference.Runner
	Logger *slog.Logger
	// Registry gets the node's metrics and serves them.
	Registry *prometheus.Registry
	// Now is the clock; time.Now unless set.
	Now func() time.Time
}

// Node is one process of a cluster.
//
//	New ──► starting ──every shard recovered──► active ──ctx done, or a part failed──► draining ──► Run returns
//
// Invariants:
//  1. state only goes forward.
//  2. What New opens, Run or Close closes, once.
type Node struct {
	cfg    *config.Config
	logger *slog.Logger
	now    func() time.Time
	state  atomic.Int32

	broker  *broker.Broker // nil where the log is not on one
	storage *storage.Storage
	scoring *scoring // nil without models
	// outsourced is the scoring of a node without the role; nil where nobody could do it.
	outsourced *outsourced
	host       *guardedHost
	tracing    *tracing.Tracing // nil where there are no traces
	members    *members.Members // nil on a node on its own
	access     *access.Access
	api        *api.API
	metrics    *metrics
	rates      *api.Rates

	httpListener, grpcListener, debugListener net.Listener

	// started is closed when the node is active.
	started chan struct{}
	settled settled
	// clock is the cluster's, as upkeep has seen it last.
	clock    atomic.Int32
	calendar *behavior.Calendar
	// lastLearned is the last day of which others have told that it has ended.
	lastLearned atomic.Pointer[string]
	// tooFar is the first instant, Unix milliseconds, that CheckTime found to lie too far ahead last.
	tooFar atomic.Int64
}

// The states of a node.
const (
	starting int32 = iota
	active
	draining
)

var stateNames = [...]string{"joining", "active", "draining"}

// New opens what a node needs. The caller runs it, or closes it.
func New(o Options) (_ *Node, err error) {
	n := &Node{cfg: o.Config, logger: o.Logger, now: o.Now, rates: &api.Rates{}, started: make(chan struct{})}
	n.calendar = behavior.NewCalendar(o.Config.Location)
	if n.now == nil {
		n.now = time.Now
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()

	// Ports first: a node that is started twice should say so before it waits for anything.
	for _, l := range []struct {
		key, addr string
		into      *net.Listener
	}{
		{"http.listen", n.cfg.HTTPListen, &n.httpListener},
		{"grpc.listen", n.cfg.GRPCListen, &n.grpcListener},
		{"debug.listen", n.cfg.DebugListen, &n.debugListener},
	} {
		if l.addr == "" {
			continue
		}
		if *l.into, err = listen(l.key, l.addr); err != nil {
			return nil, err
		}
	}

	if n.access, err = openAccess(n.cfg, n.now, n.logger, o.Registry); err != nil {
		return nil, err
	}
	if n.tracing, err = tracing.Open(context.Background(), tracing.Options{
		Endpoint: n.cfg.TraceEndpoint, Sample: n.cfg.TraceSample, Node: n.cfg.Name, Version: o.Version,
		Logger: n.logger, Registry: o.Registry, Now: n.now,
	}); err != nil {
		return nil, err
	}
	apiMetrics, err := api.NewMetrics(o.Registry, o.Version)
	if err != nil {
		return nil, err
	}
	shardMetrics, err := actors.NewMetrics(o.Registry)
	if err != nil {
		return nil, err
	}
	if n.metrics, err = newMetrics(o.Registry, apiMetrics); err != nil {
		return nil, err
	}
	n.metrics.state(starting)

	if err := n.openStorage(o.Registry); err != nil {
		return nil, err
	}
	if err := o.Registry.Register(storageCollector{n.storage}); err != nil {
		return nil, err
	}
	if n.scoring, err = openScoring(n.cfg, o.Runner, n.storage.Store, n.logger, o.Registry); err != nil {
		return nil, err
	}
	var (
		scorer actors.Scorer
		models api.Models
	)
	if n.outsourced, err = openOutsourced(n.cfg, n.logger, o.Registry); err != nil {
		return nil, err
	}
	switch {
	case n.scoring != nil:
		scorer, models = n.scoring, n.scoring
	case n.outsourced != nil:
		scorer, models = n.outsourced, n.outsourced
	}
	host, err := actors.NewHost(actors.Config{
		Node:            n.cfg.Name,
		Shards:          n.cfg.Shards,
		Location:        n.cfg.Location,
		Currency:        n.cfg.Currency,
		Clock:           n.cfg.Clock,
		MemoryBudget:    n.cfg.MemoryBudget,
		CheckpointEvery: n.cfg.CheckpointInterval,
		Databases:       len(n.cfg.StoreDatabases),
		Now:             n.now,
		Logger:          n.logger,
		Metrics:         shardMetrics,
		Meaning:         meaning(models),
		Tracer:          n.tracing.Tracer(),
	}, n.storage.Log, n.storage.Store, scorer)
	if err != nil {
		return nil, err
	}
	n.host = &guardedHost{host, make([]sync.RWMutex, n.cfg.Shards)}
	if n.scoring != nil {
		n.scoring.shows(host)
	}
	if n.outsourced != nil {
		n.outsourced.shown = host.Serving
	}
	if err := n.join(o.Version, o.Registry, apiMetrics); err != nil {
		return nil, err
	}
	n.api, err = api.New(api.Options{
		Identity: api.Identity{
			Name:        n.cfg.Name,
			Version:     o.Version,
			Roles:       n.cfg.Roles,
			Shards:      n.cfg.Shards,
			Currency:    n.cfg.Currency,
			Calendar:    behavior.NewCalendar(n.cfg.Location),
			Started:     n.now(),
			Zone:        n.cfg.Zone,
			HTTPAddress: reached(n.cfg.HTTPAdvertise, n.httpListener),
			GRPCAddress: reached(n.cfg.GRPCAdvertise, n.grpcListener),
		},
		Limits: api.Limits{
			Message: n.cfg.MaxMessage, Ingest: n.cfg.IngestBudget, Query: n.cfg.QueryTimeout,
			Streams: uint32(n.cfg.Streams), Headers: n.cfg.HeaderTimeout,
		},
		Access:      n.access,
		Host:        n.shardsHost(),
		Cluster:     n.others(),
		Models:      models,
		DeadLetters: n.deadLetters(),
		Rates:       n.rates,
		Ready:       n.Ready,
		State:       func() string { return stateNames[n.state.Load()] },
		Now:         n.now,
		Tracing:     n.tracing.Provider(),
		Metrics:     apiMetrics,
		Gatherer:    o.Registry,
		Logger:      n.logger,
	})
	if err != nil {
		return n, err
	}
	return n, errors.Join(n.openFineTuning(o.Registry), o.Registry.Register(observed{n}))
}

// lastSpans is how long a node that ends tries to send the spans that are left.
const lastSpans = 2 * time.Second

// HTTPAddr is where the node serves HTTP, with the port that it got.
func (n *Node) HTTPAddr() string { return n.httpListener.Addr().String() }

// GRPCAddr is where the node serves gRPC.
func (n *Node) GRPCAddr() string { return n.grpcListener.Addr().String() }

// ClusterAddr is where the node's gossip is, with the port that it got; empty on a node on its own.
func (n *Node) ClusterAddr() string {
	if n.members == nil {
		return ""
	}
	return n.members.Address()
}

func listen(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is in use: stop what listens there (another node?), or choose another port: %w", key, addr, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: %s needs rights that this user has not: choose a port above 1023: %w", key, addr, err)
	default:
		return nil, fmt.Errorf("%s: %w", key, err)
	}
}

// Close gives back what New opened. Run does it itself.
func (n *Node) Close() error {
	var errs []error
	for _, l := range []net.Listener{n.httpListener, n.grpcListener, n.debugListener} {
		if l != nil {
			// Servers have closed theirs already.
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if n.host != nil {
		ctx, cancel := context.WithTimeout(context.Background(), n.cfg.DrainTimeout)
		defer cancel()
		errs = append(errs, n.host.Stop(ctx))
	}
	n.endElsewhere()
	if n.members != nil {
		errs = append(errs, n.members.Close())
	}
	if n.outsourced != nil {
		errs = append(errs, n.outsourced.Close())
	}
	if n.scoring != nil {
		errs = append(errs, n.scoring.Close())
	}
	if n.broker != nil {
		errs = append(errs, n.broker.Close())
	}
	if n.storage != nil {
		errs = append(errs, n.storage.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
	defer cancel()
	if err := n.tracing.Close(ctx); err != nil {
		n.logger.Warn("the last spans were not sent", "error", err)
	}
	return errors.Join(errs...)
}

// Run serves until ctx is done, then drains. It returns nil after an orderly stop.
//
// Parts start together, since requests are answered while shards recover ("not active yet").
// They stop one after the other, in the order in which they stand below:
//
//  1. the signal: readiness drops, so that nothing new is sent here
//  2. in a cluster, the shards are handed over, while calls are answered on and passed on
//  3. HTTP and gRPC: calls under way end, new ones are refused
//  4. upkeep: retention and rates; the bridge and the mover of dead letters
//  5. the shards: they stop reading, checkpoint, and are released
//  6. in a cluster, the lease and the gossip
//  7. models, broker, store, log: in Close
func (n *Node) Run(ctx context.Context) error {
	var (
		g    run.Group
		last = &deadlines{} // made when the stop begins
	)
	defer func() { last.cancel() }()

	stop := make(chan struct{})
	g.Add(func() error {
		select {
		case <-ctx.Done():
			n.logger.Info("stopping", "within", n.cfg.DrainTimeout)
		case <-n.sentAway():
			n.logger.Info("leaving the cluster for good", "within", n.cfg.DrainTimeout)
		case <-stop:
		}
		return nil
	}, func(error) {
		last = newDeadlines(n.cfg.DrainTimeout, n.members != nil)
		n.setState(draining)
		n.api.EndStreams()
		close(stop)
	})

	if n.members != nil {
		g.Add(n.members.Run, func(error) { n.handOver(last.shards) })
	}
	g.Add(func() error { return served("HTTP", n.serveHTTP()) }, func(error) {
		if err := n.api.HTTP.Shutdown(last.calls); err != nil {
			n.logger.Warn("calls were cut off", "server", "http", "error", err)
			_ = n.api.HTTP.Close() // they are cut off: nothing is left to report
		}
	})
	g.Add(func() error { return served("gRPC", n.api.GRPC.Serve(n.access.Listen("grpc", n.grpcListener))) }, func(error) { n.stopGRPC(last.calls) })
	if n.debugListener != nil {
		debug := &http.Server{Handler: debugHandler(), ReadHeaderTimeout: 10 * time.Second}
		g.Add(func() error { return served("debug", debug.Serve(n.debugListener)) }, func(error) { _ = debug.Close() })
	}

	background, stopBackground := context.WithCancel(context.Background())
	g.Add(func() error { return n.access.Run(background) }, func(error) { stopBackground() })
	g.Add(func() error { return n.upkeep(background) }, func(error) { stopBackground() })
	g.Add(func() error { return n.retention(background) }, func(error) { stopBackground() })
	if n.broker != nil {
		mover := n.broker.Mover(n.storage.DeadLetters())
		mover.Status = n.host.Status
		g.Add(func() error { return mover.Run(background) }, func(error) { stopBackground() })
		g.Add(func() error { return n.broker.Bridge(background) }, func(error) { stopBackground() })
	}

	recovery, stopRecovery := context.WithCancel(context.Background())
	g.Add(func() error { return n.start(recovery) }, func(error) {
		stopRecovery()
		if err := n.host.Stop(last.all); err != nil {
			n.logger.Error("shards did not stop in order", "error", err)
		}
		n.endElsewhere()
		if n.members != nil {
			n.members.Leave()
		}
	})

	n.logger.Info("listening", "node", n.cfg.Name, "http", n.HTTPAddr(), "grpc", n.GRPCAddr())
	if n.members != nil {
		n.logger.Info("listening for gossip", "address", n.members.Address(), "join", n.cfg.ClusterJoin)
	}
	if n.debugListener != nil {
		n.logger.Info("listening for debuggers", "address", n.debugListener.Addr().String())
	}
	n.warnExposed()
	for _, name := range n.cfg.Unknown {
		n.logger.Warn("a variable of the environment names no key, and is ignored", "name", name)
	}
	err := g.Run()
	if closed := n.Close(); closed != nil {
		err = errors.Join(err, closed)
	}
	n.logger.Info("stopped")
	return err
}

// deadlines bound an orderly stop: until when shards are handed over to other nodes, until when
// calls may end by themselves, and until when everything must have ended. Calls get half of the
// time, so that a slow one does not cost the shards their checkpoint; in a cluster they get half
// of what handing over leaves.
type deadlines struct {
	shards, calls, all context.Context
	cancels            []context.CancelFunc
}

func newDeadlines(limit time.Duration, clustered bool) *deadlines {
	d := &deadlines{}
	within := func(parent context.Context, limit time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(parent, limit)
		d.cancels = append(d.cancels, cancel)
		return ctx
	}
	d.all = within(context.Background(), limit)
	d.shards, d.calls = within(d.all, limit/2), within(d.all, limit/2)
	if clustered {
		d.calls = within(d.all, limit*3/4)
	}
	return d
}

func (d *deadlines) cancel() {
	for _, cancel := range d.cancels {
		cancel()
	}
}

// start recovers the shards and loads the models, and then waits for the end.
func (n *Node) start(ctx context.Context) error {
	began := n.now()
	models := make(chan error, 1)
	if n.scoring != nil {
		go func() { models <- n.scoring.load(ctx) }()
	} else {
		models <- nil
	}
	err := n.startShards(ctx)
	loaded := <-models
	if ctx.Err() != nil {
		return nil
	}
	if loaded != nil {
		return loaded
	}
	if err != nil {
		if n.countShards(actors.Active) == 0 && !passing(err) {
			return fmt.Errorf("no shard could be started: %w", err)
		}
		n.logger.Error("some shards could not be started", "error", err)
	}
	n.setState(active)
	close(n.started)
	n.logger.Info("started", "shards", n.countShards(actors.Active), "seconds", n.now().Sub(began).Seconds())
	<-ctx.Done()
	return nil
}

// passing says that shards will start by themselves once the log is there, or its broker takes
// messages again: until then the node is not ready, and that is all.
func passing(err error) bool {
	_, blocked := errors.AsType[*messages.BlockedError](err)
	_, away := errors.AsType[*messages.UnavailableError](err)
	return blocked || away
}

func (n *Node) countShards(s actors.State) int {
	count := 0
	for _, st := range n.host.Status() {
		if st.State == s {
			count++
		}
	}
	return count
}

func (n *Node) setState(s int32) {
	for {
		old := n.state.Load()
		if s <= old {
			return
		}
		if n.state.CompareAndSwap(old, s) {
			break
		}
	}
	n.metrics.state(s)
	n.api.SetReady(n.Ready().Ready)
}

// stopGRPC lets calls end, and cuts them off at the deadline.
func (n *Node) stopGRPC(deadline context.Context) {
	done := make(chan struct{})
	go func() {
		n.api.GRPC.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-deadline.Done():
		n.logger.Warn("calls were cut off", "server", "grpc", "error", deadline.Err())
		n.api.GRPC.Stop()
		<-done
	}
}

// served names the server in what ended it; an orderly end is none.
func served(what string, err error) error {
	if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("%s server: %w", what, err)
}

func debugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// registerProcess adds what Prometheus knows of any Go process.
func registerProcess(reg prometheus.Registerer) error {
	return errors.Join(
		reg.Register(collectors.NewGoCollector()),
		reg.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
}
