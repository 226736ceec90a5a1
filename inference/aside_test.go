package inference

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// asideRunner loads aside, too, and notes what sessions are used for meanwhile.
type asideRunner struct {
	fakeRunner
	aside atomic.Int64
	// last is the session that was loaded last.
	last *asideSession
}

type asideSession struct {
	Session
	// serves is what the device said last; while it is false, runs are counted.
	serves                atomic.Bool
	warmed, ran, closedBy atomic.Int64
}

func (r *asideRunner) LoadAside(ctx context.Context, dir string, c *Contract, device string) (Session, func(bool), error) {
	inner, err := r.Load(ctx, dir, c, device)
	if err != nil {
		return nil, nil, err
	}
	r.aside.Add(1)
	r.last = &asideSession{Session: inner}
	return r.last, r.last.serves.Store, nil
}

func (s *asideSession) Run(in Batch, out []float32) error {
	if s.serves.Load() {
		s.ran.Add(1)
	} else {
		s.warmed.Add(1)
	}
	return s.Session.Run(in, out)
}

func (s *asideSession) Close() error {
	if !s.serves.Load() {
		s.closedBy.Add(1)
	}
	return s.Session.Close()
}

// The first versions are loaded at once: nothing serves yet. Later ones are loaded, warmed and
// closed aside, and serve as any other.
func TestLoadsAsideWhatServes(t *testing.T) {
	dir := versionsDir(t, 2)
	synctest.Test(t, func(t *testing.T) {
		runner := new(asideRunner)
		f := start(t, dir, &runner.fakeRunner, func(c *Config) {
			c.Runner, c.Plan = runner, Plan{"dense": {Champion: "1"}}
		})
		require.Zero(t, runner.aside.Load())
		require.NoError(t, f.Apply(t.Context(), f.Registry, Plan{"dense": {Champion: "2"}}))
		require.EqualValues(t, 1, runner.aside.Load())
		second := runner.last
		require.EqualValues(t, 2, second.warmed.Load(), "one row, and as many as a run has")

		var a asked
		require.True(t, f.Score(request(a.reply, .5)))
		pass(2 * time.Millisecond)
		require.Equal(t, []Scores{{Model: "dense", Version: "2", Values: []float32{.5}}}, a.take()[0].Models)
		require.EqualValues(t, 2, second.warmed.Load())
		require.EqualValues(t, 1, second.ran.Load())

		require.NoError(t, f.Apply(t.Context(), f.Registry, Plan{"dense": {Champion: "1"}}))
		synctest.Wait()
		require.EqualValues(t, 1, second.closedBy.Load())
		require.NoError(t, f.Close())
		require.Equal(t, runner.opened.Load(), runner.closed.Load())
	})
}
