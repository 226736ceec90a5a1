package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"footfall/messages/footfallv1"
)

func (a *app) modelsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "models",
		Short:   "Show the models that a node serves, and how good they were in training",
		Example: "  footfall models",
		Args:    exactArgs(),
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
				_, err := fmt.Fprintf(a.out, "The node at %s serves no model: start it with --models-url file:DIR.\n", a.node)
				return err
			}
			return a.printTable(modelsTable(list.GetModels()))
		},
	}
}

func modelsTable(models []*footfallv1.Model) table.Writer {
	t := newTable("model", "version", "state", ">traffic", "device", ">rows", "evaluation", "error")
	for _, m := range models {
		for _, v := range m.GetVersions() {
			t.AppendRow(table.Row{
				m.GetName(), v.GetVersion(), v.GetState(), fmt.Sprintf("%.0f%%", v.GetTraffic()*100), v.GetDevice(),
				count(v.GetRows()), evaluation(v.GetEvaluation()), oneLine(v.GetError()),
			})
		}
	}
	return t
}

// evaluation writes the measures that people compare models by first, then the others.
func evaluation(measures map[string]float64) string {
	names := slices.Sorted(maps.Keys(measures))
	known := []string{"auc", "log_loss", "ece", "ap", "silhouette"}
	place := func(name string) int {
		if i := slices.Index(known, name); i >= 0 {
			return i
		}
		return len(known)
	}
	slices.SortStableFunc(names, func(a, b string) int { return place(a) - place(b) })
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = fmt.Sprintf("%s %s", name, short(measures[name]))
	}
	return strings.Join(parts, "  ")
}

// short writes a measure with the digits that people compare.
func short(v float64) string {
	if v == float64(int64(v)) {
		return count(int64(v))
	}
	return strings.TrimPrefix(fmt.Sprintf("%.3f", v), "0")
}
