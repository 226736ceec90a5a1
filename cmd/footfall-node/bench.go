package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"footfall/actors"
	"footfall/inference/tensorflow"
	"footfall/node"
	"footfall/node/bench"
	"footfall/node/config"
)

// runBench is `footfall-node bench`: it measures in this process, since only this one has
// TensorFlow, and writes the results as JSON. `footfall bench` starts it and shows them.
func runBench(ctx context.Context, args []string, out, errs io.Writer) int {
	flags := pflag.NewFlagSet("footfall-node bench", pflag.ContinueOnError)
	flags.SetOutput(out)
	results := flags.String("results", "bench/results.json", "where the results are written")
	quick := flags.Bool("quick", false, "everything ten times smaller")
	dir := flags.String("dir", "", "where logs and stores are made and removed again (default the system's temporary directory)")
	models := flags.String("models", config.Default().ModelsDir, "the models")
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(errs, "footfall-node: %v: see footfall-node bench --help\n", err)
		return exitUsage
	}
	s := &bench.Suite{
		Dir: *dir, Quick: *quick,
		Progress: func(text string) { fmt.Fprintln(errs, text) },
		Scorer: func(ctx context.Context, names ...string) (actors.Scorer, func() error, error) {
			return startModels(ctx, *models, names)
		},
	}
	if err := s.Run(ctx, flags.Args()...); err != nil {
		fmt.Fprintf(errs, "footfall-node: bench: %v\n", err)
		return exitFailed
	}
	if err := s.WriteJSON(*results, time.Now()); err != nil {
		fmt.Fprintf(errs, "footfall-node: bench: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// startModels serves only the named ones of the models in dir.
func startModels(ctx context.Context, dir string, names []string) (_ actors.Scorer, done func() error, err error) {
	only, err := os.MkdirTemp("", "bench-models-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() error { return os.RemoveAll(only) }
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	for _, name := range names {
		if err := os.CopyFS(filepath.Join(only, name), os.DirFS(filepath.Join(dir, name))); err != nil {
			return nil, nil, fmt.Errorf("model %s: %w", name, err)
		}
	}
	runner, err := tensorflow.New(tensorflow.Options{IntraOp: config.Default().InferenceThreads})
	if err != nil {
		return nil, nil, err
	}
	scorer, stop, err := node.StartScorer(ctx, only, runner)
	if err != nil {
		return nil, nil, err
	}
	return scorer, func() error { return errors.Join(stop(), remove()) }, nil
}
