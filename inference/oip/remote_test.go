package oip

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/inference"
)

// fleet is servers by address, a pool without devices, and the remotes between them.
type fleet struct {
	*Remotes
	pool *inference.Pool
	reg  *prometheus.Registry

	mu    sync.Mutex
	conns map[string]grpc.ClientConnInterface
}

func newFleet(t *testing.T, change func(*RemotesConfig)) *fleet {
	t.Helper()
	f := &fleet{reg: prometheus.NewPedanticRegistry(), conns: map[string]grpc.ClientConnInterface{}}
	metrics, err := inference.NewMetrics(f.reg)
	require.NoError(t, err)
	f.pool, err = inference.StartPool(t.Context(), inference.PoolConfig{NoDevices: true, Config: inference.Config{Metrics: metrics}})
	require.NoError(t, err)
	c := RemotesConfig{
		Layout: layout, Changed: f.pool.SetRemote, Metrics: metrics, BackOff: time.Millisecond, ProbeEvery: 10 * time.Millisecond,
		Dial: func(address string) (grpc.ClientConnInterface, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if c := f.conns[address]; c != nil {
				return c, nil
			}
			return nil, errors.New("no such server")
		},
	}
	if change != nil {
		change(&c)
	}
	f.Remotes, err = NewRemotes(c)
	require.NoError(t, err)
	t.Cleanup(func() {
		f.Close()
		f.Close()
		require.NoError(t, f.pool.Close())
	})
	return f
}

func (f *fleet) at(address string, conn grpc.ClientConnInterface) Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[address] = conn
	return Place{Name: address, Address: address, Models: ReadyModels(func() []string { return []string{"dense", "gpt", "lstm"} })}
}

// up waits until so many servers take requests.
func (f *fleet) up(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		serving := 0
		for _, s := range f.Status() {
			if s.State == inference.DeviceServing {
				serving++
			}
		}
		return serving == n
	}, 30*time.Second, time.Millisecond)
}

// ask has the pool score, and waits.
func (f *fleet) ask(t *testing.T, r inference.Request) inference.Reply {
	t.Helper()
	replies := make(chan inference.Reply, 2)
	r.Reply = func(reply inference.Reply) { replies <- reply }
	require.Eventually(t, func() bool { return f.pool.Score(&r) }, 30*time.Second, time.Millisecond)
	reply := <-replies
	require.Empty(t, replies)
	return reply
}

func TestRemotesScore(t *testing.T) {
	f := newFleet(t, nil)
	require.False(t, f.pool.Score(&inference.Request{Rows: 1}), "nobody is there yet: the rows are kept")
	a, b := serve(t, someModels()), serve(t, someModels())
	f.Set([]Place{f.at("a", a.conn), f.at("b", b.conn)})
	f.up(t, 2)
	reply := f.ask(t, rows("", 50, 25))
	require.NoError(t, reply.Err)
	require.Equal(t, []inference.Scores{
		{Model: "dense", Version: "3", Values: []float32{.5, .25}},
		{Model: "lstm", Version: "1", Values: []float32{.5, .25}},
	}, reply.Models, "those that it says are ready")
	one := rows("both", 10)
	require.Equal(t, []float32{.2}, f.ask(t, one).Models[0].Values, "whoever names a model gets it")
	here := rows("", 1)
	here.Local = true
	require.False(t, f.pool.Score(&here), "what came from another member goes to no other")

	// One that cannot be reached is taken out, and its rows go to the other.
	a.set(func() { a.before = func(inference.Request) error { return status.Error(codes.Unavailable, "gone") } })
	b.set(func() { b.before = nil })
	for range 50 {
		reply := f.ask(t, rows("", 50))
		require.NoError(t, reply.Err)
		require.Len(t, reply.Models, 2)
	}
	retried, err := testutil.GatherAndCount(f.reg, "footfall_inference_retried_rows_total")
	require.NoError(t, err)
	require.Equal(t, 2, retried)
	require.Positive(t, f.count(t, "footfall_inference_device_failures_total", "a"))
	require.Positive(t, f.count(t, "footfall_inference_retried_rows_total", "a"))
	require.Zero(t, f.count(t, "footfall_inference_device_failures_total", "b"))
	require.Positive(t, f.count(t, "footfall_inference_remote_rows_total", "b"))

	// Nobody is left; then one comes back, and another is new.
	f.Set(nil)
	f.up(t, 0)
	require.False(t, f.pool.Score(&inference.Request{Rows: 1}))
	require.Zero(t, f.count(t, "footfall_inference_remote_rows_total", ""), "the series are gone")
	f.Set([]Place{f.at("c", b.conn)})
	f.up(t, 1)
	require.Len(t, f.ask(t, rows("", 1)).Models, 2)
}

// A share of the customers gets a canary's scores, always the same ones, as on a node with devices.
func TestRemotesHaveCanaries(t *testing.T) {
	f := newFleet(t, nil)
	s := serve(t, someModels())
	p := f.at("a", s.conn)
	p.Models = func(context.Context, grpc.ClientConnInterface) ([]Model, error) {
		return []Model{{Name: "dense", Canary: "2", Share: .3}, {Name: "lstm"}}, nil
	}
	f.Set([]Place{p})
	f.up(t, 1)
	q := rows("", slices.Repeat([]float32{10, 20, 30, 40}, 50)...)
	want := []uint32{}
	for i := range q.Rows {
		q.Customers = append(q.Customers, inference.CustomerHash([]byte{byte(i)}))
		if inference.Chosen(q.Customers[i], inference.ModelHash("dense"), .3) {
			want = append(want, uint32(i))
		}
	}
	require.InDelta(t, 60, len(want), 30)
	reply := f.ask(t, q)
	require.NoError(t, reply.Err)
	require.True(t, reply.Whole)
	require.Len(t, reply.Models, 3)
	champion, canary := reply.Models[0], reply.Models[1]
	require.Equal(t, "3", champion.Version)
	require.Nil(t, champion.Rows)
	require.Len(t, champion.Values, q.Rows)
	require.Equal(t, "2", canary.Version)
	require.Equal(t, want, canary.Rows)
	for i, row := range canary.Rows {
		require.Equal(t, q.Features[10*row]/100, canary.Values[i])
	}
	q.Customers = nil
	require.Len(t, f.ask(t, q).Models, 2, "whose rows they are is not known")

	// A canary that is gone costs its own scores alone.
	s.set(func() {
		s.serving = slices.DeleteFunc(s.serving, func(c *inference.Contract) bool { return c.Version == 2 })
	})
	q.Customers = make([]uint64, q.Rows)
	for i := range q.Customers {
		q.Customers[i] = inference.CustomerHash([]byte{byte(i)})
	}
	reply = f.ask(t, q)
	require.NoError(t, reply.Err)
	require.Len(t, reply.Models, 2)
	require.False(t, reply.Whole)
}

// count adds the values of a metric, of one device or of all.
func (f *fleet) count(t *testing.T, name, device string) (sum float64) {
	t.Helper()
	families, err := f.reg.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "device" && (device == "" || l.GetValue() == device) {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

// A server without room is left alone for a while, and whoever brings more is turned away.
func TestRemotesAreBounded(t *testing.T) {
	f := newFleet(t, func(c *RemotesConfig) { c.MaxCalls = 2 })
	s := serve(t, someModels())
	full, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.before = func(inference.Request) error {
		select {
		case <-release:
			return nil
		default:
			once.Do(func() { close(full) })
			return inference.ErrBusy
		}
	}
	f.Set([]Place{f.at("a", s.conn)})
	f.up(t, 1)
	replies := make(chan inference.Reply, 3)
	offer := func() bool {
		r := rows("dense", 1)
		r.Reply = func(reply inference.Reply) { replies <- reply }
		return f.pool.Score(&r)
	}
	require.True(t, offer())
	require.True(t, offer())
	<-full
	require.False(t, offer())
	require.Equal(t, 2, f.Status()[0].Load)
	close(release)
	for range 2 {
		require.NoError(t, (<-replies).Err)
	}
	require.Eventually(t, offer, 30*time.Second, time.Millisecond)
	require.NoError(t, (<-replies).Err)
}

// A server that hangs costs the request's deadline at most; closing answers what is there.
func TestRemotesThatHang(t *testing.T) {
	f := newFleet(t, func(c *RemotesConfig) { c.Timeout, c.Strikes = 20*time.Millisecond, 1 })
	hung := make(chan struct{})
	slow, well := serve(t, someModels()), serve(t, someModels())
	slow.before = func(inference.Request) error { <-hung; return nil }
	t.Cleanup(func() { close(hung) })
	f.Set([]Place{f.at("a", slow.conn)})
	f.up(t, 1)
	reply := f.ask(t, rows("dense", 1))
	require.Equal(t, codes.DeadlineExceeded, status.Code(reply.Err))
	require.Eventually(t, func() bool { return f.count(t, "footfall_inference_device_failures_total", "a") > 0 }, 30*time.Second, time.Millisecond)
	f.Set([]Place{f.at("a", slow.conn), f.at("b", well.conn)})
	f.up(t, 2)
	require.NoError(t, f.ask(t, rows("dense", 1)).Err)
	require.NoError(t, f.ask(t, rows("dense", 1)).Err)

	g := newFleet(t, nil)
	g.Set([]Place{g.at("a", slow.conn)})
	g.up(t, 1)
	replies := make(chan inference.Reply, 1)
	r := rows("dense", 1)
	r.Reply = func(reply inference.Reply) { replies <- reply }
	require.True(t, g.pool.Score(&r))
	g.Close()
	require.Error(t, (<-replies).Err)
	require.False(t, g.pool.Score(&r))
}

// One that is not ready, serves nothing or answers nonsense is asked again, not sent rows.
func TestRemotesThatDoNotServe(t *testing.T) {
	f := newFleet(t, nil)
	s := serve(t, &models{loading: true})
	names := []Model{}
	f.Set([]Place{{Name: "a", Address: "a", Models: func(context.Context, grpc.ClientConnInterface) ([]Model, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return names, nil
	}}})
	why := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool {
			st := f.Status()[0]
			return st.State == inference.DeviceOut && st.Err != nil && st.Err.Error() == text
		}, 30*time.Second, time.Millisecond, text)
	}
	why("no such server")
	f.at("a", s.conn)
	why("it is not ready")
	s.set(func() { s.loading, s.serving = false, someModels().serving })
	why("it serves no model that is asked for")
	s.set(func() { names = []Model{{Name: "dense"}} })
	f.up(t, 1)
	require.NoError(t, f.ask(t, rows("", 1)).Err)

	// A model that went away is not asked for any more, one that came is.
	s.set(func() {
		names = []Model{{Name: "lstm"}}
		s.serving = []*inference.Contract{contract("lstm", 1, inference.Probability, inference.Sequence)}
	})
	require.Eventually(t, func() bool {
		reply := f.ask(t, rows("", 7))
		return reply.Err == nil && len(reply.Models) == 1 && reply.Models[0].Model == "lstm"
	}, 30*time.Second, time.Millisecond)
}
