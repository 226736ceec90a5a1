package main

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"footfall/messages/footfallv1"
)

func (a *app) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cluster",
		Short:   "Show the members and what the cluster was created with",
		Example: "  footfall cluster\n  footfall cluster drain n3",
		Args:    subcommands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			cluster, err := c.GetCluster(cmd.Context(), &footfallv1.GetClusterRequest{})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(cluster)
			}
			return a.printCluster(cluster)
		},
	}
	cmd.AddCommand(a.drainCommand())
	return cmd
}

func (a *app) printCluster(c *footfallv1.Cluster) error {
	last := c.GetLastTick()
	if last == "" {
		last = "none has ended yet"
	}
	fmt.Fprintf(a.out, "%d shards, %s, %s, clock %s, last day ended: %s, fold version %d\n\n",
		c.GetShards(), c.GetTimezone(), c.GetCurrency(), clockName(c.GetClock()), last, c.GetFoldVersion())
	t := newTable("member", "state", "roles", "devices", ">shards", "http", "grpc", "version", "up")
	for _, m := range c.GetMembers() {
		name, up := m.GetName(), "does not answer"
		if m.GetZone() != "" {
			name += " (" + m.GetZone() + ")"
		}
		if m.GetStarted() != nil {
			up = ago(max(a.now().Sub(m.GetStarted().AsTime()), 0))
		}
		t.AppendRow(table.Row{
			name, m.GetState(), strings.Join(m.GetRoles(), ","), strings.Join(m.GetDevices(), ","), m.GetShards(),
			m.GetHttpAddress(), m.GetGrpcAddress(), m.GetVersion(), up,
		})
	}
	return a.printTable(t)
}

func clockName(m footfallv1.ClockMode) string {
	return strings.ToLower(strings.TrimPrefix(m.String(), "CLOCK_MODE_"))
}
