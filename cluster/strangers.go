package cluster

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// strangers counts packets and streams of those who are not of the cluster: without its key, or
// its label. memberlist tells of them in its log alone. One line in ten seconds is kept of that:
// whoever sends them could fill the disk else.
type strangers struct {
	now   func() time.Time
	count atomic.Uint64

	mu   sync.Mutex // guards what follows
	last time.Time  // when a line was kept
}

// strangeWords are in what memberlist says of a stranger.
var strangeWords = [...]string{
	"Decrypt packet failed",
	"unacceptable label",
	"label header",
	"could decrypt the message",
	"remote state is not encrypted",
	"remote state is encrypted",
}

// refused counts a line that tells of a stranger, and reports whether it is to be left out of the log.
func (s *strangers) refused(text string) (hushed bool) {
	for _, words := range strangeWords {
		if strings.Contains(text, words) {
			s.count.Add(1)
			return s.hush()
		}
	}
	return false
}

func (s *strangers) hush() bool {
	const every = 10 * time.Second
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.IsZero() && now.Sub(s.last) < every {
		return true
	}
	s.last = now
	return false
}
