package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"footfall/actors"
	"footfall/behavior"
	"footfall/messages/footfallv1"
)

// Part is what a process does for a benchmark beside others: TensorFlow's thread pools are as
// large as the first session of a process makes them, so that each size needs its own process.
type Part struct {
	// Fold and Score are what it does, as fast as it can.
	Fold, Score bool
	// Threads are what an operation of a model may use.
	Threads int
	Limit   time.Duration
}

// Done is how much a part did.
type Done struct {
	// Events and Rows are by second; Cores is the CPU time that they took, by second.
	Events, Rows, Cores float64
}

// ready is what a part writes once it can begin; it begins when it reads a line.
const ready = "ready"

// Do is the part's side: it makes ready, waits for the word on in, works, and reports on out.
func (p Part) Do(scorer actors.Scorer, in io.Reader, out io.Writer) error {
	workers := runtime.GOMAXPROCS(0)
	var raws [][][]byte
	if p.Fold {
		for i := range workers {
			m := newMaker(50_000, 100_000, 365)
			m.rnd.Uint64N(uint64(i + 1))
			one, err := encoded(m, 100_000)
			if err != nil {
				return err
			}
			raws = append(raws, one)
		}
	}
	matrix := newMatrix(1024)
	if p.Score {
		if _, err := keepScoring(scorer, matrix, once()); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, ready)
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return err
	}

	u := measure()
	on := func() bool { return time.Since(u.wall) < p.Limit }
	var (
		wg     sync.WaitGroup
		events atomic.Int64
		rows   int
		errs   [2]error
		failed atomic.Pointer[error]
	)
	for _, one := range raws {
		wg.Go(func() {
			n, err := keepFolding(one, on)
			if err != nil {
				failed.Store(&err)
			}
			events.Add(int64(n))
		})
	}
	if p.Score {
		wg.Go(func() { rows, errs[0] = keepScoring(scorer, matrix, on) })
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		errs[1] = *err
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	wall, cpu := u.since()
	return json.NewEncoder(out).Encode(Done{
		Events: perSecond(int(events.Load()), wall), Rows: perSecond(rows, wall), Cores: cpu.Seconds() / wall.Seconds(),
	})
}

// once is true for a quarter of a second: a warm-up.
func once() func() bool {
	began := time.Now()
	return func() bool { return time.Since(began) < 250*time.Millisecond }
}

// keepFolding decodes and folds events over and over while on is true, and returns how many.
func keepFolding(raws [][]byte, on func() bool) (int, error) {
	cal := behavior.NewCalendar(time.UTC)
	state := make(map[string]behavior.Record)
	var (
		ev   footfallv1.Event
		flat behavior.Event
	)
	for n := 0; ; n++ {
		if n%256 == 0 && !on() {
			return n, nil
		}
		if n%len(raws) == 0 {
			clear(state) // else the second time all of them would be duplicates
		}
		ev.ResetVT()
		if err := ev.UnmarshalVTUnsafe(raws[n%len(raws)]); err != nil {
			return n, err
		}
		if err := behavior.Flatten(&ev, &flat); err != nil {
			return n, err
		}
		old, known := state[ev.CustomerId]
		rec, _ := behavior.Apply(old, &flat, cal)
		if known {
			state[ev.CustomerId] = rec
		} else {
			state[strings.Clone(ev.CustomerId)] = rec
		}
	}
}

// Running is a part in a process of its own, which is ready.
type Running struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// StartPart starts a command that does a part, on these cores alone, and returns once it is
// ready.
func StartPart(cmd *exec.Cmd, cores []int) (*Running, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startOn(cmd, cores); err != nil {
		return nil, err
	}
	r := &Running{cmd, in, bufio.NewReader(out)}
	line, err := r.out.ReadString('\n')
	if err != nil || line != ready+"\n" {
		return nil, errors.Join(fmt.Errorf("a part of the benchmark did not get ready: %q", line), err, in.Close(), cmd.Wait())
	}
	return r, nil
}

// begin lets the part work.
func (r *Running) begin() error {
	_, err := io.WriteString(r.in, "\n")
	return err
}

// wait returns what it did.
func (r *Running) wait() (d Done, err error) {
	err = json.NewDecoder(r.out).Decode(&d)
	return d, errors.Join(err, r.in.Close(), r.cmd.Wait())
}

// startOn starts a command with a mask of cores, which a process inherits from the thread that
// starts it.
func startOn(cmd *exec.Cmd, cores []int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, mask cpuMask
	if err := before.call(syscall.SYS_SCHED_GETAFFINITY); err != nil {
		return err
	}
	for _, c := range cores {
		mask[c/64] |= 1 << (c % 64)
	}
	if err := mask.call(syscall.SYS_SCHED_SETAFFINITY); err != nil {
		return err
	}
	return errors.Join(cmd.Start(), before.call(syscall.SYS_SCHED_SETAFFINITY))
}

// cpuMask is a set of up to 1,024 cores.
type cpuMask [16]uint64

// call reads or sets the mask of the calling thread.
func (m *cpuMask) call(number uintptr) error {
	if _, _, errno := syscall.RawSyscall(number, 0, unsafe.Sizeof(*m), uintptr(unsafe.Pointer(m))); errno != 0 {
		return fmt.Errorf("cores of a process: %w", errno)
	}
	return nil
}

// cores are those that this process may use.
func cores() (all []int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var m cpuMask
	err = m.call(syscall.SYS_SCHED_GETAFFINITY)
	for c := range len(m) * 64 {
		if m[c/64]&(1<<(c%64)) != 0 {
			all = append(all, c)
		}
	}
	return all, err
}

// together has parts begin at the same time and returns what each did.
func together(parts ...*Running) ([]Done, error) {
	var errs []error
	for _, p := range parts {
		errs = append(errs, p.begin())
	}
	all := make([]Done, len(parts))
	for i, p := range parts {
		var err error
		all[i], err = p.wait()
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

// threads sweeps the threads that models have, while shards fold as fast as they can, and
// holds the best and the default against the best static split of the cores: so many for
// folding alone, the others for scoring alone.
//
// Work is counted as a share of what the whole machine does of it alone: half of the events
// and half of the rows are together 1. Where others use the machine, too, that says little;
// work by CPU time, as a share of what that does of it alone, then still tells what the two
// cost each other.
func (s *Suite) threads(ctx context.Context) error {
	if s.Part == nil {
		return nil
	}
	all, err := cores()
	if err != nil {
		return err
	}
	n := len(all)
	limit := 2 * time.Second
	if s.Quick {
		limit /= 10
	}
	run := func(what ...share) (d Done, err error) {
		var parts []*Running
		for _, w := range what {
			w.part.Limit = limit
			p, err := s.Part(ctx, w.cores, w.part)
			if err != nil {
				return d, err
			}
			parts = append(parts, p)
		}
		done, err := together(parts...)
		for _, one := range done {
			d.Events, d.Rows, d.Cores = d.Events+one.Events, d.Rows+one.Rows, d.Cores+one.Cores
		}
		return d, err
	}
	sizes := steps(n)
	type figure struct {
		name string
		what []share
		// all is work by the clock, byCPU by CPU time.
		all, byCPU []float64
	}
	var splits, ours []*figure
	for _, k := range sizes {
		if k < n {
			splits = append(splits, &figure{name: fmt.Sprintf("split: %d of %d cores score, the others fold", k, n), what: []share{
				{all[:n-k], Part{Fold: true, Threads: 1}}, {all[n-k:], Part{Score: true, Threads: k}},
			}})
		}
		ours = append(ours, &figure{name: fmt.Sprintf("one process, %d threads for models", k), what: []share{{all, Part{Fold: true, Score: true, Threads: k}}}})
	}
	// Each round measures everything once, so that a machine that others use is as slow for
	// one as for the other.
	turns := 3
	if s.Quick {
		turns = 1
	}
	for range turns {
		s.say("  threads: a round of %d runs", len(splits)+len(ours)+2)
		fold, err := run(share{all, Part{Fold: true, Threads: 1}})
		if err != nil {
			return err
		}
		score, err := run(share{all, Part{Score: true, Threads: n}})
		if err != nil {
			return err
		}
		for _, f := range slices.Concat(splits, ours) {
			d, err := run(f.what...)
			if err != nil {
				return err
			}
			f.all = append(f.all, d.Events/fold.Events+d.Rows/score.Rows)
			f.byCPU = append(f.byCPU, (d.Events/fold.Events*fold.Cores+d.Rows/score.Rows*score.Cores)/d.Cores)
		}
	}
	best, bestCPU := 0., 0.
	for _, f := range splits {
		best, bestCPU = max(best, middle(f.all)), max(bestCPU, middle(f.byCPU))
		s.add(Row{Group: "threads", Name: f.name, Value: middle(f.all), Unit: "of the machine"})
		s.add(Row{Group: "threads", Name: byCPU, Value: middle(f.byCPU), Unit: "of its CPU time"})
	}
	for i, f := range ours {
		r := Row{Group: "threads", Name: f.name, Value: middle(f.all), Unit: "of the machine", Limit: best, Against: "the best split"}
		if sizes[i] == max(1, n-1) {
			r.Name += ", as by default"
			r = r.ratioAtLeast(.85)
		}
		s.add(r)
		s.add(Row{Group: "threads", Name: byCPU, Value: middle(f.byCPU), Unit: "of its CPU time", Limit: bestCPU, Against: "the best split"})
	}
	return nil
}

const byCPU = "    the same by CPU time"

// share is a part and the cores that it has.
type share struct {
	cores []int
	part  Part
}

// steps are 1, 2, 4, … below n, and n − 1 and n.
func steps(n int) (all []int) {
	for k := 1; k < n-1; k *= 2 {
		all = append(all, k)
	}
	if n > 1 {
		all = append(all, n-1)
	}
	return append(all, n)
}
