package export

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"

	"footfall/actors"
	"footfall/behavior"
)

// Log is the log of a node that does not run, and the base snapshots that it is folded from.
type Log struct {
	// Config says how it was made: Shards, Location, Currency and Now are read.
	Config actors.Config
	Log    actors.Log
	Store  actors.Store
}

// Features folds all shards again, side by side, and writes rows as [Features] does of a
// history: of each wanted day that has ended in the log. Where a shard did not end a day, its
// customers have no row of it. Day 1 is the first that the log still sees end. What happened
// next is left open.
func (l Log) Features(ctx context.Context, days Days, w Writer, progress Progress) (int, error) {
	out := rowWriter{w: w, progress: progress}
	cal := behavior.NewCalendar(l.Config.Location)
	shards := make([]*shardDays, l.Config.Shards)
	for i := range shards {
		shards[i] = l.days(ctx, i)
		defer shards[i].stop()
	}
	// The days of each shard grow, so the least of those that stand open is the next one.
	var first int32
	for begun := false; ; begun = true {
		var day int32
		open := false
		for _, s := range shards {
			if err := s.err; err != nil {
				return out.total, err
			}
			if s.open && (!open || s.day < day) {
				day, open = s.day, true
			}
		}
		if !open || days.To != 0 && day > days.To {
			return out.total, nil
		}
		if !begun {
			first = day
		}
		if days.wants(day) {
			if err := out.write(customersAt(shards, day), first, day, cal); err != nil {
				return out.total, err
			}
		}
		for _, s := range shards {
			if s.open && s.day == day {
				s.next()
			}
		}
	}
}

// customersAt yields the customers of all shards that stand at the end of a day, in order of ID.
func customersAt(shards []*shardDays, day int32) iter.Seq2[string, behavior.Record] {
	return func(yield func(string, behavior.Record) bool) {
		all := map[string]behavior.Record{}
		for _, s := range shards {
			if !s.open || s.day != day {
				continue
			}
			for id, rec := range s.customers {
				if rec.Exists() {
					all[id] = rec
				}
			}
		}
		for _, id := range slices.Sorted(maps.Keys(all)) {
			if !yield(id, all[id]) {
				return
			}
		}
	}
}

// shardDays stands at the end of one day of a shard's log after the other. While open is set,
// customers are those of the end of day.
type shardDays struct {
	open      bool
	day       int32
	customers iter.Seq2[string, behavior.Record]
	err       error // why it is not open, where that is not the end of the log

	pull func() (struct{}, bool)
	stop func()
}

// days goes to the end of a shard's first day.
func (l Log) days(ctx context.Context, shard int) *shardDays {
	s := &shardDays{}
	stopped := errors.New("stopped")
	s.pull, s.stop = iter.Pull(func(yield func(struct{}) bool) {
		s.err = actors.Refold(ctx, l.Config, shard, l.Log, l.Store, func(day int32, each iter.Seq2[string, behavior.Record]) error {
			s.day, s.customers = day, each
			if !yield(struct{}{}) {
				return stopped
			}
			return nil
		})
	})
	s.next()
	return s
}

func (s *shardDays) next() { _, s.open = s.pull() }
