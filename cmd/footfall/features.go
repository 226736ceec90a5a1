package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"footfall/behavior"
	"footfall/datasets"
	"footfall/node/export"
)

func (a *app) featuresCommand() *cobra.Command {
	var f featuresFlags
	cmd := &cobra.Command{
		Use:   "features SOURCE",
		Short: "Export features for training, from the fold that serves",
		Long: `Export the features and the sequence of every customer at the end of each Sunday, or of each day,
with what really happened next where that is known: the fold that serves customers reads the
history and nothing is computed a second way.

SOURCE is completejourney, cdnow, cdnow-sample, synthetic, a file of events, or log: what the
node whose data lie in --data, and which does not run now, has in its log. Of a log there are rows
of the days that have ended in it, and what happened next is left open.

With --format lifetimes the last state is written as the summary that the Python package
lifetimes fits its models to: frequency, recency, T, monetary_value.`,
		Example: `  footfall features completejourney --out build/features.parquet
  footfall features completejourney --out build/daily.parquet --every day --from 2017-06-01 --to 2017-06-30
  footfall features log --data data/demo --out build/own.parquet
  footfall features cdnow-sample --format lifetimes --to 1997-09-30 --out build/cdnow.csv`,
		Args: exactArgs("a source"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if args[0] == "log" {
				for _, name := range []string{"timezone", "currency"} {
					if cmd.Flags().Changed(name) {
						return usagef("--%s: a log has its own", name)
					}
				}
				return a.featuresOfLog(cmd.Context(), &f)
			}
			if f.data != "" {
				return usagef("--data is for the source log")
			}
			return a.features(cmd.Context(), args[0], &f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.out, "out", "", "the file to write, or - for standard output")
	flags.StringVar(&f.format, "format", "", "parquet, csv or lifetimes (default: by the name of --out)")
	flags.StringVar(&f.every, "every", "week", "week (the end of each Sunday) or day")
	flags.StringVar(&f.from, "from", "", "the first day, ISO 8601")
	flags.StringVar(&f.to, "to", "", "the last day, ISO 8601; with --format lifetimes the day of observation")
	flags.StringVar(&f.unit, "unit", "week", "with --format lifetimes, the unit of recency and T: week or day")
	flags.StringVar(&f.data, "data", "", "with the source log: the folder of a node's data (default \"data\")")
	flags.StringVar(&f.timezone, "timezone", "UTC", "time zone of a file's days")
	flags.StringVar(&f.currency, "currency", "USD", "currency of a file")
	return cmd
}

type featuresFlags struct {
	out, format, every, from, to, unit, data, timezone, currency string

	days export.Days
	week float64
}

// check reads the flags that are no plain text.
func (f *featuresFlags) check() error {
	if f.out == "" {
		return usagef("--out FILE is missing")
	}
	if f.format == "" {
		if f.format = "parquet"; strings.HasSuffix(f.out, ".csv") {
			f.format = "csv"
		}
	}
	if f.format != "parquet" && f.format != "csv" && f.format != "lifetimes" {
		return usagef("--format %s: it is parquet, csv or lifetimes", f.format)
	}
	switch f.every {
	case "week":
		f.days.Every = export.Weekly
	case "day":
		f.days.Every = export.Daily
	default:
		return usagef("--every %s: it is week or day", f.every)
	}
	switch f.unit {
	case "week":
		f.week = 7
	case "day":
		f.week = 1
	default:
		return usagef("--unit %s: it is week or day", f.unit)
	}
	for _, d := range []struct {
		flag, value string
		into        *int32
	}{{"from", f.from, &f.days.From}, {"to", f.to, &f.days.To}} {
		if d.value == "" {
			continue
		}
		day, err := behavior.ParseDate(d.value)
		if err != nil {
			return usagef("--%s %s: it is a date as 2017-12-31", d.flag, d.value)
		}
		*d.into = day
	}
	if f.days.From != 0 && f.days.To != 0 && f.days.From > f.days.To {
		return usagef("--from %s is after --to %s", f.from, f.to)
	}
	return nil
}

// exported is what a file holds.
type exported struct {
	File   string `json:"file"`
	Source string `json:"source"`
	Digest string `json:"digest"`
	Rows   int    `json:"rows"`
}

func (a *app) features(ctx context.Context, name string, f *featuresFlags) error {
	data, err := a.openDataset(ctx, name, f.timezone, f.currency, nil)
	if err != nil {
		return err
	}
	src := export.Source{Name: data.Name, Digest: data.Digest, Location: data.Location, Currency: data.Currency, Events: data.Events(ctx)}
	result := exported{File: f.out, Source: data.Name, Digest: data.Digest}
	return a.export(f, &result, func(w io.Writer) (int, error) {
		if f.format == "lifetimes" {
			return a.lifetimes(ctx, src, data, f, w)
		}
		return a.rows(ctx, src, data, f, w)
	})
}

// export writes a file and says what is in it.
func (a *app) export(f *featuresFlags, result *exported, write func(io.Writer) (rows int, err error)) error {
	to := func(w io.Writer) (err error) {
		result.Rows, err = write(w)
		return err
	}
	if f.out == "-" {
		return to(a.out)
	}
	if err := export.File(f.out, to); err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(result)
	}
	info, err := os.Stat(f.out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s: %s of %s, %s\n", f.out, things(result.Rows, "row"), result.Source, size(uint64(info.Size())))
	return err
}

// writer makes what rows are written with, the facts in the file where its format has room.
func (f *featuresFlags) writer(w io.Writer, source, digest string, loc *time.Location, more ...export.Fact) export.Writer {
	if f.format == "csv" {
		return export.NewCSV(w)
	}
	return export.NewParquet(w, append([]export.Fact{
		{Key: "footfall.source", Value: source},
		{Key: "footfall.digest", Value: digest},
		{Key: "footfall.timezone", Value: loc.String()},
		{Key: "footfall.fold_version", Value: strconv.Itoa(behavior.FoldVersion)},
	}, more...)...)
}

// featuresOfLog exports what a node that does not run has in its log.
func (a *app) featuresOfLog(ctx context.Context, f *featuresFlags) (err error) {
	if f.format == "lifetimes" {
		return usagef("--format lifetimes is for histories, not for a log")
	}
	data, id, err := openData(cmp.Or(f.data, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	loc, err := time.LoadLocation(id.Timezone)
	if err != nil {
		return err
	}
	log := export.Log{Config: offline(id, loc), Log: data.Log, Store: data.Store}
	result := exported{File: f.out, Source: "log", Digest: data.Log.UUID()}
	return a.export(f, &result, func(w io.Writer) (int, error) {
		out := f.writer(w, result.Source, result.Digest, loc)
		p := a.newProgress("export", -1)
		defer p.end()
		n, err := log.Features(ctx, f.days, out, func(day int32, rows int) { p.at(int64(rows), behavior.FormatDate(day)) })
		if err != nil {
			return n, err
		}
		return n, out.Close()
	})
}

func (a *app) rows(ctx context.Context, src export.Source, data *datasets.Dataset, f *featuresFlags, w io.Writer) (int, error) {
	out := f.writer(w, src.Name, src.Digest, src.Location, export.Fact{Key: "footfall.day_1", Value: behavior.FormatDate(data.FirstDay)})
	p := a.newProgress("export", int64(data.LastDay-data.FirstDay)+1)
	defer p.end()
	labels, err := labelsOf(ctx, data)
	if err != nil {
		return 0, err
	}
	n, err := export.Features(ctx, src, f.days, labels, out, func(day int32, _ int) {
		p.at(int64(day-data.FirstDay)+1, behavior.FormatDate(day))
	})
	if err != nil {
		return n, err
	}
	return n, out.Close()
}

func (a *app) lifetimes(ctx context.Context, src export.Source, data *datasets.Dataset, f *featuresFlags, w io.Writer) (int, error) {
	day := data.LastDay
	if f.days.To != 0 {
		day = f.days.To
	}
	fold, err := export.Run(ctx, src, export.Days{To: day, Every: export.Daily}, func(*export.Fold, int32, int32) error { return nil })
	if err != nil {
		return 0, err
	}
	all := export.Summaries(fold, day, f.week, nil)
	return len(all), export.WriteSummaries(w, all)
}

// labelsOf reads what happened to the customers after the end of each day.
func labelsOf(ctx context.Context, data *datasets.Dataset) (export.Labels, error) {
	labels, err := datasets.NewLabels(ctx, data)
	if err != nil {
		return nil, err
	}
	cal := behavior.NewCalendar(data.Location)
	return func(id string, day int32) (purchase7d, churn28d, redeem28d *bool) {
		l := labels.At(id, time.UnixMilli(cal.LastMilli(day)))
		if l.Ripe7d {
			purchase7d = &l.Purchase7d
		}
		if l.Ripe28d {
			churn28d = &l.Churn28d
			if l.CampaignActive {
				redeem28d = &l.Redeem28d
			}
		}
		return purchase7d, churn28d, redeem28d
	}, nil
}
