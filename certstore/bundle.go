// Package certstore is what a certificate is and where it is kept.
//
// It promises that a certificate and its private key are one immutable value, written in one atomic step, so that a
// mismatched pair cannot exist; that a document is changed only by somebody who saw its last state; and that a document
// written by a later maascert keeps what this one does not know.
//
// Start reading at [Store], what a store is asked for, and [Bundle], what it keeps; [Ledger] is one certificate's documents together.
//
// To add a store, write a package below this one whose tests are storetest.Run. Its locks are made by [NewHeld], with [Held.Lose] where one
// can be lost; everything above works on documents and knows no kind of store.
package certstore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// Bundle is one certificate, its chain and its private key. It is immutable and made only by Parse and NewBundle, which
// check that the key belongs to the leaf and that each certificate signs the one before it, and by LoadVersion, which does so too.
// A key that is kept apart is known to belong to the leaf, and is had by WithKey.
type Bundle struct {
	key   crypto.Signer       // nil: it is kept apart
	apart *keptKey            // where
	certs []*x509.Certificate // leaf first, self-signed root left out
}

// Parse reads a bundle from a PEM private key (PKCS#8, PKCS#1 or SEC 1, unencrypted) and a PEM chain, leaf first. A
// self-signed root at the end is dropped. Text around the blocks is ignored; another block than a certificate in the
// chain is an error.
func Parse(key, chain []byte) (*Bundle, error) {
	signer, err := ParseKey(key)
	if err != nil {
		return nil, err
	}
	certs, err := ParseCertificates(chain)
	if err != nil {
		return nil, err
	}
	return NewBundle(signer, certs)
}

// NewBundle is Parse for what is parsed already.
func NewBundle(key crypto.Signer, certs []*x509.Certificate) (*Bundle, error) {
	b, err := withoutKey(certs)
	if err != nil {
		return nil, err
	}
	return b.with(key)
}

// with is the same bundle with its key at hand.
func (b *Bundle) with(key crypto.Signer) (*Bundle, error) {
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(b.certs[0].PublicKey) {
		return nil, errors.New("the private key does not belong to the certificate")
	}
	return &Bundle{key: key, certs: b.certs}, nil
}

// keptKey is a private key that a document in a store names.
type keptKey struct {
	store              Store
	document, referred string
}

// keptApart is a bundle whose key is kept apart. What names it has to name that of the leaf's public key.
func keptApart(key keptKey, chain []byte) (*Bundle, error) {
	certs, err := ParseCertificates(chain)
	if err != nil {
		return nil, err
	}
	b, err := withoutKey(certs)
	if err != nil {
		return nil, err
	}
	if is, err := referenceTo(certs[0].PublicKey); err != nil || is != key.referred {
		return nil, errors.New("the private key that is kept apart does not belong to the certificate")
	}
	b.apart = &key
	return b, nil
}

// withoutKey checks all of a bundle but its key.
func withoutKey(certs []*x509.Certificate) (*Bundle, error) {
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	if len(certs) > maxChain {
		return nil, fmt.Errorf("a chain of %d certificates is too long", len(certs))
	}
	for _, cert := range certs {
		if err := checkKeyLength(cert); err != nil {
			return nil, err
		}
	}
	for i, cert := range certs[1:] {
		if err := certs[i].CheckSignatureFrom(cert); err != nil {
			return nil, fmt.Errorf("chain: certificate %d (%s) did not sign the one before it: %w", i+2, cert.Subject, err)
		}
	}
	if last := certs[len(certs)-1]; len(certs) > 1 && isSelfSigned(last) {
		certs = certs[:len(certs)-1]
	}
	return &Bundle{certs: slices.Clone(certs)}, nil
}

// Bounds of what is verified: beyond them a chain costs time and serves nobody.
const (
	maxChain = 10
	maxRSA   = 8192
)

// checkKeyLength refuses a certificate whose key would take minutes to verify with.
func checkKeyLength(cert *x509.Certificate) error {
	if public, ok := cert.PublicKey.(*rsa.PublicKey); ok && public.N.BitLen() > maxRSA {
		return fmt.Errorf("a certificate has an RSA key of %d bits, which is too long", public.N.BitLen())
	}
	return nil
}

// ChainOf orders certificates as a server should send them: leaf, the one that signed it, and so on. What fits nowhere,
// and what is there twice, is left out.
func ChainOf(leaf *x509.Certificate, others []*x509.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{leaf}
	for len(chain) < maxChain {
		last := chain[len(chain)-1]
		next := slices.IndexFunc(others, func(c *x509.Certificate) bool {
			return !slices.ContainsFunc(chain, c.Equal) && last.CheckSignatureFrom(c) == nil
		})
		if next < 0 {
			break
		}
		chain = append(chain, others[next])
	}
	return chain
}

func isSelfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(cert) == nil
}

// Leaf is the certificate itself.
func (b *Bundle) Leaf() *x509.Certificate { return b.certs[0] }

// Chain returns the certificates after the leaf, up to but without the root.
func (b *Bundle) Chain() []*x509.Certificate { return b.certs[1:] }

// WithKey is the bundle with its private key at hand, which is asked for where it is kept apart: ErrKeyLost when it is not there any more, and
// ErrKeysAway when nobody knows.
func (b *Bundle) WithKey(ctx context.Context) (*Bundle, error) {
	if b.key != nil {
		return b, nil
	}
	key, err := signer(ctx, b.apart.store, b.apart.document, b.apart.referred)
	if err != nil {
		return nil, err
	}
	return b.with(key)
}

// CheckKey tells without asking for the private key whether WithKey would have it.
func (b *Bundle) CheckKey(ctx context.Context) error {
	if b.key != nil {
		return nil
	}
	return checkKey(ctx, b.apart.store, b.apart.document, b.apart.referred)
}

// Key is the private key of the leaf; nil while it is kept apart, and not asked for by WithKey.
func (b *Bundle) Key() crypto.Signer { return b.key }

// KeyPEM is the private key as one PKCS#8 block; nil where Key is.
func (b *Bundle) KeyPEM() []byte {
	if b.key == nil {
		return nil
	}
	// Only a key that MarshalKey accepts gets into a bundle.
	text, _ := MarshalKey(b.key)
	return text
}

// LeafPEM is the certificate as exactly one block: MAAS keeps only the first of a file (MAAS fact 1.4).
func (b *Bundle) LeafPEM() []byte { return EncodeCertificates(b.certs[:1]) }

// ChainPEM encodes the certificates after the leaf, in order; empty when there is nothing between the leaf and its root.
func (b *Bundle) ChainPEM() []byte { return EncodeCertificates(b.certs[1:]) }

// FullChainPEM is the leaf and what follows it.
func (b *Bundle) FullChainPEM() []byte { return EncodeCertificates(b.certs) }

// Fingerprint identifies the leaf.
func (b *Bundle) Fingerprint() string { return Fingerprint(b.certs[0]) }

// KeyType is the leaf's.
func (b *Bundle) KeyType() KeyType { return KeyTypeOf(b.certs[0].PublicKey) }

// LogValue never holds the key.
func (b *Bundle) LogValue() slog.Value {
	leaf := b.certs[0]
	return slog.GroupValue(
		slog.String("fingerprint", b.Fingerprint()),
		slog.Any("names", CertificateNames(leaf)),
		slog.Time("not_after", leaf.NotAfter),
	)
}

// String never holds the key.
func (b *Bundle) String() string { return b.Fingerprint() }

// GoString never holds the key.
func (b *Bundle) GoString() string { return "certstore.Bundle{" + b.Fingerprint() + "}" }

// Fingerprint is "sha256:" and the lower-case hex SHA-256 over a certificate's DER.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// CertificateNames are a certificate's DNS names and canonical IP addresses, sorted (RFC 5280 section 4.2.1.6). The
// common name does not count.
func CertificateNames(cert *x509.Certificate) []string {
	names := make([]string, 0, len(cert.DNSNames)+len(cert.IPAddresses))
	for _, name := range cert.DNSNames {
		if canonical, err := CanonicalName(name); err == nil {
			name = canonical
		}
		names = append(names, name)
	}
	for _, address := range cert.IPAddresses {
		names = append(names, address.String())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ParseCertificates reads every certificate of a PEM text.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("expected only certificates, found a %q block", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		if err := checkKeyLength(cert); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate found")
	}
	return certs, nil
}

// EncodeCertificates writes certificates as PEM, one block each.
func EncodeCertificates(certs []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, cert := range certs {
		// Writing to memory cannot fail.
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	return text.Bytes()
}

// KeyType names a kind of key pair as the configuration does.
type KeyType string

const (
	RSA2048 KeyType = "rsa2048"
	RSA3072 KeyType = "rsa3072"
	RSA4096 KeyType = "rsa4096"
	EC256   KeyType = "ec256"
	EC384   KeyType = "ec384"
)

// KeyTypes are all that can be asked for.
var KeyTypes = []KeyType{RSA2048, RSA3072, RSA4096, EC256, EC384}

// IsRSA tells whether the type is one that every MAAS version can load (MAAS fact 1.4).
func (t KeyType) IsRSA() bool { return t == RSA2048 || t == RSA3072 || t == RSA4096 }

// Generate makes a new key pair. RSA-3072 takes 0.2 s in the median and may take a second.
func (t KeyType) Generate() (crypto.Signer, error) {
	switch t {
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case EC256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case EC384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		return nil, fmt.Errorf("unknown key type %q", string(t))
	}
}

// KeyTypeOf is the type of a public key. One that cannot be asked for has a name as well ("rsa1024", "ec521"), or is
// "other".
func KeyTypeOf(public crypto.PublicKey) KeyType {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return KeyType(fmt.Sprintf("rsa%d", key.N.BitLen()))
	case *ecdsa.PublicKey:
		return KeyType(fmt.Sprintf("ec%d", key.Curve.Params().BitSize))
	default:
		return "other"
	}
}

// ParseKey reads the first private key of a PEM text: PKCS#8, PKCS#1 or SEC 1, unencrypted, RSA or elliptic curve.
func ParseKey(text []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the private key has a passphrase")
		default:
			continue
		}
		if err != nil {
			// A parser's words may quote what it read; the block's type says enough.
			return nil, fmt.Errorf("cannot read the %q block", block.Type)
		}
		switch signer := key.(type) {
		case *rsa.PrivateKey:
			return signer, nil
		case *ecdsa.PrivateKey:
			return signer, nil
		default:
			return nil, fmt.Errorf("a key of type %T cannot be used", key)
		}
	}
	return nil, errors.New("no PEM private key found")
}

// MarshalKey writes a private key as one PKCS#8 PEM block.
func MarshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
