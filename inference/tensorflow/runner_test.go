package tensorflow

import (
	"context"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/galeone/tensorflow/tensorflow/go/core/framework/attr_value_go_proto"
	"github.com/galeone/tensorflow/tensorflow/go/core/framework/node_def_go_proto"
	"github.com/galeone/tensorflow/tensorflow/go/core/framework/types_go_proto"
	pb "github.com/galeone/tensorflow/tensorflow/go/core/protobuf/for_core_protos_go_proto"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"footfall/inference"
)

func TestScoresEqualKeras(t *testing.T) {
	for _, model := range []string{"dense", "lstm", "both", "segment_int32", "segment_int64", "segment_float32"} {
		t.Run(model, func(t *testing.T) {
			s, c := load(t, model), readCases(t, model)
			distinct := map[float32]bool{}
			for _, v := range c.Want {
				distinct[v] = true
			}
			require.GreaterOrEqual(t, len(distinct), 3, "rows that tell nothing apart")
			for _, size := range []int{c.Rows, 64, 7, 1} {
				have := make([]float32, c.Rows)
				for from := 0; from < c.Rows; from += size {
					to := min(from+size, c.Rows)
					require.NoError(t, s.Run(c.batch(from, to, 3), have[from:to]))
				}
				require.InDeltaSlice(t, c.Want, have, 1e-6, "batches of %d", size)
			}
		})
	}
}

func TestBothSignaturesLoad(t *testing.T) {
	c := contract("dense")
	c.Signature = "serving_default"
	c.Outputs[0].Shape = []int{-1, 1}
	s, err := newRunner(t, Options{}).Load(t.Context(), filepath.Join(models, "dense"), c, "CPU:0")
	require.NoError(t, err)
	cases := readCases(t, "dense")
	have := make([]float32, cases.Rows)
	require.NoError(t, s.Run(cases.batch(0, cases.Rows, cases.Rows), have))
	require.InDeltaSlice(t, cases.Want, have, 1e-6)
	require.NoError(t, s.Close())
}

// A model that is not what its contract says is refused in one line that names the key.
func TestContractMismatch(t *testing.T) {
	for name, test := range map[string]struct {
		model  string
		change func(*inference.Contract)
		want   string
	}{
		"signature":         {"dense", func(c *inference.Contract) { c.Signature = "score" }, `signature: the model has no "score", but __saved_model_init_op, serve, serving_default`},
		"input":             {"dense", func(c *inference.Contract) { c.Inputs[0].Tensor = "x" }, `inputs[0].tensor: signature "serve" has no input "x", but features`},
		"input shape":       {"dense", func(c *inference.Contract) { c.Inputs[0].Shape = []int{-1, 9} }, "inputs[0].shape: the contract says [-1 9], the model [-1 10]"},
		"input rank":        {"dense", func(c *inference.Contract) { c.Inputs[0].Shape = []int{-1, 10, 5} }, "inputs[0].shape: the contract says [-1 10 5], the model [-1 10]"},
		"input not fed":     {"both", func(c *inference.Contract) { c.Inputs = c.Inputs[:1] }, `inputs: the model also takes "sequence"`},
		"output":            {"dense", func(c *inference.Contract) { c.Outputs[0].Tensor = "p" }, `outputs[0].tensor: signature "serve" has no output "p", but output_0`},
		"output shape":      {"dense", func(c *inference.Contract) { c.Outputs[0].Shape = []int{-1} }, "outputs[0].shape: the contract says [-1], the model [-1 1]"},
		"output type":       {"segment_int32", func(c *inference.Contract) { c.Outputs[0].Kind = inference.Probability }, "outputs[0]: the model answers int32, which is no probability"},
		"nothing to be fed": {"dense", func(c *inference.Contract) { c.Signature = "__saved_model_init_op" }, `has no input "features", but none at all`},
	} {
		t.Run(name, func(t *testing.T) {
			c := contract(test.model)
			test.change(c)
			_, err := newRunner(t, Options{}).Load(t.Context(), filepath.Join(models, test.model), c, "CPU:0")
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

// edit returns a copy of the dense model after change.
func edit(t *testing.T, change func(dir string)) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(models, "dense"))))
	change(dir)
	return dir
}

// rewrite returns a copy of the dense model with its protobuf changed.
func rewrite(t *testing.T, change func(*pb.MetaGraphDef)) string {
	t.Helper()
	return edit(t, func(dir string) {
		saved, graph, err := readSavedModel(dir)
		require.NoError(t, err)
		change(graph)
		text, err := proto.Marshal(saved)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "saved_model.pb"), text, 0o600))
	})
}

func TestBrokenModels(t *testing.T) {
	overwrite := func(t *testing.T, path string, change func([]byte) []byte) {
		t.Helper()
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, change(text), 0o600))
	}
	for name, test := range map[string]struct {
		dir  func(t *testing.T) string
		want string
	}{
		"no folder": {func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, "saved_model.pb: no such file"},
		"no graph": {func(t *testing.T) string {
			return edit(t, func(dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "saved_model.pb"))) })
		}, "saved_model.pb: no such file"},
		"garbage": {func(t *testing.T) string {
			return edit(t, func(dir string) {
				overwrite(t, filepath.Join(dir, "saved_model.pb"), func([]byte) []byte { return []byte("this is no graph") })
			})
		}, "saved_model.pb is not a SavedModel"},
		"cut short": {func(t *testing.T) string {
			return edit(t, func(dir string) {
				overwrite(t, filepath.Join(dir, "saved_model.pb"), func(b []byte) []byte { return b[:len(b)/2] })
			})
		}, "saved_model.pb is not a SavedModel"},
		"empty": {func(t *testing.T) string {
			return edit(t, func(dir string) {
				overwrite(t, filepath.Join(dir, "saved_model.pb"), func([]byte) []byte { return nil })
			})
		}, `holds no graph with the tag "serve"`},
		"another tag": {func(t *testing.T) string {
			return rewrite(t, func(g *pb.MetaGraphDef) { g.MetaInfoDef.Tags = []string{"train"} })
		}, `holds no graph with the tag "serve"`},
		"no variables": {func(t *testing.T) string {
			return edit(t, func(dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, "variables"))) })
		}, "variables/variables.index: no such file"},
		"variables without data": {func(t *testing.T) string {
			return edit(t, func(dir string) {
				require.NoError(t, os.Remove(filepath.Join(dir, "variables", "variables.data-00000-of-00001")))
			})
		}, "variables/variables.data-00000-of-00001"},
		"variables with a flipped bit": {func(t *testing.T) string {
			return edit(t, func(dir string) {
				overwrite(t, filepath.Join(dir, "variables", "variables.data-00000-of-00001"), func(b []byte) []byte {
					b[100] ^= 4
					return b
				})
			})
		}, "Checksum does not match"},
		"variables cut short": {func(t *testing.T) string {
			return edit(t, func(dir string) {
				overwrite(t, filepath.Join(dir, "variables", "variables.data-00000-of-00001"), func(b []byte) []byte { return b[:len(b)/2] })
			})
		}, "Read less bytes than requested"},
		"index of garbage": {func(t *testing.T) string {
			return edit(t, func(dir string) {
				overwrite(t, filepath.Join(dir, "variables", "variables.index"), func(b []byte) []byte { return b[:8] })
			})
		}, "too short"},
		"unknown operation": {func(t *testing.T) string {
			return rewrite(t, func(g *pb.MetaGraphDef) { g.GraphDef.Node[0].Op = "Frobnicate" })
		}, "Frobnicate"},
		"tensor of no operation": {func(t *testing.T) string {
			return rewrite(t, func(g *pb.MetaGraphDef) {
				g.SignatureDef["serve"].Inputs["features"].Encoding = &pb.TensorInfo_Name{Name: "nowhere:0"}
			})
		}, "nowhere"},
		"tensor by no number": {func(t *testing.T) string {
			return rewrite(t, func(g *pb.MetaGraphDef) {
				g.SignatureDef["serve"].Inputs["features"].Encoding = &pb.TensorInfo_Name{Name: "serve_features:x"}
			})
		}, `"serve_features:x", which is none`},
		"output of no number": {func(t *testing.T) string {
			return rewrite(t, func(g *pb.MetaGraphDef) {
				g.SignatureDef["serve"].Outputs["output_0"].Encoding = &pb.TensorInfo_Name{Name: "StatefulPartitionedCall:7"}
			})
		}, "outputs"},
		"input of doubles": {func(t *testing.T) string {
			return rewrite(t, func(g *pb.MetaGraphDef) {
				g.SignatureDef["serve"].Inputs["features"].Dtype = types_go_proto.DataType_DT_DOUBLE
			})
		}, "inputs[0]: the model takes double, not float32"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newRunner(t, Options{}).Load(t.Context(), test.dir(t), contract("dense"), "CPU:0")
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "\n")
			require.NotContains(t, err.Error(), "footfall-model-", "the folder is not the user's")
			require.Less(t, len(err.Error()), 1000)
		})
	}
	_, err := newRunner(t, Options{}).Load(t.Context(), filepath.Join(t.TempDir(), "none"), contract("dense"), "CPU:0")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A signature that promises what the graph does not do is found when it runs.
func TestSignatureThatLies(t *testing.T) {
	dir := rewrite(t, func(g *pb.MetaGraphDef) {
		g.GraphDef.Node = append(g.GraphDef.Node, &node_def_go_proto.NodeDef{
			Name: "lie", Op: "Identity", Input: []string{"serve_features"},
			Attr: map[string]*attr_value_go_proto.AttrValue{"T": {Value: &attr_value_go_proto.AttrValue_Type{Type: types_go_proto.DataType_DT_FLOAT}}},
		})
		g.SignatureDef["serve"].Outputs["output_0"].Encoding = &pb.TensorInfo_Name{Name: "lie:0"}
	})
	s, err := newRunner(t, Options{}).Load(t.Context(), dir, contract("dense"), "CPU:0")
	require.NoError(t, err)
	err = s.Run(inference.Batch{Rows: 2, Features: [][]float32{make([]float32, 20)}}, make([]float32, 2))
	require.EqualError(t, err, "tensorflow: the model answered a tensor of shape [2 10] to 2 rows")
	require.NoError(t, s.Close())
}

// A model runs where it is pinned: a session that lacks the device refuses it.
func TestPinning(t *testing.T) {
	r, cases := newRunner(t, Options{}), readCases(t, "dense")
	for _, device := range []string{"CPU:0", "CPU:1", "CPU:3"} {
		s, err := r.Load(t.Context(), filepath.Join(models, "dense"), contract("dense"), device)
		require.NoError(t, err)
		have := make([]float32, cases.Rows)
		require.NoError(t, s.Run(cases.batch(0, cases.Rows, cases.Rows), have))
		require.InDeltaSlice(t, cases.Want, have, 1e-6)
		require.NoError(t, s.Close())
	}

	saved, graph, err := readSavedModel(filepath.Join(models, "dense"))
	require.NoError(t, err)
	pin(graph, "/device:CPU:2")
	nodes := 0
	for _, f := range graph.GetGraphDef().GetLibrary().GetFunction() {
		for _, n := range f.GetNodeDef() {
			require.Equal(t, "/device:CPU:2", n.GetDevice())
			nodes++
		}
	}
	for _, n := range graph.GetGraphDef().GetNode() {
		require.Equal(t, "/device:CPU:2", n.GetDevice())
		nodes++
	}
	require.Greater(t, nodes, 50)
	folder := t.TempDir()
	require.NoError(t, writeSavedModel(folder, filepath.Join(models, "dense"), saved))
	for device, fails := range map[string]bool{"CPU:1": true, "CPU:2": false} {
		config, err := r.config(device)
		require.NoError(t, err)
		s, err := bind(graph, contract("dense"))
		require.NoError(t, err)
		if err = s.open(folder, config); fails {
			require.ErrorContains(t, err, "CPU:2")
			continue
		}
		require.NoError(t, err)
		require.NoError(t, s.Close())
	}

	for _, device := range []string{"TPU:0", "CPU", "CPU:x", "GPU:-1", "CPU:99999", ""} {
		_, err := r.Load(t.Context(), filepath.Join(models, "dense"), contract("dense"), device)
		require.ErrorContains(t, err, "is not supported")
	}
}

func TestLoadGivesUpWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newRunner(t, Options{}).Load(ctx, filepath.Join(models, "dense"), contract("dense"), "CPU:0")
	require.ErrorIs(t, err, context.Canceled)
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{IntraOp: -1}, {IntraOp: 5000}, {InterOp: -2}, {InterOp: 5000}} {
		_, err := New(o)
		require.ErrorContains(t, err, "tensorflow: threads")
	}
	for _, gpu := range []GPU{{Memory: -.1}, {Memory: 1.1}, {Memory: math.NaN()}, {Visible: "a"}, {Visible: "1,"}} {
		_, err := New(Options{GPU: gpu})
		require.ErrorContains(t, err, "gpu")
	}
	r := newRunner(t, Options{IntraOp: 3})
	require.Equal(t, Options{IntraOp: 3, InterOp: -1}, r.options)
	require.Regexp(t, `^TensorFlow 2\.\d+\.\d+`, r.Version())
	text, err := r.config("CPU:1")
	require.NoError(t, err)
	config := new(pb.ConfigProto)
	require.NoError(t, proto.Unmarshal(text, config))
	require.EqualValues(t, 3, config.GetIntraOpParallelismThreads())
	require.EqualValues(t, -1, config.GetInterOpParallelismThreads())
	require.EqualValues(t, 2, config.GetDeviceCount()["CPU"])
	require.Contains(t, config.GetDeviceCount(), "GPU", "hidden, so that nothing of it is taken")
	require.True(t, config.GetGpuOptions().GetAllowGrowth())

	r = newRunner(t, Options{GPU: GPU{Visible: "0,2", Memory: .5, Reserve: true}})
	r.gpus = func() ([]string, error) { return []string{"GPU:0", "GPU:1"}, nil }
	text, err = r.config("GPU:1")
	require.NoError(t, err)
	config = new(pb.ConfigProto)
	require.NoError(t, proto.Unmarshal(text, config))
	require.NotContains(t, config.GetDeviceCount(), "GPU")
	require.True(t, config.GetAllowSoftPlacement())
	require.False(t, config.GetGpuOptions().GetAllowGrowth())
	require.Equal(t, "0,2", config.GetGpuOptions().GetVisibleDeviceList())
	require.InDelta(t, .5, config.GetGpuOptions().GetPerProcessGpuMemoryFraction(), 0)
}

// A machine without GPUs has none, and a model that is to run on one is refused.
func TestAccelerators(t *testing.T) {
	r := newRunner(t, Options{})
	found, err := r.Accelerators(t.Context())
	require.NoError(t, err)
	devices, err := inference.Devices(t.Context(), r, []string{"auto"})
	require.NoError(t, err)
	if len(found) > 0 {
		require.Equal(t, found, devices)
		return
	}
	require.Equal(t, []string{"CPU:0"}, devices)
	_, err = r.Load(t.Context(), filepath.Join(models, "dense"), contract("dense"), "GPU:0")
	require.ErrorContains(t, err, "device GPU:0 is not there: this process sees 0 GPUs")
}
