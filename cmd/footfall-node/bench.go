package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"footfall/actors"
	"footfall/deploy/local"
	"footfall/inference"
	"footfall/inference/rollout"
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
			return startModels(ctx, *models, names, config.Default().InferenceThreads)
		},
		Raw: rawModels{*models},
		Versions: func(ctx context.Context, model string) (bench.Versions, func() error, error) {
			return startVersions(ctx, *models, model)
		},
		Part: func(ctx context.Context, cores []int, what bench.Part) (*bench.Running, error) {
			return startPart(ctx, *models, cores, what)
		},
		Node: startedNode(),
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

// startedNode is how this program is started as a node; nil where nobody knows where it is.
func startedNode() func(file string) local.Command {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	return func(file string) local.Command {
		return local.Command{Path: self, Args: []string{"--config", file}, Env: os.Environ()}
	}
}

// startModels serves only the named ones of the models in dir.
func startModels(ctx context.Context, dir string, names []string, threads int) (_ actors.Scorer, done func() error, err error) {
	return startCopies(ctx, threads, func(only string) error {
		for _, name := range names {
			if err := os.CopyFS(filepath.Join(only, name), os.DirFS(filepath.Join(dir, name))); err != nil {
				return fmt.Errorf("model %s: %w", name, err)
			}
		}
		return nil
	})
}

// twoVersions implements bench.Versions.
type twoVersions struct {
	node.Scorer
	model string
}

func (v twoVersions) Promote(ctx context.Context, version string) error {
	_, err := v.Change(ctx, rollout.Change{Action: "promote", Model: v.model, Version: version})
	return err
}

// startVersions serves the first version of a model in dir, and has a copy of it for the second.
func startVersions(ctx context.Context, dir, model string) (_ bench.Versions, done func() error, err error) {
	scorer, done, err := startCopies(ctx, config.Default().InferenceThreads, func(only string) error {
		first := filepath.Join(dir, model, "1")
		text, err := os.ReadFile(filepath.Join(first, "model.yaml"))
		if err != nil {
			return err
		}
		for _, version := range []string{"1", "2"} {
			to := filepath.Join(only, model, version)
			if err := os.CopyFS(to, os.DirFS(first)); err != nil {
				return err
			}
			yaml := bytes.Replace(text, []byte("\nversion: 1\n"), []byte("\nversion: "+version+"\n"), 1)
			if err := os.WriteFile(filepath.Join(to, "model.yaml"), yaml, 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return twoVersions{scorer, model}, done, nil
}

// startCopies serves the models that fill puts into a directory.
func startCopies(ctx context.Context, threads int, fill func(dir string) error) (_ node.Scorer, done func() error, err error) {
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
	if err := fill(only); err != nil {
		return nil, nil, err
	}
	runner, err := tensorflow.New(tensorflow.Options{IntraOp: threads})
	if err != nil {
		return nil, nil, err
	}
	scorer, stop, err := node.StartScorer(ctx, only, runner)
	if err != nil {
		return nil, nil, err
	}
	return scorer, func() error { return errors.Join(stop(), remove()) }, nil
}

// rawModels opens models without the actors around them.
type rawModels struct{ dir string }

func (m rawModels) Open(ctx context.Context, model string) (inference.Session, error) {
	dir := filepath.Join(m.dir, model, "1")
	c, err := inference.ReadContract(dir)
	if err != nil {
		return nil, err
	}
	runner, err := tensorflow.New(tensorflow.Options{IntraOp: config.Default().InferenceThreads})
	if err != nil {
		return nil, err
	}
	return runner.Load(ctx, dir, c, inference.DefaultDevice)
}

// partModels are what a part scores with: one that is cheap and one that is not.
var partModels = []string{"purchase_prediction", "purchase_sequence"}

// startPart starts this program as a part of a benchmark.
func startPart(ctx context.Context, models string, cores []int, what bench.Part) (*bench.Running, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "bench-part", "--models", models, "--threads", strconv.Itoa(what.Threads), "--limit", what.Limit.String(),
		"--fold="+strconv.FormatBool(what.Fold), "--score="+strconv.FormatBool(what.Score))
	cmd.Stderr = os.Stderr
	return bench.StartPart(cmd, cores)
}

// runPart is `footfall-node bench-part`, which only startPart calls.
func runPart(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	var what bench.Part
	flags := pflag.NewFlagSet("footfall-node bench-part", pflag.ContinueOnError)
	flags.SetOutput(out)
	models := flags.String("models", config.Default().ModelsDir, "the models")
	flags.BoolVar(&what.Fold, "fold", false, "fold events")
	flags.BoolVar(&what.Score, "score", false, "score rows")
	flags.IntVar(&what.Threads, "threads", 1, "threads of an operation")
	flags.DurationVar(&what.Limit, "limit", time.Second, "for how long")
	if err := flags.Parse(args); err != nil {
		fmt.Fprintf(errs, "footfall-node: %v\n", err)
		return exitUsage
	}
	if err := doPart(ctx, *models, what, in, out); err != nil {
		fmt.Fprintf(errs, "footfall-node: bench-part: %v\n", err)
		return exitFailed
	}
	return exitOK
}

func doPart(ctx context.Context, models string, what bench.Part, in io.Reader, out io.Writer) error {
	if !what.Score {
		return what.Do(nil, in, out)
	}
	scorer, stop, err := startModels(ctx, models, partModels, what.Threads)
	if err != nil {
		return err
	}
	return errors.Join(what.Do(scorer, in, out), stop())
}
