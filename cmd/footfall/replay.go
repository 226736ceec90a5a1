package main

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"footfall/behavior"
	"footfall/datasets"
	"footfall/messages/footfallv1"
	"footfall/node/replay"
)

func (a *app) replayCommand() *cobra.Command {
	f := replayFlags{synthetic: map[string]*int64{}}
	cmd := &cobra.Command{
		Use:   "replay completejourney|cdnow|synthetic|FILE",
		Short: "Replay a history of retail into a node, day by day",
		Long: `Replay a history: its events are published in order, and under a driven clock each day ends
once all its events are in the log. Replaying it again changes nothing; a replay that was cut
short goes on when it is run again.

completejourney  a year of 2,469 households of a grocery chain (downloaded, 32 MB)
cdnow            the purchases of 23,570 customers of a record shop (downloaded)
synthetic        made-up customers, any number of them, the same for the same seed
FILE             events as protobuf-JSON: NDJSON or an array`,
		Example: `  footfall replay completejourney --shift-to now --then wall
  footfall replay completejourney --until 2017-06-30 --speed 86400      # a day a second
  footfall replay synthetic --customers 100000 --events 2000000 --seed 7`,
		Args: exactArgs("a history: completejourney, cdnow, synthetic or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for name := range f.synthetic {
				if cmd.Flags().Changed(name) && args[0] != "synthetic" {
					return usagef("--%s is for synthetic only", name)
				}
				if !cmd.Flags().Changed(name) {
					delete(f.synthetic, name)
				}
			}
			if err := f.check(); err != nil {
				return err
			}
			return a.replay(cmd.Context(), args[0], &f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.speed, "speed", "max", "how many times faster than it happened, or max")
	flags.StringVar(&f.shiftTo, "shift-to", "", "now: move the history by whole weeks so that it ends in the last seven days")
	flags.IntVar(&f.shiftDays, "shift-days", 0, "move the history by so many days, a multiple of 7")
	flags.StringVar(&f.then, "then", "", "wall or driven: the clock once the history has ended")
	flags.StringVar(&f.until, "until", "", "the last day to replay, ISO 8601")
	flags.BoolVar(&f.strict, "strict", false, "fail where the node rejects an event")
	flags.StringVar(&f.timezone, "timezone", "UTC", "time zone of a file's or synthetic days")
	flags.StringVar(&f.currency, "currency", "USD", "currency of a file or of synthetic customers")
	for name, usage := range map[string]string{
		"customers": "synthetic: how many customers",
		"events":    "synthetic: how many events",
		"seed":      "synthetic: the same seed, the same history",
		"days":      "synthetic: how many days",
	} {
		f.synthetic[name] = flags.Int64(name, 0, usage)
	}
	return cmd
}

type replayFlags struct {
	speed, shiftTo, then, until, timezone, currency string
	shiftDays                                       int
	strict                                          bool
	// synthetic holds those that were given.
	synthetic map[string]*int64

	options replay.Options
}

func (f *replayFlags) check() error {
	if f.speed != "max" {
		speed, err := strconv.ParseFloat(f.speed, 64)
		if err != nil || !(speed > 0) {
			return usagef("--speed %s: it is a number above 0, or max", f.speed)
		}
		f.options.Speed = speed
	}
	switch f.then {
	case "":
	case "wall":
		f.options.Then = footfallv1.ClockMode_CLOCK_MODE_WALL
	case "driven":
		f.options.Then = footfallv1.ClockMode_CLOCK_MODE_DRIVEN
	default:
		return usagef("--then %s: it is wall or driven", f.then)
	}
	if f.shiftTo != "" && f.shiftTo != "now" {
		return usagef("--shift-to %s: it is now", f.shiftTo)
	}
	if f.shiftTo != "" && f.shiftDays != 0 {
		return usagef("--shift-to and --shift-days: only one can be")
	}
	if f.shiftDays%7 != 0 {
		return usagef("--shift-days %d: a history moves by whole weeks, a multiple of 7", f.shiftDays)
	}
	if f.until != "" {
		day, err := behavior.ParseDate(f.until)
		if err != nil {
			return usagef("--until %s: it is a date as 2017-12-31", f.until)
		}
		f.options.Until = day
	}
	return nil
}

// replayed is the outcome of a replay.
type replayed struct {
	Source   string `json:"source"`
	Accepted uint64 `json:"accepted"`
	// Duplicates is how many of them the shards knew already.
	Duplicates uint64            `json:"duplicates"`
	Rejected   uint64            `json:"rejected"`
	Reasons    map[string]uint64 `json:"reasons"`
	First      string            `json:"first_day"`
	Last       string            `json:"last_day"`
	Ticks      int               `json:"ticks"`
	Clock      string            `json:"clock"`
	Seconds    float64           `json:"seconds"`
	Rate       float64           `json:"events_per_second"`
	ShiftDays  int               `json:"shift_days"`
}

func (a *app) replay(ctx context.Context, name string, f *replayFlags) error {
	if len(f.synthetic) > 0 {
		query := url.Values{}
		for key, value := range f.synthetic {
			query.Set(key, strconv.FormatInt(*value, 10))
		}
		name += "?" + query.Encode()
	}
	data, err := a.openDataset(ctx, name, f.timezone, f.currency, func(o *datasets.Options) {
		o.ShiftDays = f.shiftDays
		if f.shiftTo == "now" {
			o.ShiftTo = a.now()
		}
	})
	if err != nil {
		return err
	}
	c, err := a.dial()
	if err != nil {
		return err
	}
	before, err := duplicates(ctx, c)
	if err != nil {
		return err
	}
	report, err := a.replayInto(ctx, c, data, f.options)
	if ctx.Err() != nil {
		fmt.Fprintf(a.err, "footfall: stopped after %s: run the same command again%s to go on\n", things(int(report.Sent), "event"), sameShift(data))
		return errReported
	}
	if err != nil {
		return err
	}
	if err := a.await(ctx, c, false); err != nil {
		return err
	}
	after, err := duplicates(ctx, c)
	if err != nil {
		return err
	}
	seconds := max(report.Elapsed.Seconds(), 1e-9)
	result := replayed{
		Source: data.Name, Accepted: report.Accepted, Duplicates: min(after-before, report.Accepted), Rejected: report.Rejected, Reasons: report.Reasons,
		First: behavior.FormatDate(report.First), Last: behavior.FormatDate(report.Last), Ticks: report.Ticks,
		Clock: clockName(report.Clock), Seconds: seconds, Rate: float64(report.Sent) / seconds, ShiftDays: data.Shift,
	}
	if a.output == "json" {
		err = a.printJSON(result)
	} else {
		err = a.printReplayed(&result)
	}
	if err != nil || report.Rejected == 0 {
		return err
	}
	fmt.Fprintf(a.err, "footfall: %s rejected, the first: %v\n", things(int(report.Rejected), "event"), report.FirstRejected)
	if f.strict {
		return errReported
	}
	return nil
}

// sameShift is the flag that a later replay needs to be the same as this one.
func sameShift(data *datasets.Dataset) string {
	if data.Shift == 0 {
		return ""
	}
	return fmt.Sprintf(" (in another week with --shift-days %d instead of --shift-to)", data.Shift)
}

// replayInto replays a data set and shows how far it is.
func (a *app) replayInto(ctx context.Context, c *client, data *datasets.Dataset, o replay.Options) (*replay.Report, error) {
	p := a.newProgress("replay", data.Total)
	defer p.end()
	o.Progress = func(at replay.Progress) { p.at(int64(at.Rows), behavior.FormatDate(at.Day)) }
	return replay.Run(ctx, c, replay.Source{Location: data.Location, Events: data.Events(ctx)}, o)
}

func (a *app) printReplayed(r *replayed) error {
	fmt.Fprintf(a.out, "%s: %s accepted in %s (%s/s), %s to %s\n", r.Source, things(int(r.Accepted), "event"),
		ago(time.Duration(r.Seconds*float64(time.Second))), rate(r.Rate), r.First, r.Last)
	if r.Duplicates > 0 {
		fmt.Fprintf(a.out, "%s of them the node knew already: they changed nothing\n", count(r.Duplicates))
	}
	if r.Clock == "wall" {
		fmt.Fprintln(a.out, "the clock is wall: the node ends days itself, and the replay ended none")
	} else {
		fmt.Fprintf(a.out, "%s ended\n", things(r.Ticks, "day"))
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
		fmt.Fprintf(a.out, "%s rejected: %s\n", count(r.Reasons[reason]), strings.TrimPrefix(reason, ": "))
	}
	return nil
}

// duplicates is how many events the shards have recognised.
func duplicates(ctx context.Context, c *client) (n uint64, err error) {
	var list *footfallv1.ListShardsResponse
	err = replay.Retry(ctx, replay.DefaultPatience, func(ctx context.Context) (err error) {
		list, err = c.ListShards(ctx, &footfallv1.ListShardsRequest{})
		return err
	})
	for _, s := range list.GetShards() {
		n += s.GetDuplicates()
	}
	return n, err
}

// await waits until all that the log holds is folded, and scored too where asked for.
func (a *app) await(ctx context.Context, c *client, scored bool) error {
	return replay.Retry(ctx, 2*replay.DefaultPatience, func(ctx context.Context) error {
		_, err := c.WaitIdle(ctx, &footfallv1.WaitIdleRequest{Scored: scored})
		return err
	})
}
