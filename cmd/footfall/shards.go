package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"footfall/messages/footfallv1"
)

func (a *app) shardsCommand() *cobra.Command {
	var (
		hot   bool
		limit uint32
	)
	cmd := &cobra.Command{
		Use:     "shards",
		Short:   "Show every shard: owner, state, lag, customers, how busy it is",
		Example: "  footfall shards\n  footfall shards --output json\n  footfall shards --hot             # the customers that most events come from",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("limit") && !hot {
				return usagef("--limit is for --hot")
			}
			c, err := a.dial()
			if err != nil {
				return err
			}
			if hot {
				return a.hotCustomers(cmd.Context(), c, limit)
			}
			list, err := c.ListShards(cmd.Context(), &footfallv1.ListShardsRequest{})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			return a.printTable(a.shardsTable(list.GetShards()))
		},
	}
	cmd.Flags().BoolVar(&hot, "hot", false, "show the customers that most events come from, in place of the shards")
	cmd.Flags().Uint32Var(&limit, "limit", 20, "of --hot: at most so many")
	return cmd
}

// hotCustomers shows the customers that most events come from.
func (a *app) hotCustomers(ctx context.Context, c *client, limit uint32) error {
	if limit == 0 {
		return usagef("--limit must be 1 or more")
	}
	list, err := c.ListHotCustomers(ctx, &footfallv1.ListHotCustomersRequest{Limit: limit})
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(list)
	}
	t := newTable("customer", ">shard", "owner", ">rate/s", ">events", ">at most too many")
	for _, h := range list.GetCustomers() {
		t.AppendRow(table.Row{printable(h.GetCustomerId()), h.GetShard(), h.GetOwner(), rate(h.GetRate()), count(h.GetEvents()), count(h.GetError())})
	}
	if err := a.printTable(t); err != nil {
		return err
	}
	if n := len(list.GetMissing()); n > 0 {
		_, err = fmt.Fprintf(a.out, "Nobody tells of %d shards at the moment: footfall shards shows which state they are in.\n", n)
	}
	return err
}

func (a *app) shardsTable(shards []*footfallv1.Shard) table.Writer {
	t := newTable(">shard", "owner", "state", ">epoch", ">offset", ">lag", ">customers", ">resident", ">bytes", ">events",
		">rate/s", ">core", ">queries/s", ">unscored", "last tick", ">checkpoint", "error")
	var sum footfallv1.Shard
	for _, s := range shards {
		state := s.GetState()
		if s.GetSweeping() {
			state += ", sweeping"
		}
		t.AppendRow(table.Row{
			s.GetShard(), s.GetOwner(), state, s.GetEpoch(), count(s.GetOffset()), count(s.GetLag()), count(s.GetCustomers()),
			count(s.GetResident()), size(s.GetResidentBytes()), count(s.GetEvents()), rate(s.GetRate()), share(s.GetApplyShare()), rate(s.GetQueryRate()), count(s.GetUnscored()),
			s.GetLastTick(), a.since(s), oneLine(s.GetError()),
		})
		sum.Lag += s.GetLag()
		sum.Customers += s.GetCustomers()
		sum.Resident += s.GetResident()
		sum.ResidentBytes += s.GetResidentBytes()
		sum.Events += s.GetEvents()
		sum.Rate += s.GetRate()
		sum.ApplyShare += s.GetApplyShare()
		sum.QueryRate += s.GetQueryRate()
		sum.Unscored += s.GetUnscored()
	}
	t.AppendFooter(table.Row{
		len(shards), "shards", "", "", "", count(sum.GetLag()), count(sum.GetCustomers()), count(sum.GetResident()),
		size(sum.GetResidentBytes()), count(sum.GetEvents()), rate(sum.GetRate()), share(sum.GetApplyShare()), rate(sum.GetQueryRate()), count(sum.GetUnscored()), "", "", "",
	})
	return t
}

// since tells how long ago a shard was checkpointed.
func (a *app) since(s *footfallv1.Shard) string {
	at := s.GetLastCheckpoint()
	if at == nil || at.GetSeconds() <= 0 {
		return "never"
	}
	return ago(max(a.now().Sub(at.AsTime()), 0).Truncate(time.Millisecond)) + " ago"
}

// share is that of one core.
func share(s float64) string { return strconv.FormatFloat(s*100, 'f', 1, 64) + "%" }

func rate(r float64) string {
	if r > 0 && r < 10 {
		return strconv.FormatFloat(r, 'f', 1, 64)
	}
	return count(int64(r + .5))
}
