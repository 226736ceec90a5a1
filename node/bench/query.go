package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node"
	"footfall/node/config"
)

// query measures one query after the other over loopback while publishers send, at their own
// pace, half of what the node takes in at most; empty calls are measured in between.
func (s *Suite) query(ctx context.Context) (err error) {
	n, end, err := s.serve(ctx, "query")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	// Who asks and who publishes are different programs, with connections of their own.
	var conns [2]*grpc.ClientConn
	for i := range conns {
		if conns[i], err = grpc.NewClient(n.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			return err
		}
		defer conns[i].Close()
	}
	conn := conns[0]
	load := &load{client: footfallv1.NewIngestServiceClient(conns[1]), customers: s.size(100_000)}
	if err := load.make(s.size(400_000)); err != nil {
		return err
	}
	if err := awaitReady(ctx, conn); err != nil {
		return err
	}
	if err := load.once(ctx); err != nil {
		return err
	}
	most, err := load.run(ctx, 0, 5*time.Second)
	if err != nil {
		return err
	}
	s.add(Row{Group: "query", Name: "taken in by gRPC at most", Value: most, Unit: "events/s"})

	during, cancel := context.WithCancel(ctx)
	loaded := make(chan error, 1)
	var half float64
	go func() {
		var err error
		half, err = load.run(during, most/2, time.Hour)
		loaded <- err
	}()
	queries, empties, err := ask(ctx, conn, load.known(), s.size(10_000))
	cancel()
	if err := errors.Join(err, <-loaded); err != nil {
		return err
	}
	p := func(all []time.Duration, q float64) float64 {
		return all[int(q*float64(len(all)-1))].Seconds() * 1e3
	}
	name := fmt.Sprintf("one customer by gRPC, at %.0f events/s", half)
	s.add(Row{Group: "query", Name: name + ", p50", Value: p(queries, .5), Unit: "ms", Limit: p(empties, .5), Against: "an empty gRPC call"}.ratioAtMost(2))
	s.add(Row{Group: "query", Name: name + ", p99", Value: p(queries, .99), Unit: "ms", Limit: p(empties, .99), Against: "an empty gRPC call"}.atMost(2, "2 ms"))
	return nil
}

// awaitReady returns once the node does all its work.
func awaitReady(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	for err == nil {
		var r *healthpb.HealthCheckResponse
		if r, err = w.Recv(); err == nil && r.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
	}
	return err
}

// ask measures queries and empty calls in turn; both are returned sorted.
func ask(ctx context.Context, conn *grpc.ClientConn, known []string, n int) (queries, empties []time.Duration, err error) {
	rnd := rand.New(rand.NewPCG(2, 2))
	client, health := footfallv1.NewCustomerServiceClient(conn), healthpb.NewHealthClient(conn)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for range n {
		<-pace.C
		began := time.Now()
		_, err := client.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: known[rnd.IntN(len(known))]})
		if err != nil {
			return nil, nil, err
		}
		queries = append(queries, time.Since(began))
		began = time.Now()
		if _, err := health.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
			return nil, nil, err
		}
		empties = append(empties, time.Since(began))
	}
	slices.Sort(queries)
	slices.Sort(empties)
	return queries, empties, nil
}

// load sends batches again and again, each time as new events.
type load struct {
	client    footfallv1.IngestServiceClient
	customers int
	batches   [publishers][]*footfallv1.EventBatch
	round     int
}

// publishers is how many calls are under way at once: each has its shards.
const publishers = 8

func (l *load) make(n int) error {
	m := newMaker(l.customers, n, 365)
	var open [publishers]footfallv1.EventBatch
	for range n {
		ev := m.next()
		ev.Producer, ev.Sequence = "", 0
		p := messages.ShardOf(ev.CustomerId, shards) % publishers
		open[p].Events = append(open[p].Events, ev)
		if len(open[p].Events) == 500 {
			l.batches[p] = append(l.batches[p], &footfallv1.EventBatch{Events: open[p].Events})
			open[p].Events = nil
		}
	}
	return nil
}

// once sends every batch as it is, so that its customers are known.
func (l *load) once(ctx context.Context) error {
	for _, batches := range l.batches {
		for _, b := range batches {
			if _, err := l.client.Publish(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// known lists customers, busy ones more often.
func (l *load) known() (ids []string) {
	for _, batches := range l.batches {
		for _, b := range batches {
			for _, ev := range b.Events {
				ids = append(ids, ev.GetCustomerId())
			}
		}
	}
	return ids
}

// run sends at rate events a second, or as fast as it goes where rate is 0, until limit or
// ctx ends, and returns the rate reached.
func (l *load) run(ctx context.Context, rate float64, limit time.Duration) (float64, error) {
	l.round++
	var (
		wg   sync.WaitGroup
		sent atomic.Int64
		fail atomic.Pointer[error]
	)
	began := time.Now()
	for p := range publishers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil && time.Since(began) < limit; i++ {
				b := l.batches[p][i%len(l.batches[p])]
				if rate > 0 {
					due := time.Duration(float64(sent.Load()) / rate * float64(time.Second))
					select {
					case <-time.After(due - time.Since(began)):
					case <-ctx.Done():
						return
					}
				}
				for _, ev := range b.Events {
					ev.EventId = strconv.Itoa(l.round) + "-" + strconv.Itoa(i) + ev.EventId[max(0, len(ev.EventId)-20):]
				}
				r, err := l.client.Publish(context.WithoutCancel(ctx), b)
				if err == nil && len(r.GetRejected()) > 0 {
					err = errors.New(r.GetRejected()[0].GetReason())
				}
				if err != nil {
					fail.Store(&err)
					return
				}
				sent.Add(int64(len(b.Events)))
			}
		})
	}
	wg.Wait()
	if err := fail.Load(); err != nil {
		return 0, *err
	}
	return float64(sent.Load()) / time.Since(began).Seconds(), nil
}

// serve runs a node without models on ports and folders of its own until end.
func (s *Suite) serve(ctx context.Context, what string) (n *node.Node, end func() error, err error) {
	dir, remove, err := s.dir(what)
	if err != nil {
		return nil, nil, err
	}
	cfg := config.Default()
	cfg.HTTPListen, cfg.GRPCListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.LogDir, cfg.StoreDir = filepath.Join(dir, "log"), filepath.Join(dir, "store")
	cfg.Roles = config.Roles{config.RoleShards}
	cfg.Clock = footfallv1.ClockMode_CLOCK_MODE_DRIVEN
	cfg.Shards = shards
	n, err = node.New(node.Options{Config: cfg, Version: "bench", Logger: s.Logger, Registry: prometheus.NewRegistry()})
	if err != nil {
		remove()
		return nil, nil, err
	}
	run, stop := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- n.Run(run) }()
	return n, func() error {
		defer remove()
		stop()
		return <-stopped
	}, nil
}
