package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"footfall/actors"
	"footfall/deploy/local"
)

// Row is one figure.
type Row struct {
	Group string `json:"group"`
	Name  string `json:"name"`
	// Value is the measurement in Unit.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Limit is what the machine can do at most, or a peer did, measured beside it; 0 for none.
	Limit float64 `json:"limit,omitempty"`
	// Against says what the limit is.
	Against string `json:"against,omitempty"`
	// Ratio is Value over Limit.
	Ratio float64 `json:"ratio,omitempty"`
	// Target says what was wanted: "≥ 0.50 ratio", "≤ 2 ms"; Met whether it is so.
	Target string `json:"target,omitempty"`
	Met    *bool  `json:"met,omitempty"`
}

// Suite runs benchmarks and keeps their rows.
type Suite struct {
	// Dir is where logs and stores are made; what is made there is removed.
	Dir string
	// Quick makes everything about ten times smaller: to see that it works, not to quote.
	Quick bool
	// Progress is told what runs now.
	Progress func(text string)
	// Scorer starts models by name; nil where the process has no TensorFlow.
	Scorer func(ctx context.Context, models ...string) (actors.Scorer, func() error, error)
	// Raw runs models by themselves; nil where Scorer is.
	Raw Raw
	// Versions starts two versions of one model; nil where Scorer is.
	Versions func(ctx context.Context, model string) (Versions, func() error, error)
	// Part starts a part of a benchmark in a process of its own, on these cores alone; nil
	// where that can't be done.
	Part func(ctx context.Context, cores []int, what Part) (*Running, error)
	// Node is the command that is a node with a configuration file; nil where there is none.
	Node   func(config string) local.Command
	Logger *slog.Logger

	Rows []Row
}

// benchmarks are all there are, in the order in which they run.
var benchmarks = []struct {
	name, about string
	run         func(*Suite, context.Context) error
}{
	{"decode", "protobuf decoders over the benchmark's event", (*Suite).decode},
	{"fold", "decoding and folding in a plain loop: the limit", (*Suite).foldLoop},
	{"ingest", "through durable log, shards and checkpoints", (*Suite).ingest},
	{"peer-stream", "the peer stream through the shards, and through the durable log", (*Suite).peerStream},
	{"memory", "a million resident customers", (*Suite).memory},
	{"query", "queries while events are taken in", (*Suite).query},
	{"telemetry", "ingest with and without telemetry; a scrape", (*Suite).telemetry},
	{"recovery", "refolding a log; starting with a million customers", (*Suite).recovery},
	{"inference", "models through the actors; single requests; versions that come and go", (*Suite).inferenceActors},
	{"threads", "folding and scoring together, by the threads that scoring has", (*Suite).threads},
	{"rabbitmq", "the log on RabbitMQ streams", (*Suite).rabbitMQ},
	{"cluster", "three nodes against one; queries that are passed on; nodes that come, go and are killed", (*Suite).cluster},
	{"operate", "draining a node and restoring a backup, of a million customers", (*Suite).operate},
}

// Names lists the benchmarks with what they measure.
func Names() [][2]string {
	var out [][2]string
	for _, b := range benchmarks {
		out = append(out, [2]string{b.name, b.about})
	}
	return out
}

// Run runs the named benchmarks, or all.
func (s *Suite) Run(ctx context.Context, names ...string) error {
	for _, name := range names {
		if !slices.ContainsFunc(Names(), func(n [2]string) bool { return n[0] == name }) {
			var known []string
			for _, n := range Names() {
				known = append(known, n[0])
			}
			return fmt.Errorf("there is no benchmark %q: choose from %s", name, strings.Join(known, ", "))
		}
	}
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	for _, b := range benchmarks {
		if len(names) > 0 && !slices.Contains(names, b.name) {
			continue
		}
		s.say("%s: %s", b.name, b.about)
		runtime.GC()
		if err := b.run(s, ctx); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	return nil
}

func (s *Suite) say(format string, args ...any) {
	if s.Progress != nil {
		s.Progress(fmt.Sprintf(format, args...))
	}
}

// size is n, or a tenth of it in a quick run.
func (s *Suite) size(n int) int {
	if s.Quick {
		return max(n/10, 1)
	}
	return n
}

// dir makes a directory that remove takes away again.
func (s *Suite) dir(name string) (path string, remove func(), err error) {
	path, err = os.MkdirTemp(s.Dir, "bench-"+name+"-")
	return path, func() { _ = os.RemoveAll(path) }, err
}

// add keeps a row with its ratio.
func (s *Suite) add(r Row) {
	if r.Limit > 0 {
		r.Ratio = r.Value / r.Limit
	}
	s.Rows = append(s.Rows, r)
}

// atLeast and atMost state a target on a value.
func (r Row) atLeast(v float64, target string) Row { return r.target(r.Value >= v, "≥ "+target) }
func (r Row) atMost(v float64, target string) Row  { return r.target(r.Value <= v, "≤ "+target) }

// ratioAtLeast and ratioAtMost state a target on the ratio.
func (r Row) ratioAtLeast(v float64) Row {
	return r.target(r.Value/r.Limit >= v, fmt.Sprintf("≥ %.2f of it", v))
}

func (r Row) ratioAtMost(v float64) Row {
	return r.target(r.Value/r.Limit <= v, fmt.Sprintf("≤ %.2f of it", v))
}

func (r Row) target(met bool, text string) Row {
	if r.Target != "" {
		met, text = met && *r.Met, r.Target+", "+text
	}
	r.Target, r.Met = text, &met
	return r
}

// Results is what is written as JSON.
type Results struct {
	Time    time.Time `json:"time"`
	Machine Machine   `json:"machine"`
	Quick   bool      `json:"quick"`
	Rows    []Row     `json:"rows"`
}

// Machine says where the figures come from.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Go     string `json:"go"`
}

// ThisMachine describes the machine.
func ThisMachine() Machine {
	m := Machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				m.CPU = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
				break
			}
		}
	}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		m.Memory = fmt.Sprintf("%d GiB", (uint64(info.Totalram)*uint64(info.Unit)+1<<29)>>30)
	}
	return m
}

// WriteJSON writes the results to a file, whole or not at all.
func (s *Suite) WriteJSON(path string, now time.Time) error {
	b, err := json.MarshalIndent(Results{Time: now, Machine: ThisMachine(), Quick: s.Quick, Rows: s.Rows}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// usage is what the process has used so far.
type usage struct {
	wall time.Time
	cpu  time.Duration
}

func measure() usage {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return usage{time.Now(), time.Duration(r.Utime.Nano() + r.Stime.Nano())}
}

// since returns the wall and CPU time since u.
func (u usage) since() (wall, cpu time.Duration) {
	v := measure()
	return v.wall.Sub(u.wall), v.cpu - u.cpu
}

func perSecond(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }

// median runs do n times and returns the median of its figures.
func median(n int, do func() (float64, error)) (float64, error) {
	var all []float64
	for range n {
		v, err := do()
		if err != nil {
			return 0, err
		}
		all = append(all, v)
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}
