package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"footfall/behavior"
	"footfall/datasets"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/quality"
	"footfall/node/replay"
)

// summary is what a demo shows at its end.
type summary struct {
	Events    uint64  `json:"events"`
	Customers int     `json:"customers"`
	First     string  `json:"first_day"`
	Last      string  `json:"last_day"`
	Seconds   float64 `json:"replay_seconds"`
	Rate      float64 `json:"events_per_second"`
	// FirstAnswer is from the start of the command to the first customer that was answered, and
	// the quantiles are of Queries single queries after the replay.
	FirstAnswer float64 `json:"first_answer_seconds"`
	Queries     int     `json:"queries"`
	P50         float64 `json:"query_p50_ms"`
	P99         float64 `json:"query_p99_ms"`

	// Sunday is the day at whose end the scores were taken that Quality is about.
	Sunday  string       `json:"sunday"`
	Quality []modelCheck `json:"quality"`
	// NoQuality says why Quality is empty, where it is.
	NoQuality   string        `json:"no_quality,omitempty"`
	Segments    []segment     `json:"segments"`
	Interesting []interesting `json:"interesting"`
}

// modelCheck compares the scores of a model with what happened.
type modelCheck struct {
	Model   string `json:"model"`
	Outcome string `json:"outcome"`
	quality.Measures
}

// outcomes says what each model foretells.
var outcomes = []struct {
	model, outcome string
	happened       func(datasets.Label) (happened, known bool)
}{
	{"purchase_prediction", "buys within 7 days", func(l datasets.Label) (bool, bool) { return l.Purchase7d, l.Ripe7d }},
	{"purchase_sequence", "buys within 7 days", func(l datasets.Label) (bool, bool) { return l.Purchase7d, l.Ripe7d }},
	{churnModel, "stays away for 28 days", func(l datasets.Label) (bool, bool) { return l.Churn28d, l.Ripe28d }},
}

const churnModel = "churn_risk"

// checkModels measures the scores that were taken at an instant against what happened after
// it, over the customers that had bought something by then.
func checkModels(scores map[string]map[string]float64, labels *datasets.Labels, at time.Time) ([]modelCheck, error) {
	checks := []modelCheck{}
	for _, o := range outcomes {
		var predicted []float64
		var happened []bool
		for _, id := range labels.Customers() {
			score, scored := scores[o.model][id]
			if !scored || !labels.Purchased(id, at) {
				continue
			}
			if yes, known := o.happened(labels.At(id, at)); known {
				predicted, happened = append(predicted, score), append(happened, yes)
			}
		}
		if len(predicted) == 0 {
			continue
		}
		m, err := quality.Measure(predicted, happened)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.model, err)
		}
		checks = append(checks, modelCheck{o.model, o.outcome, m})
	}
	return checks, nil
}

// segment is a group of customers, with the median of what describes it.
type segment struct {
	Name      string  `json:"name"`
	Customers int     `json:"customers"`
	Share     float64 `json:"share"`
	Recency   float64 `json:"recency_days"`
	Gap       float64 `json:"gap_days"`
	Spend28   float64 `json:"spend_28"`
	// Returns is the mean probability to buy within 7 days; NaN is left out.
	Returns *float64 `json:"purchase_7d,omitempty"`
}

// segments groups customers, the largest group first.
func segments(customers []*footfallv1.Customer) []segment {
	groups := map[string][]*footfallv1.Customer{}
	for _, c := range customers {
		if c.GetSegment() != "" {
			groups[c.GetSegment()] = append(groups[c.GetSegment()], c)
		}
	}
	all := []segment{}
	for name, group := range groups {
		s := segment{
			Name: name, Customers: len(group), Share: float64(len(group)) / float64(len(customers)),
			Recency: median(group, "recency_days"), Gap: median(group, "gap_ewma"), Spend28: math.Expm1(median(group, "log_spend_28")),
		}
		var sum float64
		n := 0
		for _, c := range group {
			if v, ok := scoreOf(c, "purchase_prediction"); ok {
				sum, n = sum+v, n+1
			}
		}
		if n > 0 {
			mean := sum / float64(n)
			s.Returns = &mean
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b segment) int {
		return cmp.Or(cmp.Compare(b.Customers, a.Customers), cmp.Compare(a.Name, b.Name))
	})
	return all
}

func (s segment) describe(currency string) string {
	d := fmt.Sprintf("comes every %s, %.0f %s in 4 weeks, last seen %s ago", days(s.Gap), s.Spend28, currency, days(s.Recency))
	if s.Returns != nil {
		d += fmt.Sprintf(", %.0f%% buy within a week", *s.Returns*100)
	}
	return d
}

func days(v float64) string {
	switch {
	case v >= 84:
		return "84+ days"
	case v < 1.5:
		return "day"
	default:
		return fmt.Sprintf("%.0f days", v)
	}
}

func median(customers []*footfallv1.Customer, feature string) float64 {
	values := make([]float64, len(customers))
	for i, c := range customers {
		values[i] = c.GetFeatures()[feature]
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func scoreOf(c *footfallv1.Customer, model string) (float64, bool) {
	for _, s := range c.GetScores() {
		if s.GetModel() == model {
			return s.GetValue(), true
		}
	}
	return 0, false
}

// interesting is a customer worth a look.
type interesting struct {
	CustomerID string `json:"customer_id"`
	Why        string `json:"why"`
}

// picks are what makes a customer interesting. value orders those that qualify, the highest
// first.
var picks = []struct {
	value func(c *footfallv1.Customer) (value float64, qualifies bool)
	why   func(c *footfallv1.Customer, currency string) string
}{
	{
		func(c *footfallv1.Customer) (float64, bool) { v := spent(c); return v, v > 0 },
		func(c *footfallv1.Customer, currency string) string {
			return fmt.Sprintf("the most valuable: %.0f %s in %s", spent(c), currency, things(int(c.GetLifetime().GetShoppingDays()), "shopping day"))
		},
	},
	{
		func(c *footfallv1.Customer) (float64, bool) {
			f := c.GetFeatures()
			return f["overdue"], f["visit_days_84"] >= 8 && f["gap_ewma"] <= 14 && f["overdue"] > 1
		},
		func(c *footfallv1.Customer, _ string) string {
			f := c.GetFeatures()
			return fmt.Sprintf("the most overdue regular: came every %s, away for %s", days(f["gap_ewma"]), days(f["recency_days"]))
		},
	},
	{
		func(c *footfallv1.Customer) (float64, bool) {
			before, now := trend(c)
			return now / before, before >= 50 && c.GetFeatures()["visit_days_28"] >= 4
		},
		func(c *footfallv1.Customer, currency string) string {
			before, now := trend(c)
			return fmt.Sprintf("the fastest rising: from %.0f to %.0f %s in 4 weeks", before, now, currency)
		},
	},
	{
		func(c *footfallv1.Customer) (float64, bool) {
			v, ok := scoreOf(c, churnModel)
			return v, ok && c.GetLifetime().GetShoppingDays() >= 10 && c.GetFeatures()["recency_days"] < 28
		},
		func(c *footfallv1.Customer, _ string) string {
			v, _ := scoreOf(c, churnModel)
			return fmt.Sprintf("lapsing, though here within 4 weeks: %.0f%% to stay away for the next 4", v*100)
		},
	},
	{
		func(c *footfallv1.Customer) (float64, bool) {
			day, err := behavior.ParseDate(c.GetLifetime().GetFirstShoppingDay())
			return float64(day), err == nil
		},
		func(c *footfallv1.Customer, _ string) string {
			return "the newest: first seen buying on " + c.GetLifetime().GetFirstShoppingDay()
		},
	},
}

// interestingOf picks one customer for each reason, each customer once.
func interestingOf(customers []*footfallv1.Customer, currency string) []interesting {
	found, taken := []interesting{}, map[string]bool{}
	for _, p := range picks {
		var best *footfallv1.Customer
		var high float64
		for _, c := range customers {
			v, ok := p.value(c)
			if !ok || taken[c.GetCustomerId()] {
				continue
			}
			if best == nil || v > high || v == high && c.GetCustomerId() < best.GetCustomerId() {
				best, high = c, v
			}
		}
		if best != nil {
			taken[best.GetCustomerId()] = true
			found = append(found, interesting{best.GetCustomerId(), p.why(best, currency)})
		}
	}
	return found
}

func spent(c *footfallv1.Customer) float64 {
	v, err := messages.ParseMoney(c.GetLifetime().GetSpend())
	if err != nil {
		return 0
	}
	return float64(v) / 10_000
}

// trend is the spend of four weeks: the mean of the eight before the last four, and the last.
func trend(c *footfallv1.Customer) (before, now float64) {
	now = math.Expm1(c.GetFeatures()["log_spend_28"])
	return (math.Expm1(c.GetFeatures()["log_spend_84"]) - now) / 2, now
}

// sampled is how many single queries are timed.
const sampled = 1_000

func (d *demo) summarize(ctx context.Context) (*summary, error) {
	labels, err := datasets.NewLabels(ctx, d.data)
	if err != nil {
		return nil, err
	}
	ids := labels.Customers()
	customers, err := d.everyone(ctx, ids)
	if err != nil {
		return nil, err
	}
	r := d.state.Replayed
	s := &summary{
		Events: r.Accepted, Customers: len(customers), First: r.First, Last: r.Last, Seconds: r.Seconds, Rate: r.Rate,
		FirstAnswer: d.firstAfter.Seconds(), Queries: sampled, Sunday: d.state.Sunday,
		Segments: segments(customers), Interesting: interestingOf(customers, d.data.Currency),
	}
	if s.P50, s.P99, err = d.timeQueries(ctx, ids); err != nil {
		return nil, err
	}
	sunday, err := behavior.ParseDate(d.state.Sunday)
	if err != nil {
		return nil, fmt.Errorf("%s: sunday: %w", d.statePath(), err)
	}
	at := time.UnixMilli(behavior.NewCalendar(d.data.Location).LastMilli(sunday))
	if s.Quality, err = checkModels(d.state.Scores, labels, at); err == nil && len(s.Quality) == 0 {
		s.NoQuality = noQuality(&d.state)
	}
	return s, err
}

// noQuality says why no score can be compared with what happened.
func noQuality(state *demoState) string {
	switch {
	case state.Scores == nil:
		return fmt.Sprintf("The node had gone past Sunday %s before its scores of that day could be kept, so there is none to compare with what happened.", state.Sunday)
	case len(state.Scores) == 0:
		return fmt.Sprintf("The node served no models when Sunday %s ended, so there is no score to compare with what happened.", state.Sunday)
	default:
		return fmt.Sprintf("No model that the node served when Sunday %s ended foretells what this history shows, so there is nothing to compare.", state.Sunday)
	}
}

// timeQueries asks about customers one by one and returns two quantiles in milliseconds.
func (d *demo) timeQueries(ctx context.Context, ids []string) (p50, p99 float64, err error) {
	took := make([]float64, sampled)
	for i := range took {
		id := ids[i*7919%len(ids)] // a prime: the sample goes all over the shards
		err := replay.Retry(ctx, replay.DefaultPatience, func(ctx context.Context) error {
			began := d.now()
			_, err := d.client.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: id})
			took[i] = float64(d.now().Sub(began).Nanoseconds()) / 1e6
			return err
		})
		if err != nil {
			return 0, 0, err
		}
	}
	slices.Sort(took)
	return took[sampled/2], took[sampled*99/100], nil
}

func (d *demo) printSummary(s *summary) error {
	bold := text.Bold.Sprint
	fmt.Fprintf(d.out, "\n%s\n", bold("A year of retail, as Footfall sees it"))
	fmt.Fprintf(d.out, "%s of %s, %s to %s, replayed in %s: %s events/s, each day ended and swept\n",
		things(int(s.Events), "event"), things(s.Customers, "customer"), s.First, s.Last, ago(time.Duration(s.Seconds*float64(time.Second))), rate(s.Rate))
	fmt.Fprintf(d.out, "first answer %.1f s after the start; a query takes %.2f ms (p50), %.2f ms (p99 of %s)\n",
		s.FirstAnswer, s.P50, s.P99, count(s.Queries))

	if len(s.Quality) > 0 {
		fmt.Fprintf(d.out, "\n%s\n", bold(fmt.Sprintf("What the models said on Sunday %s, and what really happened", s.Sunday)))
		t := newTable("model", "that a customer", ">customers", ">did", ">AUC", ">log-loss", ">ECE", ">AP")
		for _, q := range s.Quality {
			ap := ""
			if q.Model == churnModel {
				ap = fmt.Sprintf("%.3f", q.AP)
			}
			t.AppendRow(table.Row{
				q.Model, q.Outcome, count(q.Rows), fmt.Sprintf("%.1f%%", q.Base*100), fmt.Sprintf("%.3f", q.AUC),
				fmt.Sprintf("%.3f", q.LogLoss), fmt.Sprintf("%.3f", q.ECE), ap,
			})
		}
		if err := d.printTable(t); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(d.out, "\n%s\n", s.NoQuality)
	}
	if len(s.Segments) > 0 {
		fmt.Fprintf(d.out, "\n%s\n", bold("Segments"))
		t := newTable("segment", ">customers", "", "half of them, about")
		for _, g := range s.Segments {
			t.AppendRow(table.Row{g.Name, count(g.Customers), bar(g.Share/s.Segments[0].Share, 16), g.describe(d.data.Currency)})
		}
		if err := d.printTable(t); err != nil {
			return err
		}
	}
	fmt.Fprintf(d.out, "\n%s\n", bold("Worth a look"))
	node := ""
	if d.grpc != "127.0.0.1:8081" {
		node = " --node " + d.grpc
	}
	t := newTable("command", "customer")
	for _, i := range s.Interesting {
		t.AppendRow(table.Row{"bin/footfall customer " + i.CustomerID + node, i.Why})
	}
	if err := d.printTable(t); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n%s\n", bold("From here"))
	if d.once {
		fmt.Fprintf(d.out, "  bin/footfall demo            serves this year again, at once\n")
		return nil
	}
	id := "900"
	if len(s.Interesting) > 0 {
		id = s.Interesting[0].CustomerID
	}
	t = newTable("look at", "for")
	for _, row := range []table.Row{
		{"http://" + d.http + "/", "this node and its customers, live"},
		{"http://" + d.http + "/v1/customers/" + id, "a customer as JSON"},
		{"http://" + d.http + "/metrics", "every shard, for Prometheus"},
		{"bin/footfall shards" + node, "who owns what, and how far it is"},
		{"bin/footfall customer " + id + " --history" + node, "every event, and the state after it"},
		{"bin/footfall verify" + node, "the proof that every state is the fold of its log"},
	} {
		t.AppendRow(row)
	}
	if err := d.printTable(t); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nServing. Ctrl-C stops it; what it knows stays in %s.\n", d.dir)
	return nil
}
