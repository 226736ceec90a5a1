package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"footfall/cluster"
	"footfall/messages/footfallv1"
)

// planOutcome is what came of a plan.
type planOutcome struct {
	Reached bool `json:"reached"`
	// Elapsed is from the first shard that moved until the last had, in seconds, as far as that
	// was watched.
	Elapsed  float64 `json:"elapsed_seconds,omitempty"`
	Planned  float64 `json:"planned_seconds"`
	Moves    int     `json:"planned_moves"`
	Missing  int     `json:"missing_moves"`
	HandOver int     `json:"hand_overs"`
	// LongestPause is of the slowest shard that was handed over, in seconds.
	LongestPause float64        `json:"longest_take_over_seconds"`
	Shares       []outcomeShare `json:"shares"`
}

type outcomeShare struct {
	Member  string    `json:"member"`
	Planned planLoads `json:"planned"`
	Now     planLoads `json:"now"`
}

// outcome compares a plan with the cluster, once it is as planned where that is watched.
func (a *app) outcome(ctx context.Context, c *client, p *scalePlan, watched bool, patience time.Duration) error {
	var (
		first, last time.Time
		o           *planOutcome
	)
	progress := a.newProgress("shards in place", int64(len(p.Moves)))
	defer progress.end()
	inTime, err := watch(ctx, planEvery, patience, func() (bool, error) {
		list, err := c.ListShards(ctx, &footfallv1.ListShardsRequest{})
		if err != nil {
			return false, err
		}
		if o, err = compareWith(p, list.GetShards()); err != nil {
			return false, err
		}
		progress.at(int64(o.Moves-o.Missing), "")
		if now := a.now(); o.HandOver > 0 {
			if first.IsZero() {
				first = now
			}
			if last.IsZero() && o.Reached {
				last = now
			}
		}
		return o.Reached || !watched, nil
	})
	if err != nil {
		return err
	}
	progress.end()
	if !inTime {
		return errors.Join(a.printOutcome(p, o), fmt.Errorf("after %s the cluster is not as planned: %d of %d shards have not moved", patience, o.Missing, o.Moves))
	}
	if watched && !first.IsZero() {
		o.Elapsed = last.Sub(first).Seconds()
	}
	return a.printOutcome(p, o)
}

func compareWith(p *scalePlan, shards []*footfallv1.Shard) (*planOutcome, error) {
	if len(shards) != len(p.Owners) {
		return nil, fmt.Errorf("the plan is of %d shards, but the cluster has %d", len(p.Owners), len(shards))
	}
	o := &planOutcome{Planned: p.Duration, Moves: len(p.Moves), Reached: true}
	loads := map[string]cluster.Share{}
	for i, s := range shards {
		loads[s.GetOwner()] = loads[s.GetOwner()].Plus(loadOf(s))
		if s.GetEpoch() > p.Epochs[i] {
			o.HandOver += int(s.GetEpoch() - p.Epochs[i])
			o.LongestPause = max(o.LongestPause, s.GetTookOverSeconds())
		}
		if s.GetOwner() != p.Owners[i] || s.GetState() != "active" {
			o.Reached = false
		}
	}
	for _, m := range p.Moves {
		if shards[m.Shard].GetOwner() != m.To {
			o.Missing++
		}
	}
	for _, s := range p.Shares {
		o.Shares = append(o.Shares, outcomeShare{s.Member, s.After, planLoads(loads[s.Member])})
		delete(loads, s.Member)
	}
	for _, name := range slices.Sorted(maps.Keys(loads)) {
		o.Shares = append(o.Shares, outcomeShare{Member: cmp.Or(name, "nobody"), Now: planLoads(loads[name])})
	}
	return o, nil
}

func (a *app) printOutcome(p *scalePlan, o *planOutcome) error {
	if a.output == "json" {
		return a.printJSON(o)
	}
	var b strings.Builder
	if o.Reached {
		b.WriteString("the cluster is as planned")
	} else {
		fmt.Fprintf(&b, "the cluster is not as planned: %d of %d moves are missing", o.Missing, o.Moves)
	}
	fmt.Fprintf(&b, ": %d hand-overs for %d planned moves", o.HandOver, o.Moves)
	if o.Elapsed > 0 {
		fmt.Fprintf(&b, ", in %s of %s planned", seconds(o.Elapsed), seconds(p.Duration))
	}
	if o.LongestPause > 0 {
		fmt.Fprintf(&b, ", the slowest took %.0f ms", o.LongestPause*1000)
	}
	fmt.Fprintf(a.out, "%s\n\n", b.String())
	t := newTable("member", ">shards", ">planned", ">customers", ">planned", ">resident", ">planned", ">events/s", ">planned")
	for _, s := range o.Shares {
		t.AppendRow(table.Row{
			s.Member, s.Now.Shards, s.Planned.Shards, count(s.Now.Customers), count(s.Planned.Customers),
			size(s.Now.Bytes), size(s.Planned.Bytes), rate(s.Now.Rate), rate(s.Planned.Rate),
		})
	}
	return a.printTable(t)
}
