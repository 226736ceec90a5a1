package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Host runs the shards of this process and is the way to them. All its methods may be
// called from any goroutine.
type Host struct {
	cfg    Config
	log    Log
	store  Store
	system *actor.ActorSystem
	shards []*shard

	handed handed

	stop     context.CancelFunc
	stopOnce sync.Once
	stopErr  error
	done     sync.WaitGroup
}

// Defaults of Config.
const (
	DefaultMemoryBudget    = 2 << 30
	DefaultCheckpointEvery = 10 * time.Second
	DefaultCheckpointBytes = 32 << 20
	DefaultMaxQueries      = 256
	DefaultScoreRows       = 512
)

func (c Config) withDefaults() Config {
	set := func(v *int64, to int64) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.MemoryBudget, DefaultMemoryBudget)
	set(&c.CheckpointBytes, DefaultCheckpointBytes)
	set((*int64)(&c.CheckpointEvery), int64(DefaultCheckpointEvery))
	if c.MaxQueries == 0 {
		c.MaxQueries = DefaultMaxQueries
	}
	if c.ScoreRows == 0 {
		c.ScoreRows = DefaultScoreRows
	}
	if c.Clock == footfallv1.ClockMode_CLOCK_MODE_UNSPECIFIED {
		c.Clock = footfallv1.ClockMode_CLOCK_MODE_WALL
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c *Config) validate() error {
	var faults []error
	check := func(ok bool, text string) {
		if !ok {
			faults = append(faults, errors.New(text))
		}
	}
	check(c.Node != "", "Node is empty")
	check(c.Shards > 0 && c.Shards <= messages.MaxShards, fmt.Sprintf("Shards must be from 1 to %d", messages.MaxShards))
	check(c.Location != nil, "Location is nil")
	check(c.Now != nil, "Now is nil")
	return errors.Join(faults...)
}

// maintainEvery is how often shards look at the clock.
const maintainEvery = 100 * time.Millisecond

// NewHost makes the shards; Start begins their work. scorer may be nil: nothing is scored then.
func NewHost(cfg Config, log Log, store Store, scorer Scorer) (*Host, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("actors: %w", err)
	}
	h := &Host{cfg: cfg.withDefaults(), log: log, store: store}
	h.system = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return h.cfg.Logger }))
	cal := behavior.NewCalendar(h.cfg.Location)
	turns := newTurns(h.cfg.Databases)
	for id := range h.cfg.Shards {
		s := &shard{
			id: id, cfg: &h.cfg, log: log, store: store, scorer: scorer, cal: cal,
			logger: h.cfg.Logger.With("shard", id), root: h.system.Root,
			poison: map[messages.Position]string{}, residents: newResidents(), handed: &h.handed, turns: turns,
		}
		s.status = Status{Shard: id}
		s.pid = h.system.Root.Spawn(actor.PropsFromProducer(func() actor.Actor { return s }))
		h.shards = append(h.shards, s)
	}
	if h.cfg.Metrics != nil {
		h.cfg.Metrics.host.Store(h)
	}
	return h, nil
}

// Begin begins to look after the shards that Open will open.
func (h *Host) Begin() {
	run, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	h.done.Go(func() { h.maintain(run) })
}

// Open acquires and recovers a shard of which nothing runs here. told is told of what becomes
// of it, until Drop; it is called by the shard and must not block. Nobody but the caller tries
// again once it has failed.
func (h *Host) Open(shard int, told func(Change)) { h.shards[shard].send(&start{told}) }

// Close gives a shard up, whatever it is at: it stops reading, checkpoints and is released.
// epoch is the one to be released where nothing of the shard works here, 0 for none. told
// takes the place of that of Open, and hears of Idle or Failed; after Failed the store may
// have the shard still.
func (h *Host) Close(shard int, epoch uint64, told func(Change)) {
	h.shards[shard].send(&drain{epoch: epoch, told: told, reply: make(chan error, 1)})
}

// Drop ends what runs of a shard, without a word to store or opener.
func (h *Host) Drop(shard int) { h.shards[shard].send(&drop{}) }

// Start is Begin, and opens every shard. It returns once each is active or has failed; an error
// names those that failed, and the others serve.
func (h *Host) Start(ctx context.Context) error {
	h.Begin()
	for _, s := range h.shards {
		s.send(&start{})
	}
	var failed []error
	for _, s := range h.shards {
		reply := make(chan error, 1)
		s.send(&waitActive{reply})
		select {
		case err := <-reply:
			if err != nil {
				failed = append(failed, err)
			}
		case <-ctx.Done():
			return fmt.Errorf("shards are not active yet: %w", ctx.Err())
		}
	}
	return errors.Join(failed...)
}

func (h *Host) maintain(ctx context.Context) {
	t := time.NewTicker(maintainEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			now := h.cfg.Now()
			for _, s := range h.shards {
				s.send(&maintain{now})
			}
		case <-ctx.Done():
			return
		}
	}
}

// Stop drains every shard: it stops reading, checkpoints and is released. It is idempotent
// and returns once nothing of the host runs any more, or ctx is done.
func (h *Host) Stop(ctx context.Context) error {
	h.stopOnce.Do(func() { h.stopErr = h.drain(ctx) })
	return h.stopErr
}

func (h *Host) drain(ctx context.Context) error {
	if h.stop != nil {
		h.stop()
	}
	h.done.Wait()
	replies := make([]chan error, len(h.shards))
	for i, s := range h.shards {
		replies[i] = make(chan error, 1)
		s.send(&drain{reply: replies[i]})
	}
	var errs []error
	for i, reply := range replies {
		select {
		case err := <-reply:
			if err != nil {
				errs = append(errs, fmt.Errorf("drain shard %d: %w", i, err))
			}
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("drain shard %d: %w", i, ctx.Err()))
		}
	}
	for _, s := range h.shards {
		if err := h.system.Root.StopFuture(s.pid).Wait(); err != nil {
			errs = append(errs, fmt.Errorf("stop shard %d: %w", s.id, err))
		}
		s.readers.Wait()
		s.standby.end()
	}
	h.system.Shutdown()
	return errors.Join(errs...)
}

func (h *Host) shardOf(customerID string) *shard {
	return h.shards[messages.ShardOf(customerID, h.cfg.Shards)]
}

// Shards is the number of shards.
func (h *Host) Shards() int { return h.cfg.Shards }

// Ask returns the state of a customer. Errors: *NotFoundError, *BusyError, *NotActiveError,
// or that of ctx.
func (h *Host) Ask(ctx context.Context, customerID string) (*Answer, error) {
	found, err := h.shardOf(customerID).query(ctx, []string{customerID})
	if err != nil {
		return nil, err
	}
	if found[0] == nil {
		return nil, &NotFoundError{customerID}
	}
	return found[0], nil
}

// AskMany returns the states of customers, nil where no event was ever seen.
func (h *Host) AskMany(ctx context.Context, ids []string) ([]*Answer, error) {
	byShard := map[*shard][]int{}
	for i, id := range ids {
		s := h.shardOf(id)
		byShard[s] = append(byShard[s], i)
	}
	out := make([]*Answer, len(ids))
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for s, at := range byShard {
		wg.Go(func() {
			want := make([]string, len(at))
			for i, j := range at {
				want[i] = ids[j]
			}
			found, err := s.query(ctx, want)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			for i, j := range at {
				out[j] = found[i]
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return out, nil
}

// query asks the shard, within its credit.
func (s *shard) query(ctx context.Context, ids []string) ([]*Answer, error) {
	if s.queries.Add(1) > int64(s.cfg.MaxQueries) {
		s.queries.Add(-1)
		return nil, &BusyError{s.id}
	}
	defer s.queries.Add(-1)
	span := s.beginQuery(ctx, len(ids))
	reply := make(chan answers, 1)
	s.send(&ask{ids, reply})
	select {
	case a := <-reply:
		end(span, a.err)
		return a.found, a.err
	case <-ctx.Done():
		end(span, ctx.Err())
		return nil, ctx.Err()
	}
}

// WaitFor returns once an event of a customer is applied. It knows the last 32 events of
// each customer; for an older one it waits in vain. A rejected one is *RejectedError.
func (h *Host) WaitFor(ctx context.Context, customerID, eventID string) error {
	s := h.shardOf(customerID)
	if s.queries.Add(1) > int64(s.cfg.MaxQueries) {
		s.queries.Add(-1)
		return &BusyError{s.id}
	}
	defer s.queries.Add(-1)
	reply := make(chan error, 1)
	m := &waitFor{customer: customerID, event: eventID, id: behavior.EventID(eventID), reply: reply}
	s.send(m)
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		s.send(&forgetWait{m})
		return ctx.Err()
	}
}

// NoteRejected tells of an event that was refused before it reached the log, so that
// WaitFor can say so.
func (h *Host) NoteRejected(customerID, eventID string, fault messages.Fault) {
	if customerID != "" && eventID != "" {
		h.shardOf(customerID).send(&rejected{customerID, eventID, fault})
	}
}

// CheckTime refuses an event of a shard that the fold would find too far in the future.
func (h *Host) CheckTime(shard int, timeMS int64) *messages.Fault {
	s := h.shards[shard]
	if day, ok := s.ticked(); ok {
		return checkTime(timeMS, timeLimit(s.cal, day), day)
	}
	return nil
}

// Most of a message that Append writes.
const (
	maxBatchEvents = 1000
	maxBatchBytes  = 256 << 10
)

// Append writes events of one shard to its log, in order; they must have passed the
// validator. They are accepted once it returns nil.
//
// A shard that has failed for good here takes none: *NotActiveError with the reason. Its log would,
// but nothing folds it until a person has put that right, maybe from a backup that does not have
// the event: who sends should know now, and keep it. Others publish past this door, and other nodes
// do not know: what they put into the log is accepted as ever, and folded once the shard works.
func (h *Host) Append(ctx context.Context, shard int, events []*footfallv1.Event) error {
	if len(events) == 0 {
		return nil
	}
	if st := h.shards[shard].seen(); st.State == Failed && Permanent(st.Err) {
		return &NotActiveError{Shard: shard, State: st.State, Err: st.Err}
	}
	now, count := h.cfg.Now().UnixMilli(), len(events)
	var records []messages.Record
	for len(events) > 0 {
		n, size := 0, 0
		for n < len(events) && n < maxBatchEvents && (n == 0 || size < maxBatchBytes) {
			size += events[n].SizeVT()
			n++
		}
		r := messages.Record{Type: messages.BatchRecord, FromNode: true, Time: now}
		var err error
		if r.Body, err = (&footfallv1.EventBatch{Events: events[:n]}).MarshalVT(); err != nil {
			return fmt.Errorf("encode events: %w", err)
		}
		records = append(records, r)
		events = events[n:]
	}
	began := h.cfg.Now()
	ctx, span := h.beginAppend(ctx, shard, count, records)
	err := h.log.Append(ctx, shard, records)
	if h.cfg.Metrics != nil && err == nil {
		observeTraced(h.cfg.Metrics.append, h.cfg.Now().Sub(began).Seconds(), traceOf(span))
	}
	end(span, err)
	return err
}

// ErrClock says that the cluster's clock is not driven.
var ErrClock = errors.New("the clock is wall, not driven: a tick can only be driven under a driven clock")

// Tick ends a day in every shard. It reports whether any shard did not have it yet. Events
// of the day after may follow once it has returned.
func (h *Host) Tick(ctx context.Context, date string) (appended bool, err error) {
	day, err := behavior.ParseDate(date)
	if err != nil {
		return false, &messages.Fault{Field: "date", Reason: err.Error()}
	}
	if h.Clock() != footfallv1.ClockMode_CLOCK_MODE_DRIVEN {
		return false, ErrClock
	}
	return h.each(func(s *shard) (bool, error) {
		if last, ok := s.ticked(); ok && last >= day {
			return false, nil
		}
		if err := s.appendTick(ctx, day); err != nil {
			return false, err
		}
		s.noteTick(day, true)
		return true, nil
	})
}

// SetClock changes who appends ticks, in every shard.
func (h *Host) SetClock(ctx context.Context, mode footfallv1.ClockMode) error {
	if mode != footfallv1.ClockMode_CLOCK_MODE_WALL && mode != footfallv1.ClockMode_CLOCK_MODE_DRIVEN {
		return &messages.Fault{Field: "mode", Reason: "must be wall or driven"}
	}
	_, err := h.each(func(s *shard) (bool, error) {
		c := &footfallv1.Control{Node: s.cfg.Node, Kind: &footfallv1.Control_Clock{Clock: &footfallv1.ClockChange{Mode: mode}}}
		return true, s.appendControl(ctx, c)
	})
	if err != nil {
		return err
	}
	return h.WaitIdle(ctx, false)
}

// each calls do for every shard at once and reports whether any answered true.
func (h *Host) each(do func(*shard) (bool, error)) (found bool, err error) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, s := range h.shards {
		wg.Go(func() {
			ok, err := do(s)
			mu.Lock()
			defer mu.Unlock()
			found = found || ok
			if err != nil {
				errs = append(errs, fmt.Errorf("shard %d: %w", s.id, err))
			}
		})
	}
	wg.Wait()
	return found, errors.Join(errs...)
}

// Clock is the clock as the shards have folded it.
func (h *Host) Clock() footfallv1.ClockMode {
	if c := h.shards[0].seen().Clock; c != footfallv1.ClockMode_CLOCK_MODE_UNSPECIFIED {
		return c
	}
	return h.cfg.Clock
}

// WaitIdle returns once every shard has folded all that its log held when it was called,
// and, where scored is set, every customer's newest state is scored.
func (h *Host) WaitIdle(ctx context.Context, scored bool) error {
	_, err := h.each(func(s *shard) (bool, error) { return true, h.WaitShardIdle(ctx, s.id, scored) })
	return err
}

// WaitShardIdle is WaitIdle for one shard.
func (h *Host) WaitShardIdle(ctx context.Context, shard int, scored bool) error {
	_, next, err := h.log.Bounds(ctx, shard)
	if err != nil {
		return err
	}
	reply := make(chan error, 1)
	h.shards[shard].send(&waitIdle{next, scored, reply})
	return answered(ctx, reply)
}

// Checkpoint writes one of every shard now.
func (h *Host) Checkpoint(ctx context.Context) error {
	_, err := h.each(func(s *shard) (bool, error) { return true, h.CheckpointShard(ctx, s.id) })
	return err
}

// CheckpointShard is Checkpoint for one shard.
func (h *Host) CheckpointShard(ctx context.Context, shard int) error {
	reply := make(chan error, 1)
	h.shards[shard].send(&checkpointNow{reply})
	return answered(ctx, reply)
}

// answered waits for the answer of a shard, or for ctx.
func answered(ctx context.Context, reply <-chan error) error {
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *shard) seen() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Status tells of every shard.
func (h *Host) Status() []Status {
	out := make([]Status, len(h.shards))
	for i, s := range h.shards {
		st := s.seen()
		if st.ticked {
			st.LastTick = behavior.FormatDate(st.lastTick)
		}
		if next := h.log.Seen(i); next > st.Next {
			st.Lag = next - st.Next
		}
		out[i] = st
	}
	return out
}
