package main

import (
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"footfall/messages/footfallv1"
)

func (a *app) shardsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "shards",
		Short:   "Show every shard: owner, state, lag, customers",
		Example: "  footfall shards\n  footfall shards --output json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial()
			if err != nil {
				return err
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
}

func (a *app) shardsTable(shards []*footfallv1.Shard) table.Writer {
	t := newTable(">shard", "owner", "state", ">epoch", ">offset", ">lag", ">customers", ">resident", ">bytes", ">events",
		">rate/s", ">unscored", "last tick", ">checkpoint", "error")
	var sum footfallv1.Shard
	for _, s := range shards {
		state := s.GetState()
		if s.GetSweeping() {
			state += ", sweeping"
		}
		t.AppendRow(table.Row{
			s.GetShard(), s.GetOwner(), state, s.GetEpoch(), count(s.GetOffset()), count(s.GetLag()), count(s.GetCustomers()),
			count(s.GetResident()), size(s.GetResidentBytes()), count(s.GetEvents()), rate(s.GetRate()), count(s.GetUnscored()),
			s.GetLastTick(), a.since(s), oneLine(s.GetError()),
		})
		sum.Lag += s.GetLag()
		sum.Customers += s.GetCustomers()
		sum.Resident += s.GetResident()
		sum.ResidentBytes += s.GetResidentBytes()
		sum.Events += s.GetEvents()
		sum.Rate += s.GetRate()
		sum.Unscored += s.GetUnscored()
	}
	t.AppendFooter(table.Row{
		len(shards), "shards", "", "", "", count(sum.GetLag()), count(sum.GetCustomers()), count(sum.GetResident()),
		size(sum.GetResidentBytes()), count(sum.GetEvents()), rate(sum.GetRate()), count(sum.GetUnscored()), "", "", "",
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

func rate(r float64) string {
	if r > 0 && r < 10 {
		return strconv.FormatFloat(r, 'f', 1, 64)
	}
	return count(int64(r + .5))
}
