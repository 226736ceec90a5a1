// Package publisher_test runs the recipes beside it, and what docs/publishers.md says of users, against a real broker.
package publisher_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/rabbitmq"
)

// recipe is a program, in the folder of its language.
type recipe struct {
	language string
	// needs are programs without which it cannot be run.
	needs []string
	// install brings what depends says that it depends on.
	install, depends []string
	source           string
	run              []string
}

var recipes = []recipe{
	{language: "go", run: []string{"go", "run", "."}},
	{language: "python", run: []string{os.Getenv("FOOTFALL_PYTHON"), "publish.py"}},
	{
		language: "java",
		needs:    []string{"java", "javac", "mvn"},
		install:  []string{"mvn", "-q", "-B", "dependency:copy-dependencies"},
		depends:  []string{"pom.xml"},
		source:   "Publish.java",
		run:      []string{"java", "-cp", "lib/*", "Publish.java"},
	},
	{
		language: "javascript",
		needs:    []string{"node", "npm"},
		install:  []string{"npm", "ci", "--no-audit", "--no-fund"},
		depends:  []string{"package.json", "package-lock.json"},
		source:   "publish.mjs",
		run:      []string{"node", "publish.mjs"},
	},
}

const recipeShards = 8

// TestPublisherRecipes publishes with every recipe, as the user that publishers.md makes, and looks where each event is then.
func TestPublisherRecipes(t *testing.T) {
	tracer := local.User{Name: "tracer", Password: "secret", Configure: ".*", Write: ".*", Read: ".*"}
	b := local.TestBroker(t, local.BrokerOptions{Users: append(documentedUsers(t), tracer)})
	topology := declareTopology(t, b.URL())
	conn, till := dial(t, b.URL()), b.URLOf("till")
	// Here nothing is bound to the exchange: everything comes back.
	bare, err := b.VHost(t.Context(), "bare")
	require.NoError(t, err)
	ch, err := dial(t, bare).Channel()
	require.NoError(t, err)
	require.NoError(t, ch.ExchangeDeclare(topology.EventsExchange(), amqp.ExchangeDirect, true, false, false, false, nil))

	traces := trace(t, b, topology.EventsExchange())
	sharded, unsharded := map[string][]string{}, map[string][]string{}
	for _, r := range recipes {
		t.Run(r.language, func(t *testing.T) {
			dir := r.prepare(t)
			sharded[r.language] = events(r.language, 1000)
			out, err := r.publish(t, dir, till, recipeShards, sharded[r.language])
			require.NoError(t, err, "%s", out)
			require.Empty(t, out)
			requireChannelForEachStream(t, traces, len(sharded[r.language]))
			unsharded[r.language] = events(r.language+" unsharded", 20)
			out, err = r.publish(t, dir, till, 0, unsharded[r.language])
			require.NoError(t, err, "%s", out)
			for range unsharded[r.language] {
				<-traces
			}

			var exit *exec.ExitError
			out, err = r.publish(t, dir, inVHost(till, "bare"), recipeShards, unsharded[r.language])
			require.ErrorAs(t, err, &exit)
			require.Contains(t, out, "came back: {")
		})
	}

	if t.Failed() {
		return
	}

	// Every event is in the stream of its customer, once, in order.
	got := map[string][]string{}
	for shard := range recipeShards {
		for _, body := range consume(t, conn, topology.StreamName(shard), fromFirst) {
			e := accept(t, body)
			require.Equal(t, shard, messages.ShardOf(e.GetCustomerId(), recipeShards), "%s", body)
			key := e.GetProducer() + "/" + e.GetCustomerId()
			got[key] = append(got[key], body)
		}
	}
	want := map[string][]string{}
	for _, all := range sharded {
		for _, body := range all {
			e := accept(t, body)
			key := e.GetProducer() + "/" + e.GetCustomerId()
			want[key] = append(want[key], body)
		}
	}
	require.NotEmpty(t, want)
	require.Equal(t, want, got)

	// Those without a shard are in the queue of those.
	queued := map[string][]string{}
	for _, body := range consume(t, conn, topology.UnshardedName(), nil) {
		language := strings.TrimSuffix(accept(t, body).GetProducer(), " unsharded")
		queued[language] = append(queued[language], body)
	}
	require.Equal(t, unsharded, queued)
}

// TestPublisherMayOnlyPublish holds the permissions of publishers.md to what it says of them.
func TestPublisherMayOnlyPublish(t *testing.T) {
	b := local.TestBroker(t, local.BrokerOptions{Users: documentedUsers(t)})
	topology := declareTopology(t, b.URL())
	conn := dial(t, b.URLOf("till"))
	for name, try := range map[string]struct {
		exchange, key, user string
		code                int
	}{
		"as a node":        {topology.EventsExchange(), "0", "footfall", amqp.PreconditionFailed},
		"a stream by name": {"", topology.StreamName(0), "", amqp.AccessRefused},
		"a dead letter":    {topology.DeadName(), "", "", amqp.AccessRefused},
		"around the key":   {topology.UnshardedName(), "", "", amqp.AccessRefused},
	} {
		ch, err := conn.Channel()
		require.NoError(t, err)
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		require.NoError(t, ch.Publish(try.exchange, try.key, true, false, amqp.Publishing{UserId: try.user, Body: []byte("x")}))
		why := <-closed
		require.NotNil(t, why, name)
		require.Equal(t, try.code, why.Code, "%s: %v", name, why)
	}
	ch, err := conn.Channel()
	require.NoError(t, err)
	_, _, err = ch.Get(topology.UnshardedName(), false)
	require.ErrorContains(t, err, "ACCESS_REFUSED")
	for shard := range recipeShards {
		require.Empty(t, consume(t, dial(t, b.URL()), topology.StreamName(shard), fromFirst))
	}
}

// trace has the broker copy all that is published to an exchange, with the number of the channel.
func trace(t *testing.T, b *local.Broker, exchange string) <-chan amqp.Delivery {
	t.Helper()
	_, err := b.Control(t.Context(), "trace_on")
	require.NoError(t, err)
	ch, err := dial(t, b.URLOf("tracer")).Channel()
	require.NoError(t, err)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	require.NoError(t, err)
	require.NoError(t, ch.QueueBind(q.Name, "publish."+exchange, "amq.rabbitmq.trace", false, nil))
	deliveries, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	require.NoError(t, err)
	return deliveries
}

// requireChannelForEachStream takes the traces of n messages of one program. Brokers before 4.0 may lose
// what is published to several streams on one channel.
func requireChannelForEachStream(t *testing.T, traces <-chan amqp.Delivery, n int) {
	t.Helper()
	keys := map[string]any{}
	for range n {
		d := <-traces
		channel := fmt.Sprintf("%v channel %v", d.Headers["connection"], d.Headers["channel"])
		if keys[channel] == nil {
			keys[channel] = d.Headers["routing_keys"]
		}
		require.Equal(t, keys[channel], d.Headers["routing_keys"], channel)
	}
	require.Len(t, keys, recipeShards)
}

// documentedUsers are those that publishers.md makes: the nodes' first.
func documentedUsers(t *testing.T) []local.User {
	t.Helper()
	var users []local.User
	for _, m := range regexp.MustCompile(`(?m)^rabbitmqctl set_permissions (\S+) '(.*)' '(.*)' '(.*)'$`).FindAllStringSubmatch(read(t, filepath.Join("..", "..", "publishers.md")), -1) {
		users = append(users, local.User{Name: m[1], Password: "secret", Configure: m[2], Write: m[3], Read: m[4]})
	}
	require.Len(t, users, 2)
	return users
}

func declareTopology(t *testing.T, url string) rabbitmq.Topology {
	t.Helper()
	conn, err := rabbitmq.Open(t.Context(), rabbitmq.Options{URL: url})
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	topology := rabbitmq.Topology{Identity: messages.Identity{Shards: recipeShards, Timezone: "UTC", Currency: "USD"}}
	require.NoError(t, topology.Declare(t.Context(), conn))
	return topology
}

// prepare returns the folder to run a recipe in. It skips where the language is not on the machine, and installs what the
// recipe depends on, once for a checkout.
func (r *recipe) prepare(t *testing.T) string {
	t.Helper()
	for _, program := range r.needs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s here", program)
		}
	}
	if r.run[0] == "" {
		t.Skip(`no Python of the set-up here: run make setup, then eval "$(make -s env)"`)
	}
	home := r.language
	if r.install == nil {
		return home
	}
	digest := sha256.New()
	for _, name := range r.depends {
		digest.Write([]byte(read(t, filepath.Join(home, name))))
	}
	all := filepath.Join("..", "..", "..", "build", "recipes")
	dir := filepath.Join(all, r.language+"-"+hex.EncodeToString(digest.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err != nil {
		require.NoError(t, os.MkdirAll(all, 0o755))
		part, err := os.MkdirTemp(all, "part-") //nolint:usetesting // it becomes dir
		require.NoError(t, err)
		defer func() { _ = os.RemoveAll(part) }()
		for _, name := range r.depends {
			copyFile(t, filepath.Join(home, name), part)
		}
		cmd := exec.CommandContext(t.Context(), r.install[0], r.install[1:]...)
		cmd.Dir = part
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%v: %s", r.install, out)
		if err := os.Rename(part, dir); err != nil {
			require.DirExists(t, dir, "another run was faster: %v", err)
		}
	}
	copyFile(t, filepath.Join(home, r.source), dir)
	return dir
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func copyFile(t *testing.T, path, dir string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), []byte(read(t, path)), 0o600))
}

// publish runs a recipe, and returns what it says.
func (r *recipe) publish(t *testing.T, dir, url string, shards int, lines []string) (stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), r.run[0], append(r.run[1:], url, strconv.Itoa(shards))...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// events are lines of a producer. Customers have names in which UTF-8 matters.
func events(producer string, n int) []string {
	names := []string{"ann", "Zoë", "顧客", "🛒", "o'hara \"jr\"", "c-1"}
	var lines []string
	for i := range n {
		e := map[string]any{
			"event_id":    fmt.Sprintf("%s-%d", producer, i),
			"customer_id": fmt.Sprintf("%s %d", names[i%len(names)], i%97),
			"time":        "2026-03-02T18:00:00Z",
			"producer":    producer,
			"sequence":    i + 1,
			"page_view":   map[string]any{"url": "/schöne neue"},
		}
		b, err := json.Marshal(e)
		if err != nil {
			panic(err) // of what can be encoded
		}
		lines = append(lines, string(b))
	}
	return lines
}

// accept reads an event as a node does.
func accept(t *testing.T, body string) *footfallv1.Event {
	t.Helper()
	e, fault := messages.DecodeJSONEvent([]byte(body))
	require.Nil(t, fault, "%s", body)
	return e
}

// inVHost is a broker's URL for another virtual host.
func inVHost(url, vhost string) string { return url + "/" + vhost }

func dial(t *testing.T, url string) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// fromFirst has a stream read from its beginning.
var fromFirst = amqp.Table{"x-stream-offset": "first"}

// consume reads a stream or a queue up to a message that it puts there.
func consume(t *testing.T, conn *amqp.Connection, name string, args amqp.Table) []string {
	t.Helper()
	ch, err := conn.Channel()
	require.NoError(t, err)
	const end = "the end"
	require.NoError(t, ch.Publish("", name, true, false, amqp.Publishing{Body: []byte(end)}))
	require.NoError(t, ch.Qos(100, 0, false))
	deliveries, err := ch.Consume(name, "", false, false, false, false, args)
	require.NoError(t, err)
	var all []string
	for d := range deliveries {
		if string(d.Body) == end {
			require.NoError(t, ch.Close())
			return all
		}
		require.Equal(t, messages.ContentJSON, d.ContentType)
		require.Equal(t, uint8(amqp.Persistent), d.DeliveryMode)
		all = append(all, string(d.Body))
		require.NoError(t, d.Ack(false))
	}
	require.FailNow(t, "the channel ended")
	return nil
}
