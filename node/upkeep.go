package node

import (
	"context"
	"time"
)

// upkeepEvery is how often rates are sampled, and readiness is told to gRPC's health service.
const upkeepEvery = time.Second

// upkeep does what has to be done all the time, until ctx ends.
func (n *Node) upkeep(ctx context.Context) error {
	t := time.NewTicker(upkeepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if n.state.Load() == active {
				n.rates.Sample(n.now(), n.host.Status())
			}
			n.api.SetReady(n.Ready().Ready)
		}
	}
}
