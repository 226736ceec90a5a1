package local_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
)

func TestBrokerKeepsItsDataOverKillRestartAndStop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := local.BrokerOptions{Dir: dir, Users: []local.User{
		{Name: "nodes", Password: "p/w@:", Configure: ".*", Write: ".*", Read: ".*"},
		{Name: "till", Password: "secret", Write: "^events$"},
	}}
	b := local.TestBroker(t, o)
	publish(t, b.URL(), "kept", "one")

	require.NoError(t, b.Settle(t.Context()))
	require.NoError(t, b.Kill())
	<-b.Done()
	_, err := amqp.Dial(b.URL())
	require.Error(t, err)
	killed, url := b.Pid(), b.URL()
	require.NoError(t, b.Restart(t.Context()))
	require.NotEqual(t, killed, b.Pid())
	require.Equal(t, url, b.URL())
	publish(t, b.URL(), "kept", "two")

	require.NoError(t, b.Restart(t.Context()), "of one that runs")
	publish(t, b.URL(), "kept", "three")

	_, err = local.StartBroker(t.Context(), o)
	require.ErrorContains(t, err, dir+" belongs to a server that runs")

	require.GreaterOrEqual(t, len(processes(t, dir)), 3, "the broker, its port mapper, and helpers of Erlang's")
	require.NoError(t, b.Stop(t.Context()))
	require.NoError(t, b.Stop(t.Context()), "once more changes nothing")
	gone(t, dir)

	again := local.TestBroker(t, o)
	require.Equal(t, []string{"one", "two", "three"}, drain(t, again.URL(), "kept"))
}

func TestBrokersShareNothing(t *testing.T) {
	t.Parallel()
	a := local.TestBroker(t, local.BrokerOptions{
		Plugins: []string{"rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_stream"},
		VHosts:  []string{"third"},
	})
	b := local.TestBroker(t, local.BrokerOptions{})
	publish(t, a.URL(), "q", "of a")
	publish(t, b.URL(), "q", "of b")
	require.Equal(t, []string{"of b"}, drain(t, b.URL(), "q"))

	// Nor do virtual hosts of one.
	other, err := a.VHost(t.Context(), "other")
	require.NoError(t, err)
	publish(t, other, "q", "of the other")
	require.Equal(t, []string{"of a"}, drain(t, a.URL(), "q"))
	require.Equal(t, []string{"of the other"}, drain(t, other, "q"))
	publish(t, a.URLIn("third", "footfall"), "q", "of the third")
	require.Equal(t, []string{"of the third"}, drain(t, a.URLIn("third", "footfall"), "q"))

	out, err := a.Control(t.Context(), "list_queues", "--vhost", "other", "name", "messages")
	require.NoError(t, err)
	require.Equal(t, "name\tmessages\nq\t0", out)
	out, err = b.Eval(t.Context(), "node().")
	require.NoError(t, err)
	require.Equal(t, "footfall@localhost", out)
	_, err = b.Control(t.Context(), "delete_user", "nobody")
	require.ErrorContains(t, err, "rabbitmqctl delete_user nobody: exit status")
	require.ErrorContains(t, err, "does not exist")

	for _, url := range []string{a.ManagementURL(), a.PrometheusURL()} {
		resp, err := http.Get(url) //nolint:noctx // of a child of this test
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode, url)
	}
	http.DefaultClient.CloseIdleConnections()
	require.NotEmpty(t, a.StreamAddr())
	require.Empty(t, b.ManagementURL()+b.PrometheusURL()+b.StreamAddr()+b.TLSURL())

	// Killing one leaves the other.
	require.NoError(t, a.Kill())
	publish(t, b.URL(), "q", "still there")
}

func TestBrokerWithTLS(t *testing.T) {
	t.Parallel()
	ca := local.TestAuthority(t)
	own := ca.Issue(t, "broker")
	b := local.TestBroker(t, local.BrokerOptions{TLS: &local.TLS{CA: ca.CA, Cert: own.Cert, Key: own.Key, VerifyPeer: true}})
	config := trusting(t, ca)
	config.Certificates = nil
	_, err := amqp.DialTLS(b.TLSURL(), config)
	require.Error(t, err, "without a certificate")
	conn, err := amqp.DialTLS(b.TLSURL(), trusting(t, ca))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

func TestBrokerThatCannotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := local.StartBroker(t.Context(), local.BrokerOptions{Dir: dir, Config: map[string]string{"no.such.key": "1"}})
	require.ErrorContains(t, err, "RabbitMQ has not started; its log")
	require.ErrorContains(t, err, "Conf file attempted to set unknown variable: no.such.key")
	gone(t, dir)

	_, err = local.StartBroker(t.Context(), local.BrokerOptions{Config: map[string]string{"cluster_name": "a\nb = c"}})
	require.EqualError(t, err, `rabbitmq.conf cannot hold cluster_name = "a\nb = c"`)
	_, err = local.StartBroker(t.Context(), local.BrokerOptions{Users: []local.User{{Name: "someone"}}})
	require.ErrorContains(t, err, `a user of a broker needs a name and a password: "someone" has not both`)
}

func TestBrokerWithoutRabbitMQ(t *testing.T) {
	local.HideRabbitMQ(t)
	t.Setenv("PATH", "")
	_, err := local.StartBroker(t.Context(), local.BrokerOptions{})
	require.ErrorIs(t, err, local.ErrNoRabbitMQ)
	require.ErrorContains(t, err, "make rabbitmq-install")
}

// A broker does not outlive whom it was started by, whatever becomes of that one.
func TestBrokerOfAKilledProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), orphaned+"="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "%s", &stderr)
	broker, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	require.Contains(t, processes(t, dir), broker)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	gone(t, dir)
}

// publish puts a message into a durable queue, and returns once it is confirmed.
func publish(t *testing.T, url, queue, body string) {
	t.Helper()
	ch := channel(t, url, queue)
	require.NoError(t, ch.Confirm(false))
	c, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), "", queue, true, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)})
	require.NoError(t, err)
	acked, err := c.WaitContext(t.Context())
	require.NoError(t, err)
	require.True(t, acked)
}

// drain takes what a queue has.
func drain(t *testing.T, url, queue string) []string {
	t.Helper()
	ch := channel(t, url, queue)
	var all []string
	for {
		m, ok, err := ch.Get(queue, true)
		require.NoError(t, err)
		if !ok {
			return all
		}
		all = append(all, string(m.Body))
	}
}

func channel(t *testing.T, url, queue string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	require.NoError(t, err)
	_, err = ch.QueueDeclare(queue, true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum})
	require.NoError(t, err)
	return ch
}

// processes returns the numbers of the processes whose home is in a broker's folder.
func processes(t *testing.T, dir string) []int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("processes are told by /proc, which only Linux has")
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	var all []int
	for _, path := range environs {
		environ, _ := os.ReadFile(path) // it may have ended meanwhile
		if bytes.Contains(environ, []byte("HOME="+dir+"/home\x00")) {
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			require.NoError(t, err)
			all = append(all, pid)
		}
	}
	return all
}

// gone waits until no process of a broker is left: those that the broker's own started end a moment after it.
func gone(t *testing.T, dir string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(processes(t, dir)) == 0 }, time.Minute, 10*time.Millisecond)
}

// trusting trusts an authority and has a certificate of it.
func trusting(t *testing.T, a *local.Authority) *tls.Config {
	t.Helper()
	files := a.Issue(t, "client")
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	require.NoError(t, err)
	ca, err := os.ReadFile(a.CA)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca))
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
}
