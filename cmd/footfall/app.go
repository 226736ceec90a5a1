package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// app is what commands share: the streams, the environment, and the flags that all have.
type app struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
	now      func() time.Time

	node   string
	ca     string
	token  string
	output string

	// started is set once flags and arguments have been accepted: errors before it are of usage.
	started bool
	conns   []io.Closer
}

func newApp(in io.Reader, out, err io.Writer, getenv func(string) string) *app {
	return &app{in: in, out: out, err: err, getenv: getenv, now: time.Now}
}

// usageError says that a command was called wrongly.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errReported ends a command with exit code 1 where it has said already what failed.
var errReported = errors.New("failed")

// run executes one command line and returns its exit code.
func run(ctx context.Context, a *app, args []string) int {
	defer a.close()
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	if !a.colours(a.out) {
		text.DisableColors()
	}
	cmd, err := root.ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailed
	case errors.As(err, &usage) || !a.started:
		fmt.Fprintf(a.err, "footfall: %s: see '%s --help'\n", usageText(err), cmd.CommandPath())
		return exitUsage
	default:
		fmt.Fprintf(a.err, "footfall: %s\n", a.explain(ctx, err))
		return exitFailed
	}
}

// usageText is one line, also of several faults. What the parser of a flag's value says of itself
// is left out.
func usageText(err error) string {
	text, _, _ := strings.Cut(err.Error(), " flag: strconv.")
	return strings.ReplaceAll(text, "\n", "; ")
}

// explain turns an error into one line that says what to do.
func (a *app) explain(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return "interrupted"
	}
	s, ok := status.FromError(err)
	if !ok {
		return oneLine(err.Error())
	}
	switch s.Code() {
	case codes.Unauthenticated:
		return fmt.Sprintf("%s: give one with --token or FOOTFALL_TOKEN", oneLine(s.Message()))
	case codes.Unavailable:
		switch text := s.Message(); {
		case strings.Contains(text, "x509:"):
			return fmt.Sprintf("the node at %s is not believed (%s): name its CA with --ca", a.node, oneLine(text))
		case strings.Contains(text, "error reading server preface"):
			return fmt.Sprintf("what answers at %s does not speak as expected (%s): name the address of gRPC (grpc.listen), as https://HOST:PORT where the node has TLS", a.node, oneLine(text))
		}
		return fmt.Sprintf("no node is ready at %s (%s): start one with 'footfall node', or name another with --node", a.node, oneLine(s.Message()))
	case codes.DeadlineExceeded:
		return fmt.Sprintf("the node at %s took too long: look at 'footfall shards' and try again", a.node)
	case codes.Unimplemented:
		return fmt.Sprintf("the node at %s does not know this call: is it of another version? (%s)", a.node, oneLine(s.Message()))
	case codes.ResourceExhausted:
		return fmt.Sprintf("the node at %s is busy: try again (%s)", a.node, oneLine(s.Message()))
	default:
		return oneLine(s.Message())
	}
}

func (a *app) close() {
	for _, c := range a.conns {
		_ = c.Close()
	}
	a.conns = nil
}

// terminal reports whether w is one, and its width.
func terminal(w io.Writer) (width int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return width, true
}

// colours reports whether output to w is coloured.
func (a *app) colours(w io.Writer) bool {
	_, ok := terminal(w)
	return ok && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

// exactArgs is cobra's, with the names of what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return usagef("%q is one argument too many", args[len(names)])
		}
		return nil
	}
}

// optionalArg are the arguments of exactArgs, of which the last may be missing.
func optionalArg(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names)-1 {
			return nil
		}
		return exactArgs(names...)(cmd, args)
	}
}

// subcommands refuses arguments of a command whose subcommands cobra has found already. later
// are those that come in a later version.
func subcommands(later ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return nil
		case slices.Contains(later, args[0]):
			return usagef("'%s %s' is not in this version", cmd.CommandPath(), args[0])
		default:
			return usagef("there is no command '%s %s'", cmd.CommandPath(), args[0])
		}
	}
}
