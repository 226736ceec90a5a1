package rabbitmq

const (
	// narrowPrefetch is how many messages, of one piece each, never need a look at what may
	// come again.
	narrowPrefetch = maxUnsettled
	// widePrefetch costs the broker less for each message. A shard may then have too many
	// pieces, and large messages too much memory.
	widePrefetch = 256
	// wideBody is the largest message, in bytes, that is small.
	wideBody = 64 << 10
	// The bridge is narrow for so many messages at first, and after each time that being wide
	// did not do. To change it costs a new channel, some milliseconds.
	narrowAtFirst, narrowAfterTrouble = 1000, 20_000
)

// width chooses how many messages the broker gives before it has an ack for the first.
type width struct {
	most int
	// left counts the messages until it is wide; 0 while it is.
	left int
}

func newWidth(shards int) width {
	// An eighth of what a shard may have, where keys are spread well, leaves room for chance.
	w := width{most: min(widePrefetch, max(narrowPrefetch, shards*maxUnsettled/4)), left: narrowAtFirst}
	return w
}

func (w *width) prefetch() int {
	if w.left > 0 {
		return narrowPrefetch
	}
	return w.most
}

// took is told of each message, and answers whether the width has changed.
func (w *width) took(body int) bool {
	if body > wideBody {
		return w.trouble()
	}
	if w.left == 0 || w.most == narrowPrefetch {
		return false
	}
	w.left--
	return w.left == 0
}

// trouble is told that wide does not do, and answers whether the width has changed.
func (w *width) trouble() bool {
	changed := w.left == 0
	w.left = narrowAfterTrouble
	return changed
}
