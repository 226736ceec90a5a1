package node

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"footfall/actors"
	"footfall/messages"
	"footfall/node/storage"
)

// retainEvery is how often the log is trimmed, or held against what a broker has trimmed; the
// first time is when the node is active.
const retainEvery = time.Minute

// guardedHost keeps folding a log again and trimming it apart: a history or a proof that
// lost the beginning of its log half-way would be wrong, or an error that nobody understands.
type guardedHost struct {
	*actors.Host
	// trim has a lock for each shard: folding again holds it for reading, trimming for writing.
	trim []sync.RWMutex
}

// LearnTick knows nothing of others: all shards are here.
func (*guardedHost) LearnTick(string) {}

// Verify folds a shard's log again: see actors.Host.
func (h *guardedHost) Verify(ctx context.Context, shard int) (*actors.Verified, error) {
	h.trim[shard].RLock()
	defer h.trim[shard].RUnlock()
	return h.Host.Verify(ctx, shard)
}

// History folds a customer's events again: see actors.Host.
func (h *guardedHost) History(ctx context.Context, customerID string, limit int, each func(actors.HistoryEntry) error) (bool, error) {
	lock := &h.trim[messages.ShardOf(customerID, len(h.trim))]
	lock.RLock()
	defer lock.RUnlock()
	return h.Host.History(ctx, customerID, limit, each)
}

// retention trims the log from time to time, until ctx ends.
func (n *Node) retention(ctx context.Context) error {
	select {
	case <-n.started:
	case <-ctx.Done():
		return nil
	}
	t := time.NewTicker(retainEvery)
	defer t.Stop()
	for {
		n.retain(ctx)
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// retain goes through all shards once. One that is being folded again is left for the next time.
func (n *Node) retain(ctx context.Context) {
	policy := storage.Retention{MaxAge: n.cfg.LogAge, MaxBytes: n.cfg.LogSize}
	var trimmed uint64
	for _, st := range n.host.Status() {
		if st.State != actors.Active {
			n.metrics.headroom.DeleteLabelValues(strconv.Itoa(st.Shard))
			continue
		}
		n.watchHeadroom(ctx, st)
		if st.Checkpointed == 0 {
			continue // all of its log is needed
		}
		if !n.host.trim[st.Shard].TryLock() {
			continue
		}
		count, err := n.storage.Retain(ctx, st.Shard, st.Epoch, policy, n.now())
		n.host.trim[st.Shard].Unlock()
		if ctx.Err() != nil || errors.Is(err, context.Canceled) {
			return
		}
		trimmed += count
		n.metrics.trimmed.Add(float64(count))
		if err != nil {
			n.metrics.trimErrors.Inc()
			n.logger.Error("the log could not be trimmed", "shard", st.Shard, "error", err)
		}
	}
	n.metrics.retained.Set(float64(n.now().UnixMilli()) / 1e3)
	if trimmed > 0 {
		n.logger.Info("log trimmed", "messages", trimmed)
	}
}

// watchHeadroom tells how far a shard's checkpoint is from the trimmed end of its log, and
// warns while what is not yet in a checkpoint is about to be trimmed: in the oldest quarter, since a
// broker trims an eighth at a time.
func (n *Node) watchHeadroom(ctx context.Context, st actors.Status) {
	first, next, err := n.storage.Log.Bounds(ctx, st.Shard)
	if err != nil {
		return // whoever reads the log says so
	}
	headroom := max(first, st.Checkpointed) - first
	n.metrics.headroom.WithLabelValues(strconv.Itoa(st.Shard)).Set(float64(headroom))
	if first > 0 && st.Checkpointed < next && headroom < (next-first)/4 {
		n.logger.Warn("the log is about to be trimmed past what is in a checkpoint: give it more room (log.retention), or the shard more time",
			"shard", st.Shard, "headroom_messages", headroom, "behind_messages", next-st.Checkpointed)
	}
}
