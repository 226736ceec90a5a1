package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What docs/models.md shows of fine-tuning is what happens: its commands are run against a node that
// serves the models of the checkout.
func TestFineTuningAsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/models.md")
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)## Fine-tuning.*?```console\n(.*?)```").FindStringSubmatch(string(text))
	require.NotNil(t, block)

	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "footfall"), "../footfall")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	cache := os.Getenv("FOOTFALL_CACHE")
	if cache == "" {
		cache = "../../.cache"
	}
	cache, err = filepath.Abs(cache)
	require.NoError(t, err)
	models := t.TempDir()
	require.NoError(t, os.CopyFS(models, os.DirFS("../../models")))
	cmd, addr, lines := process(t, "--node-roles=shards,inference", "--models-url=file:"+models)
	require.Eventually(t, func() bool {
		resp, err := http.Get("http://" + addr + "/readyz") //nolint:noctx // it answers
		require.NoError(t, err)
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}, 2*time.Minute, 20*time.Millisecond)
	resp, err := http.Get("http://" + addr + "/v1/cluster") //nolint:noctx // it answers
	require.NoError(t, err)
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	var cluster struct {
		Members []struct {
			GRPCAddress string `json:"grpc_address"`
		}
	}
	require.NoError(t, json.Unmarshal(answer, &cluster))

	work := t.TempDir()
	squeeze := func(s string) string {
		return strings.Join(strings.Fields(regexp.MustCompile(`(?m)^─+$`).ReplaceAllString(s, "──────")), " ")
	}
	ran := 0
	for call := range strings.SplitSeq("\n"+block[1], "\n$ ") {
		line, output, _ := strings.Cut(strings.TrimSpace(call), "\n")
		if line == "" {
			continue
		}
		run := exec.CommandContext(t.Context(), "bash", "-c", line)
		run.Dir = work
		run.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "FOOTFALL_CACHE="+cache, "FOOTFALL_NODE="+cluster.Members[0].GRPCAddress)
		got, err := run.CombinedOutput()
		require.NoError(t, err, "%s\n%s", line, got)
		pattern := strings.ReplaceAll(regexp.QuoteMeta(squeeze(output)), "…", ".*")
		require.Regexp(t, "(?s)^"+pattern+"$", squeeze(string(got)), "%s printed\n%s", line, got)
		ran++
	}
	require.Equal(t, 2, ran)
	require.FileExists(t, filepath.Join(models, "churn_risk", "2", "model.yaml"))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	for range lines {
	}
	require.NoError(t, cmd.Wait())
}
