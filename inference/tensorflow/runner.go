package tensorflow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	tf "github.com/galeone/tensorflow/tensorflow/go"
	pb "github.com/galeone/tensorflow/tensorflow/go/core/protobuf/for_core_protos_go_proto"
	"google.golang.org/protobuf/proto"

	"footfall/inference"
)

// tag is the one that exported models carry for serving.
const tag = "serve"

// Version names the library: "TensorFlow 2.21.0".
func (r *Runner) Version() string { return "TensorFlow " + tf.Version() }

// Load implements [inference.Runner]. Devices are "CPU:0" and so on.
func (r *Runner) Load(ctx context.Context, dir string, c *inference.Contract, device string) (inference.Session, error) {
	s, err := r.load(ctx, dir, c, device, false, nil)
	if err != nil {
		return nil, fmt.Errorf("tensorflow: %w", err)
	}
	return s, nil
}

// LoadAside implements [inference.Aside].
func (r *Runner) LoadAside(ctx context.Context, dir string, c *inference.Contract, device string) (inference.Session, func(serves bool), error) {
	s, err := r.load(ctx, dir, c, device, true, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("tensorflow: %w", err)
	}
	return s, func(serves bool) { s.aside.Store(!serves) }, nil
}

// load makes a session; more, where it is set, finds further tensors in the graph.
func (r *Runner) load(ctx context.Context, dir string, c *inference.Contract, device string, aside bool,
	more func(*pb.MetaGraphDef, *inference.Contract, *session) error,
) (*session, error) {
	config, err := r.config(device)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(tensorHandle.err, graphHandle.err, savedHandle.err, sessionHandle.err, operationHandle.err); err != nil {
		return nil, err
	}
	saved, graph, err := readSavedModel(dir)
	if err != nil {
		return nil, err
	}
	s, err := bind(graph, c)
	if err != nil {
		return nil, err
	}
	if more == nil {
		prune(graph, s)
	} else if err := more(graph, c, s); err != nil {
		return nil, err
	}
	s.aside.Store(aside)
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

// open loads the prepared folder and finds the signature's tensors in its graph.
func (s *session) open(folder string, config []byte) (err error) {
	if s.model, err = openModel(folder, config, s.aside.Load()); err != nil {
		return err
	}
	err = caught(func() {
		for i, in := range s.inputs {
			s.inputs[i].tensor = s.model.Op(in.operation, in.index)
		}
		s.fetches = []tf.Output{s.model.Op(s.output.operation, s.output.index)}
	})
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
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
