package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"footfall/cluster"
	"footfall/messages/footfallv1"
	nodes "footfall/node/members"
)

// scalePlan is what 'footfall plan' prints, and keeps to be compared with what came of it.
type scalePlan struct {
	Made    time.Time `json:"made"`
	Members []string  `json:"members"`
	Joining []string  `json:"joining"`
	Leaving []string  `json:"leaving"`
	// Moves are the shards that change their owner, Least what could not be avoided.
	Moves []planMove `json:"moves"`
	Least int        `json:"least"`
	// HandOver is how long one takes, Duration how long all of them do, in seconds. Assumed says
	// that no shard has been handed over yet to go by.
	HandOver float64 `json:"hand_over_seconds"`
	Duration float64 `json:"duration_seconds"`
	Assumed  bool    `json:"assumed"`
	// Shares are of each member.
	Shares []planShare `json:"shares"`
	// Owners and Epochs are of each shard: the owners as they will be, the epochs as they were.
	Owners []string `json:"owners"`
	Epochs []uint64 `json:"epochs"`
}

type planMove struct {
	Shard int    `json:"shard"`
	From  string `json:"from"`
	To    string `json:"to"`
}

type planShare struct {
	Member string    `json:"member"`
	Before planLoads `json:"before"`
	After  planLoads `json:"after"`
}

type planLoads struct {
	Shards    int     `json:"shards"`
	Customers uint64  `json:"customers"`
	Bytes     uint64  `json:"resident_bytes"`
	Rate      float64 `json:"events_per_second"`
}

const (
	// assumedHandOver is reckoned with where no shard was ever handed over.
	assumedHandOver = 100 * time.Millisecond
	// planEvery is how often --watch looks.
	planEvery = 250 * time.Millisecond
)

func (a *app) planCommand() *cobra.Command {
	var (
		members       int
		with, without []string
		save, compare string
		watch         bool
		patience      time.Duration
	)
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Tell what scaling to another number of members would move",
		Long: `Tell what scaling would do: which shards move, how long that takes, and what each member will have to
carry, from what the cluster carries now. Nothing is changed.

--members names how many there will be. New ones are supposed to go on with the numbers of those
that are there (footfall-3 after footfall-2), and those with the highest numbers to leave, as Kubernetes
does it; --with and --without name them otherwise. Those that leave are supposed to be drained
('footfall cluster drain'): the place of one that is only stopped is kept for it for ten minutes.

--watch waits until the cluster is as planned, and compares what came of it; --save keeps the plan, so that
--compare can do that later.`,
		Example: `  footfall plan --members 5
  footfall plan --members 5 --watch
  footfall plan --members 2 --without n1 --save plan.json
  footfall plan --compare plan.json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			var p *scalePlan
			switch {
			case compare != "" && (members != 0 || save != "" || len(with)+len(without) > 0):
				return usagef("--compare goes by the plan that it is given")
			case compare != "":
				p, err = readPlan(compare)
			case cmd.Flags().Changed("members") && members < 1:
				return usagef("--members must be 1 or more")
			case members < 1 && len(with)+len(without) == 0:
				return usagef("--members is missing")
			default:
				p, err = a.plan(cmd.Context(), c, members, with, without)
			}
			if err != nil {
				return err
			}
			if save != "" {
				if err := writePlan(save, p); err != nil {
					return err
				}
			}
			if compare == "" && (!watch || a.output != "json") {
				if err := a.printPlan(p); err != nil {
					return err
				}
			}
			if !watch && compare == "" {
				return nil
			}
			return a.outcome(cmd.Context(), c, p, watch, patience)
		},
	}
	f := cmd.Flags()
	f.IntVar(&members, "members", 0, "how many members that own shards there will be")
	f.StringSliceVar(&with, "with", nil, "names of those that join")
	f.StringSliceVar(&without, "without", nil, "names of those that leave")
	f.StringVar(&save, "save", "", "a file to keep the plan in")
	f.StringVar(&compare, "compare", "", "the file of a plan, to compare with what came of it")
	f.BoolVar(&watch, "watch", false, "wait until the cluster is as planned, and compare")
	f.DurationVar(&patience, "patience", 10*time.Minute, "how long --watch waits")
	return cmd
}

// plan asks the cluster what it carries, and computes what it will.
func (a *app) plan(ctx context.Context, c *client, members int, with, without []string) (*scalePlan, error) {
	now, err := c.GetCluster(ctx, &footfallv1.GetClusterRequest{})
	if err != nil {
		return nil, err
	}
	list, err := c.ListShards(ctx, &footfallv1.ListShardsRequest{})
	if err != nil {
		return nil, err
	}
	var here []string
	for _, m := range now.GetMembers() {
		if slices.Contains(m.GetRoles(), "shards") && m.GetState() != "draining" {
			here = append(here, m.GetName())
		}
	}
	p := &scalePlan{Made: a.now().UTC()}
	fits := func(members int) error {
		if n := len(list.GetShards()); members > n {
			return fmt.Errorf("%d members for %d shards: some would have none ('footfall reshard' doubles the shards)", members, n)
		}
		return nil
	}
	// Before names are made for them, which a million of takes for ever.
	if err := fits(members); err != nil {
		return nil, err
	}
	if p.Members, err = scaled(here, members, with, without); err != nil {
		return nil, err
	}
	if err := fits(len(p.Members)); err != nil {
		return nil, err
	}
	apart := func(from, not []string) []string {
		return slices.DeleteFunc(slices.Clone(from), func(name string) bool { return slices.Contains(not, name) })
	}
	p.Joining, p.Leaving = apart(p.Members, here), apart(here, p.Members)

	var handOvers []float64
	loads := make([]cluster.Load, len(list.GetShards()))
	for i, s := range list.GetShards() {
		loads[i] = loadOf(s)
		p.Epochs = append(p.Epochs, s.GetEpoch())
		if t := s.GetTookOverSeconds(); t > 0 {
			handOvers = append(handOvers, t)
		}
	}
	forecast := cluster.Foresee(loads, p.Members)
	p.Owners, p.Least = forecast.Owners, forecast.Least
	for _, m := range forecast.Moves {
		p.Moves = append(p.Moves, planMove{m.Shard, m.From, m.To})
	}
	p.HandOver, p.Assumed = assumedHandOver.Seconds(), len(handOvers) == 0
	if !p.Assumed {
		slices.Sort(handOvers)
		p.HandOver = handOvers[len(handOvers)/2]
	}
	p.Duration = forecast.Duration(cluster.Pace{
		HandOver: time.Duration(p.HandOver * float64(time.Second)), Gap: nodes.CloseEvery,
		Giving: cluster.MaxDraining, Taking: nodes.LeastArriving,
	}).Seconds()
	all := slices.Collect(maps.Keys(forecast.After))
	for name := range forecast.Before {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	slices.SortFunc(all, byNumber)
	for _, name := range all {
		p.Shares = append(p.Shares, planShare{name, planLoads(forecast.Before[name]), planLoads(forecast.After[name])})
	}
	return p, nil
}

// loadOf is what a shard weighs.
func loadOf(s *footfallv1.Shard) cluster.Load {
	return cluster.Load{Owner: s.GetOwner(), Customers: s.GetCustomers(), Bytes: s.GetResidentBytes(), Rate: s.GetRate()}
}

var numbered = regexp.MustCompile(`^(.*?)(\d+)$`)

// byNumber orders footfall-10 behind footfall-9.
func byNumber(a, b string) int {
	x, y := numbered.FindStringSubmatch(a), numbered.FindStringSubmatch(b)
	if x == nil || y == nil || x[1] != y[1] {
		return cmp.Compare(a, b)
	}
	return cmp.Or(cmp.Compare(len(x[2]), len(y[2])), cmp.Compare(x[2], y[2]))
}

// scaled are the names once there are so many members; 0 means as many as with and without make.
func scaled(here []string, members int, with, without []string) ([]string, error) {
	out := slices.Clone(here)
	slices.SortFunc(out, byNumber)
	for _, name := range without {
		i := slices.Index(out, name)
		if i < 0 {
			return nil, usagef("--without %s: no such member is there: 'footfall cluster' lists them", name)
		}
		out = slices.Delete(out, i, i+1)
	}
	for _, name := range with {
		if slices.Contains(out, name) {
			return nil, usagef("--with %s: it is there already", name)
		}
		out = append(out, name)
	}
	slices.SortFunc(out, byNumber)
	if members == 0 {
		members = len(out)
	}
	if members < 1 {
		return nil, usagef("nobody would be left")
	}
	if members < len(out) && len(without) == 0 {
		out = out[:members]
	}
	for members > len(out) && len(with) == 0 {
		next, err := nextName(out)
		if err != nil {
			return nil, err
		}
		out = append(out, next)
	}
	if len(out) != members {
		return nil, usagef("--members %d: with those that are named there are %d", members, len(out))
	}
	return out, nil
}

// nextName goes on with the highest number.
func nextName(names []string) (string, error) {
	m := numbered.FindStringSubmatch(slices.MaxFunc(names, byNumber))
	if m == nil {
		return "", usagef("the names of the members end in no number: name the new ones by --with")
	}
	n, err := strconv.Atoi(m[2])
	if err != nil {
		return "", usagef("the names of the members end in no usable number: name the new ones by --with")
	}
	return fmt.Sprintf("%s%0*d", m[1], len(m[2]), n+1), nil
}

func readPlan(path string) (*scalePlan, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &scalePlan{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("%s is not a plan: %w", path, err)
	}
	if len(p.Owners) == 0 || len(p.Owners) != len(p.Epochs) {
		return nil, fmt.Errorf("%s is not a plan: it has %d owners and %d epochs of shards", path, len(p.Owners), len(p.Epochs))
	}
	return p, nil
}

func writePlan(path string, p *scalePlan) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func (a *app) printPlan(p *scalePlan) error {
	if a.output == "json" {
		return a.printJSON(p)
	}
	fmt.Fprintf(a.out, "%s\n\n", p.headline())
	t := newTable("member", "", ">shards", ">then", ">customers", ">then", ">resident", ">then", ">events/s", ">then")
	for _, s := range p.Shares {
		what := ""
		switch {
		case slices.Contains(p.Joining, s.Member):
			what = "joins"
		case slices.Contains(p.Leaving, s.Member):
			what = "leaves"
		}
		t.AppendRow(table.Row{
			s.Member, what, s.Before.Shards, s.After.Shards, count(s.Before.Customers), count(s.After.Customers),
			size(s.Before.Bytes), size(s.After.Bytes), rate(s.Before.Rate), rate(s.After.Rate),
		})
	}
	return a.printTable(t)
}

func (p *scalePlan) headline() string {
	switch {
	case len(p.Moves) == 0:
		return "nothing would move"
	case p.Assumed:
		return fmt.Sprintf("%d of %d shards would move (%d at the least), in about %s (no shard was handed over yet: %.0f ms each is a guess)",
			len(p.Moves), len(p.Owners), p.Least, seconds(p.Duration), p.HandOver*1000)
	default:
		return fmt.Sprintf("%d of %d shards would move (%d at the least), in about %s, %.0f ms each",
			len(p.Moves), len(p.Owners), p.Least, seconds(p.Duration), p.HandOver*1000)
	}
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', 1, 64) + " s" }
