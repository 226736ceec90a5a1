package inference

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// customers are so many, with hashes.
func customers(n int) []uint64 {
	all := make([]uint64, n)
	for i := range all {
		all[i] = CustomerHash(fmt.Appendf(nil, "customer-%d", i))
	}
	return all
}

// Who is among a smaller share is among a larger one, shares are as large as they say, and models cut independently.
func TestSharesAreSticky(t *testing.T) {
	all := customers(20_000)
	rapid.Check(t, func(t *rapid.T) {
		small, large := rapid.Float64Range(0, 1).Draw(t, "small"), rapid.Float64Range(0, 1).Draw(t, "large")
		small, large = min(small, large), max(small, large)
		a, b := ModelHash(rapid.StringMatching(`[a-z]{1,9}`).Draw(t, "a")), ModelHash(rapid.StringMatching(`[a-z]{10,12}`).Draw(t, "b"))
		var in, both int
		for _, c := range all {
			if Chosen(c, a, small) {
				in++
				require.True(t, Chosen(c, a, large))
				if Chosen(c, b, large) {
					both++
				}
			}
		}
		n := float64(len(all))
		require.InDelta(t, small, float64(in)/n, 5*math.Sqrt(small*(1-small)/n)+1e-9)
		require.InDelta(t, small*large, float64(both)/n, 5*math.Sqrt(small*large*(1-small*large)/n)+1e-9)
	})
	require.False(t, Chosen(all[0], 1, 0))
	require.False(t, Chosen(all[0], 1, math.NaN()))
	for _, c := range all {
		require.True(t, Chosen(c, 1, 1))
	}
}

// byVersion answers each row with its first value, and a tenth more for each version beyond the first.
func byVersion(c *Contract, in Batch, out []float32) error {
	if err := firstValues(c, in, out); err != nil {
		return err
	}
	for i := range out {
		if out[i] > 0 {
			out[i] += .1 * float32(c.Version-1)
		}
	}
	return nil
}

func versionsDir(tb testing.TB, versions int) string {
	tb.Helper()
	dir := tb.TempDir()
	for v := range versions {
		writeModel(tb, dir, "dense", fmt.Sprint(v+1))
	}
	return dir
}

func trying(version string, share float64, shadow bool) (Plan, *Comparison) {
	c := new(Comparison)
	return Plan{"dense": {Champion: "1", Challenger: &Challenger{Version: version, Share: share, Shadow: shadow, Comparison: c}}}, c
}

func TestCanaryAndShadow(t *testing.T) {
	dir := versionsDir(t, 2)
	for name, shadow := range map[string]bool{"canary": false, "shadow": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plan, comparison := trying("2", .5, shadow)
				f := start(t, dir, &fakeRunner{run: byVersion}, func(c *Config) { c.Plan = plan })
				var a asked
				ids := customers(20) // more than a batch
				values := make([]float32, len(ids))
				for i := range values {
					values[i] = .5
				}
				r := request(a.reply, values...)
				r.Customers = ids
				require.True(t, f.Score(r))
				pass(2 * time.Millisecond)
				reply := a.take()[0]
				require.NoError(t, reply.Err)
				require.True(t, reply.Whole)
				require.Equal(t, Scores{Model: "dense", Version: "1", Values: values}, reply.Models[0])
				var rows []uint32
				for i, id := range ids {
					if Chosen(id, ModelHash("dense"), .5) {
						rows = append(rows, uint32(i))
					}
				}
				require.NotEmpty(t, rows)
				if shadow {
					require.Len(t, reply.Models, 1, "nobody sees it")
				} else {
					require.Len(t, reply.Models, 2)
					require.Equal(t, rows, reply.Models[1].Rows)
					require.Equal(t, "2", reply.Models[1].Version)
					for _, v := range reply.Models[1].Values {
						require.InDelta(t, .6, v, 1e-6)
					}
				}
				figures := comparison.Figures()
				require.EqualValues(t, len(rows), figures.Rows)
				require.InDelta(t, .1*float64(len(rows)), figures.Difference, 1e-5)
				require.Zero(t, figures.Errors)

				// Who names no version gets the champion, who names one gets that, and neither counts.
				for version, want := range map[string]float32{"": .5, "1": .5, "2": .6} {
					r := request(a.reply, .5)
					r.Model, r.Version = "dense", version
					require.True(t, f.Score(r))
					pass(2 * time.Millisecond)
					reply := a.take()[0]
					require.Len(t, reply.Models, 1)
					require.InDelta(t, want, reply.Models[0].Values[0], 1e-6)
				}
				require.Equal(t, figures, comparison.Figures())
				require.Equal(t, []string{"1", "2"}, []string{f.Serving()[0].VersionString(), f.Serving()[1].VersionString()}, "the champion first")
				require.NoError(t, f.Close())
				require.Equal(t, f.runner.opened.Load(), f.runner.closed.Load())
			})
		})
	}
}

// A request of which no customer is chosen is told so, also where others of its batch are.
func TestACanaryOfNobody(t *testing.T) {
	dir := versionsDir(t, 2)
	synctest.Test(t, func(t *testing.T) {
		plan, _ := trying("2", .5, false)
		f := start(t, dir, &fakeRunner{run: byVersion}, func(c *Config) { c.Plan = plan })
		var in, out []uint64
		for _, c := range customers(20) {
			if Chosen(c, ModelHash("dense"), .5) {
				in = append(in, c)
			} else {
				out = append(out, c)
			}
		}
		var a, b asked
		none, some := request(a.reply, .5, .5), request(b.reply, .5, .5)
		none.Customers, some.Customers = out[:2], []uint64{out[2], in[0]}
		require.True(t, f.Score(none))
		require.True(t, f.Score(some))
		pass(2 * time.Millisecond)
		require.Equal(t, Scores{Model: "dense", Version: "2", Values: []float32{}, Rows: []uint32{}}, a.take()[0].Models[1])
		require.Equal(t, []uint32{1}, b.take()[0].Models[1].Rows)
		require.NoError(t, f.Close())
	})
}

// Whatever a canary does, every row has the champion's value, and the canary's errors are counted.
func TestABrokenCanaryHarmsNobody(t *testing.T) {
	dir := versionsDir(t, 2)
	nan := float32(math.NaN())
	for name, run := range map[string]func(out []float32) error{
		"fails": func([]float32) error { return errors.New("no such op") },
		"not a number": func(out []float32) error {
			for i := range out {
				out[i] = nan
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plan, comparison := trying("2", 1, false)
				var broken atomic.Bool
				f := start(t, dir, &fakeRunner{run: func(c *Contract, in Batch, out []float32) error {
					if c.Version == 2 && broken.Load() {
						return run(out)
					}
					return byVersion(c, in, out)
				}}, func(c *Config) { c.Plan = plan })
				broken.Store(true)
				var a asked
				r := request(a.reply, .1, .2, .3)
				r.Customers = customers(3)
				require.True(t, f.Score(r))
				pass(2 * time.Millisecond)
				reply := a.take()[0]
				require.NoError(t, reply.Err)
				require.Nil(t, reply.Fault, "the device is not at fault")
				require.Equal(t, []float32{.1, .2, .3}, reply.Models[0].Values)
				require.Empty(t, reply.Models[1].Values)
				require.EqualValues(t, 3, comparison.Figures().Errors)

				// What the champion has no value for either is the rows' fault.
				r = request(a.reply, nan)
				r.Customers = customers(1)
				require.True(t, f.Score(r))
				pass(2 * time.Millisecond)
				require.Error(t, a.take()[0].Err)
				if name == "not a number" {
					require.EqualValues(t, 3, comparison.Figures().Errors)
				}
				require.NoError(t, f.Close())
			})
		})
	}
}

// Versions are swapped between batches: each answer is of one set, none is lost, and what no set has any more is closed once.
func TestApplySwapsBetweenBatches(t *testing.T) {
	dir := versionsDir(t, 4)
	runner := &fakeRunner{run: byVersion}
	f := start(t, dir, runner, func(c *Config) { c.Plan = Plan{"dense": {Champion: "1"}} })
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			replies := make(chan Reply, 1)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !f.Score(request(func(r Reply) { replies <- r }, .5, .5)) {
					continue
				}
				r := <-replies
				if r.Err != nil || len(r.Models) != 1 {
					t.Errorf("reply %+v", r)
					return
				}
				var version int
				fmt.Sscan(r.Models[0].Version, &version) //nolint:errcheck // then the values do not fit
				for _, v := range r.Models[0].Values {
					if math.Abs(float64(v)-.5-.1*float64(version-1)) > 1e-6 {
						t.Errorf("version %d says %v", version, v)
					}
				}
			}
		})
	}
	for i := range 60 {
		plan := Plan{"dense": {Champion: fmt.Sprint(i%4 + 1)}}
		require.NoError(t, f.Apply(t.Context(), f.Registry, plan))
		require.Eventually(t, func() bool { return len(f.Serving()) == 1 && f.Serving()[0].Version == i%4+1 }, time.Minute, time.Millisecond)
	}
	close(stop)
	wg.Wait()
	require.Eventually(t, func() bool { return runner.opened.Load()-runner.closed.Load() == 1 }, time.Minute, time.Millisecond, "one is open")
	require.NoError(t, f.Close())
	require.Equal(t, runner.opened.Load(), runner.closed.Load())
}

// What can't be loaded replaces nothing, of whatever kind the fault is.
func TestWhatIsBrokenReplacesNothing(t *testing.T) {
	other := []string{"kind: probability", "kind: segment\nsegments:\n  - {id: 0, name: none, description: x}"}
	for name, c := range map[string]struct {
		replace []string
		fail    error
		run     func(out []float32) error
		rows    bool // only with rows that are not all 0
		want    string
	}{
		"it can't be loaded":  {fail: errors.New("bad magic number"), want: "bad magic number"},
		"it does not run":     {run: func([]float32) error { return errors.New("wrong shape") }, want: "warm-up with 1 rows: wrong shape"},
		"it answers nonsense": {run: func(out []float32) error { out[0] = float32(math.Inf(1)); return nil }, want: "is not finite"},
		"it answers real rows with nonsense": {run: func(out []float32) error {
			out[4] = 7
			return nil
		}, rows: true, want: "probe with rows like those of training"},
		"it answers another kind": {replace: other, want: "its output is a segment, and that of 1 a probability"},
	} {
		for _, part := range []string{"champion", "challenger"} {
			if c.replace != nil && part == "champion" {
				continue // a new champion may answer what it likes
			}
			t.Run(name+", "+part, func(t *testing.T) {
				dir := versionsDir(t, 1)
				writeModel(t, dir, "dense", "2", c.replace...)
				runner := &fakeRunner{fail: map[string]error{"dense 2": c.fail}, run: func(contract *Contract, in Batch, out []float32) error {
					clear(out)
					if contract.Version == 2 && c.run != nil && (!c.rows || in.Features[0][0] > 0) {
						return c.run(out)
					}
					return nil
				}}
				registry, err := OpenRegistry(dir, testLayout)
				require.NoError(t, err)
				system := newSystem()
				defer system.Shutdown()
				p, err := StartPool(t.Context(), PoolConfig{Config: Config{
					System: system, Registry: registry, Runner: runner, MaxRows: 5, Probe: true, Plan: Plan{"dense": {Champion: "1"}},
				}})
				require.NoError(t, err)
				plan, _ := trying("2", .5, false)
				if part == "champion" {
					plan = Plan{"dense": {Champion: "2", Previous: "1"}}
				}
				require.NoError(t, p.Apply(t.Context(), registry, plan))
				require.Equal(t, "1", p.Champion("dense"))
				require.Len(t, p.Serving(), 1)
				failure := p.Failure("dense", "2")
				require.ErrorContains(t, failure, c.want)
				require.False(t, Passing(failure))
				require.Equal(t, []Scores{{Model: "dense", Version: "1"}}, p.Shown())
				opened := runner.opened.Load()
				require.NoError(t, p.Apply(t.Context(), registry, plan))
				require.Equal(t, opened, runner.opened.Load(), "what is broken is not loaded again")
				for _, s := range p.Models()[0].Versions {
					require.Equal(t, map[string]string{"1": "serving", "2": "failed"}[s.Version], s.State)
				}
				require.NoError(t, p.Close())
				require.Equal(t, runner.opened.Load(), runner.closed.Load())
			})
		}
	}
}

// Sixteen models of five versions are listed, and served one version each.
func TestSixteenModelsOfFiveVersions(t *testing.T) {
	dir := t.TempDir()
	plan := Plan{}
	for m := range 16 {
		name := fmt.Sprintf("model_%02d", m)
		for v := range 5 {
			writeModel(t, dir, name, fmt.Sprint(v+1))
		}
		plan[name] = ModelPlan{Champion: fmt.Sprint(m%4 + 1), Challenger: &Challenger{Version: "5", Share: .5, Comparison: new(Comparison)}}
	}
	f := start(t, dir, &fakeRunner{run: byVersion}, func(c *Config) { c.Plan = plan })
	require.Len(t, f.Serving(), 32)
	replies := make(chan Reply, 1)
	r := request(func(r Reply) { replies <- r }, .1, .2, .3)
	r.Customers = customers(3)
	require.True(t, f.Score(r))
	reply := <-replies
	require.NoError(t, reply.Err)
	require.Len(t, reply.Models, 32)
	for i := 0; i < 32; i += 2 {
		require.Equal(t, fmt.Sprint(i/2%4+1), reply.Models[i].Version)
		require.Equal(t, "5", reply.Models[i+1].Version)
	}
	require.NoError(t, f.Close())
}

// A version that can't be fetched now is tried again.
func TestFetchIsTriedAgain(t *testing.T) {
	dir := versionsDir(t, 2)
	var away atomic.Bool
	away.Store(true)
	f := start(t, dir, &fakeRunner{}, func(c *Config) {
		c.Plan = Plan{"dense": {Champion: "1"}}
		c.Fetch = func(_ context.Context, _ string, v Version) (string, error) {
			if v.Name == "2" && away.Load() {
				return "", &FetchError{Err: errors.New("connection refused")}
			}
			return v.Dir, nil
		}
	})
	plan := Plan{"dense": {Champion: "2"}}
	require.NoError(t, f.Apply(t.Context(), f.Registry, plan))
	require.Equal(t, 1, f.Serving()[0].Version)
	away.Store(false)
	require.NoError(t, f.Apply(t.Context(), f.Registry, plan))
	require.Eventually(t, func() bool { return f.Serving()[0].Version == 2 }, time.Minute, time.Millisecond)
	require.NoError(t, f.Close())
}
