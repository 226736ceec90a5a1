package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"footfall/actors"
	"footfall/node/config"
)

// Versions scores with one model, of which there are versions "1" and "2" that are alike.
type Versions interface {
	actors.Scorer
	// Promote has one of them serve: it is loaded and warmed beside the other, and that is
	// unloaded then.
	Promote(ctx context.Context, version string) error
}

const (
	// settling is how many reloads the library has for what it keeps once.
	settling = 10
	// reloads is how many come then.
	reloads = 200
	// windows is how often single rows are measured with reloads beside them and without, in turn.
	windows = 8
)

// reloader has one version loaded after the other; the higher one serves at first.
type reloader struct {
	Versions
	count int
}

func (r *reloader) reload(ctx context.Context) error {
	r.count++
	return r.Promote(ctx, strconv.Itoa(2-r.count%2))
}

// reloading measures what is left in memory of versions that were loaded, and how long single rows
// take while versions come and go.
func (s *Suite) reloading(ctx context.Context, model, about string) (err error) {
	if s.Versions == nil {
		return nil
	}
	v, stop, err := s.Versions(ctx, model)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	r := &reloader{Versions: v}
	name := fmt.Sprintf("%s (%s), ", about, model)
	if err := s.kept(ctx, r, name); err != nil {
		return err
	}
	return s.beside(ctx, r, name)
}

// kept adds the row about memory.
func (s *Suite) kept(ctx context.Context, r *reloader, name string) error {
	n := s.size(reloads)
	began := time.Now()
	var before float64
	for i := range settling + n {
		if i == settling {
			var err error
			if before, err = resident(); err != nil {
				return err
			}
		}
		if err := r.reload(ctx); err != nil {
			return err
		}
	}
	after, err := resident()
	if err != nil {
		return err
	}
	s.say("  %d reloads of %.0f ms each", settling+n, time.Since(began).Seconds()*1e3/float64(settling+n))
	s.add(Row{
		Group: "inference", Name: fmt.Sprintf("%sresident memory after %d more reloads", name, n), Value: after, Unit: "MiB",
		Limit: before, Against: "after the first ten",
	}.ratioAtMost(1.05))
	return nil
}

// beside adds the row about single rows.
func (s *Suite) beside(ctx context.Context, r *reloader, name string) error {
	m := newMatrix(config.Default().InferenceRows)
	limit := 800 * time.Millisecond
	if s.Quick {
		limit /= 10
	}
	rate, err := median(3, func() (float64, error) {
		rate, _, err := scoredRate(r, m, limit)
		return rate, err
	})
	if err != nil {
		return err
	}
	var (
		all  [2][]time.Duration
		from = r.count
	)
	for range windows {
		for side := range all {
			runtime.GC() // what the other side has left is not this one's to pay
			end := func() error { return nil }
			if side == 1 {
				end = r.keep(ctx)
			}
			some, err := singles(r, m, .3*rate, s.size(4000)/windows)
			if err := errors.Join(err, end()); err != nil {
				return err
			}
			all[side] = append(all[side], some...)
		}
	}
	for side := range all {
		if len(all[side]) < 100 {
			return fmt.Errorf("only %d single rows were taken", len(all[side]))
		}
		slices.Sort(all[side])
	}
	s.say("  %d reloads beside single rows", r.count-from)
	for _, q := range []float64{.5, .99} {
		row := Row{
			Group: "inference", Name: fmt.Sprintf("%sa single row at 30%% load while another version loads and warms, p%.0f", name, q*100), Unit: "ms",
			Value: quantile(all[1], q), Limit: quantile(all[0], q), Against: "while none does, in turn",
		}
		if q > .9 {
			row = row.ratioAtMost(1.2)
		}
		s.add(row)
	}
	return nil
}

// keep reloads until end is called, which waits for the last one.
func (r *reloader) keep(ctx context.Context) (end func() error) {
	var (
		wg    sync.WaitGroup
		ended atomic.Bool
		err   error
	)
	wg.Go(func() {
		for err == nil && !ended.Load() {
			err = r.reload(ctx)
		}
	})
	return func() error {
		ended.Store(true)
		wg.Wait()
		return err
	}
}

// resident is this process's memory in MiB, after what is garbage was given back.
func resident() (float64, error) {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmRSS")
}
