package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"footfall/node/access"
)

const day = 24 * time.Hour

func (a *app) certsCommand() *cobra.Command {
	var (
		dir, domain string
		hosts       []string
		days        int
	)
	cmd := &cobra.Command{
		Use:   "certs NODE...",
		Short: "Make certificates for nodes, and a CA",
		Long: `Make a certificate for each node, and first a CA where the folder has none: for trying out, and
where there is no other CA. NODE is its node.name. The files are DIR/ca.pem (tls.ca_file) and, of
each node, DIR/NODE.pem (tls.cert_file) and DIR/NODE-key.pem (tls.key_file). DIR/ca-key.pem signs
nodes: keep it off their machines.

Called again it makes new ones; nodes that read the files take them within seconds.`,
		Example: `  footfall certs n1 n2 n3
  footfall certs --dir /etc/footfall --host n1.shop.example,192.0.2.7 n1`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("NODE is missing")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if days < 1 || days > 3650 {
				return usagef("--days %d: it is from 1 to 3650", days)
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			ca, made, err := access.OpenAuthority(dir, "Footfall "+domain, a.now())
			if err != nil {
				return err
			}
			type row struct {
				Node    string    `json:"node"`
				Cert    string    `json:"cert"`
				Key     string    `json:"key"`
				Expires time.Time `json:"expires"`
			}
			rows := []row{}
			for _, node := range args {
				i := access.Issue{
					TrustDomain: domain, Node: node, From: a.now(), For: time.Duration(days) * day,
					Hosts: append([]string{"localhost", "127.0.0.1", "::1"}, hosts...),
				}
				cert, key, err := ca.SignFiles(dir, i)
				if err != nil {
					return err
				}
				rows = append(rows, row{node, cert, key, i.From.Add(i.For).UTC().Truncate(time.Second)})
			}
			if a.output == "json" {
				return a.printJSON(map[string]any{"ca": filepath.Join(dir, "ca.pem"), "ca_made": made, "nodes": rows})
			}
			what := "The CA that was there"
			if made {
				what = "A new CA"
			}
			fmt.Fprintf(a.out, "%s, %s, signed:\n\n", what, filepath.Join(dir, "ca.pem"))
			t := newTable("node", "certificate", "key", "good until")
			for _, r := range rows {
				t.AppendRow(table.Row{r.Node, r.Cert, r.Key, r.Expires.Format(time.DateOnly)})
			}
			return a.printTable(t)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "certs", "the folder")
	cmd.Flags().StringVar(&domain, "trust-domain", "footfall", "tls.trust_domain of the nodes")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "names and addresses under which clients reach the nodes, beside this machine's own")
	cmd.Flags().IntVar(&days, "days", 365, "how long they are good")
	return cmd
}

func (a *app) gossipKeyCommand() *cobra.Command {
	var use, prune bool
	cmd := &cobra.Command{
		Use:   "gossipkey FILE",
		Short: "Make a key for the gossip, or change which is used",
		Long: `Add a new key to the end of a file of gossip keys (cluster.keys_file), and make the file where
there is none. The first key of a file encrypts, all of them decrypt. To change the key of a
cluster, take three steps, each on every node before the next:

  footfall gossipkey FILE          add the new key (or copy the file from the first node)
  footfall gossipkey FILE --use    encrypt with it
  footfall gossipkey FILE --prune  remove the old ones`,
		Example: "  footfall gossipkey gossip.keys",
		Args:    exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			var (
				keys int
				err  error
				did  = "added a key to"
			)
			switch {
			case use && prune:
				return usagef("--use and --prune are two steps")
			case use:
				did = "the last key is the first now in"
				keys, err = access.UseGossipKey(args[0])
			case prune:
				did = "all keys but the first are gone from"
				keys, err = access.PruneGossipKeys(args[0])
			default:
				keys, err = access.AddGossipKey(args[0])
			}
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s is not there: without --use and --prune it is made", args[0])
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if a.output == "json" {
				return a.printJSON(map[string]any{"file": args[0], "keys": keys})
			}
			_, err = fmt.Fprintf(a.out, "%s %s: %d in all\n", did, args[0], keys)
			return err
		},
	}
	cmd.Flags().BoolVar(&use, "use", false, "move the last key to the front: it encrypts from then on")
	cmd.Flags().BoolVar(&prune, "prune", false, "remove all keys but the first")
	return cmd
}
