package rabbitmq

// recentPieces counts the pieces of each shard among the last messages, which may come again
// since their acks are not known to be written: invariant 2 of [Bridge].
type recentPieces struct {
	perShard []uint16
	// messages holds the shards of the pieces of message n at n modulo its length, which is
	// the prefetch.
	messages [][]uint16
}

func newRecentPieces(shards, prefetch int) recentPieces {
	return recentPieces{perShard: make([]uint16, shards), messages: make([][]uint16, prefetch)}
}

// add counts the pieces of the message with the next tag. It answers false, and counts none of
// them, where a shard would have more than maxUnsettled.
func (r *recentPieces) add(tag uint64, pieces []piece) bool {
	// That this message was delivered proves that the one so far before it is gone.
	slot := &r.messages[tag%uint64(len(r.messages))]
	r.forget(slot)
	for i := range pieces {
		shard := pieces[i].shard
		if r.perShard[shard] == maxUnsettled {
			r.forget(slot)
			return false
		}
		r.perShard[shard]++
		*slot = append(*slot, uint16(shard))
	}
	return true
}

func (r *recentPieces) forget(slot *[]uint16) {
	for _, shard := range *slot {
		r.perShard[shard]--
	}
	*slot = (*slot)[:0]
}
