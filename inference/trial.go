package inference

// trial is what a challenger does in a batch: the rows of those customers that are chosen for it
// are scored by the champion like all others, and by the challenger besides. So whatever becomes
// of a challenger, every row has the champion's value.
//
// A canary runs before the batch is answered, a shadow after it.
type trial struct {
	// chosen are the rows, by request; total is how many.
	chosen [][]uint32
	total  int
	// values are the challenger's, champions those of the champion, both for the chosen rows. ok is set
	// where the challenger ran.
	values, champions []float32
	seconds           float64 // of the champion
	ok                bool
}

// choose finds the rows of each challenger, and what the champion said of them.
func (b *batch) choose() {
	if n := len(b.set.challengers); cap(b.trials) < n {
		b.trials = make([]trial, n)
	} else {
		b.trials = b.trials[:n]
	}
	for i, c := range b.set.challengers {
		t := &b.trials[i]
		*t = trial{chosen: make([][]uint32, len(b.requests))}
		at := 0 // among the champion's values
		m := b.index(c.champion)
		t.seconds = b.seconds[m]
		for j, r := range b.requests {
			if !r.wants(b.set, c.champion) || r.lacks(c.champion) != nil {
				continue
			}
			if r.Model == "" && !r.Synthetic && b.failed[m] == nil && r.lacks(c.serving) == nil {
				for row, customer := range r.Customers {
					if place(customer, c.model) < c.limit {
						t.chosen[j] = append(t.chosen[j], uint32(row))
						t.champions = append(t.champions, b.values[m][at+row])
					}
				}
				t.total += len(t.chosen[j])
			}
			at += r.Rows
		}
	}
}

func (b *batch) index(s *serving) int {
	for i, other := range b.set.models {
		if other == s {
			return i
		}
	}
	return -1
}

// try runs the canaries, or the shadows, and compares.
func (b *batch) try(shadows bool) {
	for i, c := range b.set.challengers {
		t := &b.trials[i]
		if c.shadow != shadows || t.total == 0 {
			continue
		}
		t.values = make([]float32, t.total)
		var failed error
		b.trying.Store(c.comparison)
		began := b.device.Clock.Now()
		b.eachChosen(t, func(in Batch, first int) {
			if failed == nil && (shadows || !b.claimed.Load()) {
				failed = b.timed(func() error { return c.score(in, t.values[first:first+in.Rows]) })
			}
		})
		took := b.device.Clock.Now().Sub(began).Seconds()
		b.trying.Store(nil)
		c.report(failed)
		if failed != nil {
			c.series.errors[reasonRun].Inc()
			c.comparison.failed(t.total)
			continue
		}
		t.ok = true
		c.comparison.add(t.values, t.champions, c.serving, c.champion, took, t.seconds)
		c.rows.Add(uint64(t.total))
		c.series.rows.Add(float64(t.total))
	}
}

// tried appends what a canary says of the rows of request i; an empty answer where it has none,
// since who reads it must know that there is a canary.
func (b *batch) tried(models []Scores, champion *serving, i int) []Scores {
	for j, c := range b.set.challengers {
		if c.champion != champion || c.shadow {
			continue
		}
		t := &b.trials[j]
		s := Scores{Model: c.contract.Name, Version: c.version, Values: []float32{}, Rows: []uint32{}}
		n := len(t.chosen[i])
		if t.ok && n > 0 { // else Rows stay empty, which is not nil
			own := t.values[:n:n]
			t.values = t.values[n:]
			if bad := c.wrong(own); bad < 0 {
				s.Values, s.Rows = own, t.chosen[i][:n:n]
			} else {
				c.series.errors[reasonValue].Inc()
				for k, v := range own {
					if c.usable(v) {
						s.Values, s.Rows = append(s.Values, v), append(s.Rows, t.chosen[i][k])
					}
				}
			}
		}
		models = append(models, s)
	}
	return models
}

// eachChosen calls f with the chosen rows in order, at most MaxRows at a time.
func (b *batch) eachChosen(t *trial, f func(in Batch, first int)) {
	p := parts{b: b, f: f}
	for i, rows := range t.chosen {
		for len(rows) > 0 {
			// Rows that follow each other are one piece.
			n := 1
			for n < len(rows) && n < p.room() && rows[n] == rows[n-1]+1 {
				n++
			}
			p.add(b.requests[i], int(rows[0]), int(rows[0])+n)
			rows = rows[n:]
		}
	}
	p.end()
}
