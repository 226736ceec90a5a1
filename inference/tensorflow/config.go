package tensorflow

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	tf "github.com/galeone/tensorflow/tensorflow/go"
	pb "github.com/galeone/tensorflow/tensorflow/go/core/protobuf/for_core_protos_go_proto"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"footfall/inference"
)

// Options set the library's thread pools and what it takes of GPUs. A process has one of
// each pool, and the first model that is loaded sizes them.
type Options struct {
	// IntraOp is the threads that share one operation. Unless set, all cores but one: the
	// rest of the process, above all its heartbeats, must not wait for models.
	IntraOp int
	// InterOp is the threads that run operations beside each other. Below 0, and unless set,
	// each run stays on the thread that called it: for small models the change of threads
	// costs as much as the run, and what there is to run at once are batches.
	InterOp int
	GPU     GPU
}

// GPU is what the library takes of the machine's GPUs.
type GPU struct {
	// Visible lists those that this process sees, by their numbers on the machine: "1,3",
	// which then are GPU:0 and GPU:1. Empty means all.
	Visible string
	// Memory is the share of each one's memory that may be taken, above 0 and up to 1; 0
	// leaves that to the library, which means all but what it holds to be the system's.
	Memory float64
	// Reserve has all of that taken at once, instead of as it is needed: nobody else can take
	// it then.
	Reserve bool
}

var visibleForm = regexp.MustCompile(`^([0-9]{1,3}(,[0-9]{1,3})*)?$`)

// Runner loads models. It may be used from several goroutines.
type Runner struct {
	options Options
	// gpus finds the GPUs, once.
	gpus func() ([]string, error)
}

var (
	_ inference.Runner = (*Runner)(nil)
	_ inference.Lister = (*Runner)(nil)
)

// New returns a runner.
func New(o Options) (*Runner, error) {
	o.IntraOp = cmp.Or(o.IntraOp, max(1, runtime.GOMAXPROCS(0)-1))
	o.InterOp = cmp.Or(o.InterOp, -1)
	switch {
	case o.IntraOp < 1 || o.IntraOp > 1024 || o.InterOp < -1 || o.InterOp > 1024:
		return nil, fmt.Errorf("tensorflow: threads: intra-op %d and inter-op %d are not from 1 to 1024 (inter-op may be -1)", o.IntraOp, o.InterOp)
	case !(o.GPU.Memory >= 0 && o.GPU.Memory <= 1):
		return nil, fmt.Errorf("tensorflow: gpu memory: %v is no share from 0 to 1", o.GPU.Memory)
	case !visibleForm.MatchString(o.GPU.Visible):
		return nil, fmt.Errorf("tensorflow: visible gpus: %q is no list of numbers", o.GPU.Visible)
	}
	r := &Runner{options: o}
	r.gpus = sync.OnceValues(r.findGPUs)
	return r, nil
}

// withoutTFG is RewriterConfig.disable_tfg_optimizer, which the binding does not know yet. That
// pass and a second turn of all passes find nothing in models of one function, and are half of what
// loading one costs.
var withoutTFG = protowire.AppendVarint(protowire.AppendTag(nil, 32, protowire.VarintType), 1)

// base is the ConfigProto that all sessions of the process share: the library refuses a
// second session that would have a GPU otherwise than the first one has.
func (r *Runner) base() *pb.ConfigProto {
	optimise := &pb.RewriterConfig{MetaOptimizerIterations: pb.RewriterConfig_ONE}
	optimise.ProtoReflect().SetUnknown(withoutTFG)
	return &pb.ConfigProto{
		GraphOptions:              &pb.GraphOptions{RewriteOptions: optimise},
		IntraOpParallelismThreads: int32(r.options.IntraOp),
		InterOpParallelismThreads: int32(r.options.InterOp),
		GpuOptions: &pb.GPUOptions{
			VisibleDeviceList:           r.options.GPU.Visible,
			PerProcessGpuMemoryFraction: r.options.GPU.Memory,
			AllowGrowth:                 !r.options.GPU.Reserve,
		},
	}
}

// config is the ConfigProto for sessions on a device.
func (r *Runner) config(device string) ([]byte, error) {
	kind, number, _ := strings.Cut(device, ":")
	n, err := strconv.ParseUint(number, 10, 10)
	if err != nil || kind != "CPU" && kind != "GPU" {
		return nil, fmt.Errorf("device %q is not supported: CPU:0, CPU:1, ... and GPU:0, ... are", device)
	}
	c := r.base()
	if kind == "CPU" {
		// The library makes this many devices of the processor, of which one is pinned to. A
		// model that can't be placed there is an error.
		c.DeviceCount = map[string]int32{"CPU": int32(n) + 1, "GPU": 0}
		c.AllowSoftPlacement = false
	} else {
		// Placed softly, a model would run on the processor without a word where there is no such
		// device.
		switch found, err := r.gpus(); {
		case err != nil:
			return nil, err
		case !slices.Contains(found, device):
			return nil, fmt.Errorf("device %s is not there: this process sees %d GPUs", device, len(found))
		}
		// What has no code for GPUs, such as reading variables from files, runs on the processor.
		c.DeviceCount = map[string]int32{"CPU": 1}
		c.AllowSoftPlacement = true
	}
	return proto.Marshal(c)
}

// Accelerators implements [inference.Lister]: the GPUs that the library finds and this
// process sees.
func (r *Runner) Accelerators(context.Context) ([]string, error) {
	found, err := r.gpus()
	if err != nil {
		return nil, fmt.Errorf("tensorflow: %w", err)
	}
	return found, nil
}

func (r *Runner) findGPUs() ([]string, error) {
	text, err := proto.Marshal(r.base())
	if err != nil {
		return nil, err
	}
	s, err := tf.NewSession(tf.NewGraph(), &tf.SessionOptions{Config: text})
	if err != nil {
		return nil, fmt.Errorf("listing devices: %s", oneLine(err.Error()))
	}
	defer s.Close() //nolint:errcheck // nothing was run
	devices, err := s.ListDevices()
	if err != nil {
		return nil, fmt.Errorf("listing devices: %s", oneLine(err.Error()))
	}
	var gpus []string
	for _, d := range devices {
		// "/job:localhost/replica:0/task:0/device:GPU:0"
		if _, name, found := strings.Cut(d.Name, "/device:"); found && d.Type == "GPU" {
			gpus = append(gpus, name)
		}
	}
	return gpus, nil
}
