// Package certtest is a CA for tests that need no ACME.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"

	"maascert/certstore"
)

// Authority is a root and an intermediate, which issue what they are told to.
type Authority struct {
	key                *ecdsa.PrivateKey
	Root, Intermediate *x509.Certificate
}

// NewAuthority makes a root and an intermediate.
func NewAuthority() (*Authority, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &Authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "certtest root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-10 * 365 * 24 * time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	if a.Root, err = sign(template, template, rootKey.Public(), rootKey); err != nil {
		return nil, err
	}
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template.SerialNumber, template.Subject.CommonName = big.NewInt(2), "certtest intermediate"
	a.Intermediate, err = sign(template, a.Root, a.key.Public(), rootKey)
	return a, err
}

// Issue makes a bundle for some names, valid from now-age for a lifetime.
func (a *Authority) Issue(keyType certstore.KeyType, age, lifetime time.Duration, names ...string) (*certstore.Bundle, error) {
	key, err := keyType.Generate()
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-age).Truncate(time.Second), NotAfter: time.Now().Add(lifetime - age).Truncate(time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	template.DNSNames, template.IPAddresses = certstore.SplitNames(names)
	leaf, err := sign(template, a.Intermediate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	return certstore.NewBundle(key, []*x509.Certificate{leaf, a.Intermediate})
}

// RootPEM is the root.
func (a *Authority) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Root.Raw})
}

// Sign issues what a certificate request asks for, after change had its way with it, and returns the chain as PEM.
func (a *Authority) Sign(request []byte, change func(template *x509.Certificate)) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses,
	}
	change(template)
	leaf, err := sign(template, a.Intermediate, csr.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	var chain []byte
	for _, cert := range []*x509.Certificate{leaf, a.Intermediate} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return chain, nil
}

func sign(template, parent *x509.Certificate, public, key any) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Pool trusts the authority's root.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Root)
	return pool
}
