package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// Command is what a child process runs.
type Command struct {
	// Title names the server in errors.
	Title string
	// Path and Args are the program; Env is its whole environment, Dir its working directory.
	Path string
	Args []string
	Env  []string
	Dir  string
	// Log is the file that its output is appended to.
	Log string
	// OrphanSignal ends it where this process dies without stopping it (on Linux); SIGKILL by default.
	OrphanSignal syscall.Signal
	// User, if not nil, is whom it runs as.
	User *syscall.Credential
}

// Process is a child process, in a process group of its own so that Ctrl-C reaches only this process, which stops it in order.
// It does not outlive this process, even where this is killed.
type Process struct {
	title, log string
	cmd        *exec.Cmd
	// done is closed once it has ended; err is how, valid from then on.
	done chan struct{}
	err  error
}

// StartProcess starts a child.
func StartProcess(c Command) (*Process, error) {
	out, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(c.Path, c.Args...) //nolint:noctx // it outlives the call; Stop and Kill end it
	cmd.Env, cmd.Dir = c.Env, c.Dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.User}
	orphan := c.OrphanSignal
	if orphan == 0 {
		orphan = syscall.SIGKILL
	}
	dieWithParent(cmd.SysProcAttr, orphan)
	p := &Process{title: c.Title, log: c.Log, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel counts the thread that starts a process as its parent: it must live on, and serve nothing else that could end it.
		runtime.LockOSThread()
		defer func() { _ = out.Close() }()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Title, err)
	}
	return p, nil
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed once it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended says how it ended, with the last lines of its log; nil while it runs.
func (p *Process) Ended() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s has ended (%s); its log %s ends with:\n%s", p.title, how, p.log, Tail(p.log))
}

// Kill ends it as a power cut would, and waits until it is gone.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Stop asks it to end and waits. It is killed, and that is an error, where it has not ended when ctx does. It is fine to stop
// one that has ended.
func (p *Process) Stop(ctx context.Context, sig syscall.Signal) error {
	if err := p.signal(sig); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		err := p.Kill()
		return errors.Join(fmt.Errorf("%s did not stop in time and was killed (%w); its log %s ends with:\n%s",
			p.title, context.Cause(ctx), p.log, Tail(p.log)), err)
	}
}

// Watch returns a context that ends with ctx, or with Ended once the process has ended.
func (p *Process) Watch(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.done:
			cancel(p.Ended())
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func (p *Process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.title, err)
	}
	return nil
}

// Tail returns the last lines of a log, as far as it can be read.
func Tail(path string) string {
	const enough, lines = 8 << 10, 20
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > enough {
		_, _ = f.Seek(-enough, io.SeekEnd) // from the start is as good
	}
	body, _ := io.ReadAll(f)
	body = bytes.TrimSpace(body)
	for i, n := len(body)-1, 0; i >= 0; i-- {
		if body[i] == '\n' {
			if n++; n == lines {
				body = body[i+1:]
				break
			}
		}
	}
	return string(body)
}
