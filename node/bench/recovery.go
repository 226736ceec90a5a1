package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// recovery measures how fast a log is folded again, and how soon a node that has a million
// customers on its disk answers.
func (s *Suite) recovery(ctx context.Context) error {
	if err := s.refold(ctx); err != nil {
		return err
	}
	return s.start(ctx)
}

// refold loses every checkpoint and lets the shards fold their logs from the beginning.
func (s *Suite) refold(ctx context.Context) error {
	n := s.size(3_000_000)
	dir, remove, err := s.dir("refold")
	if err != nil {
		return err
	}
	defer remove()
	msgs, err := batched(newMaker(s.size(100_000), n, 365), n)
	if err != nil {
		return err
	}
	r, err := s.open(ctx, dir, nil)
	if err != nil {
		return err
	}
	if err := publish(ctx, r.storage.Log, slices.Values(msgs)); err != nil {
		return err
	}
	if err := r.close(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, "store")); err != nil {
		return err
	}
	u := measure()
	if r, err = s.open(ctx, dir, nil); err != nil { // returns once every shard has caught up
		return err
	}
	wall, _ := u.since()
	if got := applied(r.host); got != uint64(n) {
		return fmt.Errorf("%d events were applied, not %d", got, n)
	}
	s.add(Row{Group: "recovery", Name: "log folded again without any checkpoint", Value: perSecond(n, wall), Unit: "events/s"}.atLeast(1e6, "1M"))
	return r.close(ctx)
}

func (s *Suite) start(ctx context.Context) error {
	customers, n := s.size(1_000_000), s.size(3_000_000)
	dir, remove, err := s.dir("start")
	if err != nil {
		return err
	}
	defer remove()
	m := newMaker(customers, n, 365)
	r, err := s.open(ctx, dir, nil)
	if err != nil {
		return err
	}
	for done := 0; done < n; done += s.size(500_000) {
		msgs, err := batched(m, s.size(500_000))
		if err != nil {
			return err
		}
		if err := publish(ctx, r.storage.Log, slices.Values(msgs)); err != nil {
			return err
		}
	}
	if err := r.host.WaitIdle(ctx, false); err != nil {
		return err
	}
	if err := r.close(ctx); err != nil {
		return err
	}
	began := time.Now()
	if r, err = s.open(ctx, dir, nil); err != nil {
		return err
	}
	ready := time.Since(began)
	if _, err := r.host.AskMany(ctx, []string{m.next().GetCustomerId()}); err != nil {
		return err
	}
	answered := time.Since(began)
	s.add(Row{Group: "recovery", Name: fmt.Sprintf("start with %s customers on disk, every shard active", count(customers)), Value: ready.Seconds(), Unit: "s"}.atMost(2, "2 s"))
	s.add(Row{Group: "recovery", Name: "  until the first customer is answered", Value: answered.Seconds(), Unit: "s"})
	return r.close(ctx)
}
