package api

import (
	"io"
	"sync/atomic"
)

// gate bounds the bytes of requests that are being taken in. Who does not fit is turned
// away at once: a queue would only move the waiting to where nobody sees it.
//
// Invariant: 0 ≤ used ≤ limit, and used is the sum of what was entered and not left.
type gate struct {
	limit int64
	used  atomic.Int64
}

func (g *gate) enter(n int64) error {
	for {
		used := g.used.Load()
		if used+n > g.limit {
			return &OverloadError{"too many bytes are being taken in"}
		}
		if g.used.CompareAndSwap(used, used+n) {
			return nil
		}
	}
}

func (g *gate) leave(n int64) { g.used.Add(-n) }

// pass counts what is read through it as entered until leave.
type pass struct {
	io.Reader
	gate *gate
	held int64
}

func (p *pass) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n > 0 {
		if full := p.gate.enter(int64(n)); full != nil {
			return 0, full
		}
		p.held += int64(n)
	}
	return n, err
}

func (p *pass) leave() { p.gate.leave(p.held) }
