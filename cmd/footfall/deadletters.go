package main

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"footfall/messages/footfallv1"
)

func (a *app) deadlettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "deadletters",
		Short:   "Look at what could not be folded",
		Example: "  footfall deadletters list",
		Args:    subcommands("show", "fix", "replay", "drop"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var limit uint32
	list := &cobra.Command{
		Use:     "list",
		Short:   "List what could not be folded, with the field and the reason",
		Example: "  footfall deadletters list --limit 20\n  footfall deadletters list --output json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			letters, err := c.ListDeadLetters(cmd.Context(), &footfallv1.ListDeadLettersRequest{Limit: limit})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(letters)
			}
			if len(letters.GetLetters()) == 0 {
				_, err := fmt.Fprintln(a.out, "No dead letters: everything in the log could be folded.")
				return err
			}
			t := newTable(">shard", ">offset", ">index", "customer", "event", "field", "reason")
			for _, l := range letters.GetLetters() {
				t.AppendRow(table.Row{l.GetShard(), l.GetOffset(), l.GetIndex(), l.GetCustomerId(), l.GetEventId(), l.GetField(), oneLine(l.GetReason())})
			}
			return a.printTable(t)
		},
	}
	list.Flags().Uint32Var(&limit, "limit", 100, "at most so many")
	cmd.AddCommand(list)
	return cmd
}
