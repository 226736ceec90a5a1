package actors

import (
	"maps"
	"slices"
	"time"

	"footfall/messages/footfallv1"
)

// turnEvery is how often customers are scored again at most since versions changed. While the
// devices of a cluster change theirs one after the other, answers name now these, now those.
const turnEvery = 10 * time.Second

// serving tells a shard which versions' scores customers are to have.
type serving struct{ models []ModelScores }

// Serving tells the shards that work here which versions' scores customers are to have, of the
// models that are named; of each model all such versions are. Answers of the scorer tell the same,
// but a shard whose customers do not change gets none. Customers with scores of other versions
// are scored again, beside those that change.
func (h *Host) Serving(models []ModelScores) {
	for _, s := range h.shards {
		s.send(&serving{models})
	}
}

// versions are by model those whose scores customers are to have.
type versions map[string][]string

// replaced reports whether a score is of a version that is not to be seen any more.
func (v versions) replaced(t modelTable, number uint16) bool {
	if int(number) >= len(t.refs) {
		return false
	}
	ref := t.refs[number]
	now, known := v[ref.GetModel()]
	return known && !slices.Contains(now, ref.GetVersion())
}

// versionsServe notes the versions that an answer names. Where one is not among them any more,
// everybody is looked at, and those with a score of it are scored again.
func (s *shard) versionsServe(models []ModelScores) {
	c := &s.scoring
	now := make(versions, len(models))
	for _, m := range models {
		now[m.Model] = append(now[m.Model], m.Version)
	}
	gone := false
	for model, serve := range now {
		for _, version := range c.versions[model] {
			gone = gone || !slices.Contains(serve, version)
		}
	}
	if gone && s.cfg.Now().Before(c.turned) {
		return // what is known stays, so that it is noticed again
	}
	if c.versions == nil {
		c.versions = make(versions, len(now))
	}
	maps.Copy(c.versions, now)
	if gone {
		c.turned = s.cfg.Now().Add(turnEvery)
		c.beginSweep()
	}
}

// refs are the versions for a checkpoint.
func (v versions) refs() []*footfallv1.ModelRef {
	var out []*footfallv1.ModelRef
	for _, model := range sortedNames(v) {
		for _, version := range v[model] {
			out = append(out, &footfallv1.ModelRef{Model: model, Version: version})
		}
	}
	return out
}

func versionsOf(refs []*footfallv1.ModelRef) versions {
	if len(refs) == 0 {
		return nil
	}
	v := make(versions)
	for _, r := range refs {
		v[r.GetModel()] = append(v[r.GetModel()], r.GetVersion())
	}
	return v
}

func sortedNames(v versions) []string {
	names := make([]string, 0, len(v))
	for name := range v {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
