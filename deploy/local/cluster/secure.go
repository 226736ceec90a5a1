package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// secrets are the files of a cluster that asks everybody who they are: made by the commands that
// anybody would use for it.
type secrets struct {
	dir string
}

func (s *secrets) file(name string) string { return filepath.Join(s.dir, name) }

// ca, token and scraper are what clients take: the CA, and the tokens of whoever tries the cluster and of Prometheus.
func (s *secrets) ca() string      { return s.file("ca.pem") }
func (s *secrets) token() string   { return s.file("token") }
func (s *secrets) scraper() string { return s.file("prometheus.token") }

// makeSecrets makes what is not there. Certificates are made anew each time: they are for a year.
func makeSecrets(ctx context.Context, footfall, dir string, nodes []*node) (*secrets, error) {
	s := &secrets{dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	call := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, footfall, args...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("footfall %s: %w", args[0], err)
		}
		return out, err
	}
	args := []string{"certs", "--dir", dir}
	for _, n := range nodes {
		args = append(args, n.name)
	}
	if _, err := call(args...); err != nil {
		return nil, err
	}
	if !there(s.file("gossip.keys")) {
		if _, err := call("gossipkey", s.file("gossip.keys")); err != nil {
			return nil, err
		}
	}
	for _, t := range []struct{ name, roles, file string }{
		{"you", "ingest,read,operate", s.token()},
		{"prometheus", "read", s.scraper()},
	} {
		if there(t.file) {
			continue
		}
		out, err := call("token", t.name, "--roles", t.roles, "--file", s.file("tokens.yaml"), "--output", "json")
		if err != nil {
			return nil, err
		}
		var made struct{ Token string }
		if err := json.Unmarshal(out, &made); err != nil {
			return nil, err
		}
		if err := os.WriteFile(t.file, []byte(made.Token+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func there(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// config is what a node's file has of it.
func (s *secrets) config(n *node) string {
	return fmt.Sprintf(`tls: {cert_file: "%s", key_file: "%s", ca_file: "%s"}
auth.tokens_file: "%s"
cluster.keys_file: "%s"
`, s.file(n.name+".pem"), s.file(n.name+"-key.pem"), s.ca(), s.file("tokens.yaml"), s.file("gossip.keys"))
}

// client believes the CA.
func (s *secrets) client() (*http.Client, error) {
	text, err := os.ReadFile(s.ca())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: there is no certificate in it", s.ca())
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}}, nil
}

// scrape has the configuration of Prometheus show its token, and believe the CA.
func (s *secrets) scrape(config string) (string, error) {
	const job = "  - job_name: footfall\n"
	if strings.Count(config, job) != 1 {
		return "", errors.New("prometheus.yml: there is no one job footfall in it")
	}
	return strings.Replace(config, job, fmt.Sprintf(`%s    scheme: https
    tls_config: {ca_file: %q}
    authorization: {credentials_file: %q}
`, job, s.ca(), s.scraper()), 1), nil
}
