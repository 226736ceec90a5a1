package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/messages/footfallv1"
)

// drainEvery is how often --watch looks.
const drainEvery = 100 * time.Millisecond

func (a *app) drainCommand() *cobra.Command {
	var (
		watch    bool
		patience time.Duration
	)
	cmd := &cobra.Command{
		Use:   "drain MEMBER",
		Short: "Have a member leave for good",
		Long: `Have a member hand its shards to the others, give up its place among them, and end. It answers
once that has begun; 'footfall cluster' shows when the member is gone.

--watch waits until every shard of the member is active at another one and the member has left; it shows
how far that is, and fails where it does not come about. Then --node must name another member.

A member that is only to be restarted needs no drain: SIGTERM hands its shards over, too, and its
place is kept for it.`,
		Example: "  footfall cluster drain n3\n  footfall cluster drain n3 --watch",
		Args:    exactArgs("MEMBER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			d := &drainWatch{Member: args[0]}
			if watch {
				if err := d.begin(cmd.Context(), c); err != nil {
					return err
				}
			}
			began := a.now()
			if _, err := c.DrainMember(cmd.Context(), &footfallv1.DrainMemberRequest{Member: d.Member}); err != nil {
				return err
			}
			switch {
			case watch:
				return a.watchDrain(cmd.Context(), c, d, began, patience)
			case a.output == "json":
				return a.printJSON(map[string]string{"member": d.Member, "state": "draining"})
			default:
				_, err = fmt.Fprintf(a.out, "%s hands its shards over and leaves: 'footfall cluster' shows when it is gone\n", d.Member)
				return err
			}
		},
	}
	f := cmd.Flags()
	f.BoolVar(&watch, "watch", false, "wait until it is gone and its shards are active elsewhere")
	f.DurationVar(&patience, "patience", 2*time.Minute, "how long --watch waits")
	return cmd
}

// drainWatch is a drain that is watched.
type drainWatch struct {
	Member string `json:"member"`
	State  string `json:"state"`
	// Shards is how many the member had when it was asked to leave.
	Shards  int     `json:"shards"`
	Seconds float64 `json:"seconds"`

	had []uint32
}

// begin notes what the member has.
func (d *drainWatch) begin(ctx context.Context, c *client) error {
	members, err := c.GetCluster(ctx, &footfallv1.GetClusterRequest{})
	if err != nil {
		return err
	}
	for _, m := range members.GetMembers() {
		if m.GetName() == d.Member && m.GetGrpcAddress() == c.conn.Target() {
			return usagef("--watch: --node names %s itself, which ends: name another member", d.Member)
		}
	}
	list, err := c.ListShards(ctx, &footfallv1.ListShardsRequest{})
	if err != nil {
		return err
	}
	for _, s := range list.GetShards() {
		if s.GetOwner() == d.Member {
			d.had = append(d.had, s.GetShard())
		}
	}
	d.Shards = len(d.had)
	return nil
}

// look returns how many of the shards are active elsewhere, and whether the member is gone.
func (d *drainWatch) look(ctx context.Context, c *client) (handed int, gone bool, err error) {
	list, err := c.ListShards(ctx, &footfallv1.ListShardsRequest{})
	if err == nil {
		for _, s := range list.GetShards() {
			if slices.Contains(d.had, s.GetShard()) && s.GetOwner() != d.Member && s.GetState() == "active" {
				handed++
			}
		}
		var members *footfallv1.Cluster
		members, err = c.GetCluster(ctx, &footfallv1.GetClusterRequest{})
		gone = !slices.ContainsFunc(members.GetMembers(), func(m *footfallv1.Member) bool { return m.GetName() == d.Member })
	}
	if status.Code(err) == codes.Unavailable {
		err = fmt.Errorf("%w (if --node named %s itself: it has ended; another member tells how it went)", err, d.Member)
	}
	return handed, gone, err
}

// watchDrain waits until the member is gone and what it had is active elsewhere.
func (a *app) watchDrain(ctx context.Context, c *client, d *drainWatch, began time.Time, patience time.Duration) error {
	progress := a.newProgress("shards handed over", int64(d.Shards))
	defer progress.end()
	handed := 0
	inTime, err := watch(ctx, drainEvery, patience, func() (bool, error) {
		var (
			gone bool
			err  error
		)
		if handed, gone, err = d.look(ctx, c); err != nil || handed == d.Shards && gone {
			return true, err
		}
		detail := ""
		if handed == d.Shards {
			detail = d.Member + " ends"
		}
		progress.at(int64(handed), detail)
		return false, nil
	})
	if err != nil {
		return err
	}
	if !inTime {
		return fmt.Errorf("after %s %s has not left: %d of its %d shards are active at others: 'footfall shards' shows the rest", patience, d.Member, handed, d.Shards)
	}
	progress.end()
	d.State, d.Seconds = "left", a.now().Sub(began).Seconds()
	if a.output == "json" {
		return a.printJSON(d)
	}
	_, err = fmt.Fprintf(a.out, "%s has left: its %d shards are active at others, after %s\n", d.Member, d.Shards, seconds(d.Seconds))
	return err
}
