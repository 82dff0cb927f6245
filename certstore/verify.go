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

// Trust is what clients trust: roots, at the present moment. The zero value stands for the system's roots and clock.
type Trust struct {
	Roots *x509.CertPool   // nil: the system's
	Now   func() time.Time // nil: time.Now

	rehearsal bool
}

// Rehearsed is a Trust with which a rehearsal's certificate can be deployed: it comes from a test CA or from nobody. What is
// really served is judged as ever.
func Rehearsed(trust Trust) Trust {
	trust.rehearsal = true
	return trust
}

// IsRehearsal tells whether it was made by Rehearsed.
func (t Trust) IsRehearsal() bool { return t.rehearsal }

// Time is the present moment.
func (t Trust) Time() time.Time {
	if t.Now == nil {
		return time.Now()
	}
	return t.Now()
}

// Check tells why clients do not trust a server that sends a leaf and what follows it; nil when they do.
func (t Trust) Check(leaf *x509.Certificate, chain []*x509.Certificate) error {
	_, err := Verify(leaf, chain, t.Roots, t.Time())
	return err
}

// Pool holds the roots of a client that is to be served a leaf and what follows it. In a rehearsal it trusts the end of that
// chain.
func (t Trust) Pool(leaf *x509.Certificate, chain []*x509.Certificate) *x509.CertPool {
	if !t.rehearsal {
		return t.Roots
	}
	pool := x509.NewCertPool()
	pool.AddCert(append([]*x509.Certificate{leaf}, chain...)[len(chain)])
	return pool
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
