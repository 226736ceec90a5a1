package inference

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// FetchError says that the files of a version can't be had now. It is tried again.
type FetchError struct{ Err error }

func (e *FetchError) Error() string { return e.Err.Error() }
func (e *FetchError) Unwrap() error { return e.Err }

// LoadError says why a version does not serve: it can't be loaded, does not run the rows of
// warm-up, or answers them with what it must not.
type LoadError struct {
	Model, Version string
	Err            error
}

func (e *LoadError) Error() string { return e.Err.Error() }
func (e *LoadError) Unwrap() error { return e.Err }

// passing reports whether a failure says nothing about the version.
func passing(err error) bool {
	_, fetch := errors.AsType[*FetchError](err)
	return fetch || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// prepare makes the set of versions that a plan has serve, of the registry's. Those that serve
// already are the same in it; others are loaded and warmed, beside what serves. A champion that
// can't be loaded leaves its model as it is. The error is ctx's.
func (d *Device) prepare(ctx context.Context, r *Registry, plan Plan) (*servingSet, error) {
	var (
		champions   []*serving
		challengers []*challenger
		fresh       []*serving
	)
	abandon := func(err error) (*servingSet, error) {
		for _, s := range fresh {
			err = errors.Join(err, d.close(s))
		}
		return nil, fmt.Errorf("inference: loading models: %w", err)
	}
	before := d.loaded.Load()
	get := func(v Version, model string) *serving {
		if before != nil {
			for _, s := range before.models {
				if s.contract == v.Contract {
					return s
				}
			}
		}
		for _, s := range fresh { // a champion that is the challenger, too
			if s.contract == v.Contract {
				return s
			}
		}
		s, err := d.try(ctx, model, v)
		if err != nil {
			return nil
		}
		fresh = append(fresh, s)
		return s
	}
	for _, m := range r.Models() {
		if m.Err != nil {
			d.Log.Error("model can't be served", "model", m.Name, "device", d.Device, "error", m.Err)
		}
		p, old := plan[m.Name], before.champion(m.Name)
		// What serves is not dropped for a list that lacks the version that should.
		_, listed := r.Version(m.Name, p.Champion)
		var champion *serving
		if old != nil && (len(m.Versions) == 0 || p.Champion != "" && !listed) {
			champion = old
		}
		for _, v := range candidates(m, p) {
			if err := ctx.Err(); err != nil {
				return abandon(context.Cause(ctx))
			}
			if champion == nil {
				champion = get(v, m.Name)
			}
			if champion == nil {
				champion = old
			}
			if champion != nil {
				break
			}
		}
		if champion == nil {
			continue
		}
		champions = append(champions, champion)
		if c := p.Challenger; c != nil && c.Version != champion.version {
			if v, ok := r.Version(m.Name, c.Version); ok {
				if err := ctx.Err(); err != nil {
					return abandon(context.Cause(ctx))
				}
				s := get(v, m.Name)
				if s != nil {
					if err := s.matches(champion); err != nil {
						d.failures.Store(v.Contract, &LoadError{Model: m.Name, Version: v.Name, Err: err})
						s = nil
					}
				}
				if s != nil {
					challengers = append(challengers, &challenger{
						serving: s, champion: champion, shadow: c.Shadow, limit: limitOf(c.Share),
						model: ModelHash(m.Name), comparison: c.Comparison,
					})
				}
			}
		}
	}
	slices.SortFunc(champions, func(a, b *serving) int { return strings.Compare(a.contract.Name, b.contract.Name) })
	set := newSet(champions, challengers, d.layout, d.Metrics)
	for _, s := range fresh {
		if !set.has(s) {
			if err := d.close(s); err != nil {
				d.Log.Warn("model version was not closed in order", "model", s.contract.Name, "version", s.version, "device", d.Device, "error", err)
			}
		}
	}
	return set, nil
}

// matches reports why what a version answers can't be compared with another's.
func (s *serving) matches(other *serving) error {
	own, others := s.contract.Outputs[0], other.contract.Outputs[0]
	if own.Kind != others.Kind {
		return fmt.Errorf("its output is a %s, and that of %s a %s", own.Kind, other.version, others.Kind)
	}
	return nil
}

// champion is a model's in the set; nil where none serves. The set may be nil.
func (s *servingSet) champion(model string) *serving {
	if s == nil {
		return nil
	}
	for _, c := range s.champions {
		if c.contract.Name == model {
			return c
		}
	}
	return nil
}

// candidates are the versions of a model that may serve, in the order in which they are tried.
func candidates(m Model, p ModelPlan) []Version {
	order := func(v Version) int {
		switch v.Name {
		case p.Champion:
			return 0
		case p.Previous:
			return 1
		}
		return 2
	}
	all := slices.DeleteFunc(slices.Clone(m.Versions), func(v Version) bool {
		return v.Name != p.Champion && (slices.Contains(p.Refused, v.Name) || p.Challenger != nil && v.Name == p.Challenger.Version)
	})
	slices.SortStableFunc(all, func(a, b Version) int { return cmp.Compare(order(a), order(b)) })
	return all
}

// try loads a version. One that failed for good is not loaded again.
func (d *Device) try(ctx context.Context, model string, v Version) (*serving, error) {
	err := v.Err
	if err == nil {
		if known, ok := d.failures.Load(v.Contract); ok && !passing(known.(error)) {
			return nil, known.(error)
		}
		var s *serving
		if s, err = d.loadVersion(ctx, model, v); err == nil {
			d.failures.Delete(v.Contract)
			d.Log.Info("model version is loaded", "model", model, "version", v.Name, "device", d.Device)
			return s, nil
		}
		err = &LoadError{Model: model, Version: v.Name, Err: err}
		d.failures.Store(v.Contract, err)
		if ctx.Err() == nil {
			d.Metrics.loadFailed(model)
		}
	}
	d.Log.Error("model version can't be served", "model", model, "version", v.Name, "device", d.Device, "error", err)
	return nil, err
}

// failure is why a version can't be loaded here.
func (d *Device) failure(c *Contract) error {
	if err, ok := d.failures.Load(c); ok {
		return err.(error)
	}
	return nil
}

// loadVersion loads a version and runs it once at either end of its batch sizes, so that
// neither the first customer pays for what the library does at a first run, nor a model
// serves that can't.
func (d *Device) loadVersion(ctx context.Context, model string, v Version) (_ *serving, err error) {
	dir := v.Dir
	if d.Fetch != nil {
		if dir, err = d.Fetch(ctx, model, v); err != nil {
			return nil, err
		}
	}
	if d.Loading != nil {
		done, err := d.Loading(model, v)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	session, serves, err := d.loadSession(ctx, dir, v.Contract)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	s := newServing(v.Contract, session, d)
	s.serves = serves
	if d.scored != nil {
		rows, _ := d.scored.LoadOrStore(v.Contract, new(atomic.Uint64))
		s.rows = rows.(*atomic.Uint64)
	}
	for _, rows := range []int{1, d.MaxRows} {
		if err := s.warm(rows); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: warm-up with %d rows: %w", dir, rows, err), session.Close())
		}
	}
	if d.Probe {
		if err := s.probe(); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: probe with rows like those of training: %w", dir, err), session.Close())
		}
	}
	s.series = d.Metrics.model(v.Contract, d.Device)
	s.serves(true)
	return s, nil
}

// loadSession has the runner load a version: aside, where others serve that customers wait for.
func (d *Device) loadSession(ctx context.Context, dir string, c *Contract) (Session, func(bool), error) {
	set := d.loaded.Load()
	if aside, ok := d.Runner.(Aside); ok && set != nil && len(set.models) > 0 {
		return aside.LoadAside(ctx, dir, c, d.Device)
	}
	session, err := d.Runner.Load(ctx, dir, c, d.Device)
	return session, func(bool) {}, err
}

// Apply has a plan served: versions that are new are loaded and warmed beside those that serve,
// which are then swapped between two batches. Batches that run end with what they have.
func (d *Device) Apply(ctx context.Context, r *Registry, plan Plan) error {
	d.applying.Lock()
	defer d.applying.Unlock()
	set, err := d.prepare(ctx, r, plan)
	if err != nil {
		return err
	}
	return d.install(set)
}

// install swaps to a set that prepare made, the last one of its calls. It returns once the next
// batch has that set.
func (d *Device) install(set *servingSet) error {
	done := make(chan struct{})
	if d.post(swap{set, done}) {
		<-done
		return nil
	}
	var errs []error
	before := d.loaded.Load()
	for _, s := range set.models {
		if !before.has(s) {
			errs = append(errs, d.close(s))
		}
	}
	return errors.Join(append(errs, ErrClosed)...)
}

// retire closes a version that nothing runs any more, beside what runs.
func (d *Device) retire(s *serving) {
	d.retiring.Go(func() {
		s.serves(false)
		if err := d.close(s); err != nil {
			d.Log.Warn("model version was not closed in order", "model", s.contract.Name, "version", s.version, "device", d.Device, "error", err)
			return
		}
		d.Log.Info("model version is unloaded", "model", s.contract.Name, "version", s.version, "device", d.Device)
	})
}

func (d *Device) close(s *serving) error {
	d.Metrics.dropModel(s.contract, d.Device)
	if err := s.session.Close(); err != nil {
		return fmt.Errorf("inference: closing %s %s: %w", s.contract.Name, s.version, err)
	}
	return nil
}
