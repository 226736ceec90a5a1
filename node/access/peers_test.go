package access

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const domain = "retail.example"

// node is the access of a node whose files are in a folder.
func node(t *testing.T, ca *Authority, name, signedAs string) (*Access, string) {
	t.Helper()
	dir := t.TempDir()
	_, _, err := ca.SignFiles(dir, Issue{TrustDomain: domain, Node: signedAs, Hosts: []string{"127.0.0.1"}, From: time.Now(), For: time.Hour})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), ca.Cert, 0o600))
	a, err := New(Config{
		CertFile: filepath.Join(dir, signedAs+".pem"), KeyFile: filepath.Join(dir, signedAs+"-key.pem"), CAFile: filepath.Join(dir, "ca.pem"),
		TrustDomain: domain, Node: name, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	return a, dir
}

// serveHealth is a server of a node's.
func serveHealth(t *testing.T, a *Access) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(grpc.Creds(a.ServerCredentials()), grpc.InTapHandle(a.Tap))
	healthpb.RegisterHealthServer(s, health.NewServer())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(a.Listen("grpc", l)) }()
	t.Cleanup(func() {
		s.Stop()
		require.NoError(t, <-ended)
	})
	return l.Addr().String()
}

// A node calls only whom it looks for, wherever the gossip says that is.
func TestAnImpostorIsNotCalled(t *testing.T) {
	ca, err := NewAuthority("ca", time.Now())
	require.NoError(t, err)
	other, err := NewAuthority("other", time.Now())
	require.NoError(t, err)
	a, _ := node(t, ca, "a", "a")
	b, _ := node(t, ca, "b", "b")
	stranger, _ := node(t, other, "b", "b")
	at, strangers := serveHealth(t, b), serveHealth(t, stranger)
	call := func(address, expected string) error {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(a.PeerCredentials(func() string { return expected })))
		require.NoError(t, err)
		defer conn.Close()
		_, err = healthpb.NewHealthClient(conn).Check(metadata.AppendToOutgoingContext(t.Context(), ForwardedKey, "a"), &healthpb.HealthCheckRequest{})
		return err
	}
	require.NoError(t, call(at, "b"))
	require.NoError(t, call(at, ""), "any node, where the gossip does not know which")
	refused := a.metrics.refused.WithLabelValues(transportGRPC, string(ReasonPeer))
	require.Zero(t, testutil.ToFloat64(refused))
	err = call(at, "c")
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "it is of the node b, not of c")
	err = call(strangers, "b")
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "unknown authority")
	require.GreaterOrEqual(t, testutil.ToFloat64(refused), 2.0)
}

func TestACertificateMustBeTheNodes(t *testing.T) {
	ca, err := NewAuthority("ca", time.Now())
	require.NoError(t, err)
	_, dir := node(t, ca, "a", "a")
	file := func(name string) string { return filepath.Join(dir, name) }
	other, err := NewAuthority("other", time.Now())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file("other.pem"), other.Cert, 0o600))
	require.NoError(t, os.WriteFile(file("none.pem"), []byte("nothing"), 0o600))
	_, _, err = ca.SignFiles(dir, Issue{TrustDomain: domain, Node: "old", From: time.Now().Add(-2 * time.Hour), For: time.Hour})
	require.NoError(t, err)
	good := Config{CertFile: file("a.pem"), KeyFile: file("a-key.pem"), CAFile: file("ca.pem"), TrustDomain: domain, Node: "a"}
	for want, change := range map[string]func(*Config){
		"must be of footfall://retail.example/node/b": func(c *Config) { c.Node = "b" },
		"must be of footfall://elsewhere/node/a":      func(c *Config) { c.TrustDomain = "elsewhere" },
		"tls.ca_file does not vouch for it":           func(c *Config) { c.CAFile = file("other.pem") },
		"tls.ca_file: there is no certificate in it":  func(c *Config) { c.CAFile = file("none.pem") },
		"tls.cert_file and tls.key_file: tls: ":       func(c *Config) { c.KeyFile = file("old-key.pem") },
		"the certificate has expired on":              func(c *Config) { c.CertFile, c.KeyFile = file("old.pem"), file("old-key.pem") },
		"no such file":                                func(c *Config) { c.CertFile = file("gone.pem") },
		"is no file":                                  func(c *Config) { c.CertFile = dir },
	} {
		c := good
		c.Logger, c.Registerer = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
		change(&c)
		_, err := New(c)
		require.ErrorContains(t, err, want)
	}
}

func TestAuthorityComesBack(t *testing.T) {
	dir := t.TempDir()
	first, made, err := OpenAuthority(dir, "x", time.Now())
	require.NoError(t, err)
	require.True(t, made)
	again, made, err := OpenAuthority(dir, "x", time.Now())
	require.NoError(t, err)
	require.False(t, made)
	require.Equal(t, first.Cert, again.Cert)
	info, err := os.Stat(filepath.Join(dir, authorityKey))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	// A crash between its two files leaves a key that has signed nothing.
	require.NoError(t, os.Remove(filepath.Join(dir, authorityCert)))
	_, made, err = OpenAuthority(dir, "x", time.Now())
	require.NoError(t, err)
	require.True(t, made)
	// A certificate without its key signs nothing, and is not replaced.
	require.NoError(t, os.Remove(filepath.Join(dir, authorityKey)))
	_, _, err = OpenAuthority(dir, "x", time.Now())
	require.ErrorContains(t, err, "only who has its key can sign")
	require.NoError(t, WriteFile(filepath.Join(dir, authorityKey), first.Cert, 0o600))
	_, _, err = OpenAuthority(dir, "x", time.Now())
	require.ErrorContains(t, err, "is no key")
	_, _, err = first.Sign(Issue{TrustDomain: domain, Node: "a/b"})
	require.ErrorContains(t, err, "must be of letters")
}

func TestGossipKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	_, err := UseGossipKey(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	lines := func() []string {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return strings.Fields(string(b))
	}
	n, err := AddGossipKey(path)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = UseGossipKey(path)
	require.ErrorContains(t, err, "no other key")
	first := lines()
	n, err = AddGossipKey(path)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	both := lines()
	require.Equal(t, first[0], both[0])
	_, err = UseGossipKey(path)
	require.NoError(t, err)
	require.Equal(t, []string{both[1], both[0]}, lines())
	n, err = PruneGossipKeys(path)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, both[1:], lines())

	// What is no file of keys stays as it was.
	other := []byte("-----BEGIN CERTIFICATE-----\nMIIB\n")
	require.NoError(t, os.WriteFile(path, other, 0o600))
	for _, change := range []func(string) (int, error){AddGossipKey, UseGossipKey, PruneGossipKeys} {
		_, err = change(path)
		require.ErrorContains(t, err, "line 1 is no key")
		left, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, other, left)
	}
}

// Refusals are all counted, and few of them are written.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var out strings.Builder
	now := time.Now()
	a, err := New(Config{Logger: slog.New(slog.NewTextHandler(&out, nil)), Registerer: prometheus.NewRegistry(), Now: func() time.Time { return now }})
	require.NoError(t, err)
	refuse := func(n int) {
		for range n {
			a.refused(transportHTTP, &Refusal{Reason: ReasonMissing}, "GET /"+strings.Repeat("x", 1000)+"\n", addrOf("192.0.2.1:1"), "")
		}
	}
	refuse(1000)
	require.Equal(t, 20, strings.Count(out.String(), "call refused"))
	require.Less(t, out.Len(), 20*400)
	now = now.Add(time.Second)
	refuse(2)
	require.Equal(t, 21, strings.Count(out.String(), "call refused"))
	require.Contains(t, out.String(), "left_out_before=980")
	require.InDelta(t, 1002, testutil.ToFloat64(a.metrics.refused.WithLabelValues(transportHTTP, string(ReasonMissing))), 0)
}

// However many callers there are, few are kept, and one that calls on keeps its place.
func TestCallersAreForgotten(t *testing.T) {
	r, now := newRates(1, 2), time.Now()
	require.Zero(t, r.take("loud", now))
	require.Zero(t, r.take("loud", now))
	for i := range 3 * maxCallers {
		require.Zero(t, r.take(fmt.Sprint(i), now))
		if i%1000 == 0 {
			require.Equal(t, time.Second, r.take("loud", now))
		}
	}
	require.Len(t, r.byKey, maxCallers)
	require.Equal(t, maxCallers, r.order.Len())
	require.Zero(t, r.take("loud", now.Add(time.Second)))
	require.Zero(t, (*rates)(nil).take("loud", now))
}

func TestHostOf(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1", "[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80": "fe80::/64", "127.0.0.1:1": "127.0.0.1", "[::1]:1": "::1",
	} {
		key, loopback := hostOf(addrOf(text))
		require.Equal(t, want, key)
		require.Equal(t, want == "127.0.0.1" || want == "::1", loopback, text)
	}
}

func TestAnExpiredCertificateIsNoted(t *testing.T) {
	ca, err := NewAuthority("ca", time.Now())
	require.NoError(t, err)
	a, _ := node(t, ca, "a", "a")
	require.Empty(t, a.Notes())
	a.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	require.Len(t, a.Notes(), 1)
}

// Run looks until it is told to end.
func TestRunEndsWithItsContext(t *testing.T) {
	a, err := New(Config{Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Every: time.Millisecond})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	a.Reload()
	a.Reload()
	cancel()
	require.NoError(t, <-done)
}

// A certificate that is read before its key is in place is no fault; one whose key does not come is,
// and is counted once.
func TestFilesInTheMidstOfAChange(t *testing.T) {
	ca, err := NewAuthority("ca", time.Now())
	require.NoError(t, err)
	a, dir := node(t, ca, "a", "a")
	failures := func() float64 { return testutil.ToFloat64(a.metrics.failed.WithLabelValues(fileTLS)) }
	before := a.trust.Load()
	cert, key, err := ca.Sign(Issue{TrustDomain: domain, Node: "a", Hosts: []string{"127.0.0.1"}, From: time.Now(), For: 2 * time.Hour})
	require.NoError(t, err)

	require.NoError(t, WriteFile(filepath.Join(dir, "a-key.pem"), key, 0o600))
	require.True(t, a.look())
	require.NoError(t, WriteFile(filepath.Join(dir, "a.pem"), cert, 0o644))
	require.False(t, a.look())
	require.Zero(t, failures())
	require.NotSame(t, before, a.trust.Load())

	before = a.trust.Load()
	require.NoError(t, os.Remove(filepath.Join(dir, "a-key.pem")))
	require.True(t, a.look())
	for range 3 {
		require.False(t, a.look())
		require.InDelta(t, 1, failures(), 0)
	}
	require.Same(t, before, a.trust.Load())
}
