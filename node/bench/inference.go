package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"footfall/actors"
	"footfall/inference"
	"footfall/node/config"
)

// Raw runs models without anything of ours around them.
type Raw interface {
	// Open loads one model of those that the suite scores with.
	Open(ctx context.Context, model string) (inference.Session, error)
}

const (
	// askRows is how many rows a shard hands over at once.
	askRows = actors.DefaultScoreRows
	// asking is how many shards' rows just fit the queue: the others wait for their turn, as
	// those of a node offer their rows again.
	asking = 32
	// rounds is how often a figure and its limit are measured, in turn.
	rounds = 7
)

// inferenceActors measures what 64 shards get through the actors against the raw session with
// batches of the same size, and how long a single request takes on a device that has time.
func (s *Suite) inferenceActors(ctx context.Context) error {
	if s.Scorer == nil || s.Raw == nil {
		return nil
	}
	for _, m := range []struct{ name, about string }{
		{"purchase_prediction", "Dense"},
		{"purchase_sequence", "LSTM"},
	} {
		if err := s.inferenceModel(ctx, m.name, m.about); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if err := s.reloading(ctx, m.name, m.about); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

func (s *Suite) inferenceModel(ctx context.Context, model, about string) (err error) {
	session, err := s.Raw.Open(ctx, model)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	scorer, stop, err := s.Scorer(ctx, model)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	rows, delay := config.Default().InferenceRows, config.Default().InferenceDelay
	limit := 800 * time.Millisecond
	if s.Quick {
		limit /= 10
	}
	matrix := newMatrix(rows)
	var raws, ours, rawCPU, ourCPU, runs []float64
	for range rounds {
		// The better of one caller and two is the limit.
		var best, bestCPU float64
		for callers := 1; callers <= 2; callers++ {
			rate, cpu, took, err := rawRate(session, matrix, callers, limit/2)
			if err != nil {
				return err
			}
			best, bestCPU = max(best, rate), max(bestCPU, cpu)
			if callers == 1 {
				runs = append(runs, took.Seconds())
			}
		}
		rate, cpu, err := scoredRate(scorer, matrix, limit)
		if err != nil {
			return err
		}
		raws, rawCPU = append(raws, best), append(rawCPU, bestCPU)
		ours, ourCPU = append(ours, rate), append(ourCPU, cpu)
	}
	name := fmt.Sprintf("%s (%s), 64 shards through the actor", about, model)
	against := fmt.Sprintf("raw session, %d rows a run", rows)
	s.add(Row{Group: "inference", Name: name, Value: middle(ours), Unit: "rows/s", Limit: middle(raws), Against: against}.ratioAtLeast(.9))
	s.add(Row{Group: "inference", Name: "  per core", Value: middle(ourCPU), Unit: "rows/s", Limit: middle(rawCPU), Against: against + ", per core"})

	run := time.Duration(middle(runs) * float64(time.Second))
	all, err := singles(scorer, matrix, .3*middle(ours), s.size(4000))
	if err != nil {
		return err
	}
	if len(all) < 100 {
		return fmt.Errorf("only %d single rows were taken", len(all))
	}
	slices.Sort(all)
	s.add(Row{
		Group: "inference", Name: "  a single row at 30% load, p50", Value: all[len(all)/2].Seconds() * 1e3, Unit: "ms",
	})
	s.add(Row{
		Group: "inference", Name: "  a single row at 30% load, p99", Value: all[len(all)*99/100].Seconds() * 1e3, Unit: "ms",
		Limit:   (delay + run*3/2).Seconds() * 1e3,
		Against: fmt.Sprintf("max delay + 1.5 runs of %d rows (%.2f ms)", rows, run.Seconds()*1e3),
	}.ratioAtMost(1))
	return nil
}

func middle(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// matrix is rows as shards make them, about as real ones are spread: so many that no
// processor learns them by heart.
type matrix struct {
	features, sequences []float32
	// run is how many rows of it are one run.
	run  int
	next atomic.Int64
}

// matrixRows is how many rows there are.
const matrixRows = shards * askRows

func newMatrix(run int) *matrix {
	rnd := rand.New(rand.NewPCG(1, 1))
	m := &matrix{run: run, features: make([]float32, matrixRows*10), sequences: make([]float32, matrixRows*50)}
	for _, values := range [][]float32{m.features, m.sequences} {
		for i := range values {
			values[i] = float32(rnd.ExpFloat64() * 8)
		}
	}
	return m
}

// batch is the next rows of a run.
func (m *matrix) batch() inference.Batch {
	at := int(m.next.Add(1)) % (matrixRows / m.run) * m.run
	return inference.Batch{
		Rows:      m.run,
		Features:  [][]float32{m.features[at*10 : (at+m.run)*10]},
		Sequences: [][]float32{m.sequences[at*50 : (at+m.run)*50]},
	}
}

// request asks for n rows from one on.
func (m *matrix) request(at, n int, reply func(actors.ScoreReply)) *actors.ScoreRequest {
	return &actors.ScoreRequest{Rows: n, Features: m.features[at*10 : (at+n)*10], Sequences: m.sequences[at*50 : (at+n)*50], Reply: reply}
}

// rawRate runs a session over and over and returns rows a second, by the clock and of CPU time,
// and how long a run took.
func rawRate(session inference.Session, m *matrix, callers int, limit time.Duration) (rate, cpuRate float64, run time.Duration, err error) {
	var (
		wg     sync.WaitGroup
		n      atomic.Int64
		failed atomic.Pointer[error]
	)
	u := measure()
	for range callers {
		wg.Go(func() {
			out := make([]float32, m.run)
			for time.Since(u.wall) < limit {
				if err := session.Run(m.batch(), out); err != nil {
					failed.Store(&err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	wall, cpu := u.since()
	if err := failed.Load(); err != nil {
		return 0, 0, 0, *err
	}
	rows := int(n.Load()) * m.run
	return perSecond(rows, wall), perSecond(rows, cpu), wall * time.Duration(callers) / time.Duration(max(n.Load(), 1)), nil
}

// scoredRate has 64 shards score over and over, each with one request at a time.
func scoredRate(scorer actors.Scorer, m *matrix, limit time.Duration) (rate, cpuRate float64, err error) {
	u := measure()
	n, err := keepScoring(scorer, m, func() bool { return time.Since(u.wall) < limit })
	wall, cpu := u.since()
	return perSecond(n, wall), perSecond(n, cpu), err
}

// keepScoring returns how many rows 64 shards had scored while on was true.
func keepScoring(scorer actors.Scorer, m *matrix, on func() bool) (int, error) {
	var (
		wg     sync.WaitGroup
		rows   atomic.Int64
		failed atomic.Pointer[error]
		turns  = make(chan struct{}, asking)
	)
	for shard := range shards {
		wg.Go(func() {
			replies := make(chan actors.ScoreReply, 1)
			r := m.request(shard*askRows, askRows, func(r actors.ScoreReply) { replies <- r })
			for on() && failed.Load() == nil {
				turns <- struct{}{}
				if !scorer.Score(r) {
					<-turns
					err := errors.New("the queue is full, though these rows fit it")
					failed.Store(&err)
					return
				}
				reply := <-replies
				<-turns
				if reply.Err != nil {
					failed.Store(&reply.Err)
					return
				}
				rows.Add(askRows)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return int(rows.Load()), nil
}

// singles measures so many requests of one row, while 64 rows at a time come at a rate, and
// returns how long each took that was not refused. Arrivals do not wait for answers.
func singles(scorer actors.Scorer, m *matrix, rate float64, want int) ([]time.Duration, error) {
	const chunk = 64
	var (
		mu     sync.Mutex
		all    []time.Duration
		failed error
		open   sync.WaitGroup
	)
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, err)
	}
	pace := time.NewTicker(500 * time.Microsecond)
	defer pace.Stop()
	rnd := rand.New(rand.NewPCG(3, 3))
	began := time.Now()
	sent, asked := 0., 0
	next := began
	for asked < want {
		<-pace.C
		now := time.Now()
		for due := rate * now.Sub(began).Seconds(); sent < due; sent += chunk {
			open.Add(1)
			if !scorer.Score(m.request(int(sent)%(matrixRows-chunk), chunk, func(r actors.ScoreReply) {
				defer open.Done()
				if r.Err != nil {
					fail(r.Err)
				}
			})) {
				open.Done() // refused: as it is on a machine that stood still for a moment
			}
		}
		if now.Before(next) {
			continue
		}
		next = now.Add(time.Duration(rnd.ExpFloat64() * float64(2*time.Millisecond)))
		open.Add(1)
		asked++
		at := time.Now()
		if !scorer.Score(m.request(asked, 1, func(r actors.ScoreReply) {
			defer open.Done()
			took := time.Since(at)
			if r.Err != nil {
				fail(r.Err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took)
		})) {
			open.Done()
		}
	}
	open.Wait()
	return all, failed
}
