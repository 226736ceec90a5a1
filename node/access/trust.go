package access

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// scheme is that of a node's identity, which its certificate has as a URI:
// footfall://TRUST-DOMAIN/node/NAME.
const scheme = "footfall"

// identity returns the URI of a node of a trust domain.
func identity(domain, name string) *url.URL {
	return &url.URL{Scheme: scheme, Host: domain, Path: "/node/" + name}
}

// nodeOf returns the name of the node whose certificate it is; "" where it is of none of this
// trust domain. One that claims to be several is of none.
func nodeOf(cert *x509.Certificate, domain string) (name string) {
	for _, u := range cert.URIs {
		if u.Scheme != scheme {
			continue
		}
		found, ok := strings.CutPrefix(u.Path, "/node/")
		if !ok || name != "" || u.Host != domain || checkName(found) != nil || u.String() != identity(domain, found).String() {
			return ""
		}
		name = found
	}
	return name
}

// trust is what the TLS files hold. It does not change.
type trust struct {
	cert tls.Certificate
	// roots sign the nodes of the trust domain; nil without tls.ca_file.
	roots  *x509.CertPool
	domain string
}

// readTrust makes a trust of the content of the TLS files. node is not empty where the certificate
// must be that node's.
func readTrust(cert, key, ca []byte, domain, node string, now time.Time) (*trust, error) {
	t := &trust{domain: domain}
	var err error
	if t.cert, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("tls.cert_file and tls.key_file: %w", err)
	}
	if now.After(t.cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("tls.cert_file: the certificate has expired on %s", t.cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if ca == nil {
		return t, nil
	}
	t.roots = x509.NewCertPool()
	if !t.roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("tls.ca_file: there is no certificate in it")
	}
	if node == "" {
		return t, nil
	}
	// The others would refuse this node: better to hear it here.
	if found := nodeOf(t.cert.Leaf, domain); found != node {
		return nil, fmt.Errorf("tls.cert_file: must be of %s, as a URI among its names, and is %s", identity(domain, node), orNone(t.cert.Leaf.URIs))
	}
	chain := []*x509.Certificate{t.cert.Leaf}
	for _, der := range t.cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, c)
		}
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := t.verify(chain, usage, now); err != nil {
			return nil, fmt.Errorf("tls.cert_file: tls.ca_file does not vouch for it, and other nodes would refuse it: %w", err)
		}
	}
	return t, nil
}

func orNone(uris []*url.URL) string {
	if len(uris) == 0 {
		return "of no URI"
	}
	var all []string
	for _, u := range uris {
		all = append(all, u.String())
	}
	return "of " + strings.Join(all, " and ")
}

// CertificateError says that a certificate is not of the trust domain, or not of the node that it
// should be of.
type CertificateError struct{ Err error }

func (e *CertificateError) Error() string { return "certificate refused: " + e.Err.Error() }

func (e *CertificateError) Unwrap() error { return e.Err }

// verify reports whether the trust domain's CA vouches for the other side's certificates.
func (t *trust) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now})
	if err != nil {
		return &CertificateError{err}
	}
	return nil
}
