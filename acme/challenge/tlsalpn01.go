package challenge

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"maascert/internal/hint"
	"maascert/internal/world"
)

// TLSResponder answers tls-alpn-01 challenges (RFC 8737) with a certificate that holds the answer. It listens only while
// an order needs it. It is safe for concurrent use.
type TLSResponder struct {
	Address string       // where to listen, ":443" for example
	Listen  world.Listen // nil: net.Listen

	mu       sync.Mutex
	users    int
	listener net.Listener
	done     chan struct{}
	certs    map[string]*tls.Certificate // by SNI
}

var _ Solver = (*TLSResponder)(nil)

// alpn is the protocol that a validator asks for.
const alpn = "acme-tls/1"

// acmeIdentifier is the extension that holds the digest of the key authorization.
var acmeIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

// Type is tls-alpn-01.
func (r *TLSResponder) Type() string { return "tls-alpn-01" }

func (r *TLSResponder) Open(context.Context, crypto.PublicKey) (func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users == 0 {
		if err := r.start(); err != nil {
			return nil, hint.Add(fmt.Errorf("tls-alpn-01: %w", err), "free the address, run as a user that may listen there, or set the challenge's listen")
		}
	}
	r.users++
	return sync.OnceFunc(r.release), nil
}

func (r *TLSResponder) start() error {
	listen := r.Listen
	if listen == nil {
		listen = net.Listen
	}
	listener, err := listen("tcp", r.Address)
	if err != nil {
		return err
	}
	r.listener, r.done, r.certs = newCrowd(listener), make(chan struct{}), map[string]*tls.Certificate{}
	go r.serve(r.listener, r.done)
	return nil
}

func (r *TLSResponder) serve(listener net.Listener, done chan struct{}) {
	defer close(done)
	config := &tls.Config{GetCertificate: r.certificate, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS12}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // closed by release; one that breaks shows as a failed validation
		}
		go func() {
			defer conn.Close()
			ctx, cancel := context.WithTimeout(context.Background(), answerTime)
			defer cancel()
			// The handshake is the answer; what becomes of it is the validator's to say.
			_ = tls.Server(conn, config).HandshakeContext(ctx)
		}()
	}
}

func (r *TLSResponder) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cert := r.certs[strings.ToLower(hello.ServerName)]; cert != nil {
		return cert, nil
	}
	return nil, errors.New("no challenge for this name")
}

func (r *TLSResponder) release() {
	r.mu.Lock()
	r.users--
	var done chan struct{}
	if r.users == 0 {
		// There is nothing to lose.
		_ = r.listener.Close()
		done = r.done
	}
	r.mu.Unlock()
	if done != nil {
		<-done
	}
}

func (r *TLSResponder) Lasts() bool { return false }

func (r *TLSResponder) Remedy() string {
	return "the CA must reach this host under each name on port 443, which must not be served by anybody else meanwhile; check DNS, firewall and the challenge's listen"
}

func (r *TLSResponder) Place(context.Context, string) (string, error) { return "", nil }

func (r *TLSResponder) Present(_ context.Context, p Proof) error {
	cert, err := challengeCertificate(p)
	if err != nil {
		return fmt.Errorf("tls-alpn-01: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.certs[serverName(p.Name)] = cert
	return nil
}

func (r *TLSResponder) Retract(_ context.Context, p Proof) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.certs, serverName(p.Name))
	return nil
}

// challengeCertificate is self-signed, names exactly the one name, and holds the digest (RFC 8737 section 3).
func challengeCertificate(p Proof) (*tls.Certificate, error) {
	digest := sha256.Sum256([]byte(p.KeyAuthorization()))
	value, err := asn1.Marshal(digest[:])
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ACME challenge"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: acmeIdentifier, Critical: true, Value: value}},
	}
	if address, err := netip.ParseAddr(p.Name); err == nil {
		template.IPAddresses = []net.IP{address.AsSlice()}
	} else {
		template.DNSNames = []string{p.Name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// serverName returns the name that a validator sends as SNI: the name itself, or an address's reverse name (RFC 8738 section
// 6), because an address cannot be sent.
func serverName(name string) string {
	address, err := netip.ParseAddr(name)
	if err != nil {
		return name
	}
	octets := address.AsSlice()
	var labels []string
	for i := len(octets) - 1; i >= 0; i-- {
		if address.Is4() {
			labels = append(labels, fmt.Sprint(octets[i]))
		} else {
			labels = append(labels, fmt.Sprintf("%x", octets[i]&0xf), fmt.Sprintf("%x", octets[i]>>4))
		}
	}
	zone := "ip6.arpa"
	if address.Is4() {
		zone = "in-addr.arpa"
	}
	return strings.Join(labels, ".") + "." + zone
}
