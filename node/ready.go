package node

import (
	"context"
	"fmt"

	"footfall/actors"
	"footfall/node/api"
)

// maxReasons bounds how many shards an answer names one by one.
const maxReasons = 8

// Ready tells whether the node can do all its work now, and what is missing.
func (n *Node) Ready() api.Readiness {
	var r api.Readiness
	n.settle()
	switch n.state.Load() {
	case starting:
		r.Reasons = append(r.Reasons, "the node is starting")
	case draining:
		r.Reasons = append(r.Reasons, "the node is stopping")
	}
	if err := n.storage.Err(context.Background()); err != nil {
		r.Reasons = append(r.Reasons, err.Error())
	}
	missing := n.missingShards()
	for _, st := range missing[:min(len(missing), maxReasons)] {
		r.Reasons = append(r.Reasons, (&actors.NotActiveError{Shard: st.Shard, State: st.State, Err: st.Err}).Error())
	}
	if more := len(missing) - maxReasons; more > 0 {
		r.Reasons = append(r.Reasons, fmt.Sprintf("%d more shards are not active", more))
	}
	if n.members != nil {
		r.Reasons = append(r.Reasons, n.members.Missing()...)
	}
	r.Notes = append(r.Notes, n.access.Notes()...)
	if n.broker != nil {
		r.Notes = append(r.Notes, n.broker.Notes()...)
	}
	if n.scoring != nil {
		reasons, notes := n.scoring.reasons()
		r.Reasons = append(r.Reasons, reasons...)
		r.Notes = append(r.Notes, notes...)
	}
	if n.outsourced != nil {
		r.Notes = append(r.Notes, n.outsourced.notes()...)
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

// missingShards are those that this node should serve and does not.
func (n *Node) missingShards() (missing []actors.Status) {
	for _, st := range n.host.Status() {
		if st.State != actors.Active && (n.members == nil || n.missed(st)) {
			missing = append(missing, st)
		}
	}
	return missing
}
