package check

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/stretchr/testify/require"
)

// top is the checkout.
func top(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	require.NoError(t, err)
	return dir
}

// beyondLibrary is how much an image of a node may hold beside TensorFlow's library.
const beyondLibrary = 150_000_000

// TestNodeImage does what its Dockerfile says, and runs what comes out.
func TestNodeImage(t *testing.T) {
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); runtime.GOOS != "linux" || err != nil {
		t.Skipf("the steps of an image need mounts of their own, which this machine does not allow: %s", out)
	}
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		t.Skip("this machine stands in for Debian, and is none")
	}
	image := build(t, filepath.Join(top(t), "deploy/docker/node.Dockerfile"), top(t), map[string]string{"VERSION": "v1-test"})
	require.True(t, image.scratch)

	t.Run("size", func(t *testing.T) {
		var library, all int64
		sizes := map[string]int64{}
		require.NoError(t, filepath.WalkDir(image.files, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			rel := strings.TrimPrefix(path, image.files)
			part := "Debian"
			switch {
			case strings.HasPrefix(rel, "/opt/footfall/lib/tensorflow/"):
				part = "TensorFlow's library"
				library += info.Size()
			case strings.HasPrefix(rel, "/usr/bin/footfall"):
				part = rel
			case strings.HasPrefix(rel, "/opt/footfall/"):
				part = "models, licences"
			}
			sizes[part] += info.Size()
			all += info.Size()
			return nil
		}))
		t.Logf("%d MB beside the library: %v", (all-library)/1e6, sizes)
		require.Positive(t, library)
		require.Less(t, all-library, int64(beyondLibrary), "%v", sizes)
	})

	t.Run("bill of materials", func(t *testing.T) {
		for _, name := range []string{"footfall", "footfall-node"} {
			info, err := buildinfo.ReadFile(filepath.Join(image.files, "usr/bin", name))
			require.NoError(t, err)
			require.Equal(t, "footfall/cmd/"+name, info.Path)
			require.NotEmpty(t, info.Deps)
		}
		packages, err := os.ReadDir(filepath.Join(image.files, "var/lib/dpkg/status.d"))
		require.NoError(t, err)
		var names []string
		for _, p := range packages {
			names = append(names, p.Name())
		}
		require.Contains(t, names, "libc6")
		require.Contains(t, names, "ca-certificates")
		licences, err := filepath.Glob(filepath.Join(image.files, "usr/share/doc/*/copyright"))
		require.NoError(t, err)
		require.NotEmpty(t, licences)
		metadata, err := filepath.Glob(filepath.Join(image.files, "opt/footfall/lib/licenses/*.dist-info/METADATA"))
		require.NoError(t, err)
		require.NotEmpty(t, metadata)
	})

	t.Run("nothing else to run", func(t *testing.T) {
		for _, dir := range []string{"bin", "sbin", "usr/bin", "usr/sbin"} {
			entries, err := os.ReadDir(filepath.Join(image.files, dir))
			if err != nil {
				require.ErrorIs(t, err, fs.ErrNotExist)
				continue
			}
			for _, e := range entries {
				require.Contains(t, []string{"footfall", "footfall-node"}, e.Name())
			}
		}
	})

	t.Run("runs", func(t *testing.T) {
		address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		env := append(slices.Clone(image.env), "FOOTFALL_HTTP_LISTEN="+address, fmt.Sprintf("FOOTFALL_GRPC_LISTEN=127.0.0.1:%d", freePort(t)),
			"FOOTFALL_SHARDS=8", "FOOTFALL_DISK_RESERVE=0", "FOOTFALL_NODE_NAME=image")
		node := image.inRoot(t.Context(), env, image.entrypoint...)
		var log bytes.Buffer
		node.Stdout, node.Stderr = &log, &log
		require.NoError(t, node.Start())
		ended := make(chan error, 1)
		go func() { ended <- node.Wait() }()
		t.Cleanup(func() { _ = node.Process.Kill() })

		ask := func(args ...string) error {
			out, err := image.inRoot(t.Context(), env, append(slices.Clone(image.health), args...)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
		require.Error(t, ask("--http", "127.0.0.1:1"))
		waitFor(t, func() error { return ask() }, ended)
		waitFor(t, func() error { return ask("--ready") }, ended)

		require.NoError(t, node.Process.Signal(syscall.SIGTERM))
		select {
		case err := <-ended:
			require.NoError(t, err, log.String())
		case <-time.After(time.Minute):
			require.Fail(t, "the node does not stop")
		}
		text := log.String()
		require.Contains(t, text, `"models run with"`)
		require.Contains(t, text, `"stopped"`)
		require.NotContains(t, text, `"level":"ERROR"`)
	})
}

func waitFor(t *testing.T, do func() error, ended <-chan error) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		select {
		case why := <-ended:
			require.FailNow(t, "the node has ended", "%v", why)
		default:
		}
		err = do()
		return err == nil
	}, 2*time.Minute, 100*time.Millisecond, "%v", &err)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func dockerfiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(top(t), "deploy/docker/*.Dockerfile"))
	require.NoError(t, err)
	require.Len(t, files, 3)
	return files
}

// The rules of our own: what an image must be, whatever else it is.
func TestDockerfiles(t *testing.T) {
	pinned := regexp.MustCompile(`^[a-z]+:\d+\.\d+(\.\d+)?(-[a-z]+)*(@sha256:[0-9a-f]{64})?$`)
	for _, file := range dockerfiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			stages := parse(t, file)
			require.Greater(t, len(stages), 1, "one stage is not many")
			for _, s := range stages {
				if s.BaseName != "scratch" {
					require.Regexp(t, pinned, s.BaseName)
				}
			}
			last := stages[len(stages)-1]
			var user, health, volumes, stop bool
			labels := map[string]bool{}
			for _, c := range last.Commands {
				switch c := c.(type) {
				case *instructions.UserCommand:
					user = true
					require.Equal(t, "65532:65532", c.User)
				case *instructions.HealthCheckCommand:
					health = true
				case *instructions.VolumeCommand:
					volumes = true
					require.Equal(t, []string{"/var/lib/footfall", "/tmp"}, c.Volumes)
				case *instructions.EntrypointCommand:
					require.False(t, c.PrependShell, "a shell would keep signals to itself")
				case *instructions.StopSignalCommand:
					stop = true
				case *instructions.LabelCommand:
					for _, kv := range c.Labels {
						labels[kv.Key] = true
					}
				case *instructions.AddCommand:
					require.Fail(t, "COPY does less than ADD")
				}
			}
			require.True(t, user && health && volumes, "USER, HEALTHCHECK, VOLUME")
			require.True(t, stop || !strings.HasPrefix(filepath.Base(file), "node"), "STOPSIGNAL")
			for _, l := range []string{"title", "description", "version"} {
				require.True(t, labels["org.opencontainers.image."+l], l)
			}
		})
	}
}

// Both images of a node are made alike: what is true of the one that can be run here is true of the other.
func TestNodeImagesAreAlike(t *testing.T) {
	body := func(name string) []string {
		b, err := os.ReadFile(filepath.Join(top(t), "deploy/docker", name))
		require.NoError(t, err)
		_, steps, ok := strings.Cut(string(b), "\n\n")
		require.True(t, ok)
		steps = strings.NewReplacer("requirements-gpu.txt", "requirements.txt", "scored on GPUs", "scored on the CPU").Replace(steps)
		return slices.DeleteFunc(strings.Split(steps, "\n"), func(line string) bool { return strings.Contains(line, "NVIDIA_") })
	}
	require.Equal(t, body("node.Dockerfile"), body("node-gpu.Dockerfile"))
}

// TestHadolint runs the linter that FOOTFALL_HADOLINT names: `make lint` and `make test` install it.
func TestHadolint(t *testing.T) {
	hadolint := os.Getenv("FOOTFALL_HADOLINT")
	if hadolint == "" {
		t.Skip("FOOTFALL_HADOLINT names no hadolint: make test-deploy does")
	}
	out, err := exec.Command(hadolint, append([]string{"--failure-threshold", "style"}, dockerfiles(t)...)...).CombinedOutput()
	require.NoError(t, err, string(out))
}
