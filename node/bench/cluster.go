package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

const (
	// crew is how many nodes a cluster of the benchmark has, of crew+1 that there are files for.
	crew = 3
	// clusterRounds is how often one node and the cluster ingest, in turn.
	clusterRounds = 3
	// moves is how often each kind of planned move is made, and how often a node is killed.
	moves = 3
	// askEvery is how often each shard is asked while it moves: what waits longer than that waited for the move.
	askEvery = 20 * time.Millisecond
	// underLoad is how many events a second come in meanwhile.
	underLoad = 10_000
)

// cluster measures three processes against one on the same cores, broker and database, and what moves cost.
func (s *Suite) cluster(ctx context.Context) error {
	return s.withCluster(ctx, "cluster", func(f *clusterBench) error {
		f.load.customers = f.size(100_000)
		if err := f.load.make(f.size(400_000)); err != nil {
			return err
		}
		if err := f.ingest(ctx); err != nil {
			return err
		}
		return f.disturb(ctx)
	})
}

// withCluster has a broker, a database and files for nodes, none of which runs yet, while do does.
func (s *Suite) withCluster(ctx context.Context, name string, do func(*clusterBench) error) (err error) {
	if s.Node == nil {
		s.say("left out: there is no program that is a node")
		return nil
	}
	dir, remove, err := s.dir(name)
	if err != nil {
		return err
	}
	defer remove()
	// PostgreSQL runs as another user where this one is root.
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // what is in it has rights of its own
		return err
	}
	f := &clusterBench{Suite: s, dir: dir}
	after := context.WithoutCancel(ctx)
	f.broker, err = local.StartBroker(ctx, local.BrokerOptions{Dir: filepath.Join(dir, "broker")})
	if errors.Is(err, local.ErrNoRabbitMQ) {
		s.say("left out: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.broker.Stop(after)) }()
	if f.postgres, err = local.StartPostgres(ctx, local.PostgresOptions{Dir: filepath.Join(dir, "postgres")}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.postgres.Stop(after)) }()
	if err := f.configure(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stopAll(after)) }()
	return do(f)
}

// clusterBench is nodes in processes of their own, n1 to n4, and the servers that they share.
type clusterBench struct {
	*Suite
	dir      string
	broker   *local.Broker
	postgres *local.Postgres
	nodes    []*benchNode
	load     load
	// known is a customer of each shard.
	known [shards]string
}

type benchNode struct {
	name, file, grpc string
	process          *local.Process // nil while it does not run
	conn             *grpc.ClientConn
}

func (n *benchNode) admin() footfallv1.AdminServiceClient {
	return footfallv1.NewAdminServiceClient(n.conn)
}

func (n *benchNode) customers() footfallv1.CustomerServiceClient {
	return footfallv1.NewCustomerServiceClient(n.conn)
}

// configure writes a file for each node.
func (f *clusterBench) configure() error {
	const each = 3
	ports, err := local.ReservePorts(each * (crew + 1))
	if err != nil {
		return err
	}
	var gossip []string
	for i := range crew + 1 {
		n := &benchNode{name: fmt.Sprintf("n%d", i+1), grpc: local.Address(ports.Next())}
		n.file = filepath.Join(f.dir, n.name+".yaml")
		gossip = append(gossip, local.Address(ports.Next()))
		f.nodes = append(f.nodes, n)
	}
	for i, n := range f.nodes {
		text := fmt.Sprintf(`node: {name: %s, roles: shards}
http: {listen: "%s"}
grpc: {listen: "%s"}
cluster: {listen: "%s", join: "%s"}
log: {url: "%s"}
store: {url: "%s"}
shards: %d
clock: driven
`, n.name, local.Address(ports.Next()), n.grpc, gossip[i], strings.Join(gossip, ","), f.broker.URL(), f.postgres.URL(""), shards)
		if err := os.WriteFile(n.file, []byte(text), 0o600); err != nil {
			return err
		}
		if n.conn, err = grpc.NewClient(n.grpc, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			return err
		}
	}
	ports.Release() // a reservation holds the port's UDP, which gossip needs
	return nil
}

// start starts a node, and returns once it says that it is ready.
func (f *clusterBench) start(ctx context.Context, n *benchNode) (err error) {
	c := f.Node(n.file)
	c.Title, c.Log = n.name, filepath.Join(f.dir, n.name+".log")
	if n.process, err = local.StartProcess(c); err != nil {
		return err
	}
	ctx, stop := n.process.Watch(ctx)
	defer stop(nil)
	return awaitReady(ctx, n.conn)
}

// stop stops a node in order.
func (f *clusterBench) stop(ctx context.Context, n *benchNode) error {
	if n.process == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := n.process.Stop(ctx, syscall.SIGTERM)
	n.process = nil
	return err
}

func (f *clusterBench) stopAll(ctx context.Context) error {
	var errs []error
	for _, n := range f.nodes {
		errs = append(errs, f.stop(ctx, n))
		if n.conn != nil {
			errs = append(errs, n.conn.Close())
		}
	}
	return errors.Join(errs...)
}

// team starts the first so many nodes, where they do not run, and stops the others.
func (f *clusterBench) team(ctx context.Context, size int) error {
	var wg sync.WaitGroup
	errs := make([]error, len(f.nodes))
	for i, n := range f.nodes {
		switch {
		case i >= size:
			errs[i] = f.stop(ctx, n)
		case n.process == nil:
			wg.Go(func() { errs[i] = f.start(ctx, n) })
		}
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err := f.settle(ctx, size)
	return err
}

// settle waits until so many members have all shards, evenly, and returns the owner of each.
func (f *clusterBench) settle(ctx context.Context, size int) (owners [shards]string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last [shards]string
	err = local.Await(ctx, func(ctx context.Context) error {
		c, err := f.nodes[0].admin().GetCluster(ctx, &footfallv1.GetClusterRequest{})
		if err != nil {
			return err
		}
		if len(c.GetMembers()) != size {
			return fmt.Errorf("%d members, not %d", len(c.GetMembers()), size)
		}
		list, err := f.nodes[0].admin().ListShards(ctx, &footfallv1.ListShardsRequest{})
		if err != nil {
			return err
		}
		count := map[string]int{}
		for _, s := range list.GetShards() {
			if s.GetState() != "active" {
				return fmt.Errorf("shard %d is %s", s.GetShard(), s.GetState())
			}
			owners[s.GetShard()] = s.GetOwner()
			count[s.GetOwner()]++
		}
		before := last
		last = owners
		for name, n := range count {
			if n > (shards+size-1)/size || len(count) != size {
				return fmt.Errorf("%s has %d shards", name, n)
			}
		}
		if before != owners {
			return errors.New("shards have moved since")
		}
		return nil
	})
	return owners, err
}

// spread publishes through some nodes in turn.
type spread struct {
	footfallv1.IngestServiceClient
	all  []footfallv1.IngestServiceClient
	turn atomic.Uint64
}

func (s *spread) Publish(ctx context.Context, b *footfallv1.EventBatch, o ...grpc.CallOption) (*footfallv1.PublishResponse, error) {
	return s.all[s.turn.Add(1)%uint64(len(s.all))].Publish(ctx, b, o...)
}

func (f *clusterBench) through(nodes ...*benchNode) *spread {
	s := &spread{}
	for _, n := range nodes {
		s.all = append(s.all, footfallv1.NewIngestServiceClient(n.conn))
	}
	return s
}

// ingest compares one node with three, on the same log and store, in turn.
func (f *clusterBench) ingest(ctx context.Context) error {
	limit := 5 * time.Second
	if f.Quick {
		limit /= 5
	}
	var rates [2][]float64
	for round := range f.times(clusterRounds) {
		for side, size := range []int{1, crew} {
			if err := f.team(ctx, size); err != nil {
				return err
			}
			f.load.client = f.through(f.nodes[:size]...)
			if round == 0 && side == 0 { // so that customers are known to both
				if err := f.load.once(ctx); err != nil {
					return err
				}
			}
			if err := f.idle(ctx); err != nil {
				return err
			}
			began := time.Now()
			rate, err := f.load.run(ctx, 0, limit)
			if err != nil {
				return err
			}
			sent := rate * time.Since(began).Seconds()
			if err := f.idle(ctx); err != nil {
				return err
			}
			rates[side] = append(rates[side], sent/time.Since(began).Seconds())
			f.say("  %d of it: %.0f events/s", size, rates[side][len(rates[side])-1])
		}
	}
	f.add(Row{
		Group: "cluster", Name: "three processes on this machine, taken in through all of them and folded", Value: middle(rates[1]), Unit: "events/s",
		Limit: middle(rates[0]), Against: "one process, same cores, log and store",
	}.ratioAtLeast(.8))
	return nil
}

// times is n, or 1 in a quick run.
func (f *clusterBench) times(n int) int {
	if f.Quick {
		return 1
	}
	return n
}

// idle returns once all that was published is folded.
func (f *clusterBench) idle(ctx context.Context) error {
	_, err := f.nodes[0].admin().WaitIdle(ctx, &footfallv1.WaitIdleRequest{})
	return err
}

// disturb measures what it costs to be passed on, and what moves cost, while n1 takes events in.
func (f *clusterBench) disturb(ctx context.Context) error {
	if err := f.team(ctx, crew); err != nil {
		return err
	}
	for _, id := range f.load.known() {
		f.known[messages.ShardOf(id, shards)] = id
	}
	f.load.client = f.through(f.nodes[0])
	during, cancel := context.WithCancel(ctx)
	loaded := make(chan error, 1)
	go func() {
		_, err := f.load.run(during, float64(f.size(underLoad)), time.Hour)
		loaded <- err
	}()
	err := f.forwarded(ctx)
	if err == nil {
		err = f.planned(ctx)
	}
	if err == nil {
		err = f.killed(ctx)
	}
	cancel()
	return errors.Join(err, <-loaded)
}

// forwarded asks n1 for its own customers and for those of others, in turn.
func (f *clusterBench) forwarded(ctx context.Context) error {
	owners, err := f.settle(ctx, crew)
	if err != nil {
		return err
	}
	var mine, others []string
	for _, id := range f.load.known() {
		if owners[messages.ShardOf(id, shards)] == f.nodes[0].name {
			mine = append(mine, id)
		} else {
			others = append(others, id)
		}
	}
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	var times [2][]time.Duration
	for i := range f.size(10_000) {
		<-pace.C
		for side, ids := range [][]string{mine, others} {
			began := time.Now()
			if _, err := f.nodes[0].customers().GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: ids[i%len(ids)]}); err != nil {
				return err
			}
			times[side] = append(times[side], time.Since(began))
		}
	}
	slices.Sort(times[0])
	slices.Sort(times[1])
	for _, q := range []float64{.5, .99} {
		r := Row{
			Group: "cluster", Name: fmt.Sprintf("a query that is passed on, at %s events/s, p%.0f", count(f.size(underLoad)), q*100), Unit: "ms",
			Value: quantile(times[1], q), Limit: quantile(times[0], q), Against: "answered by the owner",
		}
		if q > .9 {
			r = r.ratioAtMost(2.5)
		}
		f.add(r)
	}
	return nil
}

// quantile is one of sorted times, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	return sorted[int(q*float64(len(sorted)-1))].Seconds() * 1e3
}

// probe asks n1 for a customer of each shard, again and again.
type probe struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu sync.Mutex // guards what follows
	// slowest is the longest answer of each shard, answered when the first query was asked that came after mark and was answered.
	slowest  [shards]time.Duration
	mark     time.Time
	answered [shards]time.Time
	asked    int
	failed   []error
}

func (f *clusterBench) probe(ctx context.Context) *probe {
	p := &probe{}
	ctx, p.stop = context.WithCancel(ctx)
	for shard := range shards {
		p.done.Go(func() {
			t := time.NewTicker(askEvery)
			defer t.Stop()
			for ctx.Err() == nil {
				began := time.Now()
				asked, cancel := context.WithTimeout(ctx, 10*time.Second)
				_, err := f.nodes[0].customers().GetCustomer(asked, &footfallv1.GetCustomerRequest{CustomerId: f.known[shard]})
				cancel()
				if ctx.Err() != nil {
					return
				}
				p.note(shard, began, err)
				select {
				case <-t.C:
				case <-ctx.Done():
				}
			}
		})
	}
	return p
}

func (p *probe) note(shard int, began time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if err != nil {
		p.failed = append(p.failed, err)
		return
	}
	now := time.Now()
	p.slowest[shard] = max(p.slowest[shard], now.Sub(began))
	if !p.mark.IsZero() && !began.Before(p.mark) && p.answered[shard].IsZero() {
		p.answered[shard] = now
	}
}

// end stops asking.
func (p *probe) end() error {
	p.stop()
	p.done.Wait()
	return errors.Join(p.failed[:min(3, len(p.failed))]...)
}

// planned makes every kind of planned move, some times over.
func (f *clusterBench) planned(ctx context.Context) error {
	four := f.nodes[crew]
	kinds := []struct {
		name string
		size int // of the cluster afterwards
		do   func() error
	}{
		{"joins", crew + 1, func() error { return f.start(ctx, four) }},
		{"stops in order", crew, func() error { return f.stop(ctx, four) }},
		{"comes back", crew + 1, func() error { return f.start(ctx, four) }},
		{"is drained", crew, func() error {
			_, err := f.nodes[0].admin().DrainMember(ctx, &footfallv1.DrainMemberRequest{Member: four.name})
			if err == nil {
				select {
				case <-four.process.Done():
					four.process = nil
				case <-ctx.Done():
					err = ctx.Err()
				}
			}
			return err
		}},
	}
	pauses := make([][]time.Duration, len(kinds))
	var all []time.Duration
	asked, failed := 0, 0
	for range f.times(moves) {
		for i, k := range kinds {
			before, err := f.settle(ctx, len(f.running()))
			if err != nil {
				return err
			}
			p := f.probe(ctx)
			err = k.do()
			var after [shards]string
			if err == nil {
				after, err = f.settle(ctx, k.size)
			}
			if broke := p.end(); broke != nil {
				f.say("  failed: %v", broke)
			}
			if err != nil {
				return fmt.Errorf("a node %s: %w", k.name, err)
			}
			asked, failed = asked+p.asked, failed+len(p.failed)
			for shard := range shards {
				if before[shard] != after[shard] {
					pauses[i] = append(pauses[i], p.slowest[shard])
				}
			}
		}
	}
	for i, k := range kinds {
		slices.Sort(pauses[i])
		all = append(all, pauses[i]...)
		for _, q := range []float64{.5, .99} {
			r := Row{
				Group: "cluster", Name: fmt.Sprintf("a node %s: how long a shard that moves was waited for, p%.0f", k.name, q*100),
				Value: quantile(pauses[i], q), Unit: "ms",
			}
			if q > .9 {
				r = r.atMost(200, "200 ms")
			}
			f.add(r)
		}
	}
	slices.Sort(all)
	f.add(Row{Group: "cluster", Name: fmt.Sprintf("all of these, %d shards moved, p99", len(all)), Value: quantile(all, .99), Unit: "ms"}.atMost(200, "200 ms"))
	f.add(Row{Group: "cluster", Name: fmt.Sprintf("queries that failed meanwhile, of %s", count(asked)), Value: float64(failed), Unit: "queries"}.atMost(0, "0"))
	return nil
}

// running are the nodes that do.
func (f *clusterBench) running() (out []*benchNode) {
	for _, n := range f.nodes {
		if n.process != nil {
			out = append(out, n)
		}
	}
	return out
}

// killed kills one of three, and asks how long its customers were not answered for.
func (f *clusterBench) killed(ctx context.Context) error {
	var worst time.Duration
	failed := 0
	for range f.times(moves) {
		victim := f.nodes[crew-1]
		owners, err := f.settle(ctx, crew)
		if err != nil {
			return err
		}
		p := f.probe(ctx)
		p.mu.Lock()
		p.mark = time.Now()
		p.mu.Unlock()
		err = victim.process.Kill()
		victim.process = nil
		if err == nil {
			_, err = f.settle(ctx, crew-1)
		}
		if broke := p.end(); broke != nil {
			f.say("  failed: %v", broke)
		}
		if err != nil {
			return err
		}
		failed += len(p.failed)
		for shard, owner := range owners {
			if owner == victim.name {
				worst = max(worst, p.answered[shard].Sub(p.mark))
			}
		}
		if err := f.start(ctx, victim); err != nil {
			return err
		}
	}
	f.add(Row{
		Group: "cluster", Name: fmt.Sprintf("kill -9 of one of three, %d times: until every customer was answered again, at most", f.times(moves)), Value: worst.Seconds(), Unit: "s",
	}.atMost(3, "3 s"))
	f.add(Row{Group: "cluster", Name: "queries that failed meanwhile", Value: float64(failed), Unit: "queries"})
	return nil
}
