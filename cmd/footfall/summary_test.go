package main

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/datasets"
	"footfall/messages/footfallv1"
	"footfall/node/quality"
)

// shopper makes a customer of the features that a summary looks at.
func shopper(id, segment string, features map[string]float64, scores map[string]float64, days uint64, spend, first string) *footfallv1.Customer {
	c := &footfallv1.Customer{
		CustomerId: id, Segment: segment, Features: features,
		Lifetime: &footfallv1.Lifetime{ShoppingDays: days, Spend: spend, FirstShoppingDay: first},
	}
	for model, v := range scores {
		c.Scores = append(c.Scores, &footfallv1.Score{Model: model, Value: v})
	}
	return c
}

func shoppers() []*footfallv1.Customer {
	type f = map[string]float64
	return []*footfallv1.Customer{
		shopper("rich", "regulars", f{"recency_days": 1, "gap_ewma": 2, "log_spend_28": 6, "log_spend_84": 7, "visit_days_28": 12, "visit_days_84": 40, "overdue": .5}, f{"purchase_prediction": .9, churnModel: .01}, 200, "9000.00", "2017-01-01"),
		shopper("overdue", "regulars", f{"recency_days": 21, "gap_ewma": 3, "log_spend_28": 2, "log_spend_84": 6, "visit_days_28": 1, "visit_days_84": 20, "overdue": 7}, f{"purchase_prediction": .5, churnModel: .3}, 90, "3000.00", "2017-01-02"),
		shopper("rising", "growing", f{"recency_days": 2, "gap_ewma": 4, "log_spend_28": 6.215, "log_spend_84": 6.400, "visit_days_28": 8, "visit_days_84": 10, "overdue": .5}, f{"purchase_prediction": .8, churnModel: .02}, 30, "2000.00", "2017-02-01"),
		shopper("lapsing", "regulars", f{"recency_days": 26, "gap_ewma": 20, "log_spend_28": 1, "log_spend_84": 4, "visit_days_28": 1, "visit_days_84": 3, "overdue": 1.3}, f{"purchase_prediction": .1, churnModel: .8}, 12, "400.00", "2017-03-01"),
		shopper("gone", "regulars", f{"recency_days": 84, "gap_ewma": 28, "visit_days_84": 0, "overdue": 3}, f{"purchase_prediction": .05, churnModel: .99}, 11, "300.00", "2017-03-02"),
		shopper("new", "", f{"recency_days": 1, "gap_ewma": 28, "log_spend_28": 3, "log_spend_84": 3, "visit_days_28": 1, "visit_days_84": 1}, nil, 1, "19.00", "2017-12-30"),
	}
}

func TestInteresting(t *testing.T) {
	have := ""
	for _, i := range interestingOf(shoppers(), "USD") {
		have += i.CustomerID + ": " + i.Why + "\n"
	}
	require.Equal(t, `rich: the most valuable: 9000 USD in 200 shopping days
overdue: the most overdue regular: came every 3 days, away for 21 days
rising: the fastest rising: from 51 to 499 USD in 4 weeks
lapsing: lapsing, though here within 4 weeks: 80% to stay away for the next 4
new: the newest: first seen buying on 2017-12-30
`, have)
	require.Empty(t, interestingOf(nil, "USD"))
}

func TestSegments(t *testing.T) {
	all := segments(shoppers())
	require.Len(t, all, 2)
	require.Equal(t, "regulars", all[0].Name)
	require.Equal(t, 4, all[0].Customers)
	require.InDelta(t, 4./6, all[0].Share, 1e-12)
	require.InDelta(t, 23.5, all[0].Recency, 1e-12, "between the two in the middle")
	require.InDelta(t, .3875, *all[0].Returns, 1e-12)
	require.Equal(t, "comes every 12 days, 3 USD in 4 weeks, last seen 24 days ago, 39% buy within a week", all[0].describe("USD"))
}

// The scores of an instant are compared with what each customer did after it.
func TestCheckModels(t *testing.T) {
	t.Setenv("FOOTFALL_CACHE", t.TempDir())
	bought := func(id, customer, at string) string {
		return fmt.Sprintf(`{"event_id":%q,"customer_id":%q,"time":%q,"purchase":{"lines":[{"amount":"1"}]}}`+"\n", id, customer, at)
	}
	path := writeFile(t, "history.ndjson", bought("1", "soon", "2017-01-01T10:00:00Z")+bought("2", "later", "2017-01-01T11:00:00Z")+
		bought("3", "never", "2017-01-02T11:00:00Z")+bought("4", "soon", "2017-01-05T10:00:00Z")+bought("5", "later", "2017-01-20T10:00:00Z")+
		bought("6", "unborn", "2017-02-10T10:00:00Z"))
	data, err := datasets.Open(t.Context(), path, datasets.Options{})
	require.NoError(t, err)
	labels, err := datasets.NewLabels(t.Context(), data)
	require.NoError(t, err)

	checks, err := checkModels(map[string]map[string]float64{
		"purchase_prediction": {"soon": .9, "later": .4, "never": .2, "unborn": .5},
		churnModel:            {"soon": .1, "later": .1, "never": .8},
		"no such model":       {"soon": 1},
	}, labels, time.Date(2017, 1, 2, 23, 59, 59, 999e6, time.UTC))
	require.NoError(t, err)
	require.Len(t, checks, 2)
	require.Equal(t, "purchase_prediction", checks[0].Model)
	require.Equal(t, 3, checks[0].Rows, "who had not bought anything yet does not count")
	require.InDelta(t, 1./3, checks[0].Base, 1e-12)
	require.InDelta(t, 1, checks[0].AUC, 0)
	require.Equal(t, churnModel, checks[1].Model)
	require.InDelta(t, 1./3, checks[1].Base, 1e-12)
}

func TestSummaryText(t *testing.T) {
	var out bytes.Buffer
	d := demo{
		app: newApp(nil, &out, nil, func(string) string { return "" }), http: "127.0.0.1:8080", grpc: "127.0.0.1:8081", dir: "data/demo",
		data: &datasets.Dataset{Currency: "USD"},
	}
	require.NoError(t, d.printSummary(&summary{
		Events: 165340, Customers: 2469, First: "2025-03-02", Last: "2026-03-01", Seconds: 21.4, Rate: 7726, FirstAnswer: 2.61, Queries: 1000, P50: .181, P99: .92,
		Sunday: "2026-02-01",
		Quality: []modelCheck{
			{"purchase_prediction", "buys within 7 days", quality.Measures{Rows: 2450, Base: .55, AUC: .8284, LogLoss: .5049, ECE: .0121, AP: .85}},
			{churnModel, "stays away for 28 days", quality.Measures{Rows: 2450, Base: .171, AUC: .8748, LogLoss: .312, ECE: .011, AP: .5812}},
		},
		Segments: segments(shoppers()), Interesting: interestingOf(shoppers(), "USD"),
	}))
	golden(t, "summary", out.String())
}
