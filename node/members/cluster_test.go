package members_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

const shards = 16

// world is the servers that the nodes of a test share, and what was published.
type world struct {
	broker   *local.Broker
	postgres *local.Postgres
	database string

	mu       sync.Mutex
	accepted map[string]int // events of each customer
	last     map[string]string
	next     int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{accepted: map[string]int{}, last: map[string]string{}}
	var wg sync.WaitGroup
	wg.Go(func() { w.broker = local.TestBroker(t, local.BrokerOptions{}) })
	w.postgres = local.PostgresFor(t, local.PostgresOptions{Unsynced: true})
	wg.Wait()
	var err error
	w.database, err = w.postgres.CreateDatabase(t.Context(), "footfall")
	require.NoError(t, err)
	return w
}

func (w *world) spec(name string, join ...*member) spec {
	s := spec{Name: name, Broker: w.broker.URL(), Database: w.database, Shards: shards}
	for _, m := range join {
		s.Join = append(s.Join, m.node.ClusterAddr())
	}
	return s
}

const customers = 60

func customer(i int) string { return fmt.Sprintf("c-%d", i%customers) }

var monday = time.Date(2017, 1, 2, 12, 0, 0, 0, time.UTC)

// publish sends an event of a customer, and returns its ID once it was accepted. It is not cut off: then nobody would know.
func (w *world) publish(ctx context.Context, through *member, customer string) (string, error) {
	w.mu.Lock()
	w.next++
	id := fmt.Sprintf("e-%d", w.next)
	w.mu.Unlock()
	answer, err := through.Publish(context.WithoutCancel(ctx), &footfallv1.EventBatch{Events: []*footfallv1.Event{{
		EventId: id, CustomerId: customer, Time: timestamppb.New(monday),
		Kind: &footfallv1.Event_PageView{PageView: &footfallv1.PageView{Url: "/"}},
	}}})
	if err != nil {
		return "", err
	}
	if answer.GetAccepted() != 1 {
		return "", fmt.Errorf("not accepted: %v", answer)
	}
	w.mu.Lock()
	w.accepted[customer]++
	w.last[customer] = id
	w.mu.Unlock()
	return id, nil
}

// owners waits until these are all the members, no shard is on its way, and each is active at one of
// them, evenly; twice in a row. It returns their names by shard.
func owners(t *testing.T, among ...*member) (out map[uint32]string) {
	t.Helper()
	var before map[uint32]string
	require.Eventually(t, func() bool {
		before, out = out, placed(t, among)
		return out != nil && maps.Equal(before, out)
	}, 30*time.Second, 20*time.Millisecond)
	return out
}

func placed(t *testing.T, among []*member) map[uint32]string {
	for _, m := range among {
		c, err := m.GetCluster(t.Context(), &footfallv1.GetClusterRequest{})
		if err != nil || len(c.GetMembers()) != len(among) {
			return nil
		}
		for _, other := range c.GetMembers() {
			if other.GetState() != "active" || !settled(t, other.GetHttpAddress()) {
				return nil
			}
		}
	}
	out, count := map[uint32]string{}, map[string]int{}
	for _, m := range among {
		list, err := m.ListShards(t.Context(), &footfallv1.ListShardsRequest{})
		if err != nil || len(list.GetShards()) != shards {
			return nil
		}
		for _, s := range list.GetShards() {
			before, told := out[s.GetShard()]
			if s.GetState() != "active" || told && before != s.GetOwner() {
				return nil
			}
			if !told {
				out[s.GetShard()] = s.GetOwner()
				count[s.GetOwner()]++
			}
		}
	}
	for _, m := range among {
		if n := count[m.name]; n == 0 || n > (shards+len(among)-1)/len(among) {
			return nil
		}
	}
	return out
}

// settled reports whether no shard comes to a node or leaves it, by its metrics.
func settled(t *testing.T, address string) bool {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false // it was killed, and nobody knows yet
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	for _, state := range []string{"acquiring", "recovering", "draining", "failed"} {
		if err != nil || !strings.Contains(string(text), "\nfootfall_cluster_shards{state=\""+state+"\"} 0\n") {
			return false
		}
	}
	return true
}

// load is publishers and callers at some nodes, for as long as a test changes the cluster.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu              sync.Mutex // guards what follows
	queries, events int
	slowest         time.Duration
	failed          []error
}

func (w *world) load(t *testing.T, at ...*member) *load {
	t.Helper()
	l := &load{}
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	note := func(err error) {
		if err != nil && ctx.Err() == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.failed = append(l.failed, err)
		}
	}
	for i, m := range at {
		l.done.Go(func() { // a publisher that reads what it wrote, through the next node
			for n := i; ctx.Err() == nil; n += len(at) {
				id, err := w.publish(ctx, m, customer(n))
				note(err)
				if err != nil {
					continue
				}
				l.mu.Lock()
				l.events++
				l.mu.Unlock()
				note(l.ask(ctx, at[(i+1)%len(at)], &footfallv1.GetCustomerRequest{CustomerId: customer(n), WaitFor: id}))
			}
		})
		l.done.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				note(l.ask(ctx, m, &footfallv1.GetCustomerRequest{CustomerId: customer(n)}))
			}
		})
	}
	return l
}

func (l *load) ask(ctx context.Context, m *member, r *footfallv1.GetCustomerRequest) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := m.GetCustomer(ctx, r)
	if took := time.Since(began); ctx.Err() == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.queries++
		l.slowest = max(l.slowest, took)
	}
	return err
}

// end stops the load. No query and no event may have failed.
func (l *load) end(t *testing.T, what string) {
	t.Helper()
	l.stop()
	l.done.Wait()
	require.Empty(t, l.failed[:min(3, len(l.failed))], "%s: %d calls failed", what, len(l.failed))
	t.Logf("%s: %d queries, %d events, slowest query %s", what, l.queries, l.events, l.slowest)
}

// proved asks a node to fold every log again, and that every accepted event is there once.
func (w *world) proved(t *testing.T, m *member) {
	t.Helper()
	_, err := m.WaitIdle(t.Context(), &footfallv1.WaitIdleRequest{})
	require.NoError(t, err)
	stream, err := m.Verify(t.Context(), &footfallv1.VerifyRequest{})
	require.NoError(t, err)
	folded := 0
	for {
		p, err := stream.Recv()
		if err == io.EOF { //nolint:errorlint // gRPC's own, never wrapped
			break
		}
		require.NoError(t, err)
		require.Empty(t, p.GetDifferences())
		folded += int(p.GetEvents())
		require.EqualValues(t, shards, p.GetTotal())
	}
	total := 0
	r := &footfallv1.BatchGetCustomersRequest{CustomerIds: slices.Sorted(maps.Keys(w.accepted))}
	all, err := m.BatchGetCustomers(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, all.GetCustomers(), len(w.accepted))
	for i, c := range all.GetCustomers() {
		require.Equal(t, r.GetCustomerIds()[i], c.GetCustomerId())
		require.EqualValues(t, w.accepted[c.GetCustomerId()], c.GetLifetime().GetPageViews(), c.GetCustomerId())
		total += w.accepted[c.GetCustomerId()]
	}
	require.Equal(t, total, folded)
}

// TestCluster lets three nodes join, leave in order, crash, come back and leave for good, under load.
func TestCluster(t *testing.T) {
	w := newWorld(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	n1 := launch(t, w.spec("n1"))
	n2, n3 := launch(t, w.spec("n2", n1)), launch(t, w.spec("n3", n1))
	home := owners(t, n1, n2, n3)

	t.Run("any node answers", func(t *testing.T) { w.anyNode(t, home, n1, n2, n3) })

	l := w.load(t, n1, n2)
	n3.halt(t)
	owners(t, n1, n2)
	l.end(t, "a node leaves")
	w.proved(t, n1)

	l = w.load(t, n1, n2)
	n3 = spawn(t, w.spec("n3", n1))
	require.Equal(t, home, owners(t, n1, n2, n3))
	l.end(t, "it comes back")

	l = w.load(t, n1, n2)
	require.NoError(t, n3.cmd.Process.Kill())
	require.Error(t, n3.wait())
	owners(t, n1, n2)
	l.end(t, "it is killed")
	w.proved(t, n2)

	n3.halt(t)
	n3 = spawn(t, w.spec("n3", n2))
	require.Equal(t, home, owners(t, n1, n2, n3))
	l = w.load(t, n1, n2)
	_, err := n1.DrainMember(t.Context(), &footfallv1.DrainMemberRequest{Member: "n3"})
	require.NoError(t, err)
	require.NoError(t, n3.wait())
	owners(t, n1, n2)
	l.end(t, "it leaves for good")
	w.proved(t, n1)
	c, err := n2.GetCluster(t.Context(), &footfallv1.GetClusterRequest{})
	require.NoError(t, err)
	require.Len(t, c.GetMembers(), 2)

	w.outsideLease(t, n1, n2)
	w.proved(t, n2)
}

// outsideLease takes the store away: then nobody is sure to own anything, until it is back.
func (w *world) outsideLease(t *testing.T, n1, n2 *member) {
	require.NoError(t, w.postgres.Kill())
	r := &footfallv1.GetCustomerRequest{CustomerId: customer(1)}
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := n1.GetCustomer(ctx, r)
		return status.Code(err) == codes.DeadlineExceeded
	}, 20*time.Second, 100*time.Millisecond)
	for _, m := range []*member{n1, n2} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		c, err := m.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: customer(1), AllowStale: true})
		cancel()
		require.NoError(t, err)
		require.Positive(t, c.GetAsOf().GetStaleMs())
		require.EqualValues(t, w.accepted[customer(1)], c.GetLifetime().GetPageViews())
		require.Regexp(t, `"stale_ms":"?[1-9]`, m.rest(t, "/v1/customers/"+customer(1)+"?allow_stale=true"))
		require.False(t, m.node.Ready().Ready)
	}
	require.NoError(t, w.postgres.Restart(t.Context()))
	for _, m := range []*member{n1, n2} {
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c, err := m.GetCustomer(ctx, r)
			return err == nil && c.GetAsOf().GetStaleMs() == 0 && m.node.Ready().Ready
		}, 20*time.Second, 100*time.Millisecond)
	}
}

// rest asks a node of this process over HTTP.
func (m *member) rest(t *testing.T, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.node.HTTPAddr()+path, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, string(body))
	return string(body)
}

// forwarded is how many queries of a node others have answered.
func (m *member) forwarded(t *testing.T) (count uint64) {
	families, err := m.registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, series := range f.GetMetric() {
			for _, l := range series.GetLabel() {
				if f.GetName() == "footfall_query_seconds" && l.GetValue() == "forwarded" {
					count += series.GetHistogram().GetSampleCount()
				}
			}
		}
	}
	return count
}

// anyNode asks each node for everything.
func (w *world) anyNode(t *testing.T, home map[uint32]string, all ...*member) {
	ctx := t.Context()
	for i := range customers {
		id, err := w.publish(ctx, all[i%3], customer(i))
		require.NoError(t, err)
		c, err := all[(i+1)%3].GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: customer(i), WaitFor: id})
		require.NoError(t, err)
		require.EqualValues(t, 1, c.GetLifetime().GetPageViews())
		require.Equal(t, home[uint32(messages.ShardOf(customer(i), shards))], c.GetOwner())
		require.Zero(t, c.GetAsOf().GetStaleMs())
	}
	for _, m := range all {
		require.Positive(t, m.forwarded(t))
		require.Empty(t, m.node.Ready().Reasons)
		w.proved(t, m)
		h, err := m.GetHistory(ctx, &footfallv1.GetHistoryRequest{CustomerId: customer(1)})
		require.NoError(t, err)
		require.Len(t, h.GetEntries(), 1)
		_, err = m.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: "nobody"})
		require.Equal(t, codes.NotFound, status.Code(err))
		c, err := m.GetCluster(ctx, &footfallv1.GetClusterRequest{})
		require.NoError(t, err)
		require.Len(t, c.GetMembers(), 3)
		sum := 0
		for i, member := range c.GetMembers() {
			require.Equal(t, fmt.Sprintf("n%d", i+1), member.GetName())
			require.Equal(t, "active", member.GetState())
			require.Equal(t, "zone of "+member.GetName(), member.GetZone())
			sum += int(member.GetShards())
		}
		require.Equal(t, shards, sum)
	}

	// What was passed on already is not passed on again.
	elsewhere := 0
	for home[uint32(messages.ShardOf(customer(elsewhere), shards))] == "n1" {
		elsewhere++
	}
	marked := metadata.AppendToOutgoingContext(ctx, "footfall-forwarded-by", "test")
	_, err := all[0].GetCustomer(marked, &footfallv1.GetCustomerRequest{CustomerId: customer(elsewhere)})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Contains(t, err.Error(), "not_owner")

	// The clock moves for all.
	tick, err := all[1].Tick(ctx, &footfallv1.TickRequest{Date: "2017-01-02"})
	require.NoError(t, err)
	require.True(t, tick.GetAppended())
	_, err = all[2].WaitIdle(ctx, &footfallv1.WaitIdleRequest{})
	require.NoError(t, err)
	list, err := all[0].ListShards(ctx, &footfallv1.ListShardsRequest{})
	require.NoError(t, err)
	for _, s := range list.GetShards() {
		require.Equal(t, "2017-01-02", s.GetLastTick())
	}
	_, err = all[2].SetClock(ctx, &footfallv1.SetClockRequest{Mode: footfallv1.ClockMode_CLOCK_MODE_DRIVEN})
	require.NoError(t, err)
	_, err = all[0].DrainMember(ctx, &footfallv1.DrainMemberRequest{Member: "n9"})
	require.Equal(t, codes.NotFound, status.Code(err))
}
