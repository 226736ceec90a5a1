package grafana_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
)

// TestAgainstACluster runs make cluster's program: three nodes with models, RabbitMQ, PostgreSQL, and a Prometheus that has the
// checked-in rules. Under load, and with a node that is restarted meanwhile, every query of every panel and every variable returns
// data, every rule can be evaluated, and no alert that wakes somebody is left at the end.
func TestAgainstACluster(t *testing.T) {
	if os.Getenv("FOOTFALL_HEAVY") != "1" {
		t.Skip("set FOOTFALL_HEAVY=1")
	}
	c := startCluster(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	c.cli(t, "replay", "synthetic", "--customers", "1000", "--events", "25000", "--days", "40", "--node", c.grpc[0])
	ctx, stop := context.WithCancel(t.Context())
	began := time.Now()
	var load sync.WaitGroup
	for i := range c.http {
		load.Go(func() { c.load(ctx, i) })
	}
	defer load.Wait()
	defer stop()
	c.scraped(t)
	c.restart(t, 2)
	c.withoutShard(t)

	checks := c.checks(t)
	require.Greater(t, len(checks), 100)
	// A query is right once it has returned data. Half a minute is enough where the machine has nothing else to do.
	limit, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	err := local.Await(limit, func(ctx context.Context) error {
		var missing []error
		for name, try := range checks {
			if err := try(ctx); err != nil {
				missing = append(missing, fmt.Errorf("%s: %w", name, err))
				continue
			}
			delete(checks, name)
		}
		return errors.Join(missing...)
	})
	require.NoError(t, err)
	t.Logf("all queries have returned data %s after the load began", time.Since(began).Round(time.Second))
	c.rulesWork(t)
	c.nothingCritical(t)
}

// cluster is one that a child of this process runs.
type cluster struct {
	bin, dir   string
	http, grpc []string
	broker     string
	prometheus string
}

// startCluster builds the programs and starts the cluster.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	// Not t.TempDir: PostgreSQL runs as another user where this one is root, and has to get in.
	top, err := os.MkdirTemp("", "footfall-dashboards-") //nolint:usetesting // see above
	require.NoError(t, err)
	require.NoError(t, os.Chmod(top, 0o711)) //nolint:gosec // see above
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	c := &cluster{bin: filepath.Join(top, "bin"), dir: filepath.Join(top, "cluster")}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", c.bin+"/", "./cmd/footfall", "./cmd/footfall-node", "./deploy/local/cluster")
	build.Dir = "../.."
	text, err := build.CombinedOutput()
	require.NoError(t, err, string(text))

	out := filepath.Join(top, "out")
	p, err := local.StartProcess(local.Command{
		Title: "the cluster", Path: filepath.Join(c.bin, "cluster"), Env: os.Environ(), Dir: "../..", Log: out, OrphanSignal: syscall.SIGTERM,
		Args: []string{"--node", filepath.Join(c.bin, "footfall-node"), "--dir", c.dir, "--port", "0"},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{"n1", "n2", "n3", "prometheus"} {
				t.Logf("%s: %s", name, local.Tail(filepath.Join(c.dir, name+".log")))
			}
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
		defer cancel()
		require.NoError(t, p.Stop(ctx, syscall.SIGTERM))
	})
	watched, done := p.Watch(t.Context())
	defer done(nil)
	limit, cancel := context.WithTimeout(watched, 2*time.Minute)
	defer cancel()
	require.NoError(t, local.Await(limit, func(context.Context) error {
		if text, err = os.ReadFile(out); err == nil && !bytes.Contains(text, []byte("Drain one:")) {
			err = fmt.Errorf("it is not up: %s", text)
		}
		return err
	}))
	for _, m := range regexp.MustCompile(`(?m)^n\d +http://(\S+) +gRPC (\S+)`).FindAllSubmatch(text, -1) {
		c.http, c.grpc = append(c.http, string(m[1])), append(c.grpc, string(m[2]))
	}
	require.Len(t, c.http, 3)
	c.broker = string(regexp.MustCompile(`amqp://\S+`).Find(text))
	m := regexp.MustCompile(`(?m)^Prometheus +(\S+)`).FindSubmatch(text)
	require.NotNil(t, m, "it runs without Prometheus: run make prometheus-install")
	c.prometheus = string(m[1])
	return c
}

func (c *cluster) cli(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(c.bin, "footfall"), args...).CombinedOutput()
	require.NoError(t, err, string(out))
}

// load is what customers and publishers do at a node, and what they do wrong: events that are fine, twice there, late, far too late, and
// refused; queries, and rows to score.
func (c *cluster) load(ctx context.Context, i int) {
	node := "http://" + c.http[i]
	event := func(id, customer string, day int, kind string) string {
		at := time.Date(2024, 2, 9, 12, 0, 0, 0, time.UTC).AddDate(0, 0, day)
		return fmt.Sprintf(`{"event_id":%q,"customer_id":%q,"time":%q,%s}`, id, customer, at.Format(time.RFC3339), kind)
	}
	const purchase = `"purchase":{"basket_id":"b","currency":"USD","lines":[{"product_id":"p","department":"BAKERY","quantity":1,"amount":"2.50"}]}`
	kinds := []string{
		purchase, `"page_view":{"url":"/"}`, `"cart_add":{"product_id":"p"}`, `"cart_remove":{"product_id":"p"}`,
		`"campaign_received":{"campaign_id":"c"}`, `"coupon_redeemed":{"coupon_id":"c"}`,
		`"refund":{"currency":"USD","lines":[{"product_id":"p","quantity":1,"amount":"1.00"}]}`,
	}
	// Ten times a second: the machine has three nodes and four servers to run.
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		customer := fmt.Sprintf("s%d", 1+(3*n+i)%500)
		id := fmt.Sprintf("live-%d-%d", i, n)
		c.call(ctx, http.MethodPost, node+"/v1/events", "["+strings.Join([]string{
			event(id, customer, 0, kinds[n%len(kinds)]),
			event(id, customer, 0, kinds[n%len(kinds)]),
			event(id+"-late", customer, -3, purchase),
			event(id+"-too-late", customer, -400, purchase),
			event(id+"-bad", customer, 0, `"purchase":{}`),
		}, ",")+"]")
		c.call(ctx, http.MethodGet, node+"/v1/customers/"+customer, "")
		c.call(ctx, http.MethodPost, node+"/v2/models/churn_risk/infer",
			`{"inputs":[{"name":"features","datatype":"FP32","shape":[1,10],"data":[14.5,0,3,15,4.6,6.1,4.7,3.1,7,0.21]}]}`)
	}
}

// call does not mind what becomes of it: a node may be away.
func (c *cluster) call(ctx context.Context, method, url, body string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
	_ = resp.Body.Close()
}

// scraped waits until Prometheus has seen all three nodes twice: what it has not seen grow is no increase to it, and the hand-overs of
// a restart are some.
func (c *cluster) scraped(t *testing.T) {
	t.Helper()
	limit, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	require.NoError(t, local.Await(limit, func(ctx context.Context) error {
		return c.hasData(ctx, "count(count_over_time(footfall_handoff_seconds_count[10m]) >= 2) == 3", false)
	}))
}

// restart has a node hand its shards over, end, and come back: what makes hand-offs.
func (c *cluster) restart(t *testing.T, i int) {
	t.Helper()
	name := fmt.Sprintf("n%d", i+1)
	text, err := os.ReadFile(filepath.Join(c.dir, name+".pid"))
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGTERM))
	limit, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, local.Await(limit, func(context.Context) error {
		if err := syscall.Kill(pid, 0); err == nil {
			return errors.New(name + " has not ended")
		}
		return nil
	}))
	p, err := local.StartProcess(local.Command{
		Title: name, Path: filepath.Join(c.bin, "footfall-node"), Args: []string{"--config", filepath.Join(c.dir, name+".yaml")},
		Env: os.Environ(), Log: filepath.Join(c.dir, name+".log"), OrphanSignal: syscall.SIGTERM,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		require.NoError(t, p.Stop(ctx, syscall.SIGTERM))
	})
}

// withoutShard sends an event to the broker, as a publisher does that knows of no shards.
func (c *cluster) withoutShard(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "events.ndjson")
	require.NoError(t, os.WriteFile(file, []byte(`{"event_id":"direct","customer_id":"s1","time":"2024-02-09T12:00:00Z","page_view":{"url":"/"}}`+"\n"), 0o600))
	c.cli(t, "publish", file, "--broker", c.broker)
}

// checks are all queries of the dashboards by what they are of, with Grafana's variables as they are at first.
func (c *cluster) checks(t *testing.T) map[string]func(context.Context) error {
	t.Helper()
	chosen := strings.NewReplacer("$__rate_interval", "20s", "$__range", "10m", "$__interval", "15s",
		"$node", ".*", "$shard", ".*", "$model", ".*", "$version", ".*", "$feature", "recency_days")
	all := map[string]func(context.Context) error{}
	for _, d := range loaded(t) {
		for _, v := range d.Templating.List {
			if v.Query == nil || v.Query.Map == nil {
				continue
			}
			m := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`).FindStringSubmatch(v.Query.Map["query"].(string))
			require.NotNil(t, m, "%s: variable %s", *d.Title, v.Name)
			all[*d.Title+": variable "+v.Name] = func(ctx context.Context) error {
				var values []string
				err := c.ask(ctx, "/api/v1/label/"+m[2]+"/values", url.Values{"match[]": {chosen.Replace(m[1])}}, &values)
				if err == nil && len(values) == 0 {
					err = errors.New("no values")
				}
				return err
			}
		}
		for _, p := range panels(d) {
			for _, target := range p.Targets {
				q, ok := target.(*prometheus.Dataquery)
				require.True(t, ok, "%s: %s: %T", *d.Title, *p.Title, target)
				name := fmt.Sprintf("%s: %s, %s", *d.Title, *p.Title, *q.RefId)
				require.NotContains(t, all, name)
				all[name] = func(ctx context.Context) error {
					return c.hasData(ctx, chosen.Replace(q.Expr), q.Range != nil && *q.Range)
				}
			}
		}
	}
	return all
}

// hasData tells why a query shows nothing, if so.
func (c *cluster) hasData(ctx context.Context, expr string, over bool) error {
	if strings.Contains(expr, "$") {
		return fmt.Errorf("a variable is left: %s", expr)
	}
	path, params := "/api/v1/query", url.Values{"query": {expr}}
	if over {
		now := time.Now()
		path = "/api/v1/query_range"
		params.Set("start", strconv.FormatInt(now.Add(-2*time.Minute).Unix(), 10))
		params.Set("end", strconv.FormatInt(now.Unix(), 10))
		params.Set("step", "5")
	}
	var data struct {
		Result []struct {
			Value  [2]any
			Values [][2]any
		}
	}
	if err := c.ask(ctx, path, params, &data); err != nil {
		return err
	}
	for _, series := range data.Result {
		for _, point := range append(series.Values, series.Value) {
			text, _ := point[1].(string)
			if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
				return nil
			}
		}
	}
	return fmt.Errorf("no data (of %d series): %s", len(data.Result), expr)
}

// ask asks Prometheus.
func (c *cluster) ask(ctx context.Context, path string, params url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.prometheus+path+"?"+params.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// rulesWork holds that Prometheus can evaluate every rule, and scrapes everything that it should.
func (c *cluster) rulesWork(t *testing.T) {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	require.NoError(t, c.ask(t.Context(), "/api/v1/rules", nil, &rules))
	count := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			require.Equal(t, "ok", r.Health, "%s: %s", r.Name, r.LastError)
			count++
		}
	}
	require.Greater(t, count, 50)
	var targets struct {
		ActiveTargets []struct {
			Labels            map[string]string
			Health, LastError string
		}
	}
	require.NoError(t, c.ask(t.Context(), "/api/v1/targets", nil, &targets))
	var names []string
	for _, target := range targets.ActiveTargets {
		names = append(names, target.Labels["instance"])
	}
	require.ElementsMatch(t, []string{"n1", "n2", "n3", "rabbitmq"}, names)
}

// nothingCritical holds that a cluster with this load, and a node that was restarted, wakes nobody: not for longer than a busy machine
// takes to restart a node. It has fewer series than what is promised, too.
func (c *cluster) nothingCritical(t *testing.T) {
	t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	limit, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	require.NoError(t, local.Await(limit, func(ctx context.Context) error {
		err := c.ask(ctx, "/api/v1/query", url.Values{"query": {`ALERTS{alertstate="firing",severity="critical"}`}}, &data)
		if err == nil && len(data.Result) > 0 {
			err = fmt.Errorf("firing: %v", data.Result)
		}
		return err
	}))
	require.NoError(t, c.ask(t.Context(), "/api/v1/query", url.Values{"query": {`max(scrape_samples_scraped{job="footfall"})`}}, &data))
	require.Len(t, data.Result, 1)
	series, err := strconv.Atoi(data.Result[0].Value[1].(string))
	require.NoError(t, err)
	require.Less(t, series, 3000)
	t.Logf("a node has %d series", series)
}
