package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"footfall/messages/footfallv1"
)

func (a *app) verifyCommand() *cobra.Command {
	var shards []uint
	var data string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that every customer's state is the fold of the log",
		Long: `Prove that the state of every customer is the fold of its shard's log: each shard writes a
checkpoint, its log is folded again in one thread, from the shard's base snapshot or from the
beginning where there is none, and the two are compared byte for byte. Any difference is listed,
and the exit code is 1.

With --data the data of a node that does not run are verified where they lie.`,
		Example: `  footfall verify
  footfall verify --shard 3,17
  footfall verify --data ./data          # no node may be running on it`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			which := make([]uint32, len(shards))
			for i, s := range shards {
				which[i] = uint32(s)
			}
			if data != "" {
				return a.verify(cmd.Context(), a.verifyOffline(cmd.Context(), data, which))
			}
			c, err := a.dial()
			if err != nil {
				return err
			}
			stream, err := c.Verify(cmd.Context(), &footfallv1.VerifyRequest{Shards: which})
			if err != nil {
				return err
			}
			return a.verify(cmd.Context(), stream.Recv)
		},
	}
	cmd.Flags().UintSliceVar(&shards, "shard", nil, "only these shards")
	cmd.Flags().StringVar(&data, "data", "", "verify the data in this folder, of a node that does not run")
	return cmd
}

// verified sums over the shards.
type verified struct {
	Shards      int          `json:"shards"`
	Customers   uint64       `json:"customers"`
	Events      uint64       `json:"events"`
	Equal       bool         `json:"equal"`
	Differences []difference `json:"differences"`
}

// maxDifferences is how many of them a person reads.
const maxDifferences = 20

type difference struct {
	Shard uint32 `json:"shard"`
	What  string `json:"what"`
}

// verify shows what next tells of each shard until it says io.EOF.
func (a *app) verify(_ context.Context, next func() (*footfallv1.VerifyProgress, error)) error {
	sum := verified{Equal: true, Differences: []difference{}}
	var p *progress
	for {
		s, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if p != nil {
				p.end()
			}
			return err
		}
		if p == nil {
			p = a.newProgress("verify", int64(s.GetTotal()))
		}
		p.at(int64(s.GetDone()), fmt.Sprintf("shard %d", s.GetShard()))
		sum.Shards++
		sum.Customers += s.GetCustomers()
		sum.Events += s.GetEvents()
		for _, d := range s.GetDifferences() {
			sum.Equal = false
			sum.Differences = append(sum.Differences, difference{s.GetShard(), d})
		}
	}
	if p != nil {
		p.end()
	}
	if a.output == "json" {
		if err := a.printJSON(sum); err != nil {
			return err
		}
	} else {
		for _, d := range sum.Differences[:min(len(sum.Differences), maxDifferences)] {
			fmt.Fprintf(a.out, "shard %d: %s\n", d.Shard, oneLine(d.What))
		}
		if more := len(sum.Differences) - maxDifferences; more > 0 {
			fmt.Fprintf(a.out, "and %s more: --output json has them\n", count(more))
		}
		outcome := "equal"
		if !sum.Equal {
			outcome = "not equal: the differences are above; stop the node and keep its data folder for a diagnosis"
		}
		fmt.Fprintf(a.out, "%s, %s, %s: %s\n", things(sum.Shards, "shard"), things(int(sum.Customers), "customer"), things(int(sum.Events), "event"), outcome)
	}
	if !sum.Equal {
		return errReported
	}
	return nil
}
