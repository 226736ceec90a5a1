package members_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/access"
	"footfall/node/config"
)

// In a folder of secrets each node has files of its own, as on machines of their own; clients
// have clients.pem, the CAs that they believe, and clients.token.
func (s spec) secure(c *config.Config) {
	file := func(name string) string { return filepath.Join(s.Secure, name) }
	c.TLS = config.TLSFiles{Cert: file(s.Name + ".pem"), Key: file(s.Name + "-key.pem"), CA: file(s.Name + "-ca.pem")}
	c.TokensFile, c.ClusterKeysFile = file(s.Name+"-tokens.yaml"), file(s.Name+"-gossip.keys")
}

// doors is how clients of the test come into a node.
func (s spec) doors(t *testing.T) []grpc.DialOption {
	if s.Secure == "" {
		return nil
	}
	token, err := os.ReadFile(filepath.Join(s.Secure, "clients.token"))
	require.NoError(t, err)
	return []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(believing(t, s.Secure))),
		grpc.WithPerRPCCredentials(bearer(token)),
	}
}

func believing(t *testing.T, dir string) *tls.Config {
	text, err := os.ReadFile(filepath.Join(dir, "clients.pem"))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(text))
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// secured is three nodes that ask everybody who they are, each in a process of its own.
type secured struct {
	*world
	dir   string
	names []string
	nodes []*member
	specs []spec
	ca    *access.Authority
	http  map[string]string
}

func (c *secured) file(name string) string { return filepath.Join(c.dir, name) }

func (c *secured) write(t *testing.T, name string, content []byte) {
	t.Helper()
	require.NoError(t, access.WriteFile(c.file(name), content, 0o600))
}

func (c *secured) read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(c.file(name))
	require.NoError(t, err)
	return b
}

// each does something for every node, one after the other.
func (c *secured) each(t *testing.T, do func(name string)) {
	t.Helper()
	for _, name := range c.names {
		do(name)
	}
}

// certify gives a node a certificate that lasts so long.
func (c *secured) certify(t *testing.T, ca *access.Authority, name string, lasts time.Duration) {
	t.Helper()
	_, _, err := ca.SignFiles(c.dir, access.Issue{TrustDomain: "footfall", Node: name, Hosts: []string{"127.0.0.1"}, From: time.Now(), For: lasts})
	require.NoError(t, err)
}

// grant makes a token and lets every node know it.
func (c *secured) grant(t *testing.T, name string, end time.Time, roles ...access.Role) (secret string) {
	t.Helper()
	secret, token, err := access.NewToken(name, access.RolesOf(roles...), end)
	require.NoError(t, err)
	c.each(t, func(node string) { require.NoError(t, access.AddToken(c.file(node+"-tokens.yaml"), token)) })
	return secret
}

func newSecured(t *testing.T) *secured {
	t.Helper()
	c := &secured{world: newWorld(t), dir: t.TempDir(), names: []string{"n1", "n2", "n3"}, http: map[string]string{}}
	var err error
	c.ca, err = access.NewAuthority("first", time.Now())
	require.NoError(t, err)
	c.write(t, "clients.pem", c.ca.Cert)
	_, err = access.AddGossipKey(c.file("gossip.keys"))
	require.NoError(t, err)
	c.each(t, func(name string) {
		c.certify(t, c.ca, name, time.Hour)
		c.write(t, name+"-ca.pem", c.ca.Cert)
		c.write(t, name+"-gossip.keys", c.read(t, "gossip.keys"))
	})
	c.write(t, "clients.token", []byte(c.grant(t, "tests", time.Time{}, access.Ingest, access.Read, access.Operate)))
	for _, name := range c.names {
		s := c.spec(name)
		s.Secure = c.dir
		if len(c.nodes) > 0 {
			s.Join = []string{c.nodes[0].gossip}
		}
		c.specs = append(c.specs, s)
		c.nodes = append(c.nodes, spawn(t, s))
	}
	c.together(t)
	for i := range customers {
		_, err := c.publish(t.Context(), c.nodes[i%3], customer(i))
		require.NoError(t, err)
	}
	_, err = c.nodes[0].WaitIdle(t.Context(), &footfallv1.WaitIdleRequest{})
	require.NoError(t, err)
	return c
}

// together waits until all shards are active and spread over all three nodes, and every node knows all.
func (c *secured) together(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, n := range c.nodes {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			list, err := n.GetCluster(ctx, &footfallv1.GetClusterRequest{})
			if err != nil || len(list.GetMembers()) != 3 {
				return false
			}
			for _, m := range list.GetMembers() {
				if m.GetState() != "active" || m.GetShards() < shards/3 {
					return false
				}
				c.http[m.GetName()] = m.GetHttpAddress()
			}
		}
		return true
	}, 60*time.Second, 50*time.Millisecond)
}

// get asks a node by HTTP.
func (c *secured) get(t *testing.T, node, path, token string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+c.http[node]+path, nil)
	require.NoError(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: believing(t, c.dir), DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

// metric sums the series of a node's metric that have all these labels, "name=value".
func (c *secured) metric(t *testing.T, node, name string, labels ...string) (sum float64) {
	t.Helper()
	code, text := c.get(t, node, "/metrics", string(c.read(t, "clients.token")))
	require.Equal(t, http.StatusOK, code)
	for line := range strings.Lines(text) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		found, rest, _ := strings.Cut(series, "{")
		missing := func(want string) bool {
			key, value, _ := strings.Cut(want, "=")
			return !strings.Contains(","+rest, ","+key+`="`+value+`"`)
		}
		if found == name && !slices.ContainsFunc(labels, missing) {
			v, err := strconv.ParseFloat(value, 64)
			require.NoError(t, err)
			sum += v
		}
	}
	return sum
}

// everywhere waits until a metric is so on every node.
func (c *secured) everywhere(t *testing.T, want float64, name string, labels ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(c.names, func(node string) bool { return c.metric(t, node, name, labels...) != want })
	}, 30*time.Second, 50*time.Millisecond, "%s%v", name, labels)
}

// TestSecureCluster runs three nodes that ask everybody who they are. Who is not of them is refused
// and counted; certificates, CA, tokens and gossip keys are changed under load, and no call fails.
func TestSecureCluster(t *testing.T) {
	c := newSecured(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	t.Run("intruders", c.intruders)

	l := c.load(t, c.nodes...)
	c.changeGossipKeys(t)
	c.changeTokens(t)
	c.changeCertificates(t)
	l.end(t, "keys, tokens, certificates and CA changed")
	c.together(t)

	// Connections that are made now are made with what is new.
	l = c.load(t, c.nodes[0], c.nodes[1])
	c.nodes[2].stop(t)
	c.specs[2].Join = []string{c.nodes[0].gossip}
	c.nodes[2] = spawn(t, c.specs[2])
	c.together(t)
	l.end(t, "a node came back")
	c.proved(t, c.nodes[2])
	for _, n := range c.names {
		require.Zero(t, c.metric(t, n, "footfall_auth_refused_total", "reason=peer"), "nodes know each other")
		require.Zero(t, c.metric(t, n, "footfall_auth_reload_failures_total"))
	}
}

// intruders tries what others should not get.
func (c *secured) intruders(t *testing.T) {
	const at = "n1"
	n1, ctx := c.nodes[0], t.Context()
	elsewhere := 0 // a customer of another node: the answer would be passed on
	list, err := n1.ListShards(ctx, &footfallv1.ListShardsRequest{})
	require.NoError(t, err)
	for list.GetShards()[messages.ShardOf(customer(elsewhere), shards)].GetOwner() == at {
		elsewhere++
	}
	ask := func(conn *grpc.ClientConn, ctx context.Context) error {
		_, err := footfallv1.NewCustomerServiceClient(conn).GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: customer(elsewhere)})
		return err
	}
	dial := func(token string, certs ...tls.Certificate) *grpc.ClientConn {
		config := believing(t, c.dir)
		config.Certificates = certs
		options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(config))}
		if token != "" {
			options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
		}
		conn, err := grpc.NewClient(n1.conn.Target(), options...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, conn.Close()) })
		return conn
	}
	publisher := c.grant(t, "publisher", time.Time{}, access.Ingest)
	reader := c.grant(t, "reader", time.Time{}, access.Read)
	old := c.grant(t, "old", time.Now().Add(-time.Minute), access.Read)
	c.everywhere(t, 4, "footfall_auth_tokens")

	// One that may read gets what another node has.
	require.NoError(t, ask(dial(reader), ctx))
	pair := func(ca *access.Authority, domain, name string) tls.Certificate {
		cert, key, err := ca.Sign(access.Issue{TrustDomain: domain, Node: name, From: time.Now(), For: time.Hour})
		require.NoError(t, err)
		p, err := tls.X509KeyPair(cert, key)
		require.NoError(t, err)
		return p
	}
	other, err := access.NewAuthority("other", time.Now())
	require.NoError(t, err)
	marked := metadata.AppendToOutgoingContext(ctx, access.ForwardedKey, "n2")
	for _, tt := range []struct {
		name   string
		conn   *grpc.ClientConn
		ctx    context.Context
		code   codes.Code
		reason access.Reason
	}{
		{"no token", dial(""), ctx, codes.Unauthenticated, access.ReasonMissing},
		{"made-up token", dial("footfall_x"), ctx, codes.Unauthenticated, access.ReasonUnknown},
		{"expired token", dial(old), ctx, codes.Unauthenticated, access.ReasonExpired},
		{"wrong role", dial(publisher), ctx, codes.PermissionDenied, access.ReasonRole},
		{"forged mark", dial(reader), marked, codes.PermissionDenied, access.ReasonForged},
		{"another CA", dial(reader, pair(other, "footfall", "n2")), ctx, codes.Unavailable, access.ReasonCertificate},
		{"another CA with the mark", dial("", pair(other, "footfall", "n2")), marked, codes.Unavailable, access.ReasonCertificate},
		{"another trust domain", dial("", pair(c.ca, "elsewhere", "n2")), marked, codes.PermissionDenied, access.ReasonForged},
		{"another node's name", dial("", pair(c.ca, "footfall", "n9")), marked, codes.PermissionDenied, access.ReasonForged},
	} {
		before := c.metric(t, at, "footfall_auth_refused_total", "transport=grpc", "reason="+string(tt.reason))
		err := ask(tt.conn, tt.ctx)
		require.Equal(t, tt.code, status.Code(err), "%s: %v", tt.name, err)
		require.Greater(t, c.metric(t, at, "footfall_auth_refused_total", "transport=grpc", "reason="+string(tt.reason)), before, tt.name)
	}
	for token, code := range map[string]int{"": 401, "footfall_x": 401, old: 401, publisher: 403, reader: 200} {
		got, body := c.get(t, at, "/v1/customers/"+customer(elsewhere), token)
		require.Equal(t, code, got, body)
	}
	// What only nodes call of each other.
	_, err = footfallv1.NewNodeServiceClient(dial(reader)).GetLastTick(ctx, &footfallv1.GetLastTickRequest{})
	require.Equal(t, codes.PermissionDenied, status.Code(err))

	// A node without the gossip key, though it has the store's and the broker's passwords and a certificate,
	// is not of the cluster, and sees nobody.
	s := c.spec("n4")
	s.Secure, s.Join = c.dir, []string{n1.gossip}
	c.certify(t, c.ca, "n4", time.Hour)
	c.write(t, "n4-ca.pem", c.ca.Cert)
	c.write(t, "n4-tokens.yaml", c.read(t, "n1-tokens.yaml"))
	_, err = access.AddGossipKey(c.file("n4-gossip.keys"))
	require.NoError(t, err)
	n4 := spawn(t, s)
	require.Eventually(t, func() bool { return c.metric(t, at, "footfall_gossip_refused_total") > 0 }, 30*time.Second, 50*time.Millisecond)
	mine, err := n4.GetCluster(ctx, &footfallv1.GetClusterRequest{})
	require.NoError(t, err)
	require.Len(t, mine.GetMembers(), 1)
	n4.halt(t)
	c.together(t)

	// A node that takes another's name without its certificate does not start.
	s = c.spec("n2")
	s.Secure = c.file("stolen")
	require.NoError(t, os.Mkdir(s.Secure, 0o700))
	for _, name := range []string{"tokens.yaml", "gossip.keys", "ca.pem"} {
		c.write(t, "stolen/n2-"+name, c.read(t, "n2-"+name))
	}
	c.write(t, "stolen/n2.pem", c.read(t, "n4.pem"))
	c.write(t, "stolen/n2-key.pem", c.read(t, "n4-key.pem"))
	_, err = s.node(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.ErrorContains(t, err, "must be of footfall://footfall/node/n2, as a URI among its names, and is of footfall://footfall/node/n4")
}

// changeGossipKeys replaces the key, each step on one node after the other.
func (c *secured) changeGossipKeys(t *testing.T) {
	t.Helper()
	_, err := access.AddGossipKey(c.file("gossip.keys"))
	require.NoError(t, err)
	c.each(t, func(name string) { c.write(t, name+"-gossip.keys", c.read(t, "gossip.keys")) })
	c.everywhere(t, 2, "footfall_gossip_key_info")
	keys := func() map[string]bool {
		_, text := c.get(t, "n1", "/metrics", string(c.read(t, "clients.token")))
		out := map[string]bool{}
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, `footfall_gossip_key_info{does="decrypts",key="`); ok {
				out[rest[:8]] = true
			}
		}
		return out
	}
	before := keys()
	require.Len(t, before, 1)
	for next := range before {
		c.each(t, func(name string) {
			_, err := access.UseGossipKey(c.file(name + "-gossip.keys"))
			require.NoError(t, err)
		})
		c.everywhere(t, 1, "footfall_gossip_key_info", "does=encrypts", "key="+next)
	}
	c.each(t, func(name string) {
		_, err := access.PruneGossipKeys(c.file(name + "-gossip.keys"))
		require.NoError(t, err)
	})
	c.everywhere(t, 1, "footfall_gossip_key_info")
}

// changeTokens gives a caller a new token, and takes the old one away.
func (c *secured) changeTokens(t *testing.T) {
	t.Helper()
	old := c.grant(t, "shop", time.Time{}, access.Read)
	c.everywhere(t, 5, "footfall_auth_tokens")
	next := c.grant(t, "shop", time.Time{}, access.Read)
	c.everywhere(t, 6, "footfall_auth_tokens")
	for _, node := range c.names {
		for _, token := range []string{old, next} {
			code, body := c.get(t, node, "/v1/shards", token)
			require.Equal(t, http.StatusOK, code, body)
		}
	}
	c.each(t, func(name string) {
		lines := bytes.SplitAfter(c.read(t, name+"-tokens.yaml"), []byte("\n"))
		c.write(t, name+"-tokens.yaml", bytes.Join(slices.Delete(lines, 4, 5), nil))
	})
	c.everywhere(t, 5, "footfall_auth_tokens")
	for _, node := range c.names {
		code, _ := c.get(t, node, "/v1/shards", old)
		require.Equal(t, http.StatusUnauthorized, code)
		code, _ = c.get(t, node, "/v1/shards", next)
		require.Equal(t, http.StatusOK, code)
	}
}

// changeCertificates replaces certificates, and then the CA.
func (c *secured) changeCertificates(t *testing.T) {
	t.Helper()
	expiry := func(name string) float64 {
		pair, err := tls.LoadX509KeyPair(c.file(name+".pem"), c.file(name+"-key.pem"))
		require.NoError(t, err)
		return float64(pair.Leaf.NotAfter.Unix())
	}
	renew := func(ca *access.Authority, lasts time.Duration) {
		c.each(t, func(name string) {
			c.certify(t, ca, name, lasts)
			require.Eventually(t, func() bool {
				return c.metric(t, name, "footfall_tls_certificate_expiry_timestamp_seconds") == expiry(name)
			}, 30*time.Second, 50*time.Millisecond)
		})
	}
	renew(c.ca, 2*time.Hour)

	next, err := access.NewAuthority("second", time.Now())
	require.NoError(t, err)
	both := append(bytes.Clone(c.ca.Cert), next.Cert...)
	c.write(t, "clients.pem", both)
	believed := func(text []byte) {
		// That it is read again nobody can see: a certificate that is renewed after it is.
		c.each(t, func(name string) { c.write(t, name+"-ca.pem", text) })
	}
	believed(both)
	renew(c.ca, 3*time.Hour)
	renew(next, 4*time.Hour)
	believed(next.Cert)
	c.write(t, "clients.pem", next.Cert)
	renew(next, 5*time.Hour)
	c.ca = next
}
