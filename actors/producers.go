package actors

import (
	"slices"

	"footfall/messages/footfallv1"
)

// maxProducers bounds how many producers a shard remembers; past it the one that has been
// silent for longest is forgotten.
const maxProducers = 1024

// producers is the highest sequence seen of each producer, least recently seen first: part
// of what a shard folds.
type producers struct {
	byName map[string]*producer
	// order counts advances: the smallest last is the producer silent for longest.
	order uint64
	// recent saves the look-up while one producer sends many events in a row.
	recent *producer
}

type producer struct {
	name     string
	sequence uint64
	last     uint64
}

func newProducers() producers { return producers{byName: map[string]*producer{}} }

// advance reports whether sequence is new for the producer, and remembers it then.
func (p *producers) advance(name string, sequence uint64) bool {
	e := p.recent
	if e == nil || e.name != name {
		e = p.byName[name]
	}
	if e == nil {
		if len(p.byName) >= maxProducers {
			p.forget()
		}
		e = &producer{name: cloneString(name)}
		p.byName[e.name] = e
	}
	p.recent = e
	if sequence <= e.sequence {
		return false
	}
	p.order++
	e.sequence, e.last = sequence, p.order
	return true
}

func (p *producers) forget() {
	var oldest *producer
	for _, e := range p.byName {
		if oldest == nil || e.last < oldest.last {
			oldest = e
		}
	}
	delete(p.byName, oldest.name)
}

// marks lists the producers, least recently seen first.
func (p *producers) marks() []*footfallv1.ProducerMark {
	all := make([]*producer, 0, len(p.byName))
	for _, e := range p.byName {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *producer) int { return int(int64(a.last) - int64(b.last)) })
	out := make([]*footfallv1.ProducerMark, len(all))
	for i, e := range all {
		out[i] = &footfallv1.ProducerMark{Producer: e.name, Sequence: e.sequence}
	}
	return out
}

func restoreProducers(marks []*footfallv1.ProducerMark) producers {
	p := newProducers()
	for _, m := range marks {
		p.order++
		p.byName[m.GetProducer()] = &producer{name: m.GetProducer(), sequence: m.GetSequence(), last: p.order}
	}
	return p
}
