package inference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// fakeRunner stands for the library where a test forces what a real model won't do.
type fakeRunner struct {
	// fail is by "name version": why it can't be loaded.
	fail map[string]error
	// run, where set, is what sessions do; they answer with a row's first value.
	run func(c *Contract, in Batch, out []float32) error

	opened, closed atomic.Int64
}

func (r *fakeRunner) Version() string { return "fake" }

func (r *fakeRunner) Load(_ context.Context, _ string, c *Contract, _ string) (Session, error) {
	if err := r.fail[fmt.Sprintf("%s %d", c.Name, c.Version)]; err != nil {
		return nil, err
	}
	r.opened.Add(1)
	return &fakeSession{runner: r, contract: c}, nil
}

type fakeSession struct {
	runner   *fakeRunner
	contract *Contract
}

func (s *fakeSession) Close() error {
	s.runner.closed.Add(1)
	return nil
}

func (s *fakeSession) Run(in Batch, out []float32) error {
	if len(out) != in.Rows {
		return fmt.Errorf("%d rows for %d values", in.Rows, len(out))
	}
	if s.runner.run != nil {
		return s.runner.run(s.contract, in, out)
	}
	return firstValues(s.contract, in, out)
}

// firstValues answers each row with its first value.
func firstValues(c *Contract, in Batch, out []float32) error {
	width := testLayout.width(c.Inputs[0].Name)
	i := 0
	for _, piece := range in.Input(c.Inputs[0].Name) {
		if len(piece)%width != 0 {
			return errors.New("a piece holds part of a row")
		}
		for ; len(piece) > 0; piece = piece[width:] {
			out[i] = piece[0]
			i++
		}
	}
	if i != in.Rows {
		return fmt.Errorf("%d rows in pieces, not %d", i, in.Rows)
	}
	return nil
}

// fixture is a device over the two models dense 1 and lstm 1.
type fixture struct {
	*Device
	runner *fakeRunner
	reg    *prometheus.Registry
	log    *bytes.Buffer
}

func modelsDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	writeModel(tb, dir, "dense", "1")
	writeModel(tb, dir, "lstm", "1", sequenceInput...)
	return dir
}

func newSystem() *actor.ActorSystem {
	return actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
}

func start(tb testing.TB, dir string, runner *fakeRunner, change func(*Config)) *fixture {
	tb.Helper()
	registry, err := OpenRegistry(dir, testLayout)
	require.NoError(tb, err)
	f := &fixture{runner: runner, reg: prometheus.NewPedanticRegistry(), log: new(bytes.Buffer)}
	metrics, err := NewMetrics(f.reg)
	require.NoError(tb, err)
	config := Config{
		System: newSystem(), Registry: registry, Runner: runner, Metrics: metrics,
		MaxRows: 8, MaxDelay: 2 * time.Millisecond, QueueRows: 32,
		Log: slog.New(slog.NewTextHandler(f.log, nil)),
	}
	if change != nil {
		change(&config)
	}
	f.Device, err = Start(tb.Context(), config)
	require.NoError(tb, err)
	return f
}

// request has the values in the first column of its rows, in either matrix.
func request(reply func(Reply), values ...float32) *Request {
	r := &Request{
		Rows: len(values), Reply: reply,
		Features:  make([]float32, len(values)*10),
		Sequences: make([]float32, len(values)*50),
	}
	for i, v := range values {
		r.Features[i*10], r.Sequences[i*50] = v, v
	}
	return r
}

// asked collects the replies to requests.
type asked struct {
	mu      sync.Mutex
	replies []Reply
}

func (a *asked) reply(r Reply) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.replies = append(a.replies, r)
}

func (a *asked) take() []Reply {
	a.mu.Lock()
	defer a.mu.Unlock()
	replies := a.replies
	a.replies = nil
	return replies
}

func wantScores(values ...float32) Reply {
	return Reply{Models: []Scores{{Model: "dense", Version: "1", Values: values}, {Model: "lstm", Version: "1", Values: values}}, Whole: true}
}

// gate is a fake's run that waits to be let go, and tells of the rows of each batch.
type gate struct {
	rows    chan int
	release chan struct{}
}

func newGate() *gate { return &gate{rows: make(chan int, 100), release: make(chan struct{}, 100)} }

func (g *gate) run(c *Contract, in Batch, out []float32) error {
	if c.Name == "dense" && in.Features[0][9] != warmMark {
		g.rows <- in.Rows
		<-g.release
	}
	return firstValues(c, in, out)
}

// warmMark is in the last column of warm-up's rows, which are zeros.
const warmMark = 0

// live marks the request's rows as none of warm-up's.
func live(r *Request) *Request {
	for i := 9; i < len(r.Features); i += 10 {
		r.Features[i] = 1
	}
	return r
}

// pass lets time pass in a bubble of synctest, until nothing more happens by then.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestDeviceAnswersEachItsOwn(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, nil)
		var a, b, c asked
		require.True(t, f.Score(request(a.reply, .1, .2)))
		require.True(t, f.Score(request(b.reply, .3)))
		require.True(t, f.Score(request(c.reply, .4, .5, .6)))
		synctest.Wait()
		require.Empty(t, a.take(), "rows wait for others")
		require.InDelta(t, 6, testutil.ToFloat64(f.series.queueRows), 0)

		pass(2 * time.Millisecond)
		require.Equal(t, []Reply{wantScores(.1, .2)}, a.take())
		require.Equal(t, []Reply{wantScores(.3)}, b.take())
		require.Equal(t, []Reply{wantScores(.4, .5, .6)}, c.take())
		require.InDelta(t, 0, testutil.ToFloat64(f.series.queueRows), 0)
		require.NoError(t, f.Close())
		require.Equal(t, f.runner.opened.Load(), f.runner.closed.Load())
	})
}

func TestDeviceCutsBatches(t *testing.T) {
	dir := modelsDir(t)
	rows := func(n int) []float32 { return make([]float32, n) }
	for name, test := range map[string]struct {
		// ask are the rows of requests, each after its pause.
		ask   []int
		pause time.Duration
		want  []int
	}{
		"full at once":                  {ask: []int{8}, want: []int{8}},
		"full by many":                  {ask: []int{3, 3, 2}, want: []int{8}},
		"whole requests only":           {ask: []int{5, 4, 4}, want: []int{5, 8}},
		"what is left waits":            {ask: []int{8, 1}, want: []int{8, 1}},
		"a large request in parts":      {ask: []int{19}, want: []int{8, 8, 3}},
		"a large request after another": {ask: []int{2, 9}, want: []int{2, 8, 1}},
		"delay counts from the oldest":  {ask: []int{1, 1, 1, 1}, pause: 900 * time.Microsecond, want: []int{3, 1}},
		"each alone":                    {ask: []int{1, 1}, pause: 3 * time.Millisecond, want: []int{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				f := start(t, dir, &fakeRunner{run: g.run}, nil)
				for range 100 {
					g.release <- struct{}{}
				}
				var a asked
				for _, n := range test.ask {
					require.True(t, f.Score(live(request(a.reply, rows(n)...))))
					pass(test.pause)
				}
				pass(10 * time.Millisecond)
				require.Len(t, a.take(), len(test.ask))
				var have []int
				for len(g.rows) > 0 {
					have = append(have, <-g.rows)
				}
				require.ElementsMatch(t, test.want, have)
				require.NoError(t, f.Close())
			})
		})
	}
}

// Gathering goes on while batches run; the queue is bounded; a full one answers false.
func TestDeviceBounds(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		f := start(t, dir, &fakeRunner{run: g.run}, nil)
		var a asked
		eight := make([]float32, 8)
		for range 2 {
			require.True(t, f.Score(live(request(a.reply, eight...))))
		}
		synctest.Wait()
		require.Len(t, g.rows, 2, "two batches run")
		for range 4 {
			require.True(t, f.Score(live(request(a.reply, eight...))))
		}
		synctest.Wait()
		require.Len(t, g.rows, 2, "and no third")
		require.InDelta(t, 32, testutil.ToFloat64(f.series.queueRows), 0)
		require.False(t, f.Score(live(request(a.reply, .1))), "the queue is full")
		require.InDelta(t, 1, testutil.ToFloat64(f.series.refused), 0)

		g.release <- struct{}{}
		synctest.Wait()
		require.Len(t, g.rows, 3)
		require.True(t, f.Score(live(request(a.reply, eight...))), "there is room again")
		require.False(t, f.Score(live(request(a.reply, .1))))
		for range 10 {
			g.release <- struct{}{}
		}
		synctest.Wait()
		require.Len(t, a.take(), 7, "what was refused is forgotten, the rest answered")
		require.NoError(t, f.Close())
	})
}

func TestDeviceClose(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		f := start(t, dir, &fakeRunner{run: g.run}, nil)
		var running, waiting, late asked
		for range 2 {
			require.True(t, f.Score(live(request(running.reply, make([]float32, 8)...))))
		}
		require.True(t, f.Score(live(request(waiting.reply, .5, .6))))
		closed := make(chan error)
		for range 2 {
			go func() { closed <- f.Close() }()
		}
		synctest.Wait()
		require.Len(t, waiting.take(), 1)
		require.Empty(t, running.take())
		require.Empty(t, closed, "closing waits for what runs")
		require.False(t, f.Score(live(request(late.reply, .5))))

		g.release <- struct{}{}
		g.release <- struct{}{}
		require.NoError(t, <-closed)
		require.NoError(t, <-closed)
		require.Len(t, running.take(), 2)
		require.False(t, f.Score(live(request(late.reply, .5))))
		require.False(t, f.Score(&Request{Reply: late.reply}))
		require.Empty(t, late.take())
		require.EqualValues(t, 2, f.runner.closed.Load())
		for _, name := range []string{"footfall_inference_rows_total", "footfall_inference_queue_rows", "footfall_inference_batch_rows", "footfall_inference_errors_total"} {
			n, err := testutil.GatherAndCount(f.reg, name)
			require.NoError(t, err)
			require.Zero(t, n, name)
		}
	})
}

func TestDeviceCloseAnswersWaiting(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, nil)
		var a asked
		require.True(t, f.Score(request(a.reply, .5, .6)))
		require.NoError(t, f.Close())
		require.Equal(t, []Reply{{Err: ErrClosed}}, a.take())
	})
}

// One request's rows, or one model, spoil nothing else.
func TestDeviceFaultyValues(t *testing.T) {
	dir := modelsDir(t)
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, nil)
		var good, bad, half asked
		require.True(t, f.Score(request(good.reply, .1)))
		require.True(t, f.Score(request(bad.reply, .2, nan)))
		r := request(half.reply, .3, .4)
		r.Sequences[50] = inf
		require.True(t, f.Score(r))
		pass(2 * time.Millisecond)
		require.Equal(t, []Reply{wantScores(.1)}, good.take())
		replies := bad.take()
		require.Len(t, replies, 1)
		require.Empty(t, replies[0].Models)
		var scoreErr *ScoreError
		require.ErrorAs(t, replies[0].Err, &scoreErr)
		require.Equal(t, "inference: dense 1 on CPU:0, row 1: output purchase_7d: NaN is not finite\ninference: lstm 1 on CPU:0, row 1: output purchase_7d: NaN is not finite", replies[0].Err.Error())
		require.Equal(t, []Reply{{Models: wantScores(.3, .4).Models[:1], Whole: true}}, half.take())
		require.NoError(t, testutil.GatherAndCompare(f.reg, strings.NewReader(`
# HELP footfall_inference_errors_total Requests that a model gave no usable values for, by reason.
# TYPE footfall_inference_errors_total counter
footfall_inference_errors_total{device="CPU:0",model="dense",reason="run",version="1"} 0
footfall_inference_errors_total{device="CPU:0",model="dense",reason="value",version="1"} 1
footfall_inference_errors_total{device="CPU:0",model="lstm",reason="run",version="1"} 0
footfall_inference_errors_total{device="CPU:0",model="lstm",reason="value",version="1"} 2
# HELP footfall_inference_rows_total Rows that a model has scored.
# TYPE footfall_inference_rows_total counter
footfall_inference_rows_total{device="CPU:0",model="dense",version="1"} 3
footfall_inference_rows_total{device="CPU:0",model="lstm",version="1"} 1
`), "footfall_inference_errors_total", "footfall_inference_rows_total"))
		require.NoError(t, f.Close())
		require.Equal(t, 2, strings.Count(f.log.String(), "unusable value"), "told once per model")
	})
}

func TestDeviceFailingModel(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("out of memory")
		var fails atomic.Pointer[string]
		fails.Store(new(string))
		f := start(t, dir, &fakeRunner{run: func(c *Contract, in Batch, out []float32) error {
			if strings.Contains(*fails.Load(), c.Name) {
				return broken
			}
			return firstValues(c, in, out)
		}}, nil)
		var a asked
		score := func(failing string) Reply {
			fails.Store(&failing)
			require.True(t, f.Score(request(a.reply, .1)))
			pass(2 * time.Millisecond)
			replies := a.take()
			require.Len(t, replies, 1)
			return replies[0]
		}
		reply := score("dense")
		require.Equal(t, wantScores(.1).Models[1:], reply.Models)
		require.NoError(t, reply.Err)
		require.ErrorContains(t, reply.Fault, "inference: device CPU:0 fails: dense 1: out of memory")
		reply = score("dense lstm")
		require.Empty(t, reply.Models)
		require.ErrorIs(t, reply.Err, broken)
		require.ErrorContains(t, reply.Err, "inference: dense 1 on CPU:0: out of memory")
		require.Equal(t, wantScores(.1), score(""))
		require.NoError(t, f.Close())
		require.Equal(t, 2, strings.Count(f.log.String(), "model fails"), f.log)
		require.Contains(t, f.log.String(), " error=", "the key of errors everywhere")
		require.Equal(t, 2, strings.Count(f.log.String(), "works again"), f.log)
	})
}

func TestDeviceRefusesRequests(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, nil)
		for want, change := range map[string]func(*Request){
			"request.rows is 0":  func(r *Request) { r.Rows = 0 },
			"request.rows is -1": func(r *Request) { r.Rows = -1 },
			"request.rows is 33, more than the queue ever holds (32)": func(r *Request) { r.Rows = 33 },
			"request.features has 19 values, where 2 rows have 20":    func(r *Request) { r.Features = r.Features[1:] },
			"request.sequences has 0 values, where 2 rows have 100":   func(r *Request) { r.Sequences = nil },
		} {
			var a asked
			r := request(a.reply, .1, .2)
			change(r)
			require.True(t, f.Score(r))
			synctest.Wait()
			replies := a.take()
			require.Len(t, replies, 1)
			var requestErr *RequestError
			require.ErrorAs(t, replies[0].Err, &requestErr)
			require.ErrorContains(t, requestErr, want)
		}
		require.Zero(t, f.queued.Load())
		require.NoError(t, f.Close())
	})
}

func TestDeviceWithoutModels(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, nil)
		var a asked
		require.True(t, f.Score(request(a.reply, .1)))
		pass(2 * time.Millisecond)
		require.Equal(t, []Reply{{Err: ErrNoModel}}, a.take())
		require.Empty(t, f.Models())
		require.NoError(t, f.Close())
	})
}

func TestDeviceSegments(t *testing.T) {
	dir := t.TempDir()
	writeModel(t, dir, "segments", "1", "kind: probability", "kind: segment",
		"created:", "segments: [{id: 0, name: a, description: b}, {id: 2, name: c, description: d}]\ncreated:")
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, nil)
		for value, want := range map[float32]string{0: "", 2: "", 1: "1 is not the id of a segment", .5: "0.5 is not the id", 3: "3 is not", -1: "-1 is not"} {
			var a asked
			require.True(t, f.Score(request(a.reply, value)))
			pass(2 * time.Millisecond)
			reply := a.take()[0]
			if want == "" {
				require.Equal(t, Reply{Models: []Scores{{Model: "segments", Version: "1", Values: []float32{value}}}, Whole: true}, reply)
			} else {
				require.ErrorContains(t, reply.Err, want)
			}
		}
		require.NoError(t, f.Close())
	})
}

// The highest version that loads serves; the others say how they stand.
func TestDeviceLoads(t *testing.T) {
	dir := t.TempDir()
	for _, v := range []string{"1", "2", "3", "10"} {
		writeModel(t, dir, "dense", v)
	}
	write(t, dir+"/dense/4/model.yaml", "name: dense")
	require.NoError(t, os.Mkdir(dir+"/empty", 0o755))
	writeModel(t, dir, "odd", "1")
	synctest.Test(t, func(t *testing.T) {
		runner := &fakeRunner{
			fail: map[string]error{"dense 10": errors.New("no signature")},
			run: func(c *Contract, in Batch, out []float32) error {
				if c.Version == 3 && in.Rows > 1 {
					return errors.New("batches are not for me")
				}
				if c.Name == "odd" {
					out[0] = 2
					return nil
				}
				return firstValues(c, in, out)
			},
		}
		f := start(t, dir, runner, nil)
		var a asked
		require.True(t, f.Score(request(a.reply, .1)))
		pass(2 * time.Millisecond)
		require.Equal(t, []Reply{{Models: []Scores{{Model: "dense", Version: "2", Values: []float32{.1}}}, Whole: true}}, a.take())

		models := f.Models()
		require.Len(t, models, 3)
		var have []string
		for _, m := range models {
			for _, v := range m.Versions {
				have = append(have, fmt.Sprintf("%s %s %s traffic=%v device=%s rows=%d error=%t", m.Name, v.Version, v.State, v.Traffic, v.Device, v.Rows, v.Error != ""))
			}
		}
		require.Equal(t, []string{
			"dense 10 failed traffic=0 device= rows=0 error=true",
			"dense 4 failed traffic=0 device= rows=0 error=true",
			"dense 3 failed traffic=0 device= rows=0 error=true",
			"dense 2 serving traffic=1 device=CPU:0 rows=1 error=false",
			"dense 1 idle traffic=0 device= rows=0 error=false",
			"empty  failed traffic=0 device= rows=0 error=true",
			"odd 1 failed traffic=0 device= rows=0 error=true",
		}, have)
		require.Contains(t, models[0].Versions[0].Error, "dense/10: no signature")
		require.Contains(t, models[0].Versions[2].Error, "dense/3: warm-up with 8 rows: batches are not for me")
		require.Contains(t, models[2].Versions[0].Error, "2 is not a probability")
		require.InDelta(t, .8285, models[0].Versions[3].Evaluation["auc"], 1e-9)
		require.NotEmpty(t, models[0].Versions[3].Description)
		require.NoError(t, f.Close())
		require.Equal(t, runner.opened.Load(), runner.closed.Load())
	})
}

func TestStartGivesUpWithContext(t *testing.T) {
	registry, err := OpenRegistry(modelsDir(t), testLayout)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	runner := &fakeRunner{run: func(c *Contract, in Batch, out []float32) error {
		cancel() // while the first model is warmed up
		return firstValues(c, in, out)
	}}
	_, err = Start(ctx, Config{System: newSystem(), Registry: registry, Runner: runner})
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 1, runner.opened.Load())
	require.EqualValues(t, 1, runner.closed.Load())
}

func TestConfigFaults(t *testing.T) {
	_, err := Start(t.Context(), Config{Device: "TPU", MaxRows: -1, MaxDelay: -1, QueueRows: -3, InFlight: 65})
	for _, want := range []string{
		"an actor system is needed", "a registry of models is needed", "a runner is needed", `device "TPU" is not like CPU:0`,
		"max rows -1", "max delay -1ns", "queue rows -3", "batches in flight 65",
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestInFlight(t *testing.T) {
	for want, have := range map[int]int{2: inFlight("CPU:0", 1), 15: inFlight("CPU:1", 16), maxInFlight: inFlight("CPU:0", 256)} {
		require.Equal(t, want, have)
	}
	require.Equal(t, 2, inFlight("CPU:0", 2))
	require.Equal(t, 2, inFlight("GPU:0", 16))
}

func TestMetricsStartAtZero(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, nil)
		require.NoError(t, testutil.GatherAndCompare(f.reg, strings.NewReader(`
# HELP footfall_inference_queue_rows Rows that wait for a batch.
# TYPE footfall_inference_queue_rows gauge
footfall_inference_queue_rows{device="CPU:0"} 0
# HELP footfall_inference_refused_rows_total Rows that were not taken since the queue was full. Whoever brought them offers them again.
# TYPE footfall_inference_refused_rows_total counter
footfall_inference_refused_rows_total{device="CPU:0"} 0
# HELP footfall_inference_rows_total Rows that a model has scored.
# TYPE footfall_inference_rows_total counter
footfall_inference_rows_total{device="CPU:0",model="dense",version="1"} 0
footfall_inference_rows_total{device="CPU:0",model="lstm",version="1"} 0
# HELP footfall_model_quality How good a model was on its test data, by measure.
# TYPE footfall_model_quality gauge
footfall_model_quality{measure="auc",model="dense",version="1"} 0.8285
footfall_model_quality{measure="auc",model="lstm",version="1"} 0.8285
footfall_model_quality{measure="ece",model="dense",version="1"} 0.0131
footfall_model_quality{measure="ece",model="lstm",version="1"} 0.0131
footfall_model_quality{measure="log_loss",model="dense",version="1"} 0.5053
footfall_model_quality{measure="log_loss",model="lstm",version="1"} 0.5053
`), "footfall_inference_queue_rows", "footfall_inference_refused_rows_total", "footfall_inference_rows_total", "footfall_model_quality"))
		for name, want := range map[string]int{
			"footfall_inference_batch_rows": 2, "footfall_inference_seconds": 2, "footfall_inference_errors_total": 4,
			"footfall_model_input_total": 2 * (10 + 5),
		} {
			n, err := testutil.GatherAndCount(f.reg, name)
			require.NoError(t, err)
			require.Equal(t, want, n, name)
		}
		require.NoError(t, f.Close())
	})
}

// Bins are counted for every row and every model that has them; of a sequence, the newest day.
func TestInputsAreCounted(t *testing.T) {
	dir := modelsDir(t)
	writeModel(t, dir, "twin", "1")
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{}, nil)
		var a asked
		r := request(a.reply, make([]float32, 19)...)
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range r.Features {
			r.Features[i] = float32(rng.IntN(6)) / 2
		}
		for i := range r.Sequences {
			r.Sequences[i] = float32(rng.IntN(6)) / 2
		}
		want := map[string]float64{}
		count := func(model, feature string, edges []float64, v float32) {
			bin := 0
			for _, e := range edges {
				if float64(v) > e {
					bin++
				}
			}
			want[fmt.Sprintf("%s %s %d", model, feature, bin)]++
		}
		recency := []float64{float64(float32(0.97)), float64(float32(1.9)), float64(float32(3.1)), 4.8, 6.2, 9.0, 14.3, 25.0, 51.0}
		small := []float64{0, 1, 2, 3}
		for i := range 19 {
			for _, model := range []string{"dense", "twin"} {
				count(model, "recency_days", recency, r.Features[i*10])
				count(model, "visit_days_7", small, r.Features[i*10+1])
			}
			count("lstm", "age_days", recency, r.Sequences[i*50+45])
			count("lstm", "departments", small, r.Sequences[i*50+48])
		}
		require.True(t, f.Score(r))
		synctest.Wait()
		require.Len(t, a.take(), 1)
		families, err := f.reg.Gather()
		require.NoError(t, err)
		have := map[string]float64{}
		for _, family := range families {
			if family.GetName() != "footfall_model_input_total" {
				continue
			}
			for _, m := range family.GetMetric() {
				labels := map[string]string{}
				for _, l := range m.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				if v := m.GetCounter().GetValue(); v > 0 {
					have[labels["model"]+" "+labels["feature"]+" "+labels["bin"]] = v
				}
			}
		}
		require.Equal(t, want, have)
		require.Len(t, f.loaded.Load().tallies, 4, "twins are counted together")
		require.NoError(t, f.Close())
	})
}

// Whatever is asked, by however many at once: one reply each, with its own rows' values.
func TestDeviceProperty(t *testing.T) {
	dir := modelsDir(t)
	rapid.Check(t, func(t *rapid.T) {
		maxRows := rapid.IntRange(1, 20).Draw(t, "max rows")
		queue := maxRows + rapid.IntRange(0, 60).Draw(t, "queue")
		inFlight := rapid.IntRange(1, 4).Draw(t, "in flight")
		shards := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(1, queue), 1, 20), 1, 6).Draw(t, "rows by shard")
		closeEarly := rapid.Bool().Draw(t, "close early")

		registry, err := OpenRegistry(dir, testLayout)
		require.NoError(t, err)
		var running atomic.Int64
		d, err := Start(t.Context(), Config{
			System: newSystem(), Registry: registry, MaxRows: maxRows, QueueRows: queue, InFlight: inFlight, MaxDelay: 10 * time.Microsecond,
			Runner: &fakeRunner{run: func(c *Contract, in Batch, out []float32) error {
				if n := running.Add(1); n > int64(inFlight) {
					return fmt.Errorf("%d runs at once", n)
				}
				defer running.Add(-1)
				if in.Rows > maxRows {
					return fmt.Errorf("%d rows at once", in.Rows)
				}
				return firstValues(c, in, out)
			}},
		})
		require.NoError(t, err)

		var wg sync.WaitGroup
		faults := make(chan string, 1000)
		for shard, requests := range shards {
			wg.Go(func() {
				for i, n := range requests {
					values := make([]float32, n)
					for j := range values {
						values[j] = float32(shard*1000+i*60+j) / 10000
					}
					replies := make(chan Reply, 2)
					for !d.Score(request(func(r Reply) { replies <- r }, values...)) {
						if closeEarly {
							return
						}
						// Full: another shard's rows are on their way out.
						runtime.Gosched()
					}
					reply := <-replies
					if closeEarly && errors.Is(reply.Err, ErrClosed) {
						return
					}
					want := wantScores(values...)
					if reply.Err != nil || fmt.Sprint(reply.Models) != fmt.Sprint(want.Models) || len(replies) > 0 {
						faults <- fmt.Sprintf("shard %d request %d: %v", shard, i, reply)
						return
					}
				}
			})
		}
		if closeEarly {
			require.NoError(t, d.Close())
		}
		wg.Wait()
		require.NoError(t, d.Close())
		close(faults)
		for f := range faults {
			t.Fatal(f)
		}
		require.Zero(t, d.queued.Load())
	})
}

// What the actor adds to a run that costs nothing.
func BenchmarkDevice(b *testing.B) {
	dir := modelsDir(b)
	registry, err := OpenRegistry(dir, testLayout)
	require.NoError(b, err)
	d, err := Start(b.Context(), Config{
		System: newSystem(), Registry: registry,
		Runner: &fakeRunner{run: func(*Contract, Batch, []float32) error { return nil }},
	})
	require.NoError(b, err)
	defer func() { require.NoError(b, d.Close()) }()
	values := make([]float32, 64)
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		replies := make(chan Reply, 1)
		r := request(func(r Reply) { replies <- r }, values...)
		for pb.Next() {
			for !d.Score(r) {
				runtime.Gosched()
			}
			<-replies
		}
	})
	b.ReportMetric(float64(b.N*64)/b.Elapsed().Seconds(), "rows/s")
}
