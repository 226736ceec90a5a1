package inference

import (
	"context"
	"errors"
	"slices"
)

// goal is what should serve: a registry's versions, by a plan.
type goal struct {
	registry *Registry
	plan     Plan
}

// Apply has a plan served by all devices. Each loads and warms what is new beside what serves, one
// device after the other, so that the rest of the machine notices little; then all swap, between
// batches. A device that can't load what another one can is taken out.
//
// A version that no device can load replaces nothing: [Pool.Failure] says why. The error is
// ctx's; then everything is as it was.
func (p *Pool) Apply(ctx context.Context, r *Registry, plan Plan) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	before := p.goal.Load()
	p.goal.Store(&goal{r, plan})
	lives := p.inService()
	sets := make([]*servingSet, len(lives))
	for i, l := range lives {
		l.device.applying.Lock()
		defer l.device.applying.Unlock()
		var err error
		if sets[i], err = l.device.prepare(ctx, r, plan); err != nil {
			p.goal.Store(before)
			for j := range i {
				err = errors.Join(err, lives[j].device.discard(sets[j]))
			}
			return err
		}
	}
	var best *servingSet
	var of *Device
	for i, set := range sets {
		if best == nil || set.compare(best) > 0 {
			best, of = set, lives[i].device
		}
	}
	p.settling.Lock()
	defer p.settling.Unlock()
	for i, l := range lives {
		if err := l.device.install(sets[i]); err != nil {
			continue // it is closing
		}
		if sets[i].compare(best) < 0 {
			l.fail(l.device.short(sets[i], of, best))
		}
	}
	return nil
}

// discard closes what a device loaded for a set that is not to be.
func (d *Device) discard(set *servingSet) error {
	var errs []error
	before := d.loaded.Load()
	for _, s := range set.models {
		if !before.has(s) {
			errs = append(errs, d.close(s))
		}
	}
	return errors.Join(errs...)
}

func (s *servingSet) has(v *serving) bool { return slices.Contains(s.models, v) }

// Failure is why a version can't be loaded, where every device in service that tried it failed.
// It is a [*LoadError], or where the version can't be loaded anywhere its Version.Err.
func (p *Pool) Failure(model, version string) error {
	v, ok := p.goal.Load().registry.Version(model, version)
	if !ok {
		return nil
	}
	if v.Err != nil {
		return &LoadError{Model: model, Version: version, Err: v.Err}
	}
	var failed error
	for _, l := range p.inService() {
		err := l.device.failure(v.Contract)
		if err == nil {
			return nil
		}
		failed = err
	}
	return failed
}

// Passing reports whether a failure to load says nothing about the version, and is tried again.
func Passing(err error) bool { return passing(err) }

// Champion is the version of a model that serves by itself; empty where none does.
func (p *Pool) Champion(model string) string {
	for _, c := range p.Serving() {
		if c.Name == model {
			return c.VersionString()
		}
	}
	return ""
}

// Shown names the versions whose scores customers see on the device that serves most: champions and canaries.
func (p *Pool) Shown() []Scores {
	var best *servingSet
	for _, l := range p.inService() {
		if set := l.device.loaded.Load(); best == nil || set.compare(best) > 0 {
			best = set
		}
	}
	if best == nil {
		return nil
	}
	var all []Scores
	for _, s := range best.champions {
		all = append(all, Scores{Model: s.contract.Name, Version: s.version})
	}
	for _, c := range best.challengers {
		if !c.shadow {
			all = append(all, Scores{Model: c.contract.Name, Version: c.version})
		}
	}
	return all
}
