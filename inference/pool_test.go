package inference

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// machine is a fake runner whose devices can be made to fail.
type machine struct {
	mu sync.Mutex
	// load and run say what is wrong, by "device model"; hang has what runs there wait for.
	load, run map[string]error
	hang      map[string]chan struct{}
	// ran counts live rows by device.
	ran map[string]int

	opened, closed atomic.Int64
}

func newMachine() *machine {
	return &machine{load: map[string]error{}, run: map[string]error{}, hang: map[string]chan struct{}{}, ran: map[string]int{}}
}

func (m *machine) Version() string { return "fake" }

func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// breaks has every run on a device fail, or the runs of one model.
func (m *machine) breaks(device string, err error, models ...string) {
	m.set(func() {
		for _, model := range models {
			m.run[device+" "+model] = err
		}
	})
}

func (m *machine) rows(device string) (n int) {
	m.set(func() { n = m.ran[device] })
	return n
}

func (m *machine) Load(_ context.Context, _ string, c *Contract, device string) (Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load[device+" "+c.Name]; err != nil {
		return nil, err
	}
	m.opened.Add(1)
	return &machineSession{m, c, device}, nil
}

type machineSession struct {
	*machine
	contract *Contract
	device   string
}

func (s *machineSession) Run(in Batch, out []float32) error {
	s.mu.Lock()
	hang, err := s.hang[s.device], s.run[s.device+" "+s.contract.Name]
	if s.contract.Name == "dense" && in.Features[0][9] != warmMark && err == nil {
		s.ran[s.device] += in.Rows
	}
	s.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if err != nil {
		return err
	}
	return firstValues(s.contract, in, out)
}

func (s *machineSession) Close() error {
	s.closed.Add(1)
	return nil
}

type pooled struct {
	*Pool
	machine *machine
	reg     *prometheus.Registry
}

func startPool(tb testing.TB, dir string, m *machine, change func(*PoolConfig)) *pooled {
	tb.Helper()
	registry, err := OpenRegistry(dir, testLayout)
	require.NoError(tb, err)
	p := &pooled{machine: m, reg: prometheus.NewPedanticRegistry()}
	metrics, err := NewMetrics(p.reg)
	require.NoError(tb, err)
	config := PoolConfig{
		Config: Config{
			System: newSystem(), Registry: registry, Runner: m, Metrics: metrics,
			MaxRows: 8, MaxDelay: 2 * time.Millisecond, QueueRows: 32, RunTimeout: time.Second,
			Log: slog.New(slog.DiscardHandler),
		},
		Devices: []string{"CPU:0", "CPU:1"},
	}
	if change != nil {
		change(&config)
	}
	p.Pool, err = StartPool(tb.Context(), config)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = p.Close() }) // where the test failed before it did
	return p
}

func (p *pooled) states() (all []string) {
	for _, s := range p.Status() {
		all = append(all, s.String())
	}
	return all
}

// ask sends one live row after the other and returns the replies.
func (p *pooled) ask(t *testing.T, values ...float32) []Reply {
	t.Helper()
	var a asked
	var all []Reply
	for _, v := range values {
		require.True(t, p.Score(live(request(a.reply, v))))
		pass(10 * time.Millisecond)
		all = append(all, a.take()...)
	}
	require.Len(t, all, len(values))
	return all
}

var errBroken = errors.New("bus error")

func TestPoolSpreadsLoad(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		p := startPool(t, dir, newMachine(), nil)
		synctest.Wait()
		require.Equal(t, []string{"CPU:0", "CPU:1"}, p.states())
		var a asked
		for range 4 { // none has a batch of MaxRows, which would run at once
			require.True(t, p.Score(live(request(a.reply, .1, .2, .3))))
		}
		require.Equal(t, []int{6, 6}, []int{p.Status()[0].Load, p.Status()[1].Load})
		pass(2 * time.Millisecond)
		for _, r := range a.take() {
			require.Equal(t, wantScores(.1, .2, .3), r)
		}
		require.Equal(t, 6, p.machine.rows("CPU:0"))
		require.Equal(t, 6, p.machine.rows("CPU:1"))
		models := p.Models()
		require.Equal(t, "CPU:0,CPU:1", models[0].Versions[0].Device)
		require.EqualValues(t, 12, models[0].Versions[0].Rows)
		require.Len(t, p.Serving(), 2)
		require.NoError(t, p.Close())
		require.NoError(t, p.Close())
		require.Equal(t, p.machine.opened.Load(), p.machine.closed.Load())
		require.False(t, p.Score(request(a.reply, .1)))
	})
}

// A device that fails is taken out, its rows are scored elsewhere, and it comes back.
func TestPoolFailingDevice(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		p := startPool(t, dir, m, nil)
		synctest.Wait()
		m.breaks("CPU:0", errBroken, "dense", "lstm")
		for _, r := range p.ask(t, .1, .2, .3) {
			require.Len(t, r.Models, 2, "nobody notices")
			require.NoError(t, r.Err)
		}
		require.Equal(t, []string{"CPU:0 (out)", "CPU:1"}, p.states())
		status := p.Status()[0]
		require.ErrorIs(t, status.Err, errBroken)
		require.ErrorContains(t, status.Err, "device CPU:0 fails: 3 runs in a row failed")
		require.Equal(t, time.Second, status.Retry.Sub(status.Since))
		s := p.seats[0].series
		require.InDelta(t, 1, testutil.ToFloat64(s.failures[FaultRun]), 0)
		require.InDelta(t, 3, testutil.ToFloat64(s.retried), 0)
		require.InDelta(t, 0, testutil.ToFloat64(s.up), 0)

		// Warm-up fails as well: it stays out, ever longer.
		pass(time.Second)
		require.Equal(t, "CPU:0 (out)", p.states()[0])
		require.ErrorContains(t, p.Status()[0].Err, "it lacks dense 1, which CPU:1 serves")
		require.ErrorIs(t, p.Status()[0].Err, errBroken)
		pass(1500 * time.Millisecond)
		require.InDelta(t, 1, testutil.ToFloat64(s.failures[FaultLoad]), 0)
		m.breaks("CPU:0", nil, "dense", "lstm")
		pass(500 * time.Millisecond)
		require.Equal(t, []string{"CPU:0", "CPU:1"}, p.states())
		p.ask(t, .1)
		require.Equal(t, 1, m.rows("CPU:0"))
		require.NoError(t, p.Close())
		require.Equal(t, m.opened.Load(), m.closed.Load())
		for _, name := range []string{"footfall_inference_device_up", "footfall_inference_device_failures_total", "footfall_inference_retried_rows_total"} {
			n, err := testutil.GatherAndCount(p.reg, name)
			require.NoError(t, err)
			require.Zero(t, n, name)
		}
	})
}

// Good runs between failed ones keep a device in service.
func TestPoolForgivesSingleFailures(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		p := startPool(t, dir, m, nil)
		synctest.Wait()
		for range 5 {
			m.breaks("CPU:0", errBroken, "dense", "lstm")
			p.ask(t, .1, .2)
			m.breaks("CPU:0", nil, "dense", "lstm")
			p.ask(t, .3)
		}
		require.Equal(t, []string{"CPU:0", "CPU:1"}, p.states())
		require.NoError(t, p.Close())
	})
}

// A device that hangs loses its work to another; it comes back once the run has returned.
func TestPoolHangingDevice(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		p := startPool(t, dir, m, nil)
		synctest.Wait()
		hang := make(chan struct{})
		m.set(func() { m.hang["CPU:0"] = hang })
		var a asked
		began := time.Now()
		for range 8 {
			require.True(t, p.Score(live(request(a.reply, .1, .2))))
		}
		pass(1010 * time.Millisecond)
		require.Less(t, time.Since(began), 1100*time.Millisecond)
		replies := a.take()
		require.Len(t, replies, 8)
		for _, r := range replies {
			require.Equal(t, wantScores(.1, .2), r)
		}
		require.Equal(t, []string{"CPU:0 (out)", "CPU:1"}, p.states())
		require.True(t, p.Status()[0].Retry.IsZero(), "not while a run hangs there")
		pass(time.Minute)
		require.Equal(t, "CPU:0 (out)", p.states()[0])
		require.InDelta(t, 1, testutil.ToFloat64(p.seats[0].series.failures[FaultHang]), 0)

		m.set(func() { delete(m.hang, "CPU:0") })
		close(hang)
		pass(time.Second)
		require.Equal(t, []string{"CPU:0", "CPU:1"}, p.states())
		require.Equal(t, wantScores(.7), p.ask(t, .7)[0])
		require.NoError(t, p.Close())
	})
}

func TestPoolWithoutDevices(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		p := startPool(t, dir, m, func(c *PoolConfig) { c.Devices = c.Devices[:1] })
		m.breaks("CPU:0", errBroken, "dense", "lstm")
		for _, r := range p.ask(t, .1, .2, .3) {
			require.ErrorIs(t, r.Err, errBroken)
			require.Empty(t, r.Models)
		}
		require.Equal(t, []Reply{{Err: ErrNoDevice}}, p.ask(t, .4))
		require.Empty(t, p.Serving())
		require.Equal(t, "failed", p.Models()[0].Versions[0].State)
		require.Equal(t, ErrNoDevice.Error(), p.Models()[0].Versions[0].Error)
		pass(time.Second) // it can't be loaded either, though it served
		require.Equal(t, []string{"CPU:0 (out)"}, p.states())
		m.breaks("CPU:0", nil, "dense", "lstm")
		pass(2 * time.Second)
		require.Equal(t, []Reply{wantScores(.5)}, p.ask(t, .5))
		require.NoError(t, p.Close())
	})
}

// A model that fails everywhere takes no device out; one that fails on one device does.
func TestPoolFailingModel(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		p := startPool(t, dir, m, nil)
		synctest.Wait()
		m.breaks("CPU:0", errBroken, "dense")
		m.breaks("CPU:1", errBroken, "dense")
		for _, r := range p.ask(t, .1, .2, .3, .4, .5) {
			require.NoError(t, r.Err)
			require.Len(t, r.Models, 1)
			require.Equal(t, "lstm", r.Models[0].Model)
		}
		require.Equal(t, []string{"CPU:0", "CPU:1"}, p.states())
		require.InDelta(t, 1, testutil.ToFloat64(p.seats[0].series.retried), 0, "in vain, so not tried again soon")

		m.breaks("CPU:1", nil, "dense")
		pass(fruitlessPause)
		for _, r := range p.ask(t, .1, .2, .3) {
			require.Len(t, r.Models, 2)
		}
		require.Equal(t, []string{"CPU:0 (out)", "CPU:1"}, p.states())
		require.NoError(t, p.Close())
	})
}

// The same for requests that name the model: the others tell whether it is the device.
func TestPoolFailingNamedModel(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		p := startPool(t, dir, m, func(c *PoolConfig) { c.Devices = c.Devices[:1] })
		m.breaks("CPU:0", errBroken, "dense")
		var a asked
		for range 5 {
			r := live(request(a.reply, .1))
			r.Model = "dense"
			require.True(t, p.Score(r))
			pass(3 * time.Millisecond)
			require.ErrorIs(t, a.take()[0].Err, errBroken)
		}
		require.Equal(t, []string{"CPU:0"}, p.states())
		require.NoError(t, p.Close())
	})
}

// Devices in service serve the same.
func TestPoolLesserDevice(t *testing.T) {
	dir := modelsDir(t)
	for _, lesser := range []string{"CPU:0", "CPU:1"} {
		t.Run(lesser, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				m.load[lesser+" lstm"] = errors.New("out of memory")
				p := startPool(t, dir, m, nil)
				synctest.Wait()
				for _, s := range p.Status() {
					if s.Name == lesser {
						require.Equal(t, DeviceOut, s.State)
						require.ErrorContains(t, s.Err, "it lacks lstm 1")
						require.ErrorContains(t, s.Err, "out of memory")
					} else {
						require.Equal(t, DeviceServing, s.State)
					}
				}
				for _, mv := range p.Models() {
					require.Equal(t, "serving", mv.Versions[0].State)
				}
				m.set(func() { clear(m.load) })
				pass(time.Second)
				require.Equal(t, []string{"CPU:0", "CPU:1"}, p.states())
				require.NoError(t, p.Close())
			})
		})
	}
}

// What is left over of a failed device's work waits for room, until its deadline.
func TestPoolWaitsForRoom(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		gates := map[string]chan struct{}{"CPU:0": make(chan struct{}), "CPU:1": make(chan struct{})}
		p := startPool(t, dir, m, func(c *PoolConfig) { c.QueueRows, c.InFlight, c.RunTimeout = 8, 1, time.Second })
		synctest.Wait()
		m.set(func() { m.hang["CPU:0"], m.hang["CPU:1"] = gates["CPU:0"], gates["CPU:1"] })
		var soon, later asked
		eight := make([]float32, 8)
		var taken int
		for range 4 { // one runs and one waits on each
			r := live(request(later.reply, eight...))
			if taken < 2 {
				r.Reply, r.Deadline = soon.reply, time.Now().Add(1500*time.Millisecond)
			}
			require.True(t, p.Score(r))
			taken++
			synctest.Wait()
		}
		require.False(t, p.Score(live(request(later.reply, .1))), "full")
		// CPU:1 begins a run every half second, CPU:0 hangs.
		for range 2 {
			pass(500 * time.Millisecond)
			gates["CPU:1"] <- struct{}{} // dense
			gates["CPU:1"] <- struct{}{} // lstm
		}
		pass(10 * time.Millisecond)
		require.Equal(t, []string{"CPU:0 (out)", "CPU:1"}, p.states())
		m.set(func() { delete(m.hang, "CPU:1") })
		close(gates["CPU:1"])
		pass(time.Second)
		require.Len(t, append(soon.take(), later.take()...), 4)
		close(gates["CPU:0"])
		require.NoError(t, p.Close())
	})
}

func TestPoolDeadline(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		p := startPool(t, dir, m, nil)
		synctest.Wait()
		hang := make(chan struct{})
		m.set(func() { m.hang["CPU:0"] = hang })
		var a asked
		r := live(request(a.reply, .1))
		r.Deadline = time.Now().Add(900 * time.Millisecond)
		require.True(t, p.Score(r))
		pass(1100 * time.Millisecond)
		replies := a.take()
		require.Len(t, replies, 1)
		require.ErrorContains(t, replies[0].Err, "a run takes longer than 1s")
		require.Zero(t, m.rows("CPU:1"))
		close(hang)
		require.NoError(t, p.Close())
	})
}

// A run that never returns does not keep the pool from closing.
func TestPoolClosesWhileHanging(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		p := startPool(t, dir, m, nil)
		synctest.Wait()
		hang := make(chan struct{})
		m.set(func() { m.hang["CPU:0"], m.hang["CPU:1"] = hang, hang })
		var a asked
		require.True(t, p.Score(live(request(a.reply, .1))))
		pass(10 * time.Millisecond)
		began := time.Now()
		require.ErrorContains(t, p.Close(), "a run did not end within 10s")
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Len(t, a.take(), 1)
		close(hang)
	})
}

// One of several devices that never gets through loading keeps nobody waiting.
func TestPoolHangsLoading(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		hang := make(chan struct{})
		m.hang["CPU:0"] = hang
		p := startPool(t, dir, m, nil)
		require.Equal(t, []string{"CPU:0 (loading)", "CPU:1"}, p.states())
		require.Equal(t, wantScores(.5), p.ask(t, .5)[0])
		close(hang)
		pass(time.Millisecond)
		require.Equal(t, []string{"CPU:0", "CPU:1"}, p.states())
		require.NoError(t, p.Close())
	})
}

// remote stands for a device of another member.
type remote struct {
	name  string
	full  bool
	reply Reply
	asked []*Request
}

func (r *remote) Name() string { return r.name }
func (r *remote) Load() int    { return 0 }

func (r *remote) Score(q *Request) bool {
	if r.full {
		return false
	}
	r.asked = append(r.asked, q)
	q.Reply(r.reply)
	return true
}

// Other members' devices get what this process's have no room for, or fail.
func TestPoolRemote(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		p := startPool(t, dir, m, func(c *PoolConfig) { c.Devices = c.Devices[:1] })
		away := &remote{name: "n2/GPU:0", reply: wantScores(.1)}
		full := &remote{name: "n3/GPU:0", full: true}
		p.SetRemote([]Target{full, away})
		p.ask(t, .1)
		require.Empty(t, away.asked, "local first")
		m.breaks("CPU:0", errBroken, "dense", "lstm")
		require.Equal(t, []Reply{wantScores(.1)}, p.ask(t, .1))
		require.Len(t, away.asked, 1)
		p.SetRemote([]Target{away})
		away.reply = Reply{Err: errBroken, Fault: &DeviceError{Device: away.name, Reason: FaultRun, Whole: true, Err: errBroken}}
		require.ErrorIs(t, p.ask(t, .1, .2, .3)[2].Err, errBroken)
		require.Equal(t, []string{"CPU:0 (out)"}, p.states())
		p.SetRemote(nil)
		require.Equal(t, []Reply{{Err: ErrNoDevice}}, p.ask(t, .1))
		require.NoError(t, p.Close())
	})
}

func TestPoolGivesUpWithContext(t *testing.T) {
	registry, err := OpenRegistry(modelsDir(t), testLayout)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	runner := &fakeRunner{run: func(c *Contract, in Batch, out []float32) error {
		cancel()
		return firstValues(c, in, out)
	}}
	p, err := StartPool(ctx, PoolConfig{Config: Config{System: newSystem(), Registry: registry, Runner: runner}})
	if err == nil { // it got through before it saw the end
		require.NoError(t, p.Close())
		return
	}
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, runner.opened.Load(), runner.closed.Load())
}

func TestPoolConfigFaults(t *testing.T) {
	_, err := StartPool(t.Context(), PoolConfig{Devices: []string{"CPU:0", "TPU:0", "CPU:0"}, Strikes: -1})
	for _, want := range []string{"a runner is needed", `device "TPU:0" is not like CPU:0`, "device CPU:0 is named twice", "can't be below 0"} {
		require.ErrorContains(t, err, want)
	}
}

// Whatever fails, whenever: every request that was taken is answered once, with its own
// values or with an error, and in the end all devices are back.
func TestPoolProperty(t *testing.T) {
	dir := modelsDir(t)
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.SliceOfN(rapid.IntRange(0, 99), 40, 40).Draw(rt, "steps")
		devices := rapid.IntRange(1, 3).Draw(rt, "devices")
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			p := startPool(t, dir, m, func(c *PoolConfig) {
				c.Devices = nil
				for i := range devices {
					c.Devices = append(c.Devices, fmt.Sprintf("CPU:%d", i))
				}
			})
			hangs := map[string]chan struct{}{}
			heal := func(device string) {
				m.breaks(device, nil, "dense", "lstm")
				m.set(func() { delete(m.hang, device) })
				if hang := hangs[device]; hang != nil {
					close(hang)
					delete(hangs, device)
				}
			}
			type question struct {
				asked
				value float32
			}
			var all []*question
			for i, n := range seed {
				device := fmt.Sprintf("CPU:%d", n%devices)
				switch {
				case n < 60:
					q := &question{value: float32(i) / 100}
					if p.Score(live(request(q.reply, q.value))) {
						all = append(all, q)
					}
				case n < 68:
					m.breaks(device, errBroken, "dense", "lstm")
				case n < 74:
					m.breaks(device, errBroken, "dense")
				case n < 80 && hangs[device] == nil:
					hangs[device] = make(chan struct{})
					m.set(func() { m.hang[device] = hangs[device] })
				case n < 90:
					heal(device)
				default:
					pass(time.Duration(n-89) * 300 * time.Millisecond)
				}
			}
			for i := range devices {
				heal(fmt.Sprintf("CPU:%d", i))
			}
			pass(5 * time.Minute)
			for _, q := range all {
				replies := q.take()
				require.Len(t, replies, 1)
				require.True(t, replies[0].Err != nil || len(replies[0].Models) > 0)
				for _, s := range replies[0].Models {
					require.Equal(t, []float32{q.value}, s.Values)
				}
			}
			for _, s := range p.Status() {
				require.Equal(t, DeviceServing, s.State, s.Err)
				require.Zero(t, s.Load)
			}
			require.NoError(t, p.Close())
			require.Equal(t, m.opened.Load(), m.closed.Load())
		})
	})
}

// How often the way through the pool allocates depends on requests, not on their rows.
func TestAllocationsDoNotGrowWithRows(t *testing.T) {
	dir := modelsDir(t)
	p := startPool(t, dir, newMachine(), func(c *PoolConfig) { c.MaxRows, c.QueueRows, c.MaxDelay = 1024, 4096, time.Nanosecond })
	replies := make(chan Reply, 1)
	allocations := func(rows int) float64 {
		r := live(request(func(r Reply) { replies <- r }, make([]float32, rows)...))
		return testing.AllocsPerRun(200, func() {
			p.Score(r)
			<-replies
		})
	}
	one := allocations(1)
	require.InDelta(t, one, allocations(1024), 2)
	require.Less(t, one, 40.)
	t.Logf("%.0f allocations a request of its own batch, two models", one)
	require.NoError(t, p.Close())
}
