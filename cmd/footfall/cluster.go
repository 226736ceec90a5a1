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

func (a *app) drainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "drain MEMBER",
		Short: "Have a member leave for good",
		Long: `Have a member hand its shards to the others, give up its place among them, and end. It answers
once that has begun; 'footfall cluster' shows when the member is gone.

A member that is only to be restarted needs no drain: SIGTERM hands its shards over, too, and its
place is kept for it.`,
		Example: "  footfall cluster drain n3",
		Args:    exactArgs("MEMBER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			if _, err := c.DrainMember(cmd.Context(), &footfallv1.DrainMemberRequest{Member: args[0]}); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(map[string]string{"member": args[0], "state": "draining"})
			}
			_, err = fmt.Fprintf(a.out, "%s hands its shards over and leaves: 'footfall cluster' shows when it is gone\n", args[0])
			return err
		},
	}
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
