package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"footfall/node/bench"
)

func (a *app) benchCommand() *cobra.Command {
	var (
		results, dir, models string
		quick                bool
	)
	var (
		about strings.Builder
		known []string
	)
	for _, b := range bench.Names() {
		known = append(known, b[0])
		fmt.Fprintf(&about, "  %-12s %s\n", b[0], b[1])
	}
	c := &cobra.Command{
		Use:   "bench [NAME…]",
		Short: "Measure this machine, as ratios against its raw limits",
		Long: `Measure Footfall on this machine against the raw limit of the same run: all benchmarks, or
those that are named. No node needs to run. It takes several minutes, a few GiB of memory and of disk.

` + about.String(),
		Example: `  footfall bench
  footfall bench peer-stream
  footfall bench ingest query --quick`,
		Args: func(_ *cobra.Command, names []string) error {
			for _, name := range names {
				if !slices.Contains(known, name) {
					return usagef("there is no benchmark %q: choose from %s", name, strings.Join(known, ", "))
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, names []string) error {
			node, err := findNode()
			if err != nil {
				return err
			}
			args := append([]string{"bench", "--results", results, "--dir", dir, "--models", models, "--quick=" + strconv.FormatBool(quick)}, names...)
			child := exec.CommandContext(cmd.Context(), node, args...)
			child.Stderr = a.err
			child.Cancel = func() error { return child.Process.Signal(os.Interrupt) }
			if err := child.Run(); err != nil {
				return fmt.Errorf("the benchmarks did not end: %w", err)
			}
			raw, err := os.ReadFile(results)
			if err != nil {
				return err
			}
			var r bench.Results
			if err := json.Unmarshal(raw, &r); err != nil {
				return fmt.Errorf("%s: %w", results, err)
			}
			if a.output == "json" {
				return a.printJSON(r)
			}
			return a.printBench(r)
		},
	}
	flags := c.Flags()
	flags.StringVar(&results, "results", "bench/results.json", "where the results are written")
	flags.StringVar(&dir, "dir", "", "where logs and stores are made, and removed again (default the system's temporary directory)")
	flags.StringVar(&models, "models", "models", "the models")
	flags.BoolVar(&quick, "quick", false, "everything ten times smaller: to see that it works, not to quote")
	return c
}

func (a *app) printBench(r bench.Results) error {
	t := newTable("what", ">measured", "unit", ">ratio", "against", ">limit", "target", "met")
	group := ""
	for _, row := range r.Rows {
		if row.Group != group {
			if group != "" {
				t.AppendSeparator()
			}
			group = row.Group
		}
		limit, ratio, met := "", "", ""
		if row.Limit > 0 {
			limit, ratio = figure(row.Limit), fmt.Sprintf("%.2f", row.Ratio)
		}
		if row.Met != nil {
			met = map[bool]string{true: "yes", false: "no"}[*row.Met]
		}
		t.AppendRow(table.Row{row.Name, figure(row.Value), row.Unit, ratio, row.Against, limit, row.Target, met})
	}
	m := r.Machine
	if _, err := fmt.Fprintf(a.out, "%s, %d cores, %s, %s, %s\n", m.CPU, m.Cores, m.Memory, m.Go, r.Time.Format("2006-01-02")); err != nil {
		return err
	}
	return a.printTable(t)
}

// figure writes a measurement with three significant digits.
func figure(v float64) string {
	if v >= 1000 {
		return count(int64(v))
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
