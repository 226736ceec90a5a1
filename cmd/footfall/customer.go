package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/behavior"
	"footfall/messages/footfallv1"
)

func (a *app) customerCommand() *cobra.Command {
	var at, waitFor, explain string
	var history, allowStale bool
	var limit uint32
	cmd := &cobra.Command{
		Use:   "customer ID",
		Short: "Show the living picture of one customer",
		Example: `  footfall customer 900
  footfall customer 900 --at 2030-01-01      # as of the end of that day, if nothing happens until then
  footfall customer 900 --history            # its events, and the state after each
  footfall customer 900 --wait-for b-41453012842
  footfall customer 900 --explain churn_risk # what each feature contributes to that score
  footfall customer 900 --allow-stale        # while nobody is sure to own it, what a node last knew`,
		Args: exactArgs("the ID of a customer"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if history && (at != "" || waitFor != "" || explain != "" || allowStale) {
				return usagef("--history goes with none of --at, --wait-for, --explain and --allow-stale")
			}
			c, err := a.dial()
			if err != nil {
				return err
			}
			cluster, err := c.GetCluster(cmd.Context(), &footfallv1.GetClusterRequest{})
			if err != nil {
				return err
			}
			loc := location(cluster)
			if history {
				return a.history(cmd.Context(), c, args[0], limit, loc)
			}
			req := &footfallv1.GetCustomerRequest{CustomerId: args[0], WaitFor: waitFor, Explain: explain, AllowStale: allowStale}
			if at != "" {
				t, err := parseAt(at, loc)
				if err != nil {
					return err
				}
				req.At = timestamppb.New(t)
			}
			customer, err := c.GetCustomer(cmd.Context(), req)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(customer)
			}
			return a.printCustomer(customer, loc, cluster.GetCurrency())
		},
	}
	cmd.Flags().StringVar(&at, "at", "", "as of a later time than the latest event: RFC 3339, or a date for the end of that day")
	cmd.Flags().StringVar(&waitFor, "wait-for", "", "wait until this event is applied")
	cmd.Flags().StringVar(&explain, "explain", "", "add what each feature contributes to the score of this model")
	cmd.Flags().BoolVar(&allowStale, "allow-stale", false, "take the answer of a node that is not sure to own the customer now: it says how stale it may be")
	cmd.Flags().BoolVar(&history, "history", false, "show the events of the customer, and the state after each")
	cmd.Flags().Uint32Var(&limit, "limit", 100, "with --history: at most so many of the newest events")
	cmd.AddCommand(a.customerExportCommand())
	return cmd
}

// mostHistory is the longest history that a node gives at once.
const mostHistory = 10_000

// customerExport is everything that is held on one customer.
type customerExport struct {
	State   json.RawMessage `json:"state"`
	History json.RawMessage `json:"history"`
}

func (a *app) customerExportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export ID",
		Short: "Print everything that is held on one customer, as JSON",
		Long: `Print everything that is held on one customer, as JSON: its state now, and its events that the
log still has with the state after each.`,
		Example: "  footfall customer export 900 > customer-900.json",
		Args:    exactArgs("the ID of a customer"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			state, err := c.GetCustomer(cmd.Context(), &footfallv1.GetCustomerRequest{CustomerId: args[0]})
			if err != nil {
				return err
			}
			events, err := c.GetHistory(cmd.Context(), &footfallv1.GetHistoryRequest{CustomerId: args[0], Limit: mostHistory})
			if err != nil {
				return err
			}
			if events.GetTruncated() {
				fmt.Fprintf(a.err, "footfall: older events of customer %s are not in the log any more, or beyond the newest %s\n", args[0], count(mostHistory))
			}
			var e customerExport
			if e.State, err = plain(state); err != nil {
				return err
			}
			if e.History, err = plain(events); err != nil {
				return err
			}
			return a.printJSON(e)
		},
	}
}

// location is the cluster's time zone; UTC where this machine does not know it.
func location(c *footfallv1.Cluster) *time.Location {
	if loc, err := time.LoadLocation(c.GetTimezone()); err == nil {
		return loc
	}
	return time.UTC
}

// parseAt reads an instant, or a date as the last instant of that day.
func parseAt(s string, loc *time.Location) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	if day, err := behavior.ParseDate(s); err == nil {
		return time.UnixMilli(behavior.NewCalendar(loc).LastMilli(day)), nil
	}
	return time.Time{}, usagef("--at %s: it is a time as 2017-12-31T18:00:00Z or a date as 2017-12-31", s)
}

// A meaning says in words what a feature's value is.
var meaning = map[string]func(v float64, currency string) string{
	"recency_days":  func(v float64, _ string) string { return within(v, 84, "days since the latest purchase") },
	"visit_days_7":  func(float64, string) string { return "shopping days in the last 7 days" },
	"visit_days_28": func(float64, string) string { return "shopping days in the last 28 days" },
	"visit_days_84": func(float64, string) string { return "shopping days in the last 84 days" },
	"log_spend_28":  func(v float64, c string) string { return paid(v, c) + " paid in the last 28 days" },
	"log_spend_84":  func(v float64, c string) string { return paid(v, c) + " paid in the last 84 days" },
	"gap_ewma": func(v float64, _ string) string {
		return within(v, 84, "days usually from one shopping day to the next")
	},
	"overdue": func(v float64, _ string) string {
		return within(v, 20, "times the usual gap since the latest purchase")
	},
	"departments_28": func(float64, string) string {
		return "different departments in the last 28 days"
	},
	"discount_share_84": func(v float64, _ string) string {
		return fmt.Sprintf("%.0f%% of the regular price was taken off, last 84 days", v*100)
	},
}

func within(v, limit float64, what string) string {
	if v >= limit {
		return what + " (or more)"
	}
	return what
}

func paid(log float64, currency string) string {
	return fmt.Sprintf("%.2f %s", math.Expm1(log), currency)
}

func (a *app) printCustomer(c *footfallv1.Customer, loc *time.Location, currency string) error {
	bold := text.Bold.Sprint
	fmt.Fprintf(a.out, "%s", bold("Customer "+c.GetCustomerId()))
	if c.GetSegment() != "" {
		fmt.Fprintf(a.out, "   %s", c.GetSegment())
	}
	fmt.Fprintln(a.out)
	fmt.Fprintf(a.out, "as of %s, shard %d on %s, log offset %d", stamp(c.GetAsOf().GetTime(), loc), c.GetShard(), c.GetOwner(), c.GetAsOf().GetOffset())
	if ms := c.GetAsOf().GetStaleMs(); ms > 0 {
		fmt.Fprintf(a.out, ", stale by %s", ago(time.Duration(ms)*time.Millisecond))
	}
	fmt.Fprintln(a.out)
	if id := c.GetIdentifiedAs(); id != "" {
		fmt.Fprintf(a.out, "known as %s: look at 'footfall customer %s'\n", id, id)
	}

	if len(c.GetScores()) > 0 {
		fmt.Fprintf(a.out, "\n%s\n", bold("Scores"))
		t := newTable("model", ">value", "", "version", "of")
		for _, s := range c.GetScores() {
			shown, drawn := fmt.Sprintf("%.3f", s.GetValue()), ""
			switch {
			case s.GetModel() == segmentation:
				shown, drawn = value(s.GetValue()), c.GetSegment()
			case s.GetValue() >= 0 && s.GetValue() <= 1:
				drawn = bar(s.GetValue(), 24)
			}
			t.AppendRow(table.Row{s.GetModel(), shown, drawn, s.GetVersion(), stamp(s.GetTime(), loc)})
		}
		if err := a.printTable(t); err != nil {
			return err
		}
	}

	if err := a.printExplanation(c); err != nil {
		return err
	}

	fmt.Fprintf(a.out, "\n%s\n", bold("Behaviour"))
	t := newTable("feature", ">value", "meaning")
	for _, name := range behavior.FeatureNames {
		v, ok := c.GetFeatures()[name]
		if !ok {
			continue
		}
		t.AppendRow(table.Row{name, value(v), meaning[name](v, currency)})
	}
	if err := a.printTable(t); err != nil {
		return err
	}

	if err := a.printSequence(c, currency); err != nil {
		return err
	}
	for _, i := range c.GetInsights() {
		fmt.Fprintf(a.out, "%s  %s: %s\n", stamp(i.GetTime(), loc), i.GetKind(), oneLine(i.GetText()))
	}
	a.printLifetime(c.GetLifetime(), currency)
	if n := len(c.GetAttributes()); n > 0 {
		parts := make([]string, 0, n)
		for _, key := range slices.Sorted(maps.Keys(c.GetAttributes())) {
			parts = append(parts, key+" "+c.GetAttributes()[key])
		}
		fmt.Fprintf(a.out, "%s %s\n", bold("Profile "), strings.Join(parts, ", "))
	}
	return nil
}

// segmentation is the model whose value is the number of a segment, not a probability.
const segmentation = "customer_segmentation"

// printSequence shows the last shopping days, newest last, without the rows that stand for
// days that never were.
func (a *app) printSequence(c *footfallv1.Customer, currency string) error {
	days := slices.DeleteFunc(slices.Clone(c.GetSequence()), func(d *footfallv1.ShoppingDay) bool {
		return d.GetAgeDays() >= 84 && d.GetGapDays() >= 84 && d.GetLogSpend() == 0 && d.GetDepartments() == 0 && d.GetDiscountShare() == 0
	})
	if len(days) == 0 {
		return nil
	}
	spend := make([]float64, len(days))
	for i, d := range days {
		spend[i] = math.Expm1(d.GetLogSpend())
	}
	fmt.Fprintf(a.out, "\n%s  %s\n", text.Bold.Sprint("Latest shopping days"), spark(spend))
	t := newTable(">days ago", ">gap", ">"+cmp.Or(currency, "spend"), ">departments", ">discount")
	for i, d := range days {
		t.AppendRow(table.Row{
			fmt.Sprintf("%.0f", d.GetAgeDays()), fmt.Sprintf("%.0f", d.GetGapDays()), fmt.Sprintf("%.2f", spend[i]),
			fmt.Sprintf("%.0f", d.GetDepartments()), fmt.Sprintf("%.0f%%", d.GetDiscountShare()*100),
		})
	}
	return a.printTable(t)
}

func (a *app) printLifetime(l *footfallv1.Lifetime, currency string) {
	parts := []string{things(int(l.GetEvents()), "event")}
	for _, part := range []struct {
		n         uint64
		one, many string
	}{
		{l.GetPurchases(), "purchase", "purchases"},
		{l.GetShoppingDays(), "shopping day", "shopping days"},
		{l.GetRefunds(), "refund", "refunds"},
		{l.GetPageViews(), "page view", "page views"},
		{l.GetCartAdds(), "put into a cart", "put into carts"},
		{l.GetCartRemoves(), "taken out of a cart", "taken out of carts"},
		{l.GetCampaignsReceived(), "campaign received", "campaigns received"},
		{l.GetCouponsRedeemed(), "coupon redeemed", "coupons redeemed"},
		{l.GetTooLate(), "too late to count by day", "too late to count by day"},
	} {
		switch part.n {
		case 0:
		case 1:
			parts = append(parts, "1 "+part.one)
		default:
			parts = append(parts, count(part.n)+" "+part.many)
		}
	}
	fmt.Fprintf(a.out, "\n%s %s\n", text.Bold.Sprint("Lifetime"), strings.Join(parts, ", "))
	if l.GetFirstShoppingDay() != "" {
		fmt.Fprintf(a.out, "         %s %s spent, %s saved, from %s to %s\n", l.GetSpend(), currency, l.GetDiscount(), l.GetFirstShoppingDay(), l.GetLastShoppingDay())
	}
}

func (a *app) history(ctx context.Context, c *client, id string, limit uint32, loc *time.Location) error {
	h, err := c.GetHistory(ctx, &footfallv1.GetHistoryRequest{CustomerId: id, Limit: limit})
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(h)
	}
	t := newTable(">offset", "time", "event", "kind", "what", "outcome", ">recency", ">visits 28", ">spend 28", ">gap", ">overdue")
	for _, e := range h.GetEntries() {
		outcome := e.GetOutcome()
		if e.GetReason() != "" {
			outcome += ": " + oneLine(e.GetReason())
		}
		f := e.GetState().GetFeatures()
		row := table.Row{e.GetOffset(), stamp(e.GetEvent().GetTime(), loc), e.GetEvent().GetEventId(), kindOf(e.GetEvent()), what(e.GetEvent()), outcome}
		if len(f) > 0 {
			row = append(row, fmt.Sprintf("%.1f", f["recency_days"]), value(f["visit_days_28"]), fmt.Sprintf("%.2f", math.Expm1(f["log_spend_28"])),
				fmt.Sprintf("%.1f", f["gap_ewma"]), fmt.Sprintf("%.2f", f["overdue"]))
		}
		t.AppendRow(row)
	}
	if err := a.printTable(t); err != nil {
		return err
	}
	if h.GetTruncated() {
		fmt.Fprintf(a.out, "There are older events: --limit shows more of those that the log still has.\n")
	}
	return nil
}

func stamp(t *timestamppb.Timestamp, loc *time.Location) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().In(loc).Format("2006-01-02 15:04:05")
}

// value writes whole numbers without decimals.
func value(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e9 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
