package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"footfall/messages/footfallv1"
)

// limitFlags are those of a trial that end it by themselves.
type limitFlags struct {
	minRows                     uint64
	errorShare, slowdown, shift float64
}

func (l *limitFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Uint64Var(&l.minRows, "min-rows", 0, "nothing but errors is judged before so many rows (default 1000)")
	f.Float64Var(&l.errorShare, "max-errors", 0, "share of rows without a usable value that ends it (default 0.01)")
	f.Float64Var(&l.slowdown, "max-slowdown", 0, "how many times as long as the champion's its runs may take (default 3)")
	f.Float64Var(&l.shift, "max-shift", 0, "how far its scores may be spread otherwise than the champion's (default 0.25)")
}

func (l *limitFlags) proto() *footfallv1.RolloutLimits {
	return &footfallv1.RolloutLimits{MinRows: l.minRows, ErrorShare: l.errorShare, Slowdown: l.slowdown, Shift: l.shift}
}

// noZeros refuses flags that are set to 0, which to a node means that they are not set.
func noZeros(cmd *cobra.Command, flags ...string) error {
	for _, name := range flags {
		f := cmd.Flags().Lookup(name)
		if v, err := strconv.ParseFloat(f.Value.String(), 64); f.Changed && err == nil && v == 0 {
			return usagef("--%s %s is not possible: leave it out for the default, or give a number above 0", name, f.Value)
		}
	}
	return nil
}

// shareOf reads a share as a number or in per cent.
func shareOf(flag, text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	f, err := strconv.ParseFloat(number, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f > 0 && f <= 1) {
		return 0, usagef("--%s %q is no share: 10%% or 0.1 are", flag, text)
	}
	return f, nil
}

// rollouts are the commands that change which versions serve.
func (a *app) rollouts() []*cobra.Command {
	return []*cobra.Command{a.tryCommand("canary", "10%"), a.tryCommand("shadow", "100%"), a.promoteCommand(), a.rollbackCommand()}
}

func (a *app) tryCommand(action, usual string) *cobra.Command {
	var (
		limits    limitFlags
		shareText string
	)
	short := "Give some customers the scores of a version that is to be tried, always the same ones"
	if action == "shadow" {
		short = "Have a version score beside the one that serves, and compare; nobody sees its scores"
	}
	cmd := &cobra.Command{
		Use:     action + " NAME [VERSION]",
		Short:   short,
		Example: fmt.Sprintf("  footfall models %s churn_risk 2 --share %s\n  footfall models %s churn_risk --max-shift 0.4", action, usual, action),
		Args:    optionalArg("NAME", "VERSION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			part, err := shareOf("share", shareText)
			if err == nil {
				err = noZeros(cmd, "min-rows", "max-errors", "max-slowdown", "max-shift")
			}
			if err != nil {
				return err
			}
			name, version := args[0], ""
			if len(args) > 1 {
				version = args[1]
			}
			return a.changeModel(cmd.Context(), func(ctx context.Context, c *client) (*footfallv1.Model, error) {
				if action == "shadow" {
					return c.ShadowModel(ctx, &footfallv1.ShadowModelRequest{Name: name, Version: version, Share: part, Limits: limits.proto()})
				}
				return c.CanaryModel(ctx, &footfallv1.CanaryModelRequest{Name: name, Version: version, Share: part, Limits: limits.proto()})
			})
		},
	}
	cmd.Flags().StringVar(&shareText, "share", usual, "share of the customers")
	limits.add(cmd)
	return cmd
}

func (a *app) promoteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "promote NAME [VERSION]",
		Short:   "Give all customers the scores of a version: the one that is tried, unless another is named",
		Example: "  footfall models promote churn_risk\n  footfall models promote churn_risk 2",
		Args:    optionalArg("NAME", "VERSION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &footfallv1.PromoteModelRequest{Name: args[0]}
			if len(args) > 1 {
				r.Version = args[1]
			}
			return a.changeModel(cmd.Context(), func(ctx context.Context, c *client) (*footfallv1.Model, error) { return c.PromoteModel(ctx, r) })
		},
	}
}

func (a *app) rollbackCommand() *cobra.Command {
	r := &footfallv1.RollbackModelRequest{}
	cmd := &cobra.Command{
		Use:     "rollback NAME",
		Short:   "End what is tried; where nothing is, the version before the one that serves serves again",
		Example: "  footfall models rollback churn_risk --reason 'too many false alarms'",
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			return a.changeModel(cmd.Context(), func(ctx context.Context, c *client) (*footfallv1.Model, error) { return c.RollbackModel(ctx, r) })
		},
	}
	cmd.Flags().StringVar(&r.Reason, "reason", "", "why, for those who ask later")
	return cmd
}

// changeModel shows how a model stands after a change.
func (a *app) changeModel(ctx context.Context, change func(context.Context, *client) (*footfallv1.Model, error)) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	m, err := change(ctx, c)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(m)
	}
	return a.printModels([]*footfallv1.Model{m})
}
