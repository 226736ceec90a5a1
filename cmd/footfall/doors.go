package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// doors is how to come into the node that --node names: with TLS where the name begins with
// https:// or --ca is given, and with the token of --token.
func (a *app) doors() (target string, options []grpc.DialOption, err error) {
	target, secure := a.node, a.ca != ""
	if rest, ok := strings.CutPrefix(target, "https://"); ok {
		target, secure = rest, true
	} else if rest, ok := strings.CutPrefix(target, "http://"); ok {
		if a.ca != "" {
			return "", nil, usagef("--node %s: it is https:// with --ca", a.node)
		}
		target = rest
	}
	target = strings.TrimSuffix(target, "/")
	if !strings.Contains(target, ":") {
		return "", nil, usagef("--node %q: it is HOST:PORT, as 127.0.0.1:8081", a.node)
	}
	transport := insecure.NewCredentials()
	if secure {
		config := &tls.Config{MinVersion: tls.VersionTLS13}
		if a.ca != "" {
			text, err := os.ReadFile(a.ca)
			if err != nil {
				return "", nil, usagef("--ca: %v", err)
			}
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(text) {
				return "", nil, usagef("--ca %s: there is no certificate in it", a.ca)
			}
		}
		transport = credentials.NewTLS(config)
	}
	options = append(options, grpc.WithTransportCredentials(transport))
	token, err := a.readToken()
	if err != nil || token == "" {
		return target, options, err
	}
	if !secure && !loopback(target) {
		return "", nil, usagef("--token: anybody on the way to %s could read it: use https://%s, and --ca where the CA is your own", target, target)
	}
	return target, append(options, grpc.WithPerRPCCredentials(bearer(token))), nil
}

// readToken is the token of --token, or of the file that it names as @FILE.
func (a *app) readToken() (string, error) {
	file, ok := strings.CutPrefix(a.token, "@")
	if !ok {
		return strings.TrimSpace(a.token), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", usagef("--token: %v", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// loopback tells whether only this machine is at an address.
func loopback(target string) bool {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// bearer is a token as calls show it.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: doors has looked already.
func (bearer) RequireTransportSecurity() bool { return false }
