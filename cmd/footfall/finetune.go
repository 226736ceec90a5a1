package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/messages/footfallv1"
	"footfall/node/export"
)

type fineTuneFlags struct {
	rows    []string
	epochs  uint32
	rate    float64
	batch   uint32
	holdout float64
	canary  float64
}

func (a *app) fineTuneCommand() *cobra.Command {
	var (
		f      fineTuneFlags
		canary string
	)
	cmd := &cobra.Command{
		Use:   "fine-tune NAME --rows FILE",
		Short: "Train a model on with new rows, and publish it as a new version where it is better",
		Long: `Train the version of a model that serves on with rows and what happened next, as footfall features
writes them (Parquet). It is done on a node that runs models, beside the traffic that it serves.

The latest rows, --holdout of them, are not trained on: they judge. Only what is better on them is
published, as the next version. As any new version it is tried on a share of the customers, that
of --canary, or else the node's models.canary.`,
		Example: `  footfall features completejourney --from 2017-09-01 --out build/autumn.parquet
  footfall models fine-tune purchase_prediction --rows build/autumn.parquet
  footfall models fine-tune churn_risk --rows a.parquet --rows b.parquet --epochs 10 --canary 10%`,
		Args: exactArgs("a model"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(f.rows) == 0 {
				return usagef("--rows FILE is missing")
			}
			if err := noZeros(cmd, "epochs", "learning-rate", "batch", "holdout"); err != nil {
				return err
			}
			if cmd.Flags().Changed("canary") {
				share, err := shareOf("canary", canary)
				if err != nil {
					return err
				}
				if share == 1 {
					return usagef("--canary %s: it is a share below all: who is to get all customers is promoted", canary)
				}
				f.canary = share
			}
			return a.fineTune(cmd.Context(), args[0], &f)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.rows, "rows", nil, "a file of rows; may be given several times")
	flags.Uint32Var(&f.epochs, "epochs", 0, "how often the rows are gone through (default 5)")
	flags.Float64Var(&f.rate, "learning-rate", 0, "the step of Adam (default 0.001)")
	flags.Uint32Var(&f.batch, "batch", 0, "rows of a step (default 256)")
	flags.Float64Var(&f.holdout, "holdout", 0, "the share of the rows that judge (default 0.2)")
	flags.StringVar(&canary, "canary", "", "give the new version this share of the customers")
	return cmd
}

// fineTuned is what the command prints as JSON.
type fineTuned struct {
	Model  string                     `json:"model"`
	Parent string                     `json:"parent"`
	Node   string                     `json:"node"`
	Device string                     `json:"device"`
	Label  string                     `json:"label"`
	Rows   int64                      `json:"rows"`
	Result *footfallv1.FineTuneResult `json:"result"`
	// Unknown are rows that were left out since their outcome is not known.
	Unknown int64 `json:"unknown"`
	// Canary is the share of the customers that the new version has.
	Canary float64 `json:"canary,omitempty"`
}

type fineTuneStream = grpc.BidiStreamingClient[footfallv1.FineTuneRequest, footfallv1.FineTuneProgress]

func (a *app) fineTune(ctx context.Context, model string, f *fineTuneFlags) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source, err := sourceOf(f.rows)
	if err != nil {
		return err
	}
	start := &footfallv1.FineTuneStart{
		Model: model, Epochs: f.epochs, LearningRate: f.rate, Batch: f.batch, Holdout: f.holdout, Source: source,
	}
	c, stream, ready, err := a.startFineTune(ctx, start)
	if err != nil {
		return err
	}
	done := fineTuned{Model: ready.GetModel(), Parent: ready.GetVersion(), Node: ready.GetNode(), Device: ready.GetDevice(), Label: ready.GetLabel()}
	if a.output != "json" {
		fmt.Fprintf(a.err, "Fine-tuning %s %s on %s of %s for %s.\n", done.Model, done.Parent, done.Device, done.Node, done.Label)
	}
	if err := a.sendRows(stream, f.rows, ready, &done); err != nil {
		return err
	}
	for done.Result == nil {
		p, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the node ended the call without a result")
		case err != nil:
			return err
		case p.GetEpoch() != nil && a.output != "json":
			a.printEpoch(p.GetEpoch())
		default:
			done.Result = p.GetResult()
		}
	}
	if f.canary > 0 && done.Result.GetVersion() != "" {
		if _, err := c.CanaryModel(ctx, &footfallv1.CanaryModelRequest{Name: model, Version: done.Result.GetVersion(), Share: f.canary}); err != nil {
			return errors.Join(a.printFineTuned(&done), fmt.Errorf("%s %s is published, and gets no customers: %w", model, done.Result.GetVersion(), err))
		}
		done.Canary = f.canary
	} else if done.Result.GetVersion() != "" {
		list, err := c.ListModels(ctx, &footfallv1.ListModelsRequest{})
		if err != nil {
			return err
		}
		done.Canary = trafficOf(list.GetModels(), model, done.Result.GetVersion())
	}
	if err := a.printFineTuned(&done); err != nil {
		return err
	}
	if done.Result.GetRefused() != "" {
		return errReported
	}
	return nil
}

// trafficOf is the share of the customers that a version has: a node may give it one by itself.
func trafficOf(models []*footfallv1.Model, model, version string) float64 {
	for _, m := range models {
		for _, v := range m.GetVersions() {
			if m.GetName() == model && v.GetVersion() == version {
				return v.GetTraffic()
			}
		}
	}
	return 0
}

// startFineTune begins at the node that --node names, or, where that runs no models, at a member of
// its cluster that does.
func (a *app) startFineTune(ctx context.Context, start *footfallv1.FineTuneStart) (*client, fineTuneStream, *footfallv1.FineTuneReady, error) {
	for first := true; ; first = false {
		c, err := a.dial()
		if err != nil {
			return nil, nil, nil, err
		}
		stream, err := footfallv1.NewFineTuneServiceClient(c.conn).FineTune(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		var p *footfallv1.FineTuneProgress
		if err = stream.Send(&footfallv1.FineTuneRequest{Part: &footfallv1.FineTuneRequest_Start{Start: start}}); err == nil || errors.Is(err, io.EOF) {
			p, err = stream.Recv()
		}
		if err == nil {
			if p.GetReady() == nil {
				return nil, nil, nil, errors.New("the node does not say that it is ready: is it of another version?")
			}
			return c, stream, p.GetReady(), nil
		}
		if status.Code(err) != codes.Unimplemented || !first {
			return nil, nil, nil, err
		}
		cluster, err := c.GetCluster(ctx, &footfallv1.GetClusterRequest{})
		if err != nil {
			return nil, nil, nil, err
		}
		i := slices.IndexFunc(cluster.GetMembers(), func(m *footfallv1.Member) bool {
			return m.GetState() == "active" && slices.Contains(m.GetRoles(), "inference") && m.GetGrpcAddress() != ""
		})
		if i < 0 {
			return nil, nil, nil, fmt.Errorf("the node at %s runs no models, and no other member does: start one with the role inference", a.node)
		}
		a.node = sameScheme(a.node, cluster.GetMembers()[i].GetGrpcAddress())
	}
}

// sameScheme has another node asked as this one is: encrypted or not.
func sameScheme(node, address string) string {
	if i := strings.Index(node, "://"); i >= 0 {
		return node[:i+3] + address
	}
	return address
}

// sourceOf joins what the files say that they were made from.
func sourceOf(paths []string) (string, error) {
	var all []string
	for _, path := range paths {
		source, err := export.SourceOf(path)
		if err != nil {
			return "", err
		}
		if source != "" && !slices.Contains(all, source) {
			all = append(all, source)
		}
	}
	source := strings.Join(all, "; ")
	return cmp.Or(strings.ToValidUTF8(source[:min(len(source), 200)], ""), "rows"), nil
}

// sendRows sends the rows of all files whose outcome is known.
func (a *app) sendRows(stream fineTuneStream, paths []string, ready *footfallv1.FineTuneReady, done *fineTuned) error {
	readers := make([]*export.Reader, 0, len(paths))
	defer func() {
		for _, r := range readers {
			_ = r.Close() // it was only read
		}
	}()
	total := int64(0)
	for _, path := range paths {
		r, err := export.OpenReader(path, ready.GetLabel(), slices.Contains(ready.GetInputs(), "sequence"))
		if err != nil {
			return err
		}
		readers, total = append(readers, r), total+r.Rows()
	}
	bar := a.newProgress("send", total)
	defer bar.end()
	for _, r := range readers {
		var batch export.Labelled
		for {
			err := r.Next(&batch)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			err = stream.Send(&footfallv1.FineTuneRequest{Part: &footfallv1.FineTuneRequest_Rows{Rows: &footfallv1.FineTuneRows{
				Features: batch.Features, Sequences: batch.Sequences, Labels: batch.Labels, Days: batch.Days, Customers: batch.Customers,
			}}})
			if errors.Is(err, io.EOF) {
				_, err = stream.Recv() // the node has said why
			}
			if err != nil {
				return err
			}
			done.Rows += int64(len(batch.Labels))
			bar.at(done.Rows, "rows")
		}
		done.Unknown += r.Unknown
	}
	return stream.CloseSend()
}

func (a *app) printEpoch(e *footfallv1.FineTuneEpoch) {
	h := e.GetHoldout()
	if e.GetEpoch() == 0 {
		fmt.Fprintf(a.err, "before: log-loss %.4f, AUC %.4f on %s that judge\n", h.GetLogLoss(), h.GetAuc(), things(int(h.GetRows()), "row"))
		return
	}
	fmt.Fprintf(a.err, "epoch %d of %d: loss %.4f; log-loss %.4f, AUC %.4f\n", e.GetEpoch(), e.GetEpochs(), e.GetLoss(), h.GetLogLoss(), h.GetAuc())
}

func (a *app) printFineTuned(d *fineTuned) error {
	if a.output == "json" {
		return a.printJSON(d)
	}
	r := d.Result
	t := newTable("on rows that it did not see", ">before", ">after")
	before, after := r.GetBefore(), cmp.Or(r.GetAfter(), &footfallv1.FineTuneMeasures{})
	row := func(name, format string, before, after any) {
		if r.GetAfter() == nil {
			t.AppendRow([]any{name, fmt.Sprintf(format, before), ""})
			return
		}
		t.AppendRow([]any{name, fmt.Sprintf(format, before), fmt.Sprintf(format, after)})
	}
	row("log-loss", "%.4f", before.GetLogLoss(), after.GetLogLoss())
	row("AUC", "%.4f", before.GetAuc(), after.GetAuc())
	row("average precision", "%.4f", before.GetAveragePrecision(), after.GetAveragePrecision())
	row("calibration error", "%.4f", before.GetEce(), after.GetEce())
	if err := a.printTable(t); err != nil {
		return err
	}
	text := fmt.Sprintf("\nTrained on %s, judged by %s, parted by %s; %s left out, %s whose outcome is not known.\n",
		things(int(r.GetTrained()), "row"), count(before.GetRows()), r.GetSplit(), count(r.GetLeftOut()), count(d.Unknown))
	switch {
	case r.GetRefused() != "":
		text += fmt.Sprintf("Refused: %s. %s %s serves on.\n", r.GetRefused(), d.Model, d.Parent)
	case d.Canary > 0:
		text += fmt.Sprintf("%s %s is published, and %s of the customers get it.\n", d.Model, r.GetVersion(), percent(d.Canary))
	default:
		text += fmt.Sprintf("%s %s is published. To try it: footfall models canary %s %s --share 10%%\n", d.Model, r.GetVersion(), d.Model, r.GetVersion())
	}
	_, err := fmt.Fprint(a.out, text)
	return err
}
