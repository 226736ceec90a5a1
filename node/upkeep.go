package node

import (
	"context"
	"slices"
	"time"

	"footfall/actors"
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
				n.rates.Sample(n.now(), n.working())
			}
			n.clock.Store(int32(n.shardsHost().Clock()))
			n.api.SetReady(n.Ready().Ready)
		}
	}
}

// working are the shards that are not idle: what others own says nothing of rates.
func (n *Node) working() []actors.Status {
	return slices.DeleteFunc(n.host.Status(), func(st actors.Status) bool { return st.State == actors.Idle })
}
