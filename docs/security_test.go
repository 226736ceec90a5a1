package docs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSecurity runs every console block of security.md, in order and in one folder: first those that make the files, then
// those that call a node with its configuration.
func TestSecurity(t *testing.T) {
	text := read(t, "security.md")
	bin := build(t)
	t.Chdir(t.TempDir())
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	first, then, ok := strings.Cut(text, "<!-- node: start -->\n")
	require.True(t, ok)
	ran := 0
	run := func(part string, there, back *strings.Replacer) {
		for _, block := range blocks(part, "console") {
			for _, c := range commands(block) {
				cmd := exec.CommandContext(t.Context(), "bash", "-c", there.Replace(c.text))
				out, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				require.True(t, err == nil || errors.As(err, &exit), "%s: %v", c.text, err)
				got := back.Replace(string(out))
				want := c.output
				if strings.HasPrefix(c.text, "footfall token") && want != "" {
					want += "…"
				}
				require.Regexp(t, pattern(want), squeeze(got), "$ %s\nprinted\n%s", c.text, got)
				ran++
			}
		}
	}
	none := strings.NewReplacer()
	run(first, none, none)
	n := runNode(t, blocks(text, "yaml")[0])
	require.Eventually(t, func() bool {
		return exec.CommandContext(t.Context(), filepath.Join(bin, "footfall"), "health", "--ready", "--http", n.HTTPAddr()).Run() == nil
	}, 30*time.Second, 50*time.Millisecond)
	run(then, strings.NewReplacer(httpDefault, n.HTTPAddr(), grpcDefault, n.GRPCAddr()), strings.NewReplacer(n.HTTPAddr(), httpDefault, n.GRPCAddr(), grpcDefault))
	require.Greater(t, ran, 10)
}
