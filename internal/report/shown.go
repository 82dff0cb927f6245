package report

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"maascert/certstore"
	"maascert/internal/printable"
)

// Shown is a stored certificate.
type Shown struct {
	Schema      int      `json:"schema"`
	Certificate string   `json:"certificate"`
	Version     int      `json:"version"`
	Current     bool     `json:"current"`
	Origin      string   `json:"origin"` // acme, deployed, maas, import
	Serial      string   `json:"serial"`
	Fingerprint string   `json:"fingerprint"`
	Issuer      string   `json:"issuer"`
	KeyType     string   `json:"key_type"`
	NotBefore   Time     `json:"not_before"`
	NotAfter    Time     `json:"not_after"`
	DaysLeft    int      `json:"days_left"` // whole ones; below 0 when it has ended
	File        string   `json:"file"`      // where everybody on this host may read it; empty: it is not the one in use
	Names       []string `json:"names"`

	now time.Time
}

// NewShown documents a version.
func NewShown(cert string, version certstore.Version, isCurrent bool, file string, now time.Time) Shown {
	leaf := version.Bundle.Leaf()
	return Shown{
		Schema: Schema, Certificate: cert, Version: version.Number, Current: isCurrent, Origin: string(version.Origin),
		Serial: leaf.SerialNumber.Text(16), Fingerprint: certstore.Fingerprint(leaf), Issuer: printable.Text(leaf.Issuer.String()), KeyType: string(version.Bundle.KeyType()),
		NotBefore: Time{leaf.NotBefore}, NotAfter: Time{leaf.NotAfter}, DaysLeft: int(leaf.NotAfter.Sub(now).Hours() / 24), File: file, Names: certstore.CertificateNames(leaf), now: now,
	}
}

// Words writes the document for people, each name in a line.
func (s Shown) Words(w io.Writer) {
	use := "in use"
	if !s.Current {
		use = "not in use"
	}
	fmt.Fprintf(w, "%s: version %d (%s, %s)\n", s.Certificate, s.Version, s.Origin, use)
	for _, line := range [][2]string{
		{"serial", s.Serial}, {"fingerprint", s.Fingerprint}, {"issuer", s.Issuer}, {"key", s.KeyType}, {"valid from", s.NotBefore.String()}, {"valid until", dated(s.NotAfter, s.now)}, {"file", s.File},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "  %-12s %s\n", line[0], line[1])
		}
	}
	label := "names"
	for _, name := range s.Names {
		fmt.Fprintf(w, "  %-12s %s\n", label, printable.Phrase(name))
		label = ""
	}
}

// keyUsages are the names that RFC 5280 section 4.2.1.3 has for the bits of a key usage, the lowest first.
var keyUsages = []string{"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign", "encipherOnly", "decipherOnly"}

var extendedKeyUsages = map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "serverAuth", x509.ExtKeyUsageClientAuth: "clientAuth", x509.ExtKeyUsageAny: "anyExtendedKeyUsage"}

// WriteCertificateText writes all that is in a certificate (RFC 5280) for people.
func WriteCertificateText(w io.Writer, cert *x509.Certificate) {
	line := func(label, format string, values ...any) {
		if words := printable.Text(fmt.Sprintf(format, values...)); words != "" {
			fmt.Fprintf(w, "%-24s %s\n", label, words)
		}
	}
	line("version", "%d", cert.Version)
	line("serial", "%x", cert.SerialNumber)
	line("signature algorithm", "%s", cert.SignatureAlgorithm)
	line("issuer", "%s", cert.Issuer)
	line("subject", "%s", cert.Subject)
	line("not before", "%s", printable.Time(cert.NotBefore))
	line("not after", "%s", printable.Time(cert.NotAfter))
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		line("public key", "RSA, %d bits", key.N.BitLen())
	case *ecdsa.PublicKey:
		line("public key", "ECDSA, %s", key.Curve.Params().Name)
	default:
		line("public key", "%s", cert.PublicKeyAlgorithm)
	}
	for _, name := range certstore.CertificateNames(cert) {
		line("subject alternative name", "%s", name)
	}
	for bit, name := range keyUsages {
		if cert.KeyUsage&(1<<bit) != 0 {
			line("key usage", "%s", name)
		}
	}
	for _, usage := range cert.ExtKeyUsage {
		line("extended key usage", "%s", cmp.Or(extendedKeyUsages[usage], fmt.Sprint(usage)))
	}
	line("may issue", "%t", cert.IsCA)
	line("subject key", "%x", cert.SubjectKeyId)
	line("authority key", "%x", cert.AuthorityKeyId)
	for _, address := range cert.OCSPServer {
		line("OCSP", "%s", address)
	}
	for _, address := range cert.IssuingCertificateURL {
		line("issuer's certificate", "%s", address)
	}
	for _, address := range cert.CRLDistributionPoints {
		line("revocation list", "%s", address)
	}
	for _, extension := range cert.Extensions {
		line("extension", "%s, %d bytes, critical: %t", extension.Id, len(extension.Value), extension.Critical)
	}
	line("fingerprint", "%s", certstore.Fingerprint(cert))
}
