package main

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages/footfallv1"
)

func at(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

func example() *fake {
	monday := time.Date(2017, 1, 2, 17, 0, 0, 0, time.UTC)
	state := &footfallv1.Customer{
		CustomerId: "900", Shard: 18, Owner: "n1", Segment: "regulars",
		AsOf: &footfallv1.AsOf{Time: at(monday.Add(12 * time.Hour)), Offset: 41}, LastEventTime: at(monday),
		Features: map[string]float64{
			"recency_days": .5, "visit_days_7": 2, "visit_days_28": 2, "visit_days_84": 2, "log_spend_28": 3.258096538021482,
			"log_spend_84": 3.258096538021482, "gap_ewma": 1, "overdue": .5, "departments_28": 3, "discount_share_84": .125,
		},
		Sequence: []*footfallv1.ShoppingDay{
			{AgeDays: 84, GapDays: 84},
			{AgeDays: 1, LogSpend: 2.3978952727983707, Departments: 1},
			{GapDays: 1, LogSpend: 2.772588722239781, Departments: 2, DiscountShare: .2},
		},
		Scores: []*footfallv1.Score{
			{Model: "churn_risk", Version: "3", Value: .07, Offset: 41, Time: at(monday.Add(12 * time.Hour))},
			{Model: "customer_segmentation", Version: "1", Value: 2, Offset: 41, Time: at(monday.Add(12 * time.Hour))},
			{Model: "purchase_prediction", Version: "3", Value: .8125, Offset: 41, Time: at(monday.Add(12 * time.Hour))},
		},
		Lifetime: &footfallv1.Lifetime{
			Events: 4, Purchases: 2, ShoppingDays: 2, CampaignsReceived: 1, Spend: "25.00", Discount: "3.75", FirstDaySpend: "10.00",
			FirstShoppingDay: "2017-01-01", LastShoppingDay: "2017-01-02",
		},
		Attributes: map[string]string{"income": "35-49K", "age": "35-44"},
	}
	return &fake{
		cluster: &footfallv1.Cluster{
			Shards: 2, Timezone: "America/New_York", Currency: "USD", Clock: footfallv1.ClockMode_CLOCK_MODE_DRIVEN, FoldVersion: 1, LastTick: "2017-01-01",
			Members: []*footfallv1.Member{{
				Name: "n1", State: "active", Roles: []string{"shards", "inference"}, Devices: []string{"CPU:0"}, HttpAddress: "127.0.0.1:8080",
				GrpcAddress: "127.0.0.1:8081", Version: "v1", Shards: 2, Started: at(now.Add(-90 * time.Minute)),
			}},
		},
		shards: &footfallv1.ListShardsResponse{Shards: []*footfallv1.Shard{
			{
				Shard: 0, Owner: "n1", State: "active", Epoch: 3, Offset: 1041, Lag: 12, Customers: 12345, Resident: 12000, Rate: 1234.5, Events: 9876543, ApplyShare: .0312, QueryRate: 4.25,
				Unscored: 7, LastTick: "2017-01-01", LastCheckpoint: at(now.Add(-8 * time.Second)), ResidentBytes: 3 << 20, Sweeping: true,
			},
			{Shard: 1, State: "failed", Epoch: 2, Offset: -1, Error: "log_gap: shard 1 needs offset 5,\nbut its log begins at 9"},
		}},
		hot: &footfallv1.ListHotCustomersResponse{Missing: []uint32{1}, Customers: []*footfallv1.HotCustomer{
			{CustomerId: "900", Owner: "n1", Rate: 12.5, Events: 1480, Error: 4}, {CustomerId: "\x1b[2J", Owner: "n1", Rate: .26, Events: 32, Error: 20},
		}},
		models: &footfallv1.ListModelsResponse{Missing: []string{"n3"}, Models: []*footfallv1.Model{
			{Name: "purchase_prediction", Versions: []*footfallv1.ModelVersion{
				{Version: "3", State: "serving", Traffic: 1, Device: "n1/CPU:0", Rows: 123456, Places: []*footfallv1.ModelPlace{
					{Node: "n1", State: "serving", Devices: []string{"CPU:0"}, Rows: 123456},
				}, Evaluation: map[string]float64{"rows": 22000, "ece": .0123, "auc": .8281, "log_loss": .5061, "average_precision": .8499, "baseline_visits_auc": .81}},
				{Version: "4", State: "failed", Error: "input features has 9 columns, not 10"},
			}},
			{Name: "segmentation", Versions: []*footfallv1.ModelVersion{
				{Version: "1", State: "serving", Traffic: 1, Device: "CPU:0", Rows: 123456, Evaluation: map[string]float64{"silhouette": .22996, "share_0": .08827}},
			}},
		}},
		letters: &footfallv1.ListDeadLettersResponse{Letters: []*footfallv1.DeadLetter{
			{
				Id: "1-17-2", Source: "footfall.events.1", Shard: 1, Offset: 17, Index: 2, Field: "purchase.currency",
				Reason: "must be empty or USD, the currency of the cluster, not \"EUR\"", EventId: "b-1", CustomerId: "900",
			},
			{Id: "unsharded-0a1b-0", Source: "footfall.unsharded", Field: "customer_id", Reason: "must not contain control characters", EventId: "b-2", CustomerId: "\x1b[2J"},
		}, More: true},
		customer: state,
		explanation: &footfallv1.Explanation{
			Model: "churn_risk", Version: "3", Value: .07, BaselineValue: .13,
			Contributions: map[string]float64{
				"recency_days": -.04, "visit_days_28": -.025, "gap_ewma": -.0149, "visit_days_7": .02, "log_spend_28": 0, "log_spend_84": .001,
				"visit_days_84": 0, "overdue": -.0011, "departments_28": 0, "discount_share_84": 0,
			},
		},
		history: &footfallv1.GetHistoryResponse{Truncated: true, Entries: []*footfallv1.HistoryEntry{
			{
				Offset: 40, Event: &footfallv1.Event{EventId: "b-1", CustomerId: "900", Time: at(monday), Kind: &footfallv1.Event_Purchase{
					Purchase: &footfallv1.Purchase{Lines: []*footfallv1.Line{{Amount: "10.00"}, {Amount: "5.00"}}},
				}}, Outcome: "applied", State: state,
			},
			{
				Offset: 41, Index: 1, Event: &footfallv1.Event{EventId: "c-1", CustomerId: "900", Time: at(monday.Add(time.Hour)), Kind: &footfallv1.Event_CouponRedeemed{
					CouponRedeemed: &footfallv1.CouponRedeemed{CouponId: "51800000050"},
				}}, Outcome: "rejected", Reason: "time: is too far ahead",
			},
		}},
		verify: []*footfallv1.VerifyProgress{{Shard: 0, Events: 1200, Customers: 30, Done: 1, Total: 2}, {Shard: 1, Events: 34, Customers: 4, Done: 2, Total: 2}},
	}
}

// What commands print for people and for programs.
func TestOutput(t *testing.T) {
	addr := serve(t, example())
	for name, args := range map[string]string{
		"shards": "shards", "shards-json": "shards -o json",
		"hot": "shards --hot", "hot-json": "shards --hot --limit 2 -o json",
		"models": "models", "models-json": "models -o json",
		"cluster": "cluster", "cluster-json": "cluster -o json",
		"deadletters": "deadletters list", "deadletters-json": "deadletters list -o json",
		"customer": "customer 900", "customer-json": "customer 900 -o json",
		"history": "customer 900 --history", "history-json": "customer 900 --history -o json",
		"explain": "customer 900 --explain churn_risk", "explain-json": "customer 900 --explain churn_risk -o json",
		"export": "customer export 900", "stale": "customer 900 --allow-stale",
		"verify": "verify", "verify-json": "verify -o json",
	} {
		t.Run(name, func(t *testing.T) {
			r := footfall(t, "", append(strings.Fields(args), "--node", addr)...)
			require.Equal(t, exitOK, r.code, r.err)
			golden(t, name, r.out)
		})
	}
}

func TestVerifyFailsWhereStatesDiffer(t *testing.T) {
	f := example()
	f.verify[1].Differences = []string{`customer "900": checkpoint 80 bytes, log 81 bytes`}
	r := footfall(t, "", "verify", "--node", serve(t, f))
	require.Equal(t, exitFailed, r.code)
	require.Equal(t, "shard 1: customer \"900\": checkpoint 80 bytes, log 81 bytes\n2 shards, 34 customers, 1,234 events: not equal: the differences are above; stop the node and keep its data folder for a diagnosis\n", r.out)
	require.Empty(t, r.err)
}

func TestCustomerAt(t *testing.T) {
	f := example()
	addr := serve(t, f)
	for given, want := range map[string]string{
		"2017-03-11":                "2017-03-12T04:59:59.999Z", // the day before clocks change in New York
		"2017-03-12":                "2017-03-13T03:59:59.999Z",
		"2017-03-12T18:00:00+01:00": "2017-03-12T17:00:00Z",
	} {
		require.Equal(t, exitOK, footfall(t, "", "customer", "900", "--at", given, "--node", addr).code)
		require.Equal(t, want, f.asked.GetAt().AsTime().Format(time.RFC3339Nano), given)
	}
}

func TestClusterDrain(t *testing.T) {
	f := &fake{cluster: &footfallv1.Cluster{Members: []*footfallv1.Member{{Name: "n1", State: "active", Zone: "east"}}}}
	addr := serve(t, f)
	out := footfall(t, "", "cluster", "drain", "n1", "--node", addr)
	require.Equal(t, exitOK, out.code)
	require.Contains(t, out.out, "n1 hands its shards over")
	out = footfall(t, "", "cluster", "--node", addr)
	require.Contains(t, out.out, "n1 (east)  draining")
	require.Contains(t, out.out, "does not answer")
}

// An error is one line that says what to do, and the exit code tells use from failure.
func TestErrors(t *testing.T) {
	addr := serve(t, &fake{cluster: &footfallv1.Cluster{Shards: 4, Timezone: "UTC"}})
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"bogus", 2, "footfall: there is no command 'footfall bogus': see 'footfall --help'\n"},
		{"audience gone", 2, "footfall: 'footfall audience' is not in this version: see 'footfall --help'\n"},
		{"cluster drain", 2, "footfall: MEMBER is missing: see 'footfall cluster drain --help'\n"},
		{"cluster drain n1", 1, "footfall: no member \"n1\" is there: footfall cluster lists them\n"},
		{"cluster bogus", 2, "footfall: there is no command 'footfall cluster bogus': see 'footfall cluster --help'\n"},
		{"models canary", 2, "footfall: NAME is missing: see 'footfall models canary --help'\n"},
		{"models promote churn_risk 2 3", 2, "footfall: \"3\" is one argument too many: see 'footfall models promote --help'\n"},
		{"models canary churn_risk --share 2", 2, "footfall: --share \"2\" is no share: 10% or 0.1 are: see 'footfall models canary --help'\n"},
		{"models canary churn_risk --max-errors 0", 2, "footfall: --max-errors 0 is not possible: leave it out for the default, or give a number above 0: see 'footfall models canary --help'\n"},
		{"models shadow churn_risk --min-rows 0", 2, "footfall: --min-rows 0 is not possible: leave it out for the default, or give a number above 0: see 'footfall models shadow --help'\n"},
		{"models fine-tune churn_risk --rows x --canary 100%", 2, "footfall: --canary 100%: it is a share below all: who is to get all customers is promoted: see 'footfall models fine-tune --help'\n"},
		{"models fine-tune churn_risk --rows x --canary 7", 2, "footfall: --canary \"7\" is no share: 10% or 0.1 are: see 'footfall models fine-tune --help'\n"},
		{"models fine-tune churn_risk --rows x --epochs 0", 2, "footfall: --epochs 0 is not possible: leave it out for the default, or give a number above 0: see 'footfall models fine-tune --help'\n"},
		{"deadletters mend", 2, "footfall: there is no command 'footfall deadletters mend': see 'footfall deadletters --help'\n"},
		{"deadletters show", 2, "footfall: the ID of a dead letter is missing: see 'footfall deadletters show --help'\n"},
		{"deadletters replay", 2, "footfall: the ID of a dead letter is missing, or --all: see 'footfall deadletters replay --help'\n"},
		{"deadletters replay 1-2-3 --all", 2, "footfall: --all goes without IDs: see 'footfall deadletters replay --help'\n"},
		{"deadletters replay 1-2-3 --reason time", 2, "footfall: --reason, --customer and --source choose among --all: see 'footfall deadletters replay --help'\n"},
		{"deadletters drop --all", 2, "footfall: --all loses what the letters hold for good: look at them with 'footfall deadletters list', and say --yes: see 'footfall deadletters drop --help'\n"},
		{"deadletters fix 1-2-3", 2, "footfall: say what is right: --set FIELD=VALUE, --unset FIELD, or --file FILE alone: see 'footfall deadletters fix --help'\n"},
		{"deadletters fix 1-2-3 --file x --set a=b", 2, "footfall: say what is right: --set FIELD=VALUE, --unset FIELD, or --file FILE alone: see 'footfall deadletters fix --help'\n"},
		{"deadletters fix 1-2-3 --set time", 2, "footfall: --set time: it is FIELD=VALUE: see 'footfall deadletters fix --help'\n"},
		{"deadletters fix 1-2-3 --set lines[=1", 2, "footfall: --set lines[=1: brackets hold a number, such as lines[0], or a name: see 'footfall deadletters fix --help'\n"},
		{"deadletters fix 1-2-3 --unset a..b", 2, "footfall: --unset a..b: a field is missing after the dot: see 'footfall deadletters fix --help'\n"},
		{"verify --shard x", 2, "footfall: invalid argument \"x\" for \"--shard\": see 'footfall verify --help'\n"},
		{"reshard", 2, "footfall: give one of --data and --config; give one of --into and --into-config: see 'footfall reshard --help'\n"},
		{"plan", 2, "footfall: --members is missing: see 'footfall plan --help'\n"},
		{"plan --members 2 --compare x", 2, "footfall: --compare goes by the plan that it is given: see 'footfall plan --help'\n"},
		{"plan --compare no/such", 1, "footfall: open no/such: no such file or directory\n"},
		{"shards --bogus", 2, "footfall: unknown flag: --bogus: see 'footfall shards --help'\n"},
		{"shards --limit 3", 2, "footfall: --limit is for --hot: see 'footfall shards --help'\n"},
		{"shards --hot --limit 0", 2, "footfall: --limit must be 1 or more: see 'footfall shards --help'\n"},
		{"shards extra", 2, "footfall: \"extra\" is one argument too many: see 'footfall shards --help'\n"},
		{"shards -o xml", 2, "footfall: --output xml: it is table or json: see 'footfall shards --help'\n"},
		{"customer", 2, "footfall: the ID of a customer is missing: see 'footfall customer --help'\n"},
		{"customer 1 --at noon", 2, "footfall: --at noon: it is a time as 2017-12-31T18:00:00Z or a date as 2017-12-31: see 'footfall customer --help'\n"},
		{"customer 1 --history --at 2017-01-01", 2, "footfall: --history goes with none of --at, --wait-for, --explain and --allow-stale: see 'footfall customer --help'\n"},
		{"features completejourney", 2, "footfall: --out FILE is missing: see 'footfall features --help'\n"},
		{"features synthetic --out x --data y", 2, "footfall: --data is for the source log: see 'footfall features --help'\n"},
		{"features log --out x --currency EUR", 2, "footfall: --currency: a log has its own: see 'footfall features --help'\n"},
		{"features log --out x --format lifetimes", 2, "footfall: --format lifetimes is for histories, not for a log: see 'footfall features --help'\n"},
		{"features log --out x --data no/such", 1, "footfall: no/such holds no node's data: there is no no/such/log\n"},
		{"features completejourney --out x --from 2017-02-01 --to 2017-01-01", 2, "footfall: --from 2017-02-01 is after --to 2017-01-01: see 'footfall features --help'\n"},
		{"replay completejourney --speed 0", 2, "footfall: --speed 0: it is a number above 0, or max: see 'footfall replay --help'\n"},
		{"replay completejourney --seed 1", 2, "footfall: --seed is for synthetic only: see 'footfall replay --help'\n"},
		{"replay completejourney --shift-days 3", 2, "footfall: --shift-days 3: a history moves by whole weeks, a multiple of 7: see 'footfall replay --help'\n"},
		{"bench ingest peer_stream", 2, "footfall: there is no benchmark \"peer_stream\": choose from decode, fold, ingest, peer-stream, memory, query, telemetry, recovery, inference, threads, rabbitmq, cluster, operate: see 'footfall bench --help'\n"},
		{"replay no/such/file", 1, "footfall: no/such/file is neither a file nor one of completejourney, cdnow, cdnow-sample, synthetic\n"},
		{"publish no/such/file", 1, "footfall: open no/such/file: no such file or directory\n"},
		{"verify --data no/such", 1, "footfall: no/such holds no node's data: there is no no/such/log\n"},
		{"customer 1 --wait-for e", 1, "footfall: customer \"1\": no event was ever seen\n"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			if strings.Contains(tt.args, "--wait-for e") {
				addr, _ := realNode(t, t.TempDir(), footfallv1.ClockMode_CLOCK_MODE_DRIVEN)
				r := footfall(t, "", "customer", "1", "--node", addr)
				require.Equal(t, result{tt.code, "", tt.want}, r)
				return
			}
			r := footfall(t, "", append(strings.Fields(tt.args), "--node", addr)...)
			require.Equal(t, result{tt.code, "", tt.want}, r)
		})
	}
}

func TestNoNode(t *testing.T) {
	for _, node := range []string{"", "shop", "https://shop/"} {
		require.Equal(t, result{exitUsage, "", "footfall: --node " + strconv.Quote(node) + ": it is HOST:PORT, as 127.0.0.1:8081: see 'footfall shards --help'\n"},
			footfall(t, "", "shards", "--node", node))
	}
	r := footfall(t, "", "shards", "--node", "127.0.0.1:1")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "footfall: no node is ready at 127.0.0.1:1 (")
	require.Contains(t, r.err, "): start one with 'footfall node', or name another with --node\n")
}

// Every command says what it does, with an example.
func TestHelp(t *testing.T) {
	root := newApp(nil, nil, nil, func(string) string { return "" }).rootCommand()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c != root {
			require.NotEmpty(t, c.Short, c.CommandPath())
			require.NotEmpty(t, c.Example, c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	r := footfall(t, "", "--help")
	require.Equal(t, exitOK, r.code)
	golden(t, "help", r.out)
}
