package inference

import (
	"math"
	"sync"
)

// Bins of [Figures]: a probability falls into one of twenty equally wide ones, a segment into
// that of its number.
const scoreBins = 20

// Figures are what a challenger and the champion said of the same rows.
type Figures struct {
	// Rows have values of both. Errors are those of which only the challenger gave none.
	Rows, Errors uint64
	// Runs are those of the challenger that gave values, beside one of the champion. Seconds are
	// what these took, and ChampionSeconds those of the champion, which had at least as many rows.
	Runs                     uint64
	Seconds, ChampionSeconds float64
	// Hangs are runs that took longer than a run may.
	Hangs uint64
	// Difference adds up the challenger's value less the champion's, Absolute without the sign.
	// Of segments Absolute counts the rows of which they differ.
	Difference, Absolute float64
	// Bins and ChampionBins count the values.
	Bins, ChampionBins [scoreBins]uint64
}

// Shift is the population stability index of the challenger's values against the champion's: 0
// where they are spread alike; .25 is much. A bin without values counts as half of one.
func (f *Figures) Shift() float64 {
	if f.Rows == 0 {
		return 0
	}
	psi, n := 0., float64(f.Rows)+scoreBins/2
	for i := range f.Bins {
		p, q := (float64(f.Bins[i])+.5)/n, (float64(f.ChampionBins[i])+.5)/n
		psi += (p - q) * math.Log(p/q)
	}
	return psi
}

// ErrorShare is the share of rows that the challenger gave no values for.
func (f *Figures) ErrorShare() float64 {
	if f.Errors == 0 {
		return 0
	}
	return float64(f.Errors) / float64(f.Rows+f.Errors)
}

// MeanSeconds are those of a run of each.
func (f *Figures) MeanSeconds() (challenger, champion float64) {
	if f.Runs == 0 {
		return 0, 0
	}
	return f.Seconds / float64(f.Runs), f.ChampionSeconds / float64(f.Runs)
}

// Comparison gathers [Figures]. It may be used from any goroutine.
type Comparison struct {
	mu sync.Mutex
	f  Figures
}

// Figures returns those so far.
func (c *Comparison) Figures() Figures {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.f
}

func (c *Comparison) hung() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.f.Hangs++
}

func (c *Comparison) failed(rows int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.f.Errors += uint64(rows)
}

// add compares values of the same rows. Those of a row that the champion has no value for do not count.
func (c *Comparison) add(ours, champions []float32, us, them *serving, seconds, championSeconds float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.f.Runs++
	c.f.Seconds += seconds
	c.f.ChampionSeconds += championSeconds
	for i, v := range ours {
		w := champions[i]
		switch {
		case !them.usable(w):
		case !us.usable(v):
			c.f.Errors++
		default:
			c.f.Rows++
			c.f.Bins[us.scoreBin(v)]++
			c.f.ChampionBins[them.scoreBin(w)]++
			if us.segments != nil {
				if v != w {
					c.f.Absolute++
				}
				continue
			}
			c.f.Difference += float64(v) - float64(w)
			c.f.Absolute += math.Abs(float64(v) - float64(w))
		}
	}
}

func (s *serving) scoreBin(v float32) int {
	if s.segments != nil {
		return int(uint32(int32(v)) % scoreBins)
	}
	return min(int(v*scoreBins), scoreBins-1)
}
