package node

import (
	"cmp"
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"footfall/inference"
	"footfall/messages/footfallv1"
	"footfall/node/finetune"
)

// openFineTuning has a node that runs models train them on.
func (n *Node) openFineTuning(reg prometheus.Registerer) error {
	if n.scoring == nil || n.scoring.missing != nil {
		return nil
	}
	m, err := finetune.NewMetrics(reg)
	if err != nil {
		return err
	}
	footfallv1.RegisterFineTuneServiceServer(n.api.GRPC, &finetune.Service{
		Node: n.cfg.Name, Layout: layout, Runner: n.scoring.config.Runner, Origin: n.scoring.origin, Publisher: newVersions{n.scoring},
		Waiting: n.scoring.waiting, Clock: inference.SystemClock(), Log: n.logger, Metrics: m,
	})
	return nil
}

// origin is the version of a model that serves, and the device with the least to do.
func (s *scoring) origin(ctx context.Context, model string) (finetune.Origin, error) {
	none := &inference.NotServingError{Model: model}
	p := s.pool.Load()
	if p == nil {
		return finetune.Origin{}, none
	}
	serving := p.Serving()
	i := slices.IndexFunc(serving, func(c *inference.Contract) bool { return c.Name == model })
	if i < 0 {
		return finetune.Origin{}, none
	}
	v, ok := s.versions.store.Registry().Version(model, serving[i].VersionString())
	if !ok {
		return finetune.Origin{}, none
	}
	dir, err := s.versions.store.Fetch(ctx, model, v)
	if err != nil {
		return finetune.Origin{}, err
	}
	devices := slices.DeleteFunc(p.Status(), func(d inference.DeviceStatus) bool { return d.State != inference.DeviceServing })
	if len(devices) == 0 {
		return finetune.Origin{}, none
	}
	least := slices.MinFunc(devices, func(a, b inference.DeviceStatus) int { return cmp.Compare(a.Load, b.Load) })
	return finetune.Origin{Contract: serving[i], Dir: dir, Device: least.Name}, nil
}

// waiting is how many rows wait for scores, and run.
func (s *scoring) waiting() (rows int) {
	if p := s.pool.Load(); p != nil {
		for _, d := range p.Status() {
			rows += d.Load
		}
	}
	return rows
}

// newVersions adds versions to where the node's models are, and has the node know of them at once.
type newVersions struct{ *scoring }

// Publish implements finetune.Publisher.
func (p newVersions) Publish(ctx context.Context, name, dir string) (string, error) {
	version, err := p.versions.store.Publish(ctx, name, dir)
	if err != nil {
		return "", err
	}
	if err := p.versions.Look(ctx); err != nil {
		p.config.Log.Warn("a new version is not served yet", "model", name, "version", version, "error", err)
	}
	return version, nil
}
