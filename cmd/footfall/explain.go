package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"footfall/messages/footfallv1"
)

// printExplanation shows what each feature contributed to a score, the largest first. Bars that
// go to the left lower it, to the right raise it.
func (a *app) printExplanation(c *footfallv1.Customer) error {
	e := c.GetExplanation()
	if e == nil {
		return nil
	}
	fmt.Fprintf(a.out, "\n%s\n", text.Bold.Sprintf("Why %s %s says %.3f, and %.3f of a typical customer", e.GetModel(), e.GetVersion(), e.GetValue(), e.GetBaselineValue()))
	contributions := e.GetContributions()
	names := slices.SortedFunc(maps.Keys(contributions), func(x, y string) int {
		return cmp.Or(cmp.Compare(math.Abs(contributions[y]), math.Abs(contributions[x])), cmp.Compare(x, y))
	})
	largest := 0.
	for _, v := range contributions {
		largest = max(largest, math.Abs(v))
	}
	t := newTable("feature", ">value", ">contributes", "")
	for _, name := range names {
		own := ""
		if v, ok := c.GetFeatures()[name]; ok {
			own = value(v)
		}
		t.AppendRow(table.Row{name, own, signed(contributions[name]), swing(contributions[name], largest, 12)})
	}
	return a.printTable(t)
}

// swing draws a value as a bar that begins in the middle of twice the width and is as long as
// the largest at its ends.
func swing(v, largest float64, width int) string {
	share := 0.
	if largest > 0 {
		share = v / largest
	}
	if share >= 0 {
		return strings.Repeat(" ", width) + "│" + bar(share, width)
	}
	halves := int(math.Round(-share * float64(width) * 2))
	left := strings.Repeat("▐", halves%2) + strings.Repeat("█", halves/2)
	return strings.Repeat(" ", width-(halves+1)/2) + left + "│" + strings.Repeat(" ", width)
}

// signed writes a contribution; one too small to show has no sign.
func signed(v float64) string {
	if math.Abs(v) < .0005 {
		return "0.000"
	}
	return fmt.Sprintf("%+.3f", v)
}
