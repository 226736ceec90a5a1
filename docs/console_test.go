package docs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"footfall/node"
	"footfall/node/config"
)

// TestGuide runs every console block of the guide, in order, in one folder and against one node that has the
// configuration of the guide, but no models and ports of its own.
//
// A line that begins with "$ " is a command, with "> " its continuation; what follows is what it prints, to either
// stream. … stands for anything, and space is not compared. A comment <!-- node: stop --> stops the node.
func TestGuide(t *testing.T) {
	text := read(t, "guide.md")
	bin := build(t)
	t.Chdir(t.TempDir())
	n := startNode(t, blocks(text, "yaml")[0])
	t.Setenv("FOOTFALL_NODE", n.GRPCAddr())
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))

	ran := 0
	for part := range strings.SplitSeq(text, "<!-- node: stop -->") {
		if ran > 0 {
			n.stop()
		}
		for _, block := range blocks(part, "console") {
			for _, c := range commands(block) {
				run := exec.CommandContext(t.Context(), "bash", "-c", strings.ReplaceAll(c.text, httpDefault, n.HTTPAddr()))
				out, err := run.CombinedOutput()
				var exit *exec.ExitError
				require.True(t, err == nil || errors.As(err, &exit), "%s: %v", c.text, err)
				got := strings.NewReplacer(n.HTTPAddr(), httpDefault, n.GRPCAddr(), grpcDefault).Replace(string(out))
				require.Regexp(t, pattern(c.output), squeeze(got), "$ %s\nprinted\n%s", c.text, got)
				ran++
			}
		}
	}
	require.Greater(t, ran, 15)
}

const (
	httpDefault = "127.0.0.1:8080"
	grpcDefault = "127.0.0.1:8081"
)

// command is one of a console block, with what it is to print.
type command struct{ text, output string }

func commands(block string) []command {
	var all []command
	for line := range strings.Lines(block) {
		if text, ok := strings.CutPrefix(line, "$ "); ok {
			all = append(all, command{text: text})
			continue
		}
		c := &all[len(all)-1]
		if text, ok := strings.CutPrefix(line, "> "); ok && c.output == "" {
			c.text += text
			continue
		}
		c.output += line
	}
	return all
}

var space = regexp.MustCompile(`[\s─]+`)

// squeeze takes space and the rules of tables out: both depend on how wide what differs is.
func squeeze(s string) string { return space.ReplaceAllString(s, "") }

func pattern(output string) *regexp.Regexp {
	parts := strings.Split(squeeze(output), "…")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`)
}

// build makes the command line and the stand-in for curl, once, and returns their folder.
func build(t *testing.T) string {
	t.Helper()
	dir, err := built()
	require.NoError(t, err)
	return dir
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "footfall-docs-")
	if err != nil {
		return "", err
	}
	binaries = dir
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "footfall"), "./cmd/footfall") //nolint:noctx // the test's time limit ends it
	cmd.Dir = checkout
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return dir, os.Symlink(self, filepath.Join(dir, "curl"))
})

type running struct {
	*node.Node
	stop func()
}

// startNode starts a node without models with a configuration, in the working directory, and waits until it is ready.
func startNode(t *testing.T, yaml string) *running {
	t.Helper()
	r := runNode(t, yaml)
	r.awaitReady(t)
	return r
}

// runNode does not wait.
func runNode(t *testing.T, yaml string) *running {
	t.Helper()
	require.NoError(t, os.WriteFile(config.DefaultFile, []byte(yaml), 0o600))
	c, err := config.Load(config.Sources{})
	require.NoError(t, err)
	c.HTTPListen, c.GRPCListen = "127.0.0.1:0", "127.0.0.1:0"
	c.Roles = config.Roles{config.RoleShards}
	n, err := node.New(node.Options{Config: c, Version: "test", Registry: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // the node is stopped by the cleanup
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	r := &running{Node: n, stop: func() {
		if cancel != nil {
			cancel()
			cancel = nil
			require.NoError(t, <-ended)
		}
	}}
	t.Cleanup(r.stop)
	return r
}

// awaitReady asks until the node is ready: it recovers while it listens already.
func (r *running) awaitReady(t *testing.T) {
	t.Helper()
	for {
		if code, _ := r.get(t, "/readyz"); code == http.StatusOK {
			return
		}
	}
}

func (r *running) get(t *testing.T, path string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.HTTPAddr()+path, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

// curl is as much of curl as the documents use: -s, --cacert, -H, -d, --data-binary (with @FILE), -w and a URL.
func curl(args []string) int {
	var url, body, write string
	header := http.Header{}
	method := http.MethodGet
	for i := 0; i < len(args); i++ {
		next := func() string {
			i++
			return args[i]
		}
		switch args[i] {
		case "-s":
		case "--cacert":
			pem, err := os.ReadFile(next())
			roots := x509.NewCertPool()
			if err != nil || !roots.AppendCertsFromPEM(pem) {
				fmt.Fprintln(os.Stderr, "curl: no certificates:", err)
				return 1
			}
			http.DefaultClient.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
		case "-w":
			write = next()
		case "-H":
			name, value, _ := strings.Cut(next(), ": ")
			header.Set(name, value)
		case "-d", "--data-binary":
			method, body = http.MethodPost, next()
			if header.Get("Content-Type") == "" {
				header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
		default:
			url = args[i]
		}
	}
	if err := request(method, url, header, body, write); err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		return 1
	}
	return 0
}

func request(method, url string, header http.Header, body, write string) error {
	if file, ok := strings.CutPrefix(body, "@"); ok {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		body = string(b)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	write = strings.NewReplacer("%{http_code}", fmt.Sprint(resp.StatusCode), `\n`, "\n").Replace(write)
	_, err = os.Stdout.WriteString(write)
	return err
}

// output runs a program and returns what it prints.
func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", program, args, out)
	return string(out)
}
