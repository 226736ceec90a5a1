package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// HTTPTLS is for the HTTP listener; nil without TLS. Each handshake takes the certificate that is
// in use then.
//
// TLS 1.3 is the least: browsers, curl, Go, Java, Python and Prometheus have had it for years,
// and with it there is nothing to choose wrongly.
func (a *Access) HTTPTLS() *tls.Config {
	if a.trust.Load() == nil {
		return nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: a.certificate}
}

func (a *Access) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &a.trust.Load().cert, nil
}

// ServerCredentials are those of the gRPC listener. A client may show a certificate: with one of a
// node of the trust domain it is that node, and with one that the CA does not vouch for it is
// turned away.
//
// Sessions are not resumed: a resumed one would not show its certificate again. Connections are
// few and long.
func (a *Access) ServerCredentials() credentials.TransportCredentials {
	t := a.trust.Load()
	if t == nil {
		return insecure.NewCredentials()
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, SessionTicketsDisabled: true, GetCertificate: a.certificate,
	}
	if t.roots != nil {
		// The certificate is verified by our own hand, since what vouches for it may change.
		config.ClientAuth = tls.RequestClientCert
		config.VerifyConnection = func(c tls.ConnectionState) error {
			if len(c.PeerCertificates) == 0 {
				return nil
			}
			return a.trust.Load().verify(c.PeerCertificates, x509.ExtKeyUsageClientAuth, a.now())
		}
	}
	return &serverCredentials{credentials.NewTLS(config), a}
}

type serverCredentials struct {
	credentials.TransportCredentials
	access *Access
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		if _, refused := errors.AsType[*CertificateError](err); refused {
			c.access.refused(transportGRPC, &Refusal{Reason: ReasonCertificate, Message: err.Error()}, "handshake", raw.RemoteAddr(), "")
		}
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok || len(t.State.PeerCertificates) == 0 {
		return conn, info, nil
	}
	trust := c.access.trust.Load()
	who := &nodeInfo{TLSInfo: t, node: nodeOf(t.State.PeerCertificates[0], trust.domain)}
	who.verified.Store(trust)
	return conn, who, nil
}

// Clone implements credentials.TransportCredentials.
func (c *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{c.TransportCredentials.Clone(), c.access}
}

// nodeInfo is what is known of a connection whose client has shown a certificate.
type nodeInfo struct {
	credentials.TLSInfo
	node string // "" for a certificate that is of no node
	// verified is the trust that has vouched for it last.
	verified atomic.Pointer[trust]
}

// still reports whether the certificate is good now: connections last longer than some
// certificates, and than some CAs are believed.
func (i *nodeInfo) still(t *trust, a *Access) error {
	now := a.now()
	if leaf := i.State.PeerCertificates[0]; now.After(leaf.NotAfter) {
		return &CertificateError{fmt.Errorf("it has expired on %s", leaf.NotAfter)}
	}
	if i.verified.Load() == t {
		return nil
	}
	if err := t.verify(i.State.PeerCertificates, x509.ExtKeyUsageClientAuth, now); err != nil {
		return err
	}
	i.verified.Store(t)
	return nil
}

// PeerCredentials are those of this node's connections to another, which must be the one whose
// name expected returns at the time of the handshake; "" is any of the trust domain. They are nil
// where nodes do not know each other by certificates.
//
// Nodes are known by the name in their certificate, not by the host that they are reached at: the
// gossip tells where that is, and may be lied to.
func (a *Access) PeerCredentials(expected func() string) credentials.TransportCredentials {
	if t := a.trust.Load(); t == nil || t.roots == nil {
		return nil
	}
	return &peerCredentials{credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &a.trust.Load().cert, nil
		},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, by the name of the node
		VerifyConnection: func(c tls.ConnectionState) error {
			t := a.trust.Load()
			if err := t.verify(c.PeerCertificates, x509.ExtKeyUsageServerAuth, a.now()); err != nil {
				return err
			}
			found, want := nodeOf(c.PeerCertificates[0], t.domain), expected()
			switch {
			case found == "":
				return &CertificateError{errors.New("it is of no node of the trust domain " + t.domain)}
			case want != "" && found != want:
				return &CertificateError{fmt.Errorf("it is of the node %s, not of %s", found, want)}
			}
			return nil
		},
	}), a}
}

type peerCredentials struct {
	credentials.TransportCredentials
	access *Access
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *peerCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if _, refused := errors.AsType[*CertificateError](err); refused {
		c.access.refused(transportGRPC, &Refusal{Reason: ReasonPeer, Message: err.Error()}, "handshake", raw.RemoteAddr(), "")
	}
	return conn, info, err
}

// Clone implements credentials.TransportCredentials.
func (c *peerCredentials) Clone() credentials.TransportCredentials {
	return &peerCredentials{c.TransportCredentials.Clone(), c.access}
}
