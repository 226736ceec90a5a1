package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/behavior"
	"footfall/datasets"
	"footfall/messages/footfallv1"
	"footfall/node/export"
	"footfall/node/replay"
)

func (a *app) demoCommand() *cobra.Command {
	var data string
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a node, feed it a real year of retail, and show what it knows",
		Long: `Start a node, replay a year of 2,469 households of a grocery chain into it, moved so that it ends
in the last seven days, and show a summary. Four weeks before the end the replay stops for a
moment: what the models say then is kept and compared with what really happened.

Then the node serves until Ctrl-C. When it is started again with the same data, it serves at once.

The node takes its other settings from the environment as 'footfall node' does, such as
FOOTFALL_HTTP_LISTEN and FOOTFALL_GRPC_LISTEN.`,
		Example: `  footfall demo
  footfall demo --once --data /tmp/footfall`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := demo{app: a, dir: data, once: once, began: a.now()}
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&data, "data", filepath.Join("data", "demo"), "folder for log, store and the node's log file")
	cmd.Flags().BoolVar(&once, "once", false, "end after the summary")
	return cmd
}

// demoState is what a demo remembers beside the node's data, in DIR/demo.json: the node keeps
// a customer's newest scores only, but the summary compares those of one Sunday.
type demoState struct {
	Digest string `json:"digest"`
	// Shift is by how many days the history is moved: an interrupted demo goes on with it in
	// another week.
	Shift int `json:"shift_days"`
	// Sunday is the day at whose end Scores were taken, by model and customer: none where no
	// model was served, null where they were not taken.
	Sunday string                        `json:"sunday"`
	Scores map[string]map[string]float64 `json:"scores"`
	// Replayed is set once the whole history is in the node.
	Replayed *replayed `json:"replayed,omitempty"`
}

// demo is one run of the command.
type demo struct {
	*app
	dir   string
	once  bool
	began time.Time

	http, grpc string
	node       *child
	client     *client
	data       *datasets.Dataset
	state      demoState
	firstAfter time.Duration // from the start to the first answer; 0 before it
}

func (d *demo) run(ctx context.Context) (err error) {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	defer func() {
		d.step("stopping the node")
		// An error of the way there says more than what stopping adds to it.
		if stopErr := d.node.stop(); err == nil {
			err = stopErr
		}
	}()
	nodeCtx, cancel := d.node.watch(ctx)
	defer cancel(nil)
	err = d.show(nodeCtx)
	if err == nil && !d.once {
		<-nodeCtx.Done()
	}
	// Where the node ended by itself, that is why everything else failed.
	if ctx.Err() == nil && nodeCtx.Err() != nil {
		return context.Cause(nodeCtx)
	}
	if err != nil && ctx.Err() != nil {
		d.step("interrupted: start it again to go on")
	}
	return err
}

// prepare starts the node.
func (d *demo) prepare(ctx context.Context) error {
	path, err := findNode()
	if err != nil {
		return err
	}
	d.http = cmp.Or(d.getenv("FOOTFALL_HTTP_LISTEN"), "127.0.0.1:8080")
	d.grpc = cmp.Or(d.getenv("FOOTFALL_GRPC_LISTEN"), "127.0.0.1:8081")
	for _, l := range []struct{ key, addr, env, other string }{
		{"http.listen", d.http, "FOOTFALL_HTTP_LISTEN", "127.0.0.1:9080"},
		{"grpc.listen", d.grpc, "FOOTFALL_GRPC_LISTEN", "127.0.0.1:9081"},
	} {
		if err := free(ctx, l.addr); err != nil {
			return fmt.Errorf("%s is in use (%s): stop what listens there, or choose another address with %s=%s", l.addr, l.key, l.env, l.other)
		}
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	args := []string{
		"--log-url", "pebble:" + filepath.Join(d.dir, "log"), "--store-url", "pebble:" + filepath.Join(d.dir, "store"),
		"--clock", "driven", "--timezone", "America/New_York", "--currency", "USD",
	}
	if models := d.models(path); models != "" {
		args = append(args, "--models-url", "file:"+models)
	}
	log := filepath.Join(d.dir, "node.log")
	d.step("starting a node: data in %s, its log is %s", d.dir, log)
	d.node, err = startNode(path, log, args...)
	return err
}

// models is the folder of models beside the binaries, where the working directory has none.
func (d *demo) models(node string) string {
	if d.getenv("FOOTFALL_MODELS_URL") != "" {
		return ""
	}
	if _, err := os.Stat("models"); err == nil {
		return ""
	}
	beside := filepath.Join(filepath.Dir(node), "..", "models")
	if _, err := os.Stat(beside); err != nil {
		return ""
	}
	return filepath.Clean(beside)
}

// free reports whether an address can be listened at.
func free(ctx context.Context, addr string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	if err == nil {
		return l.Close()
	}
	return nil // the node will say what is wrong with it
}

// show does everything from the node's start to the summary.
func (d *demo) show(ctx context.Context) error {
	var err error
	d.app.node = d.grpc
	if d.client, err = d.dial(); err != nil {
		return err
	}
	if err := d.load(); err != nil {
		return err
	}
	d.data, err = d.openDataset(ctx, "completejourney", "UTC", "USD", func(o *datasets.Options) {
		if d.state.Digest == "" {
			o.ShiftTo = d.now()
		}
		o.ShiftDays = d.state.Shift
	})
	if err != nil {
		return err
	}
	if d.state.Digest != "" && d.state.Digest != d.data.Digest {
		return fmt.Errorf("%s was fed with another version of the data: remove it, or choose another folder with --data", d.dir)
	}
	if err := d.awaitNode(ctx); err != nil {
		return err
	}
	if d.state.Replayed == nil {
		if err := d.feed(ctx); err != nil {
			return err
		}
	} else if err := d.firstAnswer(ctx); err != nil {
		return err
	}
	s, err := d.summarize(ctx)
	if err != nil {
		return err
	}
	if d.output == "json" {
		return d.printJSON(s)
	}
	return d.printSummary(s)
}

// awaitNode returns once every shard is active.
func (d *demo) awaitNode(ctx context.Context) error {
	return replay.Retry(ctx, replay.DefaultPatience, func(ctx context.Context) error {
		cluster, err := d.client.GetCluster(ctx, &footfallv1.GetClusterRequest{})
		if err == nil && (len(cluster.GetMembers()) == 0 || cluster.GetMembers()[0].GetState() != "active") {
			return status.Error(codes.Unavailable, "the node is starting")
		}
		return err
	})
}

// feed replays the history, and stops for a moment at the Sunday.
func (d *demo) feed(ctx context.Context) error {
	sunday := d.data.LastDay - 28
	if d.state.Digest == "" {
		d.state = demoState{Digest: d.data.Digest, Shift: d.data.Shift, Sunday: behavior.FormatDate(sunday)}
		if err := d.save(); err != nil {
			return err
		}
	}
	d.step("replaying %s of %s households, %s to %s", things(int(d.data.Total), "event"), count(d.data.Customers),
		behavior.FormatDate(d.data.FirstDay), behavior.FormatDate(d.data.LastDay))
	report, err := d.replayInto(ctx, d.client, d.data, replay.Options{
		Then: footfallv1.ClockMode_CLOCK_MODE_WALL,
		DayEnded: func(ctx context.Context, day int32) error {
			if d.firstAfter == 0 {
				if err := d.firstAnswer(ctx); err != nil {
					return err
				}
			}
			if day == sunday {
				return d.takeScores(ctx)
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	if report.Rejected > 0 {
		return fmt.Errorf("%s rejected, the first: %v", things(int(report.Rejected), "event"), report.FirstRejected)
	}
	d.step("waiting for the last scores")
	if err := d.await(ctx, d.client, true); err != nil {
		return err
	}
	seconds := max(report.Elapsed.Seconds(), 1e-9)
	d.state.Replayed = &replayed{
		Source: d.data.Name, Accepted: report.Accepted, First: behavior.FormatDate(report.First), Last: behavior.FormatDate(report.Last),
		Ticks: report.Ticks, Clock: clockName(report.Clock), Seconds: seconds, Rate: float64(report.Sent) / seconds, ShiftDays: d.data.Shift,
		Reasons: report.Reasons,
	}
	return d.save()
}

// firstAnswer asks about the first customer and notes how long it took until there was an
// answer.
func (d *demo) firstAnswer(ctx context.Context) error {
	id := ""
	for ev, err := range d.data.Events(ctx) {
		if err != nil {
			return err
		}
		id = ev.GetCustomerId()
		break
	}
	err := replay.Retry(ctx, replay.DefaultPatience, func(ctx context.Context) error {
		_, err := d.client.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: id})
		if status.Code(err) == codes.NotFound { // its first event is in the log, and not folded yet
			return status.Error(codes.Unavailable, err.Error())
		}
		return err
	})
	d.firstAfter = d.now().Sub(d.began)
	return err
}

// takeScores keeps what the models say at the end of the Sunday. A demo that was interrupted
// later than that has them already, or cannot get them any more.
func (d *demo) takeScores(ctx context.Context) error {
	if d.state.Scores != nil {
		return nil
	}
	// The Sunday's tick is in the log, but a node tells of what it has folded.
	if err := d.await(ctx, d.client, false); err != nil {
		return err
	}
	cluster, err := d.client.GetCluster(ctx, &footfallv1.GetClusterRequest{})
	if err != nil {
		return err
	}
	if cluster.GetLastTick() != d.state.Sunday {
		return nil
	}
	if err := d.await(ctx, d.client, true); err != nil {
		return err
	}
	labels, err := datasets.NewLabels(ctx, d.data)
	if err != nil {
		return err
	}
	customers, err := d.everyone(ctx, labels.Customers())
	if err != nil {
		return err
	}
	scores := map[string]map[string]float64{}
	for _, c := range customers {
		for _, s := range c.GetScores() {
			if scores[s.GetModel()] == nil {
				scores[s.GetModel()] = map[string]float64{}
			}
			scores[s.GetModel()][c.GetCustomerId()] = s.GetValue()
		}
	}
	d.state.Scores = scores
	return d.save()
}

// everyone gets all customers that exist.
func (d *demo) everyone(ctx context.Context, ids []string) ([]*footfallv1.Customer, error) {
	const most = 1_000
	var all []*footfallv1.Customer
	for len(ids) > 0 {
		n := min(len(ids), most)
		err := replay.Retry(ctx, replay.DefaultPatience, func(ctx context.Context) error {
			batch, err := d.client.BatchGetCustomers(ctx, &footfallv1.BatchGetCustomersRequest{CustomerIds: ids[:n]})
			if err == nil {
				all = append(all, batch.GetCustomers()...)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		ids = ids[n:]
	}
	return all, nil
}

func (d *demo) statePath() string { return filepath.Join(d.dir, "demo.json") }

func (d *demo) load() error {
	body, err := os.ReadFile(d.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(body, &d.state)
	}
	if err != nil {
		return fmt.Errorf("%s cannot be read: remove the folder %s to begin anew: %w", d.statePath(), d.dir, err)
	}
	return nil
}

func (d *demo) save() error {
	return export.File(d.statePath(), func(w io.Writer) error { return json.NewEncoder(w).Encode(&d.state) })
}

// step says what is being done.
func (d *demo) step(format string, args ...any) { fmt.Fprintf(d.err, "▸ "+format+"\n", args...) }
