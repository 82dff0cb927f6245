package certstore

import (
	"crypto/x509"
	"fmt"
	"net"
	"time"
)

// MaxSkew bounds how far the clock of whoever made a certificate may be ahead of ours.
const MaxSkew = 5 * time.Minute

// VerificationTime is now, or the moment at which a certificate begins where that is no more than MaxSkew ahead: one that was
// just made is not refused because of our clock.
func VerificationTime(leaf *x509.Certificate, now time.Time) time.Time {
	if now.Before(leaf.NotBefore) && leaf.NotBefore.Sub(now) <= MaxSkew {
		return leaf.NotBefore
	}
	return now
}

// Verify tells whether a client that has roots trusts a server that sends a leaf and what follows it, and returns the
// chains that lead there. Names do not count. What would take unusual time to verify is not trusted.
func Verify(leaf *x509.Certificate, chain []*x509.Certificate, roots *x509.CertPool, now time.Time) ([][]*x509.Certificate, error) {
	if len(chain) > maxSent {
		return nil, fmt.Errorf("%d certificates follow the leaf", len(chain))
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain {
		if err := checkKeyLength(cert); err != nil {
			return nil, err
		}
		intermediates.AddCert(cert)
	}
	return leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: VerificationTime(leaf, now), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// maxSent bounds the certificates that a server sends after its leaf: more than any chain has, should some be there twice.
const maxSent = 3 * maxChain

// SplitNames parts canonical names as a certificate holds them: DNS names and IP addresses.
func SplitNames(names []string) (hosts []string, addresses []net.IP) {
	for _, name := range names {
		if address := net.ParseIP(name); address != nil {
			addresses = append(addresses, address)
		} else {
			hosts = append(hosts, name)
		}
	}
	return hosts, addresses
}
