package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

func asStale(err error, into **messages.StaleEpochError) bool { return errors.As(err, into) }

func rows(from, to uint64) []messages.OutboxRow {
	var out []messages.OutboxRow
	for seq := from; seq < to; seq++ {
		out = append(out, messages.OutboxRow{Seq: seq, Body: fmt.Appendf(nil, "row %d", seq)})
	}
	return out
}

func testOutbox(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Store
	e := acquire(t, s, 1)
	outbox := func(after uint64, limit int) []messages.OutboxRow {
		t.Helper()
		got, err := s.Outbox(ctx, 1, e, after, limit)
		require.NoError(t, err)
		return got
	}
	require.NoError(t, s.AppendOutbox(ctx, 1, e, rows(1, 6)))
	require.NoError(t, s.AppendOutbox(ctx, 1, e, rows(1000, 1003)))
	require.NoError(t, s.AppendOutbox(ctx, 1, e, nil))
	require.Error(t, s.AppendOutbox(ctx, 1, e, rows(0, 1)), "sequences count from 1")
	want := append(rows(1, 6), rows(1000, 1003)...)
	require.Equal(t, want, outbox(0, 100))
	require.Equal(t, want[:3], outbox(0, 3))
	require.Equal(t, want[3:6], outbox(3, 3))
	require.Equal(t, want[5:], outbox(500, 100))
	require.Empty(t, outbox(1002, 100))
	require.Empty(t, outbox(math.MaxInt64, 100))
	// Writing a row again changes nothing but itself.
	require.NoError(t, s.AppendOutbox(ctx, 1, e, rows(4, 5)))
	require.Equal(t, want, outbox(0, 100))
	require.NoError(t, s.DeleteOutbox(ctx, 1, e, 3))
	require.Equal(t, want[3:], outbox(0, 100))
	require.NoError(t, s.DeleteOutbox(ctx, 1, e, 3))
	require.NoError(t, s.DeleteOutbox(ctx, 1, e, math.MaxInt64))
	require.Empty(t, outbox(0, 100))
	require.NoError(t, s.AppendOutbox(ctx, 1, e, rows(2000, 2001)))
	require.Equal(t, rows(2000, 2001), outbox(0, 100))
}

func testOutboxOfCheckpoint(t *testing.T, h Harness) {
	e := acquire(t, h.Store, 1)
	require.NoError(t, h.Store.AppendOutbox(t.Context(), 1, e, rows(1, 3)))
	checkpoint(t, h.Store, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Outbox: rows(3, 5)})
	got, err := h.Store.Outbox(t.Context(), 1, e, 0, 10)
	require.NoError(t, err)
	require.Equal(t, rows(1, 5), got)
}

func letter(offset uint64, index uint32) messages.DeadLetter {
	return messages.DeadLetter{
		Position:   messages.Position{Offset: offset, Index: index},
		Field:      "purchase.lines[2].amount",
		Reason:     fmt.Sprintf("reason %d", offset),
		EventID:    "e",
		CustomerID: "c",
		Type:       messages.EventRecord,
		Body:       fmt.Appendf(nil, "message %d", offset),
	}
}

func deadLetters(t *testing.T, s Store, from messages.Position, limit int) []messages.DeadLetter {
	t.Helper()
	got, err := s.DeadLetters(t.Context(), 1, from, limit)
	require.NoError(t, err)
	return got
}

func requireDeadCounts(t *testing.T, s Store, kept, dropped uint64) {
	t.Helper()
	k, d, err := s.DeadLetterCounts(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, [2]uint64{kept, dropped}, [2]uint64{k, d}, "kept and dropped")
}

func testDead(t *testing.T, h Harness) {
	s := h.Store
	e := acquire(t, s, 1)
	all := []messages.DeadLetter{letter(0, 0), letter(0, 1), letter(7, 0), letter(300, 2), letter(1<<40, 1<<20)}
	again := func() {
		checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Dead: all[:3]})
		checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(2), Dead: []messages.DeadLetter{all[2], all[3], all[3], all[4]}})
		require.Equal(t, all, deadLetters(t, s, messages.Position{}, 100))
		requireDeadCounts(t, s, 5, 0)
	}
	again()
	again()
	// Another letter at the same place is not another letter.
	other := all[0]
	other.Reason = "another reason"
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Dead: []messages.DeadLetter{other}})
	again()
	require.Equal(t, all[:2], deadLetters(t, s, messages.Position{}, 2))
	require.Equal(t, all[2:], deadLetters(t, s, messages.Position{Offset: 0, Index: 2}, 100))
	require.Equal(t, all[3:], deadLetters(t, s, messages.Position{Offset: 8}, 100))
	require.Empty(t, deadLetters(t, s, messages.Position{Offset: 1 << 41}, 100))
	// They can be read whoever owns the shard.
	e = acquire(t, s, 1)
	require.Equal(t, all, deadLetters(t, s, messages.Position{}, 100))
	// What is no text where an ID should be keeps no checkpoint from being written.
	odd := letter(1<<50, 0)
	odd.EventID, odd.CustomerID = "\xffe\xc3", "\x80"
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(3), Dead: []messages.DeadLetter{odd}})
	odd.EventID, odd.CustomerID = "e", ""
	require.Equal(t, []messages.DeadLetter{odd}, deadLetters(t, s, odd.Position, 100))
}

func testDeadBound(t *testing.T, h Harness) {
	s := h.Store
	bound := h.DeadLetters
	e := acquire(t, s, 1)
	for n := range bound + 10 {
		checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Dead: []messages.DeadLetter{letter(uint64(n), 0)}})
	}
	requireDeadCounts(t, s, uint64(bound), 10)
	got := deadLetters(t, s, messages.Position{}, 2*bound)
	require.Len(t, got, bound)
	require.Equal(t, letter(10, 0), got[0])
	require.Equal(t, letter(uint64(bound+9), 0), got[bound-1])
	// More at once than are kept.
	var many []messages.DeadLetter
	for n := range 3 * bound {
		many = append(many, letter(1<<20, uint32(n)))
	}
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Dead: many})
	requireDeadCounts(t, s, uint64(bound), uint64(10+3*bound))
	require.Equal(t, many[2*bound:], deadLetters(t, s, messages.Position{}, 2*bound))
	if h.Reopen != nil {
		s = h.Reopen(t)
		requireDeadCounts(t, s, uint64(bound), uint64(10+3*bound))
	}
}

func testDeadAgain(t *testing.T, h Harness) {
	s := h.Store
	bound := h.DeadLetters
	e := acquire(t, s, 1)
	var all []messages.DeadLetter
	for n := range bound + 5 {
		all = append(all, letter(uint64(n), 0))
	}
	// A shard that folds its log again finds the same letters again.
	for range 3 {
		checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Dead: all})
		requireDeadCounts(t, s, uint64(bound), 5)
		require.Equal(t, all[5:], deadLetters(t, s, messages.Position{}, 2*bound))
	}
}

// DeadLetterRemover is what a store can do out of which dead letters are taken one by one: an
// optional capability.
type DeadLetterRemover interface {
	// RemoveDeadLetters removes the letters of positions, durably; those that are not there are
	// none. It needs no epoch.
	RemoveDeadLetters(ctx context.Context, shard int, positions []messages.Position) error
}

// remover returns the capability, or skips the test.
func remover(t *testing.T, s Store) DeadLetterRemover {
	t.Helper()
	r, ok := s.(DeadLetterRemover)
	if !ok {
		t.Skip("dead letters of this store are not removed")
	}
	return r
}

func testDeadRemove(t *testing.T, h Harness) {
	s, ctx := h.Store, t.Context()
	r := remover(t, s)
	e := acquire(t, s, 1)
	other := acquire(t, s, 2)
	all := []messages.DeadLetter{letter(0, 0), letter(0, 1), letter(7, 0), letter(300, 2), letter(1<<40, 1<<20)}
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Dead: all})
	checkpoint(t, s, messages.Checkpoint{Shard: 2, Epoch: other, Meta: Meta(1), Dead: all[:1]})
	require.NoError(t, r.RemoveDeadLetters(ctx, 1, nil))
	require.NoError(t, r.RemoveDeadLetters(ctx, 1, []messages.Position{{Offset: 5}, {Offset: 7, Index: 1}}))
	require.NoError(t, r.RemoveDeadLetters(ctx, 3, []messages.Position{{}}), "a shard without any")
	require.Equal(t, all, deadLetters(t, s, messages.Position{}, 100), "none of those was there")
	remove := []messages.Position{all[0].Position, all[2].Position, all[0].Position, {Offset: 8}}
	for range 2 {
		require.NoError(t, r.RemoveDeadLetters(ctx, 1, remove))
		require.Equal(t, []messages.DeadLetter{all[1], all[3], all[4]}, deadLetters(t, s, messages.Position{}, 100))
		requireDeadCounts(t, s, 3, 0)
	}
	left, err := s.DeadLetters(ctx, 2, messages.Position{}, 10)
	require.NoError(t, err)
	require.Equal(t, all[:1], left, "of another shard")

	if h.Reopen != nil {
		s = h.Reopen(t)
		r = remover(t, s)
		require.Equal(t, []messages.DeadLetter{all[1], all[3], all[4]}, deadLetters(t, s, messages.Position{}, 100))
		requireDeadCounts(t, s, 3, 0)
	}
	require.NoError(t, r.RemoveDeadLetters(ctx, 1, []messages.Position{all[1].Position, all[3].Position, all[4].Position}))
	require.Empty(t, deadLetters(t, s, messages.Position{}, 100))
	requireDeadCounts(t, s, 0, 0)
}

// testDeadGone holds what makes the removal of letters safe: a checkpoint that is written again,
// since its owner does not know whether it was, or since the log is folded again from an older
// one, brings no letter back that was removed meanwhile.
func testDeadGone(t *testing.T, h Harness) {
	s, ctx := h.Store, t.Context()
	r := remover(t, s)
	e := acquire(t, s, 1)
	all := []messages.DeadLetter{letter(3, 0), letter(3, 4), letter(9, 0)}
	c := messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(10), Dead: all}
	checkpoint(t, s, c)
	require.NoError(t, r.RemoveDeadLetters(ctx, 1, []messages.Position{all[0].Position, all[2].Position}))
	again := func() {
		t.Helper()
		c.Epoch = acquire(t, s, 1)
		checkpoint(t, s, c)
		require.Equal(t, all[1:2], deadLetters(t, s, messages.Position{}, 10))
		requireDeadCounts(t, s, 1, 0)
	}
	again()
	if h.Reopen != nil {
		s = h.Reopen(t)
		r = remover(t, s)
		again()
	}
	// What comes after is new, also beside what comes again, and also where all were removed.
	require.NoError(t, r.RemoveDeadLetters(ctx, 1, []messages.Position{all[1].Position}))
	next := letter(9, 1)
	c.Meta, c.Dead = Meta(11), append(slices.Clone(all), next)
	checkpoint(t, s, c)
	require.Equal(t, []messages.DeadLetter{next}, deadLetters(t, s, messages.Position{}, 10))
	requireDeadCounts(t, s, 1, 0)
}

// testDeadRemoveBound removes letters beside the bound: only those that are there fill it.
func testDeadRemoveBound(t *testing.T, h Harness) {
	s := h.Store
	r := remover(t, s)
	bound := h.DeadLetters
	e := acquire(t, s, 1)
	for n := range 4 * bound {
		l := letter(uint64(n), 0)
		checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(uint64(n) + 1), Dead: []messages.DeadLetter{l}})
		if n%2 == 1 {
			require.NoError(t, r.RemoveDeadLetters(t.Context(), 1, []messages.Position{l.Position}))
		}
	}
	// The last one made room for itself before it was removed.
	requireDeadCounts(t, s, uint64(bound-1), uint64(bound+1))
	got := deadLetters(t, s, messages.Position{}, 4*bound)
	require.Len(t, got, bound-1)
	for i, l := range got {
		require.Equal(t, uint64(2*(bound+1+i)), l.Position.Offset)
	}
}

// testDeadRemoveRace removes letters while checkpoints add some: the counts are those of what
// is there.
func testDeadRemoveRace(t *testing.T, h Harness) {
	s := h.Store
	r := remover(t, s)
	e := acquire(t, s, 1)
	const letters = 100
	written := make(chan messages.Position, letters)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(written)
		for n := range uint64(letters) {
			l := letter(n, 0)
			if err := s.Checkpoint(t.Context(), &messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(n + 1), Dead: []messages.DeadLetter{l}}); err != nil {
				t.Error(err)
				return
			}
			written <- l.Position
		}
	})
	for range 2 {
		wg.Go(func() {
			for at := range written {
				if err := r.RemoveDeadLetters(t.Context(), 1, []messages.Position{at}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Empty(t, deadLetters(t, s, messages.Position{}, letters))
	kept, _, err := s.DeadLetterCounts(t.Context(), 1)
	require.NoError(t, err)
	require.Zero(t, kept)
}

func testBase(t *testing.T, h Harness) {
	s := h.Store
	e := acquire(t, s, 1)
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Customers: customers(0, 100)})
	require.NoError(t, s.SnapshotBase(t.Context(), 1, e))
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(2), Customers: []messages.CustomerRecord{
		{ID: customer(1).ID, Value: []byte("later")}, {ID: customer(2).ID}, customer(500),
	}})
	g, meta, err := s.Base(t.Context(), 1)
	require.NoError(t, err)
	requireMeta(t, Meta(1), meta)
	require.Equal(t, customers(0, 100), scanBase(t, s, 1, g, 300))
	got, err := s.ScanBase(t.Context(), 1, g, customer(97).ID, 1<<20)
	require.NoError(t, err)
	require.Equal(t, customers(98, 100), got)
}

func testBaseReplaced(t *testing.T, h Harness) {
	s := h.Store
	e := acquire(t, s, 1)
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(1), Customers: customers(0, 10)})
	require.NoError(t, s.SnapshotBase(t.Context(), 1, e))
	old, _, err := s.Base(t.Context(), 1)
	require.NoError(t, err)
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(2), Customers: append(customers(10, 20), messages.CustomerRecord{ID: customer(0).ID})})
	require.NoError(t, s.SnapshotBase(t.Context(), 1, e))
	g, meta, err := s.Base(t.Context(), 1)
	require.NoError(t, err)
	require.NotEqual(t, old, g)
	requireMeta(t, Meta(2), meta)
	require.Equal(t, customers(1, 20), scanBase(t, s, 1, g, 100))
	_, err = s.ScanBase(t.Context(), 1, old, "", 100)
	require.Error(t, err, "the old one is gone")
	_, err = s.ScanBase(t.Context(), 1, g+1, "", 100)
	require.Error(t, err, "the next one is not there yet")
}

// testBaseConcurrent takes base snapshots while checkpoints set every customer to one value.
func testBaseConcurrent(t *testing.T, h Harness) {
	s := h.Store
	e := acquire(t, s, 1)
	write := func(n int) error {
		c := messages.Checkpoint{Shard: 1, Epoch: e, Meta: &footfallv1.CheckpointMeta{NextOffset: uint64(n)}}
		for i := range 50 {
			c.Customers = append(c.Customers, messages.CustomerRecord{ID: customer(i).ID, Value: fmt.Append(nil, n)})
		}
		return s.Checkpoint(t.Context(), &c)
	}
	require.NoError(t, write(0))
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := range 40 {
			if err := write(n + 1); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 10 {
		require.NoError(t, s.SnapshotBase(t.Context(), 1, e))
		g, meta, err := s.Base(t.Context(), 1)
		require.NoError(t, err)
		got := scanBase(t, s, 1, g, 100)
		require.Len(t, got, 50)
		for _, r := range got {
			require.Equal(t, fmt.Sprint(meta.GetNextOffset()), string(r.Value), "a base snapshot of two checkpoints")
		}
	}
	wg.Wait()
}

func testNeededFrom(t *testing.T, h Harness) {
	s := h.Store
	e := acquire(t, s, 1)
	needed := func(want uint64) {
		t.Helper()
		got, err := s.NeededFrom(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	needed(0)
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(50)})
	needed(0) // without a base snapshot, all of the log is needed
	require.NoError(t, s.SnapshotBase(t.Context(), 1, e))
	needed(49) // message 49 proves that the log is the one that was checkpointed
	checkpoint(t, s, messages.Checkpoint{Shard: 1, Epoch: e, Meta: Meta(80)})
	needed(49)
	require.NoError(t, s.SnapshotBase(t.Context(), 1, e))
	needed(79)
}
