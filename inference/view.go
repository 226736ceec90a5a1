package inference

import (
	"strings"
	"sync/atomic"

	"footfall/messages/footfallv1"
)

// The states of a version, as Models shows them.
const (
	stateServing = "serving"
	stateCanary  = "canary"
	stateShadow  = "shadow"
	stateFailed  = "failed"
	stateIdle    = "idle"
)

// Models tells of every model and version in the registry how it stands on this device.
func (d *Device) Models() []*footfallv1.Model {
	return viewModels(d.Registry.Models(), d.version)
}

// viewModels tells of versions, each as view does.
func viewModels(models []Model, view func(Version) *footfallv1.ModelVersion) []*footfallv1.Model {
	var all []*footfallv1.Model
	for _, m := range models {
		one := &footfallv1.Model{Name: m.Name}
		if m.Err != nil {
			one.Versions = append(one.Versions, &footfallv1.ModelVersion{State: stateFailed, Error: m.Err.Error()})
		}
		for _, v := range m.Versions {
			one.Versions = append(one.Versions, view(v))
		}
		all = append(all, one)
	}
	return all
}

func (d *Device) version(v Version) *footfallv1.ModelVersion {
	view := &footfallv1.ModelVersion{Version: v.Name, State: stateIdle}
	err := v.Err
	c := v.Contract
	if c != nil {
		view.Description, view.Evaluation = c.Description, c.Evaluation
		err = d.failure(c)
		if d.scored != nil {
			if rows, ok := d.scored.Load(c); ok {
				view.Rows = rows.(*atomic.Uint64).Load()
			}
		}
	}
	set := d.loaded.Load()
	challenged := 0.0
	for _, ch := range set.challengers {
		share := float64(ch.limit) / float64(limitOf(1))
		switch {
		case ch.shadow && ch.contract == c:
			view.State, view.Device, view.Rows = stateShadow, d.Device, ch.rows.Load()
			return view
		case ch.contract == c:
			view.State, view.Traffic, view.Device, view.Rows = stateCanary, share, d.Device, ch.rows.Load()
			return view
		case !ch.shadow && ch.champion.contract == c:
			challenged += share
		}
	}
	for _, s := range set.champions {
		if s.contract == c {
			view.State, view.Traffic, view.Device, view.Rows = stateServing, 1-challenged, d.Device, s.rows.Load()
			return view
		}
	}
	if err != nil {
		view.State, view.Error = stateFailed, err.Error()
	}
	return view
}

// Models tells of every model and version how it stands: serving where any device serves it.
func (p *Pool) Models() []*footfallv1.Model {
	lives := p.inService()
	return viewModels(p.registered(), func(v Version) *footfallv1.ModelVersion { return p.version(v, lives) })
}

// version joins what the devices say of a version.
func (p *Pool) version(v Version, lives []*life) *footfallv1.ModelVersion {
	var view *footfallv1.ModelVersion
	var on []string
	for _, l := range lives {
		one := l.device.version(v)
		active := one.GetDevice() != ""
		if active {
			on = append(on, l.device.Device)
		}
		if view == nil || active && view.GetDevice() == "" {
			view = one
		}
	}
	if view == nil {
		view = &footfallv1.ModelVersion{Version: v.Name, State: stateFailed, Error: ErrNoDevice.Error()}
		if v.Err != nil {
			view.Error = v.Err.Error()
		}
	}
	view.Device = strings.Join(on, ",")
	return view
}
