package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/node/access"
	"footfall/node/config"
)

const asMain = "FOOTFALL_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

func called(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	t.Chdir(t.TempDir())
	var o, e bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a node that would come up ends at once
	code = run(ctx, args, nil, &o, &e)
	return code, o.String(), e.String()
}

func TestHelpNamesEveryKey(t *testing.T) {
	code, out, errs := called(t, "--help")
	require.Equal(t, exitOK, code)
	require.Empty(t, errs)
	for _, k := range config.Keys() {
		require.Contains(t, out, "--"+k.Flag()+" ")
	}
}

func TestCalls(t *testing.T) {
	for _, tt := range []struct {
		args      []string
		code      int
		out, errs string
	}{
		{[]string{"--version"}, exitOK, "unknown\n", ""},
		{[]string{"--print-config", "--shards=8"}, exitOK, "shards: 8 # number of shards, a power of two; fixed at creation (--shards)", ""},
		{[]string{"--nonsense"}, exitUsage, "", "footfall-node: unknown flag: --nonsense: see footfall-node --help"},
		{[]string{"start"}, exitUsage, "", `takes no arguments, not "start"`},
		{[]string{"--shards=7", "--clock=sun"}, exitUsage, "", "configuration has 2 faults:"},
		{[]string{"--config=none.yaml"}, exitUsage, "", "none.yaml: no such file"},
		{[]string{"--http-listen=127.0.0.1:0", "--grpc-listen=127.0.0.1:0", "--shards=2"}, exitOK, "", "msg=stopped"},
		{[]string{"--http-listen=203.0.113.1:0", "--insecure"}, exitFailed, "", "http.listen: "},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			code, out, errs := called(t, tt.args...)
			require.Equal(t, tt.code, code, errs)
			require.Contains(t, out, tt.out)
			require.Contains(t, errs, tt.errs)
		})
	}
}

// process runs main in a process of its own, and returns it once it listens for HTTP.
func process(t *testing.T, args ...string) (cmd *exec.Cmd, addr string, lines <-chan string) {
	t.Helper()
	dir := t.TempDir()
	cmd = exec.Command(os.Args[0], append([]string{ //nolint:noctx // the test ends it
		"--http-listen=127.0.0.1:0", "--grpc-listen=127.0.0.1:0", "--shards=2", "--node-roles=shards", "--logging-format=json",
		"--log-url=pebble:" + filepath.Join(dir, "log"), "--store-url=pebble:" + filepath.Join(dir, "store"),
		"--models-cache=" + filepath.Join(dir, "models"),
	}, args...)...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, unless the test failed
	ch := make(chan string, 1024)
	s := bufio.NewScanner(stderr)
	started := false
	for !started && s.Scan() {
		var l struct{ Msg, HTTP string }
		require.NoError(t, json.Unmarshal(s.Bytes(), &l), "nothing but our log: %s", s.Text())
		if l.HTTP != "" {
			addr = l.HTTP
		}
		started = l.Msg == "started"
	}
	require.True(t, started)
	go func() {
		defer close(ch)
		for s.Scan() {
			ch <- s.Text()
		}
	}()
	return cmd, addr, ch
}

func TestOneSignalStopsInOrder(t *testing.T) {
	cmd, addr, lines := process(t)
	r, err := http.Get("http://" + addr + "/readyz") //nolint:noctx // it answers
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	var last string
	for l := range lines {
		last = l
	}
	require.Contains(t, last, `"msg":"stopped"`)
	require.NoError(t, cmd.Wait())
}

// SIGHUP ends no node: it reads its files again.
func TestHangUpReadsTokensAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	cmd, addr, lines := process(t, "--auth-tokens-file="+file)
	secret, token, err := access.NewToken("reader", access.RolesOf(access.Read), time.Time{})
	require.NoError(t, err)
	require.NoError(t, access.AddToken(file, token))
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v1/shards", http.NoBody)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+secret)
		r, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		return r.StatusCode == http.StatusOK
	}, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	for l := range lines {
		require.NotContains(t, l, secret)
	}
	require.NoError(t, cmd.Wait())
}

func TestASecondSignalStopsAtOnce(t *testing.T) {
	cmd, addr, lines := process(t, "--query-timeout=1h", "--drain-timeout=1h")
	// A call that lasts, so that the first signal has something to wait for: its body never
	// comes, and the server has said that it waits for it.
	body, end := io.Pipe()
	waiting := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(waiting) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/v1/events", body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Expect", "100-continue")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	<-waiting
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	for l := range lines {
		if strings.Contains(l, `"msg":"stopping"`) {
			break
		}
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	for range lines {
	}
	require.NoError(t, end.Close())
	<-done
	err = cmd.Wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, exitFailed, exit.ExitCode())
}
