package inference

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A run that hangs costs its device, not the requests: all of them are answered, those that
// run, those that wait, and none is taken any more. The run's late result reaches nobody.
func TestDeviceHangs(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		var told []*DeviceError
		f := start(t, dir, &fakeRunner{run: g.run}, func(c *Config) {
			c.InFlight, c.RunTimeout = 1, time.Second
			c.Failed = func(e *DeviceError) { told = append(told, e) }
		})
		var running, waiting, late asked
		require.True(t, f.Score(live(request(running.reply, make([]float32, 8)...))))
		pass(900 * time.Millisecond)
		require.Equal(t, 8, f.Load())
		require.True(t, f.Score(live(request(waiting.reply, .1))))
		require.Empty(t, running.take())

		pass(100 * time.Millisecond)
		require.Len(t, told, 1)
		require.Equal(t, FaultHang, told[0].Reason)
		for _, a := range []*asked{&running, &waiting} {
			require.Equal(t, []Reply{{Err: told[0], Fault: told[0]}}, a.take())
		}
		require.False(t, f.Score(live(request(late.reply, .1))))
		require.EqualError(t, told[0], "inference: device CPU:0 fails: a run takes longer than 1s")

		g.release <- struct{}{} // the run returns after all
		synctest.Wait()
		require.Zero(t, f.Load())
		require.NoError(t, f.Close())
		require.Empty(t, running.take(), "answered once")
		require.Empty(t, waiting.take())
		require.Empty(t, late.take())
		require.Equal(t, f.runner.opened.Load(), f.runner.closed.Load())
	})
}

// Runs that are slow, but not too slow, are let be, however many there are.
func TestDeviceSlowRuns(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{run: func(c *Contract, in Batch, out []float32) error {
			if in.Rows == 8 {
				<-time.After(900 * time.Millisecond)
			}
			return firstValues(c, in, out)
		}}, func(c *Config) { c.RunTimeout = time.Second })
		var a asked
		eight := make([]float32, 8)
		for range 6 {
			if !f.Score(request(a.reply, eight...)) {
				pass(time.Second)
				require.True(t, f.Score(request(a.reply, eight...)))
			}
		}
		pass(10 * time.Second)
		for _, r := range a.take() {
			require.Equal(t, wantScores(eight...), r)
		}
		require.Nil(t, f.hang.Load())
		require.NoError(t, f.Close())
	})
}

// A device that hangs while it closes answers all the same.
func TestDeviceHangsWhileClosing(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		f := start(t, dir, &fakeRunner{run: g.run}, func(c *Config) { c.RunTimeout = time.Second })
		var a asked
		require.True(t, f.Score(live(request(a.reply, make([]float32, 8)...))))
		closed := make(chan error)
		go func() { closed <- f.Close() }()
		pass(time.Second)
		replies := a.take()
		require.Len(t, replies, 1)
		require.Equal(t, FaultHang, replies[0].Fault.Reason)
		require.Empty(t, closed)
		g.release <- struct{}{}
		require.NoError(t, <-closed)
	})
}

// Rows that a model stumbles over are their sender's fault, not the device's.
func TestDeviceBlamesRows(t *testing.T) {
	dir := modelsDir(t)
	synctest.Test(t, func(t *testing.T) {
		f := start(t, dir, &fakeRunner{run: func(c *Contract, in Batch, out []float32) error {
			if in.Features[0][0] > .5 {
				return errors.New("assertion failed")
			}
			return firstValues(c, in, out)
		}}, nil)
		var a asked
		require.True(t, f.Score(request(a.reply, .9)))
		pass(2 * time.Millisecond)
		replies := a.take()
		require.Len(t, replies, 1)
		require.Nil(t, replies[0].Fault)
		require.ErrorContains(t, replies[0].Err, "assertion failed")
		require.NoError(t, f.Close())
	})
}
