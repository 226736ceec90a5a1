package tensorflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	tf "github.com/galeone/tensorflow/tensorflow/go"
	pb "github.com/galeone/tensorflow/tensorflow/go/core/protobuf/for_core_protos_go_proto"
	tg "github.com/galeone/tfgo"
	"google.golang.org/protobuf/proto"

	"footfall/inference"
)

// tag is the one that exported models carry for serving.
const tag = "serve"

// Options set the library's thread pools. A process has one of either, and the first model
// that is loaded sizes them.
type Options struct {
	// IntraOp is the threads that share one operation. Unless set, all cores but one: the
	// rest of the process, above all its heartbeats, must not wait for models.
	IntraOp int
	// InterOp is the threads that run operations beside each other; IntraOp unless set.
	// Below 0, each run stays on the thread that called it.
	InterOp int
}

// Runner loads models. It may be used from several goroutines.
type Runner struct {
	options Options
	// closed is set while closed sessions may wait for the collector.
	closed atomic.Bool
}

var _ inference.Runner = (*Runner)(nil)

// New returns a runner.
func New(o Options) (*Runner, error) {
	o.IntraOp = cmp.Or(o.IntraOp, max(1, runtime.GOMAXPROCS(0)-1))
	o.InterOp = cmp.Or(o.InterOp, o.IntraOp)
	if o.IntraOp < 1 || o.IntraOp > 1024 || o.InterOp < -1 || o.InterOp > 1024 {
		return nil, fmt.Errorf("tensorflow: threads: intra-op %d and inter-op %d are not from 1 to 1024 (inter-op may be -1)", o.IntraOp, o.InterOp)
	}
	return &Runner{options: o}, nil
}

// Version names the library: "TensorFlow 2.21.0".
func (r *Runner) Version() string { return "TensorFlow " + tf.Version() }

// Load implements [inference.Runner]. Devices are "CPU:0" and so on. It first has the
// collector find the sessions that were closed: to Go they are but a pointer each, so that
// it would be in no hurry, and their memory may be what the new one needs.
func (r *Runner) Load(ctx context.Context, dir string, c *inference.Contract, device string) (inference.Session, error) {
	if r.closed.Swap(false) {
		runtime.GC()
	}
	s, err := r.load(ctx, dir, c, device)
	if err != nil {
		return nil, fmt.Errorf("tensorflow: %w", err)
	}
	return s, nil
}

func (r *Runner) load(ctx context.Context, dir string, c *inference.Contract, device string) (*session, error) {
	config, err := r.config(device)
	if err != nil {
		return nil, err
	}
	if tensorHandle.err != nil {
		return nil, tensorHandle.err
	}
	saved, graph, err := readSavedModel(dir)
	if err != nil {
		return nil, err
	}
	s, err := bind(graph, c)
	if err != nil {
		return nil, err
	}
	s.closed = &r.closed
	pin(graph, "/device:"+device)

	folder, err := os.MkdirTemp("", "footfall-model-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // what stays behind is a small file in the temporary folder
	if err := writeSavedModel(folder, dir, saved); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.open(folder, config); err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), folder, dir))
	}
	return s, nil
}

// config is the ConfigProto for sessions on a device.
func (r *Runner) config(device string) ([]byte, error) {
	kind, number, _ := strings.Cut(device, ":")
	n, err := strconv.ParseUint(number, 10, 10)
	if err != nil || kind != "CPU" {
		return nil, fmt.Errorf("device %q is not supported: CPU:0, CPU:1, ... are", device)
	}
	return proto.Marshal(&pb.ConfigProto{
		IntraOpParallelismThreads: int32(r.options.IntraOp),
		InterOpParallelismThreads: int32(r.options.InterOp),
		// The library makes this many devices of the processor, of which one is pinned to.
		DeviceCount: map[string]int32{"CPU": int32(n) + 1, "GPU": 0},
		// A model that can't be placed where it should be is an error.
		AllowSoftPlacement: false,
	})
}

// open loads the prepared folder and finds the signature's tensors in its graph.
func (s *session) open(folder string, config []byte) error {
	return caught(func() {
		s.model = tg.LoadModel(folder, []string{tag}, &tf.SessionOptions{Config: config})
		for i, in := range s.inputs {
			s.inputs[i].tensor = s.model.Op(in.operation, in.index)
		}
		s.fetches = []tf.Output{s.model.Op(s.output.operation, s.output.index)}
	})
}

// caught runs f and returns what it panics with as an error in one line: tfgo panics where
// the library refuses. Go's own panics stay panics.
func caught(f func()) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error:
			panic(p)
		case error:
			err = errors.New(oneLine(p.Error()))
		default:
			err = errors.New(oneLine(fmt.Sprint(p)))
		}
	}()
	f()
	return nil
}

// oneLine makes the library's messages, which may go on for pages about its internals, fit
// for a line of a log.
func oneLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	const most = 400
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// readSavedModel returns the file and, within it, the graph for serving.
func readSavedModel(dir string) (*pb.SavedModel, *pb.MetaGraphDef, error) {
	text, err := os.ReadFile(filepath.Join(dir, "saved_model.pb"))
	if err != nil {
		return nil, nil, err
	}
	saved := new(pb.SavedModel)
	if err := proto.Unmarshal(text, saved); err != nil {
		return nil, nil, fmt.Errorf("saved_model.pb is not a SavedModel: %w", err)
	}
	for _, g := range saved.GetMetaGraphs() {
		if tags := g.GetMetaInfoDef().GetTags(); len(tags) == 1 && tags[0] == tag {
			if g.GetSaverDef() != nil {
				// The library takes a missing file for a model that has no variables.
				if _, err := os.Stat(filepath.Join(dir, "variables", "variables.index")); err != nil {
					return nil, nil, err
				}
			}
			return saved, g, nil
		}
	}
	return nil, nil, fmt.Errorf("saved_model.pb holds no graph with the tag %q: export the model for serving", tag)
}

// writeSavedModel makes folder a SavedModel: the file as given, the rest as in dir.
func writeSavedModel(folder, dir string, saved *pb.SavedModel) error {
	text, err := proto.Marshal(saved)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "saved_model.pb"), text, 0o600); err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, part := range []string{"variables", "assets"} {
		if _, err := os.Stat(filepath.Join(dir, part)); err == nil {
			if err := os.Symlink(filepath.Join(dir, part), filepath.Join(folder, part)); err != nil {
				return err
			}
		}
	}
	return nil
}

// pin places every operation of a graph and of its functions on a device.
func pin(g *pb.MetaGraphDef, device string) {
	for _, n := range g.GetGraphDef().GetNode() {
		n.Device = device
	}
	for _, f := range g.GetGraphDef().GetLibrary().GetFunction() {
		for _, n := range f.GetNodeDef() {
			n.Device = device
		}
	}
}
