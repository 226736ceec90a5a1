package main

import (
	"context"
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

SOURCE is completejourney, cdnow, cdnow-sample, synthetic or a file of events.

With --format lifetimes the last state is written as the summary that the Python package
lifetimes fits its models to: frequency, recency, T, monetary_value.`,
		Example: `  footfall features completejourney --out build/features.parquet
  footfall features completejourney --out build/daily.parquet --every day --from 2017-06-01 --to 2017-06-30
  footfall features cdnow-sample --format lifetimes --to 1997-09-30 --out build/cdnow.csv`,
		Args: exactArgs("a source"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
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
	flags.StringVar(&f.timezone, "timezone", "UTC", "time zone of a file's days")
	flags.StringVar(&f.currency, "currency", "USD", "currency of a file")
	return cmd
}

type featuresFlags struct {
	out, format, every, from, to, unit, timezone, currency string

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
	write := func(w io.Writer) (err error) {
		if f.format == "lifetimes" {
			result.Rows, err = a.lifetimes(ctx, src, data, f, w)
		} else {
			result.Rows, err = a.rows(ctx, src, data, f, w)
		}
		return err
	}
	if f.out == "-" {
		return write(a.out)
	}
	if err := export.File(f.out, write); err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(result)
	}
	info, err := os.Stat(f.out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s: %s of %s, %s\n", f.out, things(result.Rows, "row"), data.Name, size(uint64(info.Size())))
	return err
}

func (a *app) rows(ctx context.Context, src export.Source, data *datasets.Dataset, f *featuresFlags, w io.Writer) (int, error) {
	var out export.Writer
	if f.format == "csv" {
		out = export.NewCSV(w)
	} else {
		out = export.NewParquet(w,
			export.Fact{Key: "footfall.source", Value: src.Name},
			export.Fact{Key: "footfall.digest", Value: src.Digest},
			export.Fact{Key: "footfall.timezone", Value: src.Location.String()},
			export.Fact{Key: "footfall.fold_version", Value: strconv.Itoa(behavior.FoldVersion)},
			export.Fact{Key: "footfall.day_1", Value: behavior.FormatDate(data.FirstDay)},
		)
	}
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
