package local

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Authority issues certificates for a test, each valid for an hour and for 127.0.0.1. (The
// product's own, node/access.Authority, names nodes of a trust domain, which a broker is not.)
type Authority struct {
	// CA is the file of its certificate, in PEM.
	CA   string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Certificate names the files of one and of its key, in PEM.
type Certificate struct{ Cert, Key string }

// TestAuthority makes one, whose files go with the test.
func TestAuthority(t TB) *Authority {
	t.Helper()
	a := &Authority{}
	template := validAnHour("test CA")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	a.key = newKey(t)
	der := signed(t, template, template, a.key, a.key)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("certificate of a CA: %v", err)
	}
	a.cert, a.CA = cert, pemFile(t, "CERTIFICATE", der)
	return a
}

// Issue makes a certificate for servers and clients.
func (a *Authority) Issue(t TB, name string) Certificate {
	t.Helper()
	template := validAnHour(name)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	key := newKey(t)
	encoded, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatalf("key of %s: %v", name, err)
	}
	return Certificate{
		Cert: pemFile(t, "CERTIFICATE", signed(t, template, a.cert, key, a.key)),
		Key:  pemFile(t, "EC PRIVATE KEY", encoded),
	}
}

func validAnHour(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
}

func newKey(t TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("key: %v", err)
	}
	return key
}

// signed is the certificate of a key, signed by another's or by itself.
func signed(t TB, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatalf("certificate of %s: %v", template.Subject.CommonName, err)
	}
	return der
}

func pemFile(t TB, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	return path
}
