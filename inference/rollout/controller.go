package rollout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"time"

	"footfall/inference"
	"footfall/messages"
)

// Store keeps the states of all models for all nodes.
type Store interface {
	// Rollouts returns all, in order of model.
	Rollouts(ctx context.Context) ([]messages.Rollout, error)
	// PutRollout replaces what a generation has, 0 for nothing, by what the next one has; else *messages.GenerationError.
	PutRollout(ctx context.Context, model string, generation uint64, body []byte) error
}

// Source lists the versions that there are: [modelstore.Store].
type Source interface {
	Refresh(ctx context.Context) (r *inference.Registry, changed bool, err error)
	Registry() *inference.Registry
}

// Pool serves: [inference.Pool].
type Pool interface {
	Apply(ctx context.Context, r *inference.Registry, plan inference.Plan) error
	Failure(model, version string) error
	Champion(model string) string
	Shown() []inference.Scores
}

// Config is what a controller is made of.
type Config struct {
	Store  Store
	Source Source
	// Node names who decides.
	Node string
	// Every is how often the controller looks at store and source, jittered by a quarter: 5 s unless set.
	Every time.Duration
	// Enter is the share of the customers that a version of a higher number than any before gets by itself; 0 has it wait.
	Enter float64
	// Limits are those where a trial gives none: Defaults unless set.
	Limits Limits
	// Shown is told after each look whose scores customers are to see. It may be nil, and must not block.
	Shown func([]inference.Scores)

	Now     func() time.Time
	Metrics *Metrics
	Log     *slog.Logger
}

// Controller keeps what is decided about models, and has it served. Its methods may be called from any goroutine.
//
// A look reads what versions there are and what others have decided, decides what is due, and has the pool serve the outcome.
// Where store or source can't be read, what was known stays, and the error is counted.
type Controller struct {
	Config

	// looking is held during a look, or a change that somebody asks for.
	looking sync.Mutex
	pool    Pool
	// applied is what the pool serves by; retry that some version could not be fetched then.
	applied inference.Plan
	of      *inference.Registry
	retry   bool

	mu     sync.Mutex // guards what follows
	states map[string]State
	trials map[string]trial
}

// trial is what was found of a challenger by this node.
type trial struct {
	challenger Challenger
	comparison *inference.Comparison
}

// NewController returns one that knows nothing yet: Look.
func NewController(c Config) (*Controller, error) {
	if c.Store == nil || c.Source == nil {
		return nil, errors.New("rollout: a store and a source of versions are needed")
	}
	if c.Every == 0 {
		c.Every = 5 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Limits = c.Limits.Or(Defaults)
	if c.Metrics == nil {
		m, err := NewMetrics(nil)
		if err != nil {
			return nil, err
		}
		c.Metrics = m
	}
	return &Controller{Config: c, states: map[string]State{}, trials: map[string]trial{}}, nil
}

// Keeps reports whether a version is one that somebody may go back to or is trying: its place must stay listed.
func (c *Controller) Keeps(model, version string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.states[model]
	return ok && (s.Champion == version || s.Previous == version || s.Challenger != nil && s.Challenger.Version == version)
}

// Plan reads store and source and returns what is to serve, for the pool that is started by it. The error is the source's: without
// a store that answers, the highest versions serve.
func (c *Controller) Plan(ctx context.Context) (*inference.Registry, inference.Plan, error) {
	c.looking.Lock()
	defer c.looking.Unlock()
	c.read(ctx)
	r, _, err := c.Source.Refresh(ctx)
	if err != nil {
		return nil, nil, err
	}
	c.of, c.applied = r, c.plan()
	return r, c.applied, nil
}

// Serve names the pool.
func (c *Controller) Serve(p Pool) {
	c.looking.Lock()
	defer c.looking.Unlock()
	c.pool = p
}

// Run looks again and again until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.Look(ctx); err != nil && ctx.Err() == nil {
			c.Log.Warn("what is decided about models is not served yet", "error", err)
		}
		t := time.NewTimer(c.Every*3/4 + time.Duration(rand.Int64N(int64(c.Every/2)+1)))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// Look reads, decides and has the outcome served. The error is about the latter.
func (c *Controller) Look(ctx context.Context) error {
	c.looking.Lock()
	defer c.looking.Unlock()
	return c.look(ctx)
}

func (c *Controller) look(ctx context.Context) error {
	if _, _, err := c.Source.Refresh(ctx); err != nil {
		c.failed("registry", err)
	} else {
		c.Metrics.fine("registry")
	}
	c.read(ctx)
	c.decide(ctx)
	err := c.serve(ctx)
	if err == nil && c.decide(ctx) { // what was loaded may be broken
		err = c.serve(ctx)
	}
	if c.pool != nil && c.Shown != nil {
		c.Shown(c.pool.Shown())
	}
	c.publish()
	return err
}

// failed counts that something could not be read, and logs the first time.
func (c *Controller) failed(what string, err error) {
	if c.Metrics.failed(what) {
		c.Log.Warn("models are watched in vain: what is known stays", "what", what, "error", err)
	}
}

// read takes what is decided from the store.
func (c *Controller) read(ctx context.Context) {
	all, err := c.Store.Rollouts(ctx)
	if err != nil {
		c.failed("store", err)
		return
	}
	c.Metrics.fine("store")
	for _, r := range all {
		s, err := Decode(r.Model, r.Generation, r.Body)
		if err != nil {
			c.failed("store", err)
			continue
		}
		c.know(s)
	}
}

// know keeps a state, and begins a comparison where its challenger is new.
func (c *Controller) know(s State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states[s.Model] = s
	if s.Challenger == nil {
		delete(c.trials, s.Model)
		return
	}
	have, ok := c.trials[s.Model]
	if !ok || have.challenger.Version != s.Challenger.Version || !have.challenger.Since.Equal(s.Challenger.Since) {
		have.comparison = new(inference.Comparison)
	}
	have.challenger = *s.Challenger
	c.trials[s.Model] = have
}

// State returns what is decided about a model, as far as this node has read it.
func (c *Controller) State(model string) (State, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.states[model]
	return s, ok
}

// Figures returns what was found of a model's challenger by this node.
func (c *Controller) Figures(model string) (inference.Figures, bool) {
	c.mu.Lock()
	t, ok := c.trials[model]
	c.mu.Unlock()
	if !ok {
		return inference.Figures{}, false
	}
	return t.comparison.Figures(), true
}

// decide does what is due without anybody's asking. It reports whether anything was.
func (c *Controller) decide(ctx context.Context) (changed bool) {
	if c.pool == nil {
		return false
	}
	for _, m := range c.Source.Registry().Models() {
		next, reason, ok := c.due(m)
		if !ok {
			continue
		}
		if err := c.put(ctx, next); err != nil {
			if _, other := errors.AsType[*messages.GenerationError](err); !other { // else somebody else has decided
				c.failed("store", err)
			}
			continue
		}
		changed = true
		e := next.Events[0]
		level := slog.LevelInfo
		if reason != "" {
			level = slog.LevelWarn
			c.Metrics.rolledBack(m.Name, reason)
		}
		c.Log.Log(ctx, level, "model roll-out", "model", m.Name, "action", e.Action, "version", e.Version, "reason", e.Reason)
	}
	return changed
}

// due returns the state that is to follow, if one is, and for what reason a version is taken out.
func (c *Controller) due(m inference.Model) (next State, reason string, ok bool) {
	s, known := c.State(m.Name)
	by := By{Node: c.Node, At: c.Now()}
	if !known {
		champion := c.pool.Champion(m.Name)
		return First(m.Name, champion, by), "", champion != ""
	}
	var err error
	if ch := s.Challenger; ch != nil {
		f, _ := c.Figures(m.Name)
		v := Judge(f, ch.Limits.Or(c.Limits))
		if why := c.broken(m.Name, ch.Version); why != nil {
			v = Verdict{ReasonLoad, why.Error()}
		}
		if v.Reason == "" {
			return s, "", false
		}
		by.Reason = v.Detail
		next, err = s.Refuse(ch.Version, by)
		return next, v.Reason, err == nil
	}
	if why := c.broken(m.Name, s.Champion); why != nil && s.Previous != "" {
		by.Reason = why.Error()
		next, err = s.Refuse(s.Champion, by)
		return next, ReasonLoad, err == nil
	}
	if c.Enter <= 0 {
		return s, "", false
	}
	for _, v := range m.Versions { // the highest first
		if n, isNumber := inference.VersionNumber(v.Name); isNumber && v.Err == nil && n > s.Entered {
			by.Reason = "a new version"
			next, err = s.Enter(n, c.Enter, Limits{}, by)
			return next, "", err == nil
		}
	}
	return s, "", false
}

// broken is why a version can't be loaded, for good.
func (c *Controller) broken(model, version string) error {
	if err := c.pool.Failure(model, version); err != nil && !inference.Passing(err) {
		return err
	}
	return nil
}

// put stores a state under the next generation, and keeps it.
func (c *Controller) put(ctx context.Context, s State) error {
	body, err := s.Encode()
	if err != nil {
		return err
	}
	if err := c.Store.PutRollout(ctx, s.Model, s.Generation, body); err != nil {
		return err
	}
	s.Generation++
	c.know(s)
	return nil
}

// plan is what the states have serve.
func (c *Controller) plan() inference.Plan {
	c.mu.Lock()
	defer c.mu.Unlock()
	plan := make(inference.Plan, len(c.states))
	for name, s := range c.states {
		p := inference.ModelPlan{Champion: s.Champion, Previous: s.Previous}
		for _, r := range s.Refused {
			p.Refused = append(p.Refused, r.Version)
		}
		if ch := s.Challenger; ch != nil {
			p.Challenger = &inference.Challenger{
				Version: ch.Version, Share: ch.Share, Shadow: ch.Mode == Shadow, Comparison: c.trials[name].comparison,
			}
		}
		plan[name] = p
	}
	return plan
}

// serve has the pool serve what is decided, where that is not what it does.
func (c *Controller) serve(ctx context.Context) error {
	if c.pool == nil {
		return nil
	}
	r, plan := c.Source.Registry(), c.plan()
	if r == c.of && !c.retry && reflect.DeepEqual(plan, c.applied) {
		return nil
	}
	if err := c.pool.Apply(ctx, r, plan); err != nil {
		return err
	}
	c.of, c.applied, c.retry = r, plan, false
	for name, p := range plan {
		versions := []string{p.Champion}
		if p.Challenger != nil {
			versions = append(versions, p.Challenger.Version)
		}
		for _, v := range versions {
			if err := c.pool.Failure(name, v); err != nil && inference.Passing(err) {
				c.retry = true
			}
		}
	}
	return nil
}

// publish writes the states to the metrics.
func (c *Controller) publish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Metrics.publish(slices.Collect(maps.Values(c.states)), c.trials)
}

// Change is what somebody asks for.
type Change struct {
	// Action is canary, shadow, promote or rollback.
	Action, Model string
	// Version may be empty: what is tried already, or for a trial else the highest one.
	Version string
	// Share and Limits are a trial's.
	Share  float64
	Limits Limits
	Reason string
}

// UnknownError says that there is no such model, or no such version of it.
type UnknownError struct{ Model, Version string }

func (e *UnknownError) Error() string {
	if e.Version == "" {
		return fmt.Sprintf("there is no model %q", e.Model)
	}
	return fmt.Sprintf("there is no version %q of %s", e.Version, e.Model)
}

// Do decides what somebody asks for and has this node serve it; others follow. A version that this node can't load is refused
// with a [*inference.LoadError], and nothing changes.
//
// Errors: [*UnknownError], [*StateError], [*inference.LoadError], those of the store.
func (c *Controller) Do(ctx context.Context, change Change) (State, error) {
	c.looking.Lock()
	defer c.looking.Unlock()
	if _, _, err := c.Source.Refresh(ctx); err != nil {
		c.failed("registry", err)
	}
	for tries := 0; ; tries++ {
		c.read(ctx)
		if _, known := c.State(change.Model); !known {
			c.decide(ctx) // where nobody looks again and again, nobody has noted yet what serves
		}
		next, err := c.next(ctx, change)
		if err != nil {
			return State{}, err
		}
		err = c.put(ctx, next)
		if _, other := errors.AsType[*messages.GenerationError](err); other && tries < 5 {
			continue
		}
		if err != nil {
			return State{}, err
		}
		if change.Action == "rollback" {
			c.Metrics.rolledBack(change.Model, ReasonAsked)
		}
		c.Log.Info("model roll-out", "model", change.Model, "action", change.Action, "version", next.Events[0].Version, "reason", change.Reason)
		err = c.look(ctx)
		s, _ := c.State(change.Model)
		return s, err
	}
}

// next is the state that a change leads to.
func (c *Controller) next(ctx context.Context, change Change) (State, error) {
	i := slices.IndexFunc(c.Source.Registry().Models(), func(m inference.Model) bool { return m.Name == change.Model })
	if i < 0 {
		return State{}, &UnknownError{Model: change.Model}
	}
	m := c.Source.Registry().Models()[i]
	s, known := c.State(change.Model)
	if !known {
		return s, &StateError{change.Model, "no version serves yet: try again"}
	}
	by := By{Node: c.Node, At: c.Now(), Reason: change.Reason}
	version := change.Version
	if version == "" && s.Challenger != nil {
		version = s.Challenger.Version
	}
	trying := change.Action == string(Canary) || change.Action == string(Shadow)
	if version == "" && trying {
		for _, v := range m.Versions {
			if v.Err == nil {
				version = v.Name
				break
			}
		}
	}
	if change.Action != "rollback" && version != "" {
		if err := c.loads(ctx, m, s, version); err != nil {
			return s, err
		}
	}
	switch change.Action {
	case string(Canary), string(Shadow):
		return s.Try(version, Mode(change.Action), change.Share, change.Limits, by)
	case "promote":
		return s.Promote(version, by)
	case "rollback":
		return s.Rollback(by)
	}
	return s, &StateError{change.Model, fmt.Sprintf("there is no action %q", change.Action)}
}

// loads loads a version beside what serves, so that one that is broken is noticed before anything is decided.
func (c *Controller) loads(ctx context.Context, m inference.Model, s State, version string) error {
	v := slices.IndexFunc(m.Versions, func(v inference.Version) bool { return v.Name == version })
	if v < 0 {
		return &UnknownError{m.Name, version}
	}
	if err := m.Versions[v].Err; err != nil {
		return &inference.LoadError{Model: m.Name, Version: version, Err: err}
	}
	if c.pool == nil || version == s.Champion || s.Challenger != nil {
		return nil
	}
	plan := c.plan()
	p := plan[m.Name]
	p.Challenger = &inference.Challenger{Version: version, Shadow: true, Comparison: new(inference.Comparison)}
	plan[m.Name] = p
	if err := c.pool.Apply(ctx, c.Source.Registry(), plan); err != nil {
		return err
	}
	c.of, c.applied = c.Source.Registry(), plan
	return c.pool.Failure(m.Name, version)
}
