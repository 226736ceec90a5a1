package check

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/stretchr/testify/require"
)

// builder carries a Dockerfile out as far as our own need it: FROM, COPY, RUN, ARG, ENV, WORKDIR, and what only describes.
//
// An image that a stage is FROM is stood in for by this machine, as an overlay that takes what the stage writes; scratch is an
// empty folder. So the steps run as they stand, with their paths, but with the tools of this machine.
type builder struct {
	t       *testing.T
	context string
	dir     string
	ignored *patternmatcher.PatternMatcher
	args    map[string]string
	stages  map[string]*stage
}

// stage is what its instructions have made of it.
type stage struct {
	// files are what it has written over its base; all of it where that is scratch.
	files   string
	scratch bool
	workdir string
	user    string
	env     []string
	args    map[string]string

	entrypoint []string
	health     []string
	volumes    []string
	labels     map[string]string
}

// parse reads a Dockerfile.
func parse(t *testing.T, file string) []instructions.Stage {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	ast, err := parser.Parse(f)
	require.NoError(t, err)
	require.Empty(t, ast.Warnings)
	stages, _, err := instructions.Parse(ast.AST, nil)
	require.NoError(t, err)
	return stages
}

// build carries a Dockerfile out and returns its last stage.
func build(t *testing.T, file, context string, args map[string]string) *stage {
	t.Helper()
	e := &builder{t: t, context: context, dir: t.TempDir(), args: args, stages: map[string]*stage{}}
	ignore, err := os.Open(filepath.Join(context, ".dockerignore"))
	require.NoError(t, err)
	defer ignore.Close()
	patterns, err := ignorefile.ReadAll(ignore)
	require.NoError(t, err)
	e.ignored, err = patternmatcher.New(patterns)
	require.NoError(t, err)

	var last *stage
	for i, s := range parse(t, file) {
		last = &stage{
			files: filepath.Join(e.dir, fmt.Sprintf("stage-%d", i)), scratch: s.BaseName == "scratch",
			workdir: "/", user: "0", args: map[string]string{}, labels: map[string]string{},
		}
		require.NoError(t, os.Mkdir(last.files, 0o755))
		e.stages[s.Name] = last
		for _, c := range s.Commands {
			e.do(last, c)
		}
	}
	return last
}

func (e *builder) do(s *stage, c instructions.Command) {
	e.t.Helper()
	switch c := c.(type) {
	case *instructions.ArgCommand:
		for _, a := range c.Args {
			value := a.ValueString()
			if given, ok := e.args[a.Key]; ok {
				value = given
			}
			s.args[a.Key] = value
		}
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			s.env = append(s.env, kv.Key+"="+e.expand(s, kv.Value))
		}
	case *instructions.LabelCommand:
		for _, kv := range c.Labels {
			s.labels[kv.Key] = e.expand(s, kv.Value)
		}
	case *instructions.WorkdirCommand:
		s.workdir = c.Path
		require.NoError(e.t, os.MkdirAll(filepath.Join(s.files, c.Path), 0o755))
	case *instructions.CopyCommand:
		e.copy(s, c)
	case *instructions.RunCommand:
		require.False(e.t, s.scratch, "nothing can run in %s", c)
		e.run(s, strings.Join(c.CmdLine, " "))
	case *instructions.UserCommand:
		s.user = c.User
	case *instructions.VolumeCommand:
		s.volumes = append(s.volumes, c.Volumes...)
	case *instructions.EntrypointCommand:
		require.False(e.t, c.PrependShell, "there is no shell for %s", c)
		s.entrypoint = c.CmdLine
	case *instructions.HealthCheckCommand:
		require.Equal(e.t, "CMD", c.Health.Test[0], "there is no shell for the health check")
		s.health = c.Health.Test[1:]
	case *instructions.ExposeCommand, *instructions.StopSignalCommand:
	default:
		require.Fail(e.t, "the builder does not know it", "%s", c)
	}
}

func (e *builder) expand(s *stage, word string) string {
	env := []string{}
	for k, v := range s.args {
		env = append(env, k+"="+v)
	}
	out, _, err := shell.NewLex('\\').ProcessWord(word, shell.EnvsFromSlice(env))
	require.NoError(e.t, err)
	return out
}

// copy brings files from the context, less what is ignored, or from another stage; those of a stage are linked,
// since they are large and nothing changes them in place.
func (e *builder) copy(s *stage, c *instructions.CopyCommand) {
	e.t.Helper()
	dest := c.DestPath
	if !strings.HasPrefix(dest, "/") {
		dest = s.workdir + "/" + dest
	}
	dest = filepath.Join(s.files, dest)
	from := e.context
	if c.From != "" {
		require.Contains(e.t, e.stages, c.From)
		from = e.stages[c.From].files
	}
	for _, source := range c.SourcePaths {
		source = filepath.Join(from, source)
		info, err := os.Stat(source)
		require.NoError(e.t, err)
		if !info.IsDir() {
			into := dest
			if strings.HasSuffix(c.DestPath, "/") {
				into = filepath.Join(dest, filepath.Base(source))
			}
			if c.From == "" {
				require.False(e.t, e.ignores(source), "%s is in .dockerignore", source)
			}
			e.link(source, into, info)
			continue
		}
		require.NoError(e.t, filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(source, path)
			if err != nil {
				return err
			}
			if c.From == "" && path != from {
				if name := d.Name(); d.IsDir() && strings.HasPrefix(name, ".") {
					return filepath.SkipDir // ignored as a whole, and large
				}
				if !d.IsDir() && e.ignores(path) {
					return nil
				}
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if d.IsDir() {
				// Only folders of other stages are there although they are empty.
				if c.From == "" {
					return nil
				}
				into := filepath.Join(dest, rel)
				if err := os.MkdirAll(into, 0o755); err != nil {
					return err
				}
				return sameOwner(into, info)
			}
			e.link(path, filepath.Join(dest, rel), info)
			return nil
		}))
	}
}

func (e *builder) ignores(path string) bool {
	rel, err := filepath.Rel(e.context, path)
	require.NoError(e.t, err)
	ignored, err := e.ignored.MatchesOrParentMatches(rel)
	require.NoError(e.t, err)
	return ignored
}

func (e *builder) link(from, to string, info fs.FileInfo) {
	e.t.Helper()
	require.NoError(e.t, os.MkdirAll(filepath.Dir(to), 0o755))
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		require.NoError(e.t, err)
		require.NoError(e.t, os.Symlink(target, to))
		return
	}
	require.NoError(e.t, os.RemoveAll(to))
	if strings.HasPrefix(from, e.dir) && os.Link(from, to) == nil {
		return
	}
	out, err := exec.Command("cp", "-p", from, to).CombinedOutput()
	require.NoError(e.t, err, string(out))
}

// run carries a command line out in the stage, as root.
func (e *builder) run(s *stage, line string) {
	e.t.Helper()
	work, root := s.files+"-work", s.files+"-root"
	require.NoError(e.t, os.MkdirAll(work, 0o755))
	require.NoError(e.t, os.MkdirAll(root, 0o755))
	script := `
		mount -t overlay overlay -o "lowerdir=/,upperdir=$FILES,workdir=$WORK" "$ROOT"
		mount --rbind /proc "$ROOT/proc"
		mount --rbind /dev "$ROOT/dev"
		for cache in "$GOCACHE" "$GOMODCACHE"; do
			mkdir -p "$cache"
			mount --bind "$cache" "$ROOT$cache"
		done
		exec chroot "$ROOT" sh -c 'cd "$0" && eval "$1"' "$WORKDIR" "$LINE"`
	cmd := exec.CommandContext(e.t.Context(), "unshare", "--mount", "sh", "-euc", script)
	cmd.Env = append(os.Environ(), "FILES="+s.files, "WORK="+work, "ROOT="+root, "WORKDIR="+s.workdir, "LINE="+line,
		"GOCACHE="+goEnv(e.t, "GOCACHE"), "GOMODCACHE="+goEnv(e.t, "GOMODCACHE"))
	// What links this checkout's TensorFlow is not for a stage.
	for _, name := range []string{"CGO_CFLAGS", "CGO_LDFLAGS", "CGO_ENABLED"} {
		cmd.Env = append(cmd.Env, name+"=")
	}
	for k, v := range s.args {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Env = append(cmd.Env, s.env...)
	out, err := cmd.CombinedOutput()
	require.NoError(e.t, err, "%s\n%s", line, out)
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// inRoot makes a command that runs in the root of a scratch stage as an engine with a read-only root would run it: as its
// user, without any privilege, with nothing that can be written to but its volumes.
func (s *stage) inRoot(ctx context.Context, env []string, args ...string) *exec.Cmd {
	script := `
		mount --bind "$ROOT" "$ROOT"
		cd "$ROOT"
		for volume in $VOLUMES; do
			mount -t tmpfs -o "uid=${USER_OF%:*},gid=${USER_OF#*:},mode=750" tmpfs "$ROOT$volume"
		done
		mkdir -p "$ROOT/proc" "$ROOT/dev"
		mount --rbind /proc "$ROOT/proc"
		mount --rbind /dev "$ROOT/dev"
		mount --bind /etc/resolv.conf "$ROOT/etc/resolv.conf" 2>/dev/null || true
		mount -o remount,bind,ro "$ROOT"
		exec setpriv --no-new-privs --clear-groups \
			unshare --root "$ROOT" --wd "$WORKDIR" --setgid "${USER_OF#*:}" --setuid "${USER_OF%:*}" -- "$@"`
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "sh", "-euc", script, "sh"}, args...)...)
	cmd.Env = append(append([]string{"PATH=" + os.Getenv("PATH")}, env...), "ROOT="+s.files, "USER_OF="+s.user, "WORKDIR="+s.workdir, "VOLUMES="+strings.Join(s.volumes, " "))
	return cmd
}

func sameOwner(path string, info fs.FileInfo) error {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(path, int(stat.Uid), int(stat.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, info.Mode())
}
