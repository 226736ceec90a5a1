package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"footfall/node/transfer"
)

// transferred says what backup, restore and reshard have done.
type transferred struct {
	Shards    int     `json:"shards"`
	Customers uint64  `json:"customers"`
	Bytes     int64   `json:"bytes,omitempty"`
	Seconds   float64 `json:"seconds"`
}

func (a *app) showTransferred(sum transferred, what string) error {
	if a.output == "json" {
		return a.printJSON(sum)
	}
	_, err := fmt.Fprintf(a.out, "%s, %s in %.1f s: %s\n", things(sum.Shards, "shard"), things(int(sum.Customers), "customer"), sum.Seconds, what)
	return err
}

// steps shows the progress of one pass over all shards.
func (a *app) steps(what string, shards int, sum *transferred) (transfer.Progress, func()) {
	p := a.newProgress(what, int64(shards))
	return func(done int, customers uint64) {
		sum.Shards, sum.Customers = done, customers
		p.at(int64(done), things(int(customers), "customer"))
	}, p.end
}

// write fills a target out of a source.
func (a *app) write(ctx context.Context, from transfer.Source, to *data, sum *transferred) error {
	step, end := a.steps("write", from.Identity().Shards, sum)
	defer end()
	return transfer.Write(ctx, from, to.Storage, step)
}

// compare proves what was written.
func (a *app) compare(ctx context.Context, from transfer.Source, to *data, sum *transferred) error {
	step, end := a.steps("compare", from.Identity().Shards, sum)
	defer end()
	_, err := transfer.Compare(ctx, from, to.Storage, step)
	return err
}

func (a *app) backupCommand() *cobra.Command {
	var (
		from  place
		noLog bool
	)
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the state of all customers into a file, while no node runs",
		Long: `Write the state of all customers into a file, with checkpoints and dead letters: all that
'footfall restore' needs to make a node or a cluster that goes on from there. No node may be
running on the data. The file is whole, or it is not there.

Messages of the log are not in it. Where some of them are in no checkpoint yet, the command says
so and fails. With --no-log it looks at the store alone, and the state is that of its last
checkpoints: for a copy of a database whose broker is lost.`,
		Example: `  footfall backup monday.footfall --data ./data
  footfall backup monday.footfall --config footfall.yaml
  footfall backup monday.footfall --config footfall.yaml --no-log`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := from.check(); err != nil {
				return err
			}
			if noLog && from.folder != "" {
				return usagef("--no-log is for --config")
			}
			began := a.now()
			source, err := a.source(cmd.Context(), from, noLog)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, source.Close()) }()
			var sum transferred
			step, end := a.steps("backup", source.id.Shards, &sum)
			header := transfer.Header{Created: a.now().UTC().Format(time.RFC3339), By: version}
			err = transfer.WriteArchive(cmd.Context(), source.stored(), args[0], header, step)
			end()
			if err != nil {
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			sum.Bytes, sum.Seconds = info.Size(), a.now().Sub(began).Seconds()
			return a.showTransferred(sum, args[0]+", "+size(uint64(info.Size())))
		},
	}
	from.flags(cmd, "data", "config", "to be backed up")
	cmd.Flags().BoolVar(&noLog, "no-log", false, "look at the store alone: the state of its last checkpoints")
	return cmd
}

// stored is the data as a source.
func (d *data) stored() *transfer.Stored {
	return &transfer.Stored{Log: d.Log, Store: d.Store, ID: d.id}
}

func (a *app) restoreCommand() *cobra.Command {
	var into place
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a node's or a cluster's data out of a backup",
		Long: `Make a node's or a cluster's data out of a file that 'footfall backup' has written, and prove it:
what was written is read again, and compared with the file byte for byte. --data names a folder
that is not there yet, --config a configuration whose log and store are empty. A run that was
cut short is gone on with by the same command.`,
		Example: `  footfall restore monday.footfall --data ./restored
  footfall restore monday.footfall --config new-cluster.yaml`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := into.check(); err != nil {
				return err
			}
			began := a.now()
			// A file is read from its beginning to its end: once to write it, and once to compare.
			pass := func(do func(*transfer.Archive) error) error {
				archive, err := transfer.OpenArchive(args[0])
				if err != nil {
					return err
				}
				return errors.Join(do(archive), archive.Close())
			}
			var (
				target *data
				sum    transferred
				header transfer.Header
			)
			err := pass(func(archive *transfer.Archive) (err error) {
				header = archive.Header
				if target, err = a.target(cmd.Context(), into, fmt.Sprintf("restore %+v", header), archive.Identity()); err != nil {
					return err
				}
				return a.write(cmd.Context(), archive, target, &sum)
			})
			if target == nil {
				return err
			}
			if err == nil {
				err = pass(func(archive *transfer.Archive) error { return a.compare(cmd.Context(), archive, target, &sum) })
			}
			if err != nil {
				return errors.Join(err, target.Close())
			}
			if err := target.done(); err != nil {
				return err
			}
			sum.Seconds = a.now().Sub(began).Seconds()
			return a.showTransferred(sum, "equal to the backup of "+header.Created)
		},
	}
	into.flags(cmd, "data", "config", "to be made")
	return cmd
}

func (a *app) reshardCommand() *cobra.Command {
	var from, into place
	cmd := &cobra.Command{
		Use:   "reshard",
		Short: "Double the shards, while no node runs",
		Long: `Double the shards of a node or a cluster that does not run: shard s becomes s and s + n. The data
go to another place, and what is there now stays as it is. Before, each shard is proven to be
the fold of its log, as by 'footfall verify'; after, each customer is compared with what it was,
byte for byte, and the new shards are proven like the old. A run that was cut short is gone on
with by the same command.

Each new log begins with a base snapshot: histories of customers and exports of features begin
there. Keep the old place for as long as you need what is before.`,
		Example: `  footfall reshard --data ./data --into ./data-128
  footfall reshard --config footfall.yaml --into-config footfall-128.yaml`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := errors.Join(from.check(), into.check()); err != nil {
				return err
			}
			ctx, began := cmd.Context(), a.now()
			source, err := a.source(ctx, from, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, source.Close()) }()
			before, err := a.prove(ctx, source)
			if err != nil {
				return err
			}
			split := transfer.Split{From: source.stored()}
			target, err := a.target(ctx, into, "reshard "+source.name+" "+before.digest, split.Identity())
			if err != nil {
				return err
			}
			var sum transferred
			err = a.write(ctx, split, target, &sum)
			if err == nil {
				err = a.compare(ctx, split, target, &sum)
			}
			if err == nil && sum.Customers != before.customers {
				err = fmt.Errorf("%d customers became %d", before.customers, sum.Customers)
			}
			if err == nil {
				_, err = a.prove(ctx, target)
			}
			if err != nil {
				return errors.Join(err, target.Close())
			}
			if err := target.done(); err != nil {
				return err
			}
			sum.Seconds = a.now().Sub(began).Seconds()
			return a.showTransferred(sum, fmt.Sprintf("equal to the %s before; nodes need shards: %d", things(source.id.Shards, "shard"), sum.Shards))
		},
	}
	from.flags(cmd, "data", "config", "whose shards are to be doubled")
	into.flags(cmd, "into", "into-config", "to be made")
	return cmd
}

// proof is what the shards of some data came to.
type proof struct {
	customers uint64
	// digest names the state: it changes with each message that is folded.
	digest string
}

// prove folds the log of each shard again and compares.
func (a *app) prove(ctx context.Context, d *data) (proof, error) {
	var (
		all  proof
		sum  transferred
		hash = sha256.New()
	)
	step, end := a.steps("verify", d.id.Shards, &sum)
	defer end()
	for shard := range d.id.Shards {
		v, err := verifyShard(ctx, d.Storage, d.id, shard)
		if err != nil {
			return all, fmt.Errorf("shard %d: %w", shard, err)
		}
		if len(v.Differences) > 0 {
			diff := v.Differences[0]
			return all, fmt.Errorf("shard %d is not the fold of its log: customer %q: %s", shard, diff.CustomerID, diff.What)
		}
		all.customers += v.Customers
		fmt.Fprintln(hash, shard, v.Next, v.Customers)
		step(shard+1, all.customers)
	}
	all.digest = fmt.Sprintf("%x", hash.Sum(nil))
	return all, nil
}
