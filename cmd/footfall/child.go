package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// child is a node that runs for as long as this process.
type child struct {
	cmd *exec.Cmd
	log string
	// done is closed once it has ended; err is why, valid from then on.
	done chan struct{}
	err  error
}

// drain is how long a node may take to stop in order. Its own limit is shorter.
const drain = 45 * time.Second

// startNode starts a node with its output in the file log. It is in a process group of its own,
// so that Ctrl-C reaches only this process, which stops it in order.
func startNode(path, log string, args ...string) (*child, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	c := &child{cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel counts the thread that starts a process as its parent: it must live on.
		runtime.LockOSThread()
		defer func() { _ = out.Close() }()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return c, nil
}

// watch returns a context that ends with ctx, or with the reason that the node has ended.
func (c *child) watch(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-c.done:
			cancel(c.ended())
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// ended says why the node is gone, as far as its log tells.
func (c *child) ended() error {
	reason := "it stopped"
	if c.err != nil {
		reason = c.err.Error()
	}
	if line := lastLine(c.log); line != "" {
		reason += ": " + line
	}
	return fmt.Errorf("the node has ended (%s): its log is %s", reason, c.log)
}

// stop ends the node in order and waits for it.
func (c *child) stop() error {
	select {
	case <-c.done:
	default:
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	t := time.NewTimer(drain)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("the node did not stop within %s and was killed: its log is %s", drain, c.log)
	}
	if c.err != nil {
		return c.ended()
	}
	return nil
}

// lastLine reads the last line of a file.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	const enough = 4096
	if info, err := f.Stat(); err == nil && info.Size() > enough {
		if _, err := f.Seek(-enough, io.SeekEnd); err != nil {
			return ""
		}
	}
	body, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	lines := strings.Split(string(bytes.TrimSpace(body)), "\n")
	return oneLine(lines[len(lines)-1])
}
