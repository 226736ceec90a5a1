package storage

import (
	"context"
	"errors"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// letterPage is how many letters of a shard are read at once, and so the most whose removal a
// crash can undo. A letter comes again then, and what was published for it is recognised by its
// event's ID; a customer remembers the last 32.
const letterPage = 16

// LetterStore is a store whose dead letters can be read and removed.
type LetterStore interface {
	// DeadLetters returns at most limit letters of a shard in order of position, beginning at from.
	DeadLetters(ctx context.Context, shard int, from messages.Position, limit int) ([]messages.DeadLetter, error)
	// RemoveDeadLetters removes the letters of positions, durably; those that are not there are none.
	RemoveDeadLetters(ctx context.Context, shard int, positions []messages.Position) error
}

// DeadLetters are those that the shards of a store keep there.
type DeadLetters struct {
	store  LetterStore
	shards int
}

// NewDeadLetters returns the dead letters of a store's shards.
func NewDeadLetters(store LetterStore, shards int) *DeadLetters {
	return &DeadLetters{store: store, shards: shards}
}

// DeadLetters returns those of the store.
func (s *Storage) DeadLetters() *DeadLetters { return NewDeadLetters(s.Store, s.shards) }

// Visit calls do with every letter in order of shard and position, until it says StopVisit or
// returns an error, and removes those for which it said RemoveLetter: at the latest when sixteen
// have been visited since. What was said before an error is done; after it, nothing is.
func (d *DeadLetters) Visit(ctx context.Context, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error {
	for shard := range d.shards {
		more, err := d.visit(ctx, shard, do)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// VisitShard is Visit for the letters of one shard.
func (d *DeadLetters) VisitShard(ctx context.Context, shard int, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error {
	_, err := d.visit(ctx, shard, do)
	return err
}

// visit goes through the letters of one shard, and reports whether the next one is to follow.
func (d *DeadLetters) visit(ctx context.Context, shard int, do func(*footfallv1.DeadLetter) (messages.Decision, error)) (more bool, err error) {
	var from messages.Position
	for {
		letters, err := d.store.DeadLetters(ctx, shard, from, letterPage)
		if err != nil || len(letters) == 0 {
			return true, err
		}
		more, removed, err := visitPage(shard, letters, do)
		if len(removed) > 0 {
			// Whoever asked may be gone, but what was published is in the log.
			err = errors.Join(err, d.store.RemoveDeadLetters(context.WithoutCancel(ctx), shard, removed))
		}
		if err != nil || !more {
			return false, err
		}
		from = letters[len(letters)-1].Position
		from.Index++
	}
}

// visitPage returns the positions of the letters to be removed, also beside an error.
func visitPage(shard int, letters []messages.DeadLetter, do func(*footfallv1.DeadLetter) (messages.Decision, error)) (more bool, removed []messages.Position, err error) {
	for i := range letters {
		decision, err := do(letters[i].Proto(shard))
		switch {
		case err != nil || decision == messages.StopVisit:
			return false, removed, err
		case decision == messages.RemoveLetter:
			removed = append(removed, letters[i].Position)
		}
	}
	return true, removed, nil
}
