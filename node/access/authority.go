package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Authority is a CA of a trust domain, for trying out, for tests, and where there is no other. It
// signs nodes and nobody else.
type Authority struct {
	// Cert is its certificate, in PEM: what tls.ca_file holds.
	Cert []byte
	cert *x509.Certificate
	key  crypto.Signer
}

// Issue is what is asked of an Authority.
type Issue struct {
	// TrustDomain and Node become the identity.
	TrustDomain, Node string
	// Hosts are names and addresses under which clients reach it.
	Hosts []string
	From  time.Time
	For   time.Duration
}

const (
	authorityLives = 10 * 365 * 24 * time.Hour
	// clockSkew is how much clocks may differ.
	clockSkew = 5 * time.Minute
)

// NewAuthority makes one.
func NewAuthority(name string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(authorityLives),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a := &Authority{Cert: pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der}), key: key}
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

// The types of PEM blocks.
const (
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY"
)

// Sign makes a key and a certificate of it, both in PEM.
func (a *Authority) Sign(i Issue) (cert, key []byte, err error) {
	for _, name := range []string{i.TrustDomain, i.Node} {
		if err := checkName(name); err != nil {
			return nil, nil, fmt.Errorf("%q: %w", name, err)
		}
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: i.Node},
		NotBefore: i.From.Add(-clockSkew), NotAfter: i.From.Add(i.For),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{identity(i.TrustDomain, i.Node)},
	}
	for _, host := range i.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, own.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: encoded}), nil
}

// The files of an Authority in its folder.
const (
	authorityCert = "ca.pem"
	authorityKey  = "ca-key.pem"
)

// OpenAuthority reads the CA of a folder, or makes it where there is none.
func OpenAuthority(dir, name string, now time.Time) (a *Authority, made bool, err error) {
	certFile, keyFile := filepath.Join(dir, authorityCert), filepath.Join(dir, authorityKey)
	// The certificate is written last: without it the key has signed nothing yet.
	if _, err := os.Stat(certFile); errors.Is(err, fs.ErrNotExist) {
		if a, err = NewAuthority(name, now); err != nil {
			return nil, false, err
		}
		encoded, err := x509.MarshalPKCS8PrivateKey(a.key)
		if err != nil {
			return nil, false, err
		}
		err = WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: encoded}), 0o600)
		if err == nil {
			err = WriteFile(certFile, a.Cert, 0o644)
		}
		return a, true, err
	}
	keyText, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, false, fmt.Errorf("%s is there, and only who has its key can sign: %w", certFile, err)
	}
	a = &Authority{}
	if a.Cert, err = os.ReadFile(certFile); err != nil {
		return nil, false, err
	}
	certPEM, _ := pem.Decode(a.Cert)
	keyPEM, _ := pem.Decode(keyText)
	if certPEM == nil || keyPEM == nil {
		return nil, false, fmt.Errorf("%s and %s must be in PEM", certFile, keyFile)
	}
	if a.cert, err = x509.ParseCertificate(certPEM.Bytes); err != nil {
		return nil, false, fmt.Errorf("%s: %w", certFile, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keyPEM.Bytes)
	if err != nil {
		return nil, false, fmt.Errorf("%s: is no key: %w", keyFile, err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(a.cert.PublicKey) {
		return nil, false, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	a.key = signer
	return a, false, nil
}

// SignFiles signs a node, and writes DIR/NODE.pem and DIR/NODE-key.pem. A node that uses them takes
// the new ones once both are there.
func (a *Authority) SignFiles(dir string, i Issue) (certFile, keyFile string, err error) {
	cert, key, err := a.Sign(i)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(dir, i.Node+".pem"), filepath.Join(dir, i.Node+"-key.pem")
	if err := WriteFile(keyFile, key, 0o600); err != nil {
		return "", "", err
	}
	return certFile, keyFile, WriteFile(certFile, cert, 0o644)
}
