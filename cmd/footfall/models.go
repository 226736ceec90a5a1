package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"footfall/messages/footfallv1"
)

func (a *app) modelsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "models",
		Short:   "Show the models that a node or its cluster serves, and how good they were in training",
		Example: "  footfall models\n  footfall models --output json      # with every measure of the evaluation, and what was decided",
		Args:    subcommands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			list, err := c.ListModels(cmd.Context(), &footfallv1.ListModelsRequest{})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			if len(list.GetModels()) == 0 {
				if _, err := fmt.Fprintf(a.out, "The node at %s knows of no model: start one with --models-url file:DIR.\n", a.node); err != nil {
					return err
				}
				return a.printSilent(list.GetMissing())
			}
			if err := a.printModels(list.GetModels()); err != nil {
				return err
			}
			return a.printSilent(list.GetMissing())
		},
	}
	cmd.AddCommand(a.rollouts()...)
	cmd.AddCommand(a.fineTuneCommand())
	return cmd
}

// measures are those of an evaluation that people compare models by. --output json has all.
var measures = []string{"auc", "average_precision", "log_loss", "ece", "silhouette"}

// printModels prints a table, and below it why versions cannot be served.
func (a *app) printModels(models []*footfallv1.Model) error {
	columns := []string{"model", "version", "state", ">traffic", "device", ">rows"}
	for _, name := range measures {
		columns = append(columns, ">"+name)
	}
	t := newTable(columns...)
	var faults, trials []string
	for _, m := range models {
		for _, v := range m.GetVersions() {
			if v.GetTrial() != nil {
				trials = append(trials, trialLine(m.GetName(), v))
			}
			row := table.Row{m.GetName(), v.GetVersion(), v.GetState(), percent(v.GetTraffic()), v.GetDevice(), count(v.GetRows())}
			for _, name := range measures {
				row = append(row, measure(v.GetEvaluation(), name))
			}
			t.AppendRow(row)
			if v.GetError() != "" {
				// A folder without a version is one, too, and its name is empty.
				faults = append(faults, strings.TrimSpace(m.GetName()+" "+v.GetVersion())+": "+oneLine(v.GetError()))
			}
		}
	}
	if err := a.printTable(t); err != nil {
		return err
	}
	for _, lines := range [][]string{trials, faults} {
		if len(lines) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(a.out, "\n%s\n", strings.Join(lines, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// printSilent names the members that did not answer.
func (a *app) printSilent(members []string) error {
	if len(members) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(a.out, "\nNo answer from %s: what is told is without that.\n", oneLine(strings.Join(members, ", ")))
	return err
}

// trialLine says what the nodes found of a version that is tried.
func trialLine(model string, v *footfallv1.ModelVersion) string {
	t := v.GetTrial()
	if t.GetRows()+t.GetErrors() == 0 {
		return fmt.Sprintf("%s %s (%s): nothing scored yet", model, v.GetVersion(), v.GetState())
	}
	return fmt.Sprintf("%s %s (%s): %s rows compared, %s without a value; shift %.3f, mean difference %+.4f (%.4f without sign); %.2f ms a run, the champion %.2f ms",
		model, v.GetVersion(), v.GetState(), count(t.GetRows()), count(t.GetErrors()), t.GetShift(), t.GetDifference(), t.GetAbsoluteDifference(),
		t.GetSeconds()*1e3, t.GetChampionSeconds()*1e3)
}

// percent writes a share with the digits that it was given with: 0.5% is not none.
func percent(share float64) string { return strconv.FormatFloat(share*100, 'g', 3, 64) + "%" }

// measure writes one with the digits that people compare; nothing where it was not taken.
func measure(evaluation map[string]float64, name string) string {
	v, ok := evaluation[name]
	if !ok {
		return ""
	}
	return fmt.Sprintf("%.3f", v)
}
