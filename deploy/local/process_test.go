package local_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
)

// shell starts a shell script that stands in for a server.
func shell(t *testing.T, script string) (p *local.Process, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	p, err := local.StartProcess(local.Command{Title: "the server", Path: "/bin/sh", Args: []string{"-c", script}, Env: os.Environ(), Log: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Kill()) })
	return p, log
}

// says waits until a server has written a line.
func says(t *testing.T, log, line string) {
	t.Helper()
	require.NoError(t, local.Await(t.Context(), func(context.Context) error {
		if local.Tail(log) != line {
			return errors.New("not yet")
		}
		return nil
	}))
}

func TestProcessStopsInOrder(t *testing.T) {
	p, log := shell(t, `trap 'kill $!; echo stopped; exit 0' TERM; sleep 1000 & echo ready; wait`)
	says(t, log, "ready")
	require.NoError(t, p.Ended())
	require.NoError(t, p.Stop(t.Context(), syscall.SIGTERM))
	require.Equal(t, "ready\nstopped", local.Tail(log))
	require.NoError(t, p.Stop(t.Context(), syscall.SIGTERM), "once more changes nothing")
	require.NoError(t, p.Kill())
}

func TestProcessThatDoesNotStopIsKilled(t *testing.T) {
	p, log := shell(t, `trap '' TERM; echo ready; while :; do sleep 0.01; done`)
	says(t, log, "ready")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.Stop(ctx, syscall.SIGTERM), context.Canceled)
	<-p.Done()
	require.ErrorContains(t, p.Ended(), "the server has ended (signal: killed)")
}

func TestProcessThatEndsSaysWhy(t *testing.T) {
	p, log := shell(t, `seq 100; echo the disk is on fire >&2; exit 3`)
	ctx, stop := p.Watch(t.Context())
	defer stop(nil)
	err := local.Await(ctx, func(context.Context) error { return errors.New("it does not answer") })
	require.ErrorContains(t, err, "the server has ended (exit status 3); its log "+log+" ends with:\n82\n83\n")
	require.ErrorContains(t, err, "\n100\nthe disk is on fire")
}

func TestProcessThatCannotStart(t *testing.T) {
	_, err := local.StartProcess(local.Command{Title: "nothing", Path: "/no/such/program", Log: filepath.Join(t.TempDir(), "log")})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "start nothing")
}

func TestAwaitTriesUntilItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		tries := 0
		require.NoError(t, local.Await(t.Context(), func(context.Context) error {
			if tries++; tries < 10 {
				return errors.New("not yet")
			}
			return nil
		}))
		require.Equal(t, 10, tries)
		require.Equal(t, (5+10+20+40+80+4*100)*time.Millisecond, time.Since(begun))
	})
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		never := errors.New("never")
		err := local.Await(ctx, func(context.Context) error { return never })
		require.ErrorIs(t, err, never)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestPortsAreReserved(t *testing.T) {
	const n = 50
	seen := map[int]bool{}
	for range 10 {
		p, err := local.ReservePorts(n)
		require.NoError(t, err)
		defer p.Release()
		for range n {
			port := p.Next()
			require.False(t, seen[port], "port %d is given twice", port)
			require.Less(t, port, 32_768, "outgoing connections take those above")
			seen[port] = true
			// A server may come and go on it.
			for range 2 {
				l, err := net.Listen("tcp4", local.Address(port))
				require.NoError(t, err)
				require.NoError(t, l.Close())
			}
		}
	}
}
