package inference

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
)

// servingSet is what a batch is run with. It does not change once a batch may have it, but for
// users, which are the batches that have it: the actor counts them.
type servingSet struct {
	// champions, by name, are whose values stand for who names no version.
	champions []*serving
	// challengers run beside them.
	challengers []*challenger
	// models are all of these, in order of name, and of a model the champion first.
	models  []*serving
	tallies []tally
	users   int
}

// challenger is a version that is tried beside a champion.
type challenger struct {
	*serving
	champion   *serving
	shadow     bool
	limit      uint64 // see limitOf
	model      uint64 // see ModelHash
	comparison *Comparison
}

// challenges reports whether a version of the set is a challenger.
func (s *servingSet) challenges(v *serving) bool {
	return slices.ContainsFunc(s.challengers, func(c *challenger) bool { return c.serving == v })
}

// newSet joins what serves. Order is that of names.
func newSet(champions []*serving, challengers []*challenger, l Layout, m *Metrics) *servingSet {
	set := &servingSet{champions: champions, challengers: challengers, tallies: tallies(champions, l, m)}
	for _, s := range champions {
		set.models = append(set.models, s)
		for _, c := range challengers {
			if c.champion == s {
				set.models = append(set.models, c.serving)
			}
		}
	}
	return set
}

// serving is a version whose session is loaded.
type serving struct {
	contract *Contract
	version  string
	session  Session
	// serves is the runner's: see [Aside].
	serves func(bool)
	device *Device
	series modelSeries
	rows   *atomic.Uint64
	// failing is set from a failed run to the next good one: the log tells of each once.
	failing atomic.Bool
	// strange is set for good by the first value that can't be used.
	strange atomic.Bool
	// segments has the IDs that a value may be; nil where it is a probability.
	segments map[float32]bool
	// sets is how many sets have it that batches have or may get: the actor counts them.
	sets int
}

func newServing(c *Contract, session Session, d *Device) *serving {
	s := &serving{contract: c, version: c.VersionString(), session: session, device: d, rows: new(atomic.Uint64)}
	if c.Outputs[0].Kind == SegmentID {
		s.segments = make(map[float32]bool, len(c.Segments))
		for _, segment := range c.Segments {
			s.segments[float32(segment.ID)] = true
		}
	}
	return s
}

// warm runs the model over rows of zeros.
func (s *serving) warm(rows int) error {
	l := s.device.layout
	out := make([]float32, rows)
	err := s.session.Run(Batch{
		Rows:      rows,
		Features:  [][]float32{make([]float32, rows*l.width(Features))},
		Sequences: [][]float32{make([]float32, rows*l.width(Sequence))},
	}, out)
	if err != nil {
		return err
	}
	if row := s.wrong(out); row >= 0 {
		return s.valueError(row, out[row])
	}
	return nil
}

// wrong returns the first row whose value is not of the contract's kind, -1 if there is none.
func (s *serving) wrong(values []float32) int {
	for i, v := range values {
		if !s.usable(v) {
			return i
		}
	}
	return -1
}

func (s *serving) usable(v float32) bool {
	if s.segments != nil {
		return s.segments[v]
	}
	return v >= 0 && v <= 1
}

func (s *serving) valueError(row int, v float32) error {
	reason := "is not a probability"
	switch {
	case math.IsNaN(float64(v)) || math.IsInf(float64(v), 0):
		reason = "is not finite"
	case s.segments != nil:
		reason = "is not the id of a segment"
	}
	return &ScoreError{
		Model: s.contract.Name, Version: s.version, Device: s.device.Device, Row: row, Reason: reasonValue,
		Err: fmt.Errorf("output %s: %v %s", s.contract.Outputs[0].Name, v, reason),
	}
}

// judge returns why a request's values can't be used, and counts it.
func (s *serving) judge(values []float32, runErr error) error {
	if runErr != nil {
		s.series.errors[reasonRun].Inc()
		return &ScoreError{Model: s.contract.Name, Version: s.version, Device: s.device.Device, Row: -1, Reason: reasonRun, Err: runErr}
	}
	if row := s.wrong(values); row >= 0 {
		s.series.errors[reasonValue].Inc()
		return s.valueError(row, values[row])
	}
	return nil
}

// report logs when a model begins to fail, and when it no longer does.
func (s *serving) report(err error) {
	switch {
	case err != nil && !s.failing.Swap(true):
		s.log().Error("model fails", "error", err)
	case err == nil && s.failing.Load() && s.failing.Swap(false):
		s.log().Info("model works again")
	}
}

func (s *serving) log() *slog.Logger {
	return s.device.Log.With("model", s.contract.Name, "version", s.version, "device", s.device.Device)
}

// batch is requests that are run together. It belongs to the actor until it is sent to a
// worker, and again when it comes back; what is atomic, both use meanwhile.
type batch struct {
	device   *Device
	set      *servingSet
	requests []*Request
	rows     int
	// input is the part that runs; values and failed are by model. They are kept for their
	// memory, but the values themselves: those go to whoever asked.
	input  Batch
	values [][]float32
	failed []error
	// faulty are the models whose sessions are at fault, not the rows.
	faulty []bool

	// seconds are by model what its runs took.
	seconds []float64
	// trials are by challenger.
	trials []trial

	// weight is how often its rows are counted as inputs; 0 where others count for them.
	weight int

	// since is when the run under way began, in nanoseconds; 0 between runs. trying is the
	// challenger that runs, nil where none does.
	since  atomic.Int64
	trying atomic.Pointer[Comparison]
	// claimed is set by whoever answers the requests.
	claimed atomic.Bool
}

func (b *batch) add(r *Request) {
	b.requests = append(b.requests, r)
	b.rows += r.Rows
}

func (b *batch) reset() {
	clear(b.requests)
	clear(b.values)
	clear(b.failed)
	clear(b.faulty)
	clear(b.trials)
	b.requests, b.rows, b.set = b.requests[:0], 0, nil
	b.claimed.Store(false)
}

// claim reports whether the caller is the one to answer the requests.
func (b *batch) claim() bool { return b.claimed.CompareAndSwap(false, true) }

func (b *batch) replyAll(reply Reply) {
	for _, r := range b.requests {
		r.Reply(reply)
	}
}

// run scores the batch with every model and answers its requests. How often it allocates
// depends on models and requests, not on rows.
func (b *batch) run() {
	b.values, b.failed, b.faulty, b.seconds = b.values[:0], b.failed[:0], b.faulty[:0], b.seconds[:0]
	for m, s := range b.set.models {
		fed := func(r *Request) bool { return r.wants(b.set, s) && r.lacks(s) == nil }
		rows := 0
		for _, r := range b.requests {
			if fed(r) {
				rows += r.Rows
			}
		}
		b.values, b.failed, b.faulty = append(b.values, make([]float32, rows)), append(b.failed, nil), append(b.faulty, false)
		began := b.device.Clock.Now()
		b.eachPart(fed, func(in Batch, first int) {
			if b.failed[m] == nil && !b.claimed.Load() {
				b.failed[m] = b.timed(func() error { return s.score(in, b.values[m][first:first+in.Rows]) })
			}
		})
		b.seconds = append(b.seconds, b.device.Clock.Now().Sub(began).Seconds())
	}
	b.choose()
	b.try(false)
	fault := b.blame()
	if !b.claim() {
		return // it took too long, and somebody else has answered
	}
	b.count()
	b.answer(fault)
	b.try(true)
	for m, s := range b.set.models {
		s.report(b.failed[m])
	}
}

// timed notes how long a run of the library takes, for the actor to look after.
func (b *batch) timed(run func() error) error {
	b.since.Store(b.device.Clock.Now().UnixNano())
	defer b.since.Store(0)
	return run()
}

// blame tells whose fault failed runs are: a session that still runs the rows of warm-up is
// not at fault, those of the batch are. Where one is at fault, those that had nothing to run
// are tried as well, to tell a model's fault from the device's.
func (b *batch) blame() *DeviceError {
	var faults []error
	runs := func(s *serving) bool {
		return b.timed(func() error { return s.warm(1) }) == nil
	}
	whole := true
	for m, s := range b.set.models {
		switch {
		case b.failed[m] == nil:
			whole = whole && len(b.values[m]) == 0
		case b.claimed.Load():
		case runs(s):
			whole = false
		default:
			b.faulty[m] = true
			faults = append(faults, fmt.Errorf("%s %s: %w", s.contract.Name, s.version, b.failed[m]))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	for m, s := range b.set.models {
		if whole && b.failed[m] == nil && !b.claimed.Load() {
			whole = !runs(s)
		}
	}
	return &DeviceError{Device: b.device.Device, Reason: FaultRun, Whole: whole, Err: errors.Join(faults...)}
}

// count adds the batch's rows to what models were fed. Rows for all of them are looked at once.
func (b *batch) count() {
	if len(b.set.tallies) == 0 || b.weight == 0 {
		return
	}
	all := func(r *Request) bool { return r.Model == "" && !r.Synthetic }
	b.eachPart(all, func(in Batch, _ int) {
		for i := range b.set.tallies {
			b.set.tallies[i].count(in, "", b.weight)
		}
	})
	for _, s := range b.set.models {
		own := func(r *Request) bool { return r.Model != "" && !r.Synthetic && r.wants(b.set, s) && r.lacks(s) == nil }
		b.eachPart(own, func(in Batch, _ int) {
			for i := range b.set.tallies {
				b.set.tallies[i].count(in, s.contract.Name, b.weight)
			}
		})
	}
}

// answer gives each request its reply: what the models said, or why none of them could.
func (b *batch) answer(fault *DeviceError) {
	models := b.set.models
	// One piece of memory for the lists of all replies.
	scores := make([]Scores, 0, len(b.requests)*len(models))
	for i, r := range b.requests {
		reply := Reply{Models: scores[len(scores) : len(scores) : len(scores)+len(models)], Whole: r.Model == ""}
		scores = scores[:len(scores)+len(models)]
		for m, s := range models {
			if !r.wants(b.set, s) {
				continue
			}
			if err := r.lacks(s); err != nil {
				reply.Err = errors.Join(reply.Err, err)
				continue
			}
			own := b.values[m][:r.Rows:r.Rows]
			b.values[m] = b.values[m][r.Rows:]
			if b.faulty[m] {
				reply.Fault = fault
			}
			if err := s.judge(own, b.failed[m]); err != nil {
				reply.Err = errors.Join(reply.Err, err)
				if b.failed[m] == nil && !s.strange.Swap(true) {
					s.log().Error("model gave an unusable value: this and the next ones are counted", "error", err)
				}
				continue
			}
			s.rows.Add(uint64(r.Rows))
			s.series.rows.Add(float64(r.Rows))
			reply.Models = append(reply.Models, Scores{Model: s.contract.Name, Version: s.version, Values: own})
			if r.Model == "" {
				reply.Models = b.tried(reply.Models, s, i)
			}
		}
		switch {
		case len(models) == 0:
			reply = Reply{Err: ErrNoModel}
		case len(reply.Models) > 0:
			reply.Err = nil
		case reply.Err == nil:
			reply = Reply{Err: &NotServingError{r.Model, r.Version}}
		default:
			reply.Models = nil
		}
		r.Reply(reply)
	}
}

// score runs the model once.
func (s *serving) score(in Batch, values []float32) error {
	start := s.device.Clock.Now()
	if err := s.session.Run(in, values); err != nil {
		return err
	}
	s.series.seconds.Observe(s.device.Clock.Now().Sub(start).Seconds())
	s.series.batchRows.Observe(float64(in.Rows))
	return nil
}

// eachPart calls f with the rows of those requests in order, at most MaxRows at a time: one
// part, unless a single request has more.
func (b *batch) eachPart(of func(*Request) bool, f func(in Batch, first int)) {
	p := parts{b: b, f: f}
	for _, r := range b.requests {
		if !of(r) {
			continue
		}
		for from := 0; from < r.Rows; {
			to := min(r.Rows, from+p.room())
			p.add(r, from, to)
			from = to
		}
	}
	p.end()
}

// parts gathers rows of requests in the input of a batch, and calls f with it whenever there
// are MaxRows, and in the end with what is left. first is how many rows f had before.
type parts struct {
	b     *batch
	f     func(in Batch, first int)
	first int
}

// room is how many rows there is room for, at least one.
func (p *parts) room() int { return p.b.device.MaxRows - p.b.input.Rows }

// add adds rows of a request for which there is room.
func (p *parts) add(r *Request, from, to int) {
	in, l := &p.b.input, p.b.device.layout
	if len(r.Features) > 0 {
		n := l.width(Features)
		in.Features = append(in.Features, r.Features[from*n:to*n])
	}
	if len(r.Sequences) > 0 {
		n := l.width(Sequence)
		in.Sequences = append(in.Sequences, r.Sequences[from*n:to*n])
	}
	if in.Rows += to - from; p.room() == 0 {
		p.end()
	}
}

func (p *parts) end() {
	in := &p.b.input
	if in.Rows == 0 {
		return
	}
	p.f(*in, p.first)
	p.first += in.Rows
	clear(in.Features)
	clear(in.Sequences)
	*in = Batch{Features: in.Features[:0], Sequences: in.Sequences[:0]}
}
