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
	windows = 9
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
	// What settles late is told from what never ends by what the second half adds.
	var after [3]float64
	for i, count := range []int{settling, n / 2, n - n/2} {
		for range count {
			if err := r.reload(ctx); err != nil {
				return err
			}
		}
		var err error
		if after[i], err = resident(); err != nil {
			return err
		}
	}
	s.say("  %d reloads of %.0f ms each", settling+n, time.Since(began).Seconds()*1e3/float64(settling+n))
	s.add(Row{
		Group: "inference", Name: fmt.Sprintf("%sresident memory after %d more reloads", name, n), Value: after[2], Unit: "MiB",
		Limit: after[0], Against: "after the first ten",
	}.ratioAtMost(1.05))
	s.add(Row{Group: "inference", Name: "  the same", Value: after[2], Unit: "MiB", Limit: after[1], Against: "after half of them"})
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
	// Each window has its quantiles, and the middle ones count: what the rest of the machine does for
	// a moment is in a few of them.
	var (
		quantiles = []float64{.5, .99}
		found     [2][2][]float64 // by quantile and side
		from      = r.count
	)
	for window := range windows {
		for i := range 2 {
			side := (window + i) % 2
			runtime.GC() // what the other side has left is not this one's to pay
			end := func() error { return nil }
			if side == 1 {
				end = r.keep(ctx)
			}
			want := s.size(4500) / windows
			all, err := singles(r, m, .3*rate, want)
			if err := errors.Join(err, end()); err != nil {
				return err
			}
			if len(all) < want/2 {
				return fmt.Errorf("only %d of %d single rows were taken", len(all), want)
			}
			slices.Sort(all)
			for i, q := range quantiles {
				found[i][side] = append(found[i][side], quantile(all, q))
			}
		}
	}
	s.say("  %d reloads beside single rows", r.count-from)
	for i, q := range quantiles {
		row := Row{
			Group: "inference", Name: fmt.Sprintf("%sa single row at 30%% load while another version loads and warms, p%.0f", name, q*100), Unit: "ms",
			Value: middle(found[i][1]), Limit: middle(found[i][0]), Against: "while none does, in turn",
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
