// Footfall-node is one node of Footfall: it takes events in, keeps every customer's picture,
// scores them with models through TensorFlow, and answers by HTTP and gRPC.
//
// It is configured by one YAML file, the environment over it, and flags over both; --help
// lists every key, --print-config shows what they come to. The first SIGINT or SIGTERM stops
// it in order, a second one at once. SIGHUP has it read tokens and certificates again. Exit
// codes: 0 stopped in order, 1 failed or stopped at once, 2 called or configured wrongly.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // machines without a time zone database

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"footfall/inference"
	"footfall/inference/tensorflow"
	"footfall/node"
	"footfall/node/config"
	"footfall/node/tracing"
)

// version is set by the linker.
var version = "unknown"

// The exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals
		os.Exit(exitFailed)
	}()
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func run(ctx context.Context, args, environ []string, out, errs io.Writer) int {
	if len(args) > 0 && args[0] == "bench" {
		return runBench(ctx, args[1:], out, errs)
	}
	if len(args) > 0 && args[0] == "bench-part" {
		return runPart(ctx, args[1:], os.Stdin, out, errs)
	}
	flags := pflag.NewFlagSet("footfall-node", pflag.ContinueOnError)
	flags.SetOutput(out)
	file := flags.String("config", "", "YAML file (default "+config.DefaultFile+", where it exists)")
	printConfig := flags.Bool("print-config", false, "print the configuration that these flags, the environment and the file come to")
	printVersion := flags.Bool("version", false, "print the version")
	config.AddFlags(flags)
	flags.Usage = func() {
		fmt.Fprintf(out, "Runs one node of Footfall until SIGINT or SIGTERM.\n\nusage: footfall-node [flags]\n\n%s\n", flags.FlagUsagesWrapped(110))
		fmt.Fprint(out, "Each flag is a key of the file, too (--http-listen is http.listen), and a variable of the\nenvironment (FOOTFALL_HTTP_LISTEN).\n")
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(errs, "footfall-node: %v: see footfall-node --help\n", err)
		return exitUsage
	case flags.NArg() > 0:
		fmt.Fprintf(errs, "footfall-node: takes no arguments, not %q: see footfall-node --help\n", flags.Arg(0))
		return exitUsage
	case *printVersion:
		fmt.Fprintln(out, version)
		return exitOK
	}
	cfg, err := config.Load(config.Sources{File: *file, Environ: environ, Flags: flags})
	if err != nil {
		fmt.Fprintf(errs, "footfall-node: %v\n", err)
		return exitUsage
	}
	if *printConfig {
		if err := cfg.WriteYAML(out); err != nil {
			fmt.Fprintf(errs, "footfall-node: %v\n", err)
			return exitFailed
		}
		return exitOK
	}
	logger := newLogger(cfg, errs)
	if err := serve(ctx, cfg, logger); err != nil {
		logger.Error("the node failed", "error", err)
		return exitFailed
	}
	return exitOK
}

func serve(ctx context.Context, cfg *config.Config, logger *slog.Logger) error {
	var runner inference.Runner
	if cfg.Roles.Has(config.RoleInference) {
		tf, err := tensorflow.New(tensorflow.Options{
			IntraOp: cfg.InferenceThreads,
			GPU:     tensorflow.GPU{Visible: cfg.GPUVisible, Memory: gpuShare(cfg.GPUMemory), Reserve: cfg.GPUReserve},
		})
		if err != nil {
			return err
		}
		runner = tf
		logger.Info("models run with", "library", tf.Version())
	}
	n, err := node.New(node.Options{
		Config:   cfg,
		Version:  version,
		Runner:   runner,
		Logger:   logger,
		Registry: prometheus.NewRegistry(),
	})
	if err != nil {
		return err
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	defer close(again)
	defer signal.Stop(again)
	go func() {
		for range again {
			n.Reload()
		}
	}()
	return n.Run(ctx)
}

// gpuShare is the library's form of a percentage: all of it is what it takes by itself.
func gpuShare(percent int) float64 {
	if percent == 100 {
		return 0
	}
	return float64(percent) / 100
}

func newLogger(cfg *config.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo // the configuration lets only levels pass
	}
	o := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(tracing.LogHandler{Handler: slog.NewJSONHandler(w, o)})
	}
	return slog.New(tracing.LogHandler{Handler: slog.NewTextHandler(w, o)})
}
